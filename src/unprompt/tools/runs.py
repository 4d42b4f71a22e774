"""`unprompt runs` and `unprompt rm`: the folders that runs leave, and how they go."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.store.files import disk_error, folder_size
from unprompt.store.folder import RunDir

Table = tuple[str, list[str], list[list[str]], list[str]]
_LAST = ("recipe.yaml", ".lock")
"""What a run's folder is known by goes last: one half removed can be removed once more."""


def listed(folder: Path) -> Table:
    """The runs in a folder, the newest first: title, columns, rows, and lines beneath.

    Raises:
        UserError: There is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            "there is no such folder",
            where=str(folder),
            fix="give the folder that your runs lie in: `unprompt runs FOLDER`",
        )
    if RunDir(folder).is_run:
        found = [folder]
    else:
        found = [each for each in folder.iterdir() if not each.is_symlink() and RunDir(each).is_run]
    told = sorted(((_changed(each), each) for each in found), reverse=True)
    rows, total = list[list[str]](), 0
    for changed, each in told:
        files, size = RunDir(each), folder_size(each)
        total += size
        verdict, state = _report(files)
        day = datetime.fromtimestamp(changed).astimezone().strftime("%Y-%m-%d %H:%M")
        rows.append([each.resolve().name, day, verdict, _megabytes(size), state])
    count = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    lines = [f"{count} in {folder}, {_megabytes(total)}; `unprompt rm RUN` removes one"]
    columns = ["run", "last written", "verdict", "size", "state"]
    return f"Runs in {folder}", columns, rows, lines if rows else [f"no runs in {folder}"]


def remove(folder: Path, *, sure: bool, ask: Callable[[str], bool]) -> list[str]:
    """Remove a run's folder, with everything in it.

    Args:
        sure: Nobody is asked.
        ask: Whether the user wants what it is told.

    Returns:
        What was done.

    Raises:
        UserError: It is no run's folder, a run is at work in it, or it can't be removed.
    """
    files, where = RunDir(folder), str(folder)
    if folder.is_symlink():
        raise UserError("this is a link", where=where, fix="name the folder that it leads to")
    if not files.is_run:
        raise UserError(
            "this is no run's folder", where=where, fix="`unprompt runs FOLDER` lists those of one"
        )
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError("you are in this folder", where=where, fix="leave it first")
    if files.at_work():
        raise UserError("a run is at work here", where=where, fix="wait for it, or stop it")
    verdict, state = _report(files)
    told = f"{folder}: {_megabytes(folder_size(folder))}, {state}, verdict: {verdict}"
    if not (sure or ask(f"{told}\nRemove it, with all that lies in it?")):
        return ["nothing was removed"]
    with files.locked():
        try:
            inside = sorted(folder.iterdir(), key=lambda each: each.name in _LAST)
            for each in inside:
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each)
                else:
                    each.unlink()
            folder.rmdir()
        except OSError as error:
            raise disk_error(error, folder) from None
    return [f"removed {told}"]


def _report(files: RunDir) -> tuple[str, str]:
    """The verdict, and in what state the run is."""
    if files.at_work():
        state = "at work"
    elif "report" in files.notes.read():
        state = "finished"
    else:
        state = "stopped; run its recipe again to go on"
    try:
        report: Any = files.report()
        return str(report["verdict"]["verdict"] or "none"), state
    except (UserError, KeyError, TypeError):  # none yet, or not one of ours
        return "-", state


def _changed(folder: Path) -> float:
    files = (folder / name for name in ("report.json", "state.json", "recipe.yaml", ".lock"))
    return max((file.lstat().st_mtime for file in files if file.is_file()), default=0.0)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
