"""`unprompt verify RUN`: every file of a run, read and held against its digest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unprompt import recipe as recipe_
from unprompt.engines import cache, models
from unprompt.messages import UserError
from unprompt.store.digests import broken_seals, read_signed
from unprompt.store.folder import RunDir


def verify(folder: Path) -> tuple[list[str], bool]:
    """Read all that later steps trust: the run's files, its answers (those behind an address hold
    their own digests, and are read when they are used), and its converted models in the cache.

    Returns:
        Lines for the terminal, and whether everything is as it was written.

    Raises:
        UserError: There is no run here.
    """
    folders = [RunDir(folder), *map(RunDir, sorted((folder / "rounds").glob("*")))]
    if not any((folder / name).exists() for name in ("recipe.yaml", "state.json", "copies")):
        what, fix = "there is no run here", "run `unprompt run RECIPE` first"
        raise UserError(what, where=str(folder), fix=fix)
    if without := [each.folder for each in folders if not each.notes.kept]:
        lines = [f"no digests were kept: {each}" for each in without]
        return [
            *lines,
            "`unprompt run` with its recipe notes them, of the files as they are",
        ], False
    damaged = [path for each in folders for path in each.notes.damaged()]
    lines = [f"{'DAMAGED' if path.exists() else 'MISSING'}: {path}" for path in damaged]
    count = sum(len(each.notes.names()) for each in folders)
    for target in () if damaged else _cached(folders[0]):  # the recipe itself may be damaged
        found = broken_seals(target / cache.DIGESTS, whole=True)
        names = [cache.DIGESTS] if found is None else found
        lines += [f"DAMAGED: {target / name}" for name in names]
        count += len(read_signed(target / cache.DIGESTS) or {})
    if lines:
        fix = (
            "what to do: run its recipe again in this folder; this, and nothing else, is made again"
        )
        return [*lines, fix], False
    return [f"{count} files of {folder} are what was written"], True


def _cached(files: RunDir) -> Iterator[Path]:
    """The run's models that were converted."""
    recipe = recipe_.load(files.recipe)
    for where, model in recipe.models.items():
        target = models.in_cache(model, where)
        if target and target.is_dir():
            yield target
