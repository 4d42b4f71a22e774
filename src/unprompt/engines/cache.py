"""The folder of converted models. What was written there is used as long as it is what was
written.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from unprompt.messages import UserError, say
from unprompt.recipe import Model
from unprompt.recipe.names import function
from unprompt.store.digests import broken_seals, write_seals
from unprompt.store.files import first_line, replacing

DIGESTS = "digests.json"
"""File in a converted model's folder that says what the others hold."""


def cache_dir() -> Path:
    """Where converted models are kept: `$UNPROMPT_CACHE`, else the user's cache folder; of a user
    who has none (a container's number without a name), one among temporary files.
    """
    if named := os.environ.get("UNPROMPT_CACHE"):
        return Path(named)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return _among_temporary(Path(tempfile.gettempdir(), f"unprompt-{os.getuid()}"))
    return caches / "unprompt"


def _among_temporary(folder: Path) -> Path:
    """A folder where everybody writes, of this user alone: else another could put weights there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        fix = "name a folder of your own in UNPROMPT_CACHE"
        raise UserError("others may write into this cache", where=str(folder), fix=fix)
    return folder


def conversion(path: Path, identity: str) -> Path:
    """Folder of a GGUF file's conversion."""
    from unprompt.engines import gguf

    return _named(path.stem, f"{path.name}:{identity}:{gguf.VERSION}")


def of_rule(rule: str, identity: str) -> Path:
    """Folder of what a rule wrote."""
    return _named(rule.partition(":")[2], identity)


def _named(name: str, made_from: str) -> Path:
    digest = hashlib.sha256(made_from.encode()).hexdigest()[:8]
    return cache_dir() / "models" / f"{name}-{digest}"


def made(model: Model, identity: str, where: str) -> Path:
    """The folder that a rule wrote; the rule is called if there is none yet.

    Raises:
        UserError: The rule failed.
    """
    from unprompt.engines.models import quiet

    assert model.rule is not None
    target = of_rule(model.rule, identity)
    if (target / "config.json").is_file() and _sound(target, ()):
        return target
    make = function(model.rule, where)
    with replacing(target) as partial, quiet():
        partial.mkdir()
        try:
            make(partial, **model.args)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the rule failed: {type(error).__name__}: {error}",
                where=f"{where} ({model.rule})",
                fix="mend the function or its args",
            ) from error
        names = [str(each.relative_to(partial)) for each in partial.rglob("*") if each.is_file()]
        write_seals(partial / DIGESTS, names)
    return target


def converted(path: Path, identity: str, where: str, *, weights: bool) -> Path:
    """The folder of a GGUF file's conversion, with its configuration and tokenizer, or its weights,
    in it.

    Raises:
        UserError: The file can't be read, or the folder not be written.
    """
    from unprompt.engines import gguf
    from unprompt.engines.models import quiet, raise_unless_broken

    target = conversion(path, identity)
    if not _sound(target, [gguf.last(weights)], weights=weights):
        say(f"converting the {'weights' if weights else 'tokenizer'} of {path.name}, once")
        try:
            with quiet():
                gguf.convert(path, target, weights=weights)
        except UserError:
            raise
        except BaseException as error:
            raise_unless_broken(error)
            raise UserError(
                f"the GGUF file can't be converted: {first_line(error)}",
                where=f"{where} ({path})",
                fix="check the file and the disk",
            ) from None
    return target


def _sound(target: Path, needed: Sequence[str], *, weights: bool | None = None) -> bool:
    """Whether what was written is there, and as it was written; if not, that is said.

    Args:
        needed: Files that are written last.
        weights: Look at the weights alone, or at all but them.
    """
    broken = broken_seals(target / DIGESTS)
    if broken is None:
        if target.is_dir() and any(target.iterdir()):
            say(f"{target} has no list of digests that is whole: what is there is made again")
        return False
    if weights is not None:
        broken = [name for name in broken if is_weights(name) == weights]
    for name in broken:
        say(f"BROKEN FILE: {target / name} is not as it was written; it is made again")
    return not broken and all((target / name).is_file() for name in needed)


def is_weights(name: str) -> bool:
    """Whether a file of a conversion comes with the weights, not with the tokenizer."""
    return ".safetensors" in name or name in ("generation_config.json", "weights.done")
