"""Files that are whole or not there, and what they hold in a few digits."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.recipe.names import source

FORMAT = 3
"""Version of the files in a run folder; part of every fingerprint."""


LOCK = ".lock"
"""In a run's folder: who is at work there holds it."""
_HELD: dict[Path, int] = {}
"""Folder -> its lock, open."""
_ASIDE = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.partial")
_STALE = 3600.0
"""Seconds after which nobody writes a file any more."""


def fingerprint(*parts: Any, digits: int = 12) -> str:
    """Hex digits that change when any part does. Parts are anything JSON can write, or has a
    `repr`. Of 100 million with 12 digits some 18 are the same.
    """
    text = json.dumps(parts, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What a file of ours holds; None, if it is not there or was cut: it is then made again, and
    that is said.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        say(f"BROKEN FILE: {path} can't be read; it is made again")
        return None


def digest_if_there(path: Path) -> str:
    """A file's digest; nothing of a file that is not there."""
    return file_digest(path) if path.is_file() else ""


def path_digest(path: Path) -> str:
    """A file's digest; of a folder, its files' names, sizes and times; nothing of what is no
    path.
    """
    try:
        if path.is_file():
            return file_digest(path)
    except OSError:  # a text too long for a path
        return ""
    listing = [
        (str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    return fingerprint(listing)


def module_digest(dotted: str, folder: str) -> str:
    """Digest of the source of `package.module:function`, which is found as `names.named` finds it
    (`folder` last), without importing it.
    """
    path = source(dotted, folder)
    return (digest_if_there(path) if path else "") or "missing"


def aside(path: Path) -> Path:
    """A new path beside `path`, of this process alone: others may write the same file."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it at the end: readers see the old file or the
    new one, never half of one. What a killed process left beside it goes.
    """
    partial = aside(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _put_in_place(partial, path)
        finally:
            remove(partial)


def _put_in_place(partial: Path, path: Path) -> None:
    now = partial.stat().st_mtime  # by the disk's clock
    for other in path.parent.glob(".*.partial"):
        with contextlib.suppress(OSError):
            if _ASIDE.fullmatch(other.name) and other.stat().st_mtime < now - _STALE:
                remove(other)
    if partial.is_file():
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
    elif path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed processes left aside in a folder where nobody else writes."""
    for path in folder.glob(".*.partial"):
        named = _ASIDE.fullmatch(path.name)
        if named and not Path("/proc", named[1]).exists():
            remove(path)


@contextlib.contextmanager
def held(lock: Path, file: int) -> Iterator[None]:
    """While a run holds its folder's lock (open as `file`), what is written there is refused once
    the folder is no longer the one that it was.
    """
    folder = lock.parent.absolute()
    _HELD[folder] = file
    try:
        yield
    finally:
        del _HELD[folder]


def refuse_moved(path: Path) -> None:
    """Hold a path against the folders that this process holds.

    Raises:
        UserError: It was moved or removed meanwhile, or its lock was: another run may be there.
    """
    for folder, file in _HELD.items():
        if not path.absolute().is_relative_to(folder):
            continue
        try:
            here, ours = (folder / LOCK).lstat(), os.fstat(file)
            if os.path.samestat(here, ours):
                continue
        except OSError:
            pass
        raise UserError(
            f"the run's folder, or {LOCK} in it, was moved or removed while the run was at work",
            where=str(folder),
            fix="move it back, or give its new place with --out, and run again: what is finished"
            " there is kept",
        )


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk's refusal as a `UserError`; safetensors and torch raise errors of their own for it."""
    refuse_moved(path)
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise disk_error(error, path) from None
    except Exception as error:
        if not re.search("os error|inline_container|iostream error", str(error)):
            raise
        raise disk_error(OSError(errno.ENOSPC, "a file could not be written whole"), path) from None


def disk_error(error: OSError, path: Path) -> UserError:
    """A disk's refusal in one line."""
    fix = "check the disk and run again"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space and run again: what is finished is kept"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        fix = "choose another folder with --out"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        fix = "there is a file where a folder should be: remove it, or choose another folder with"
        fix += " --out"
    return UserError(f"can't be written: {error.strerror or error}", where=str(path), fix=fix)


def first_line(error: BaseException, most: int = 200) -> str:
    """What an error says first, at most so many letters of it; or its kind."""
    lines = filter(str.strip, str(error).splitlines())
    return next(lines, type(error).__name__)[:most]


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it may go meanwhile
                total += Path(inside, name).lstat().st_size
    return total
