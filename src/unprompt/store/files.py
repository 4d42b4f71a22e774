"""Files that are whole or not there, and what they hold in a few digits."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unprompt.messages import UserError, say
from unprompt.recipe.names import source

FORMAT = 3
"""Version of the files in a run folder; part of every fingerprint."""


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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it at the end: readers see the old file or the
    new one, never half of one.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.is_dir():
            shutil.rmtree(partial)
        yield partial
        if partial.is_file():
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            shutil.rmtree(path)
        partial.replace(path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A disk's refusal as a `UserError`; safetensors and torch raise errors of their own for it."""
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


def first_line(error: Exception) -> str:
    """What an error says first, at most 200 letters of it."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
