"""Digests of files, so that other bytes than were written are found."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unprompt.store.files import file_digest, replacing

_READ_ALWAYS = 2**24
"""Bytes up to which a file is read at each look. Of a larger one, size and times come first."""

Seal = list[Any]
"""A file's SHA-256, its size, and when it was changed (`st_mtime_ns`, `st_ctime_ns`); size and
times are None where an older version noted the digest alone."""


def seal(path: Path) -> Seal:
    """What a file holds now."""
    stat = path.stat()
    return [file_digest(path), stat.st_size, *_times(stat)]


def holds(path: Path, sealed: Seal, *, whole: bool = False) -> bool:
    """Whether a file is as it was sealed. A file whose times alone have changed (`touch`, a copy of
    the folder) is.

    Args:
        whole: Read it all, however large, and whatever its times say.
    """
    digest, size, *times = sealed
    try:
        stat = path.stat()
        if size not in (stat.st_size, None):
            return False
        if not whole and stat.st_size > _READ_ALWAYS and times == _times(stat):
            return True
        return file_digest(path) == digest
    except OSError:  # gone, or a disk that can't read it
        return False


def touched(path: Path, sealed: Seal) -> bool:
    """Whether it has to be read at each look, because its times are others."""
    stat = path.stat()
    return stat.st_size > _READ_ALWAYS and sealed[2:] != _times(stat)


def _times(stat: os.stat_result) -> list[int]:
    return [stat.st_mtime_ns, stat.st_ctime_ns]


def signed(data: dict[str, Any]) -> str:
    """Data (with text for keys) as JSON that carries its own digest."""
    return json.dumps({"digest": _digest(data), **data}, indent=1)


def read_signed(path: Path) -> dict[str, Any] | None:
    """What `signed` wrote; None, if it is not there or holds anything else."""
    try:
        data = json.loads(path.read_text("utf-8"))
        digest = data.pop("digest")
        return data if digest == _digest(data) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def write_seals(file: Path, names: Iterable[str], gone: Iterable[str] = ()) -> None:
    """Seal files of `file`'s folder; those that it lists already stay listed, but for `gone`."""
    seals = (read_signed(file) or {}) | {name: seal(file.parent / name) for name in names}
    for name in gone:
        seals.pop(name, None)
    with replacing(file) as partial:
        partial.write_text(signed(seals), "utf-8")


def broken_seals(file: Path, *, whole: bool = False) -> list[str] | None:
    """Files that are not as `write_seals` found them; None, if it left no whole list."""
    seals = read_signed(file)
    if seals is None:
        return None
    return [
        name for name, each in seals.items() if not holds(file.parent / name, each, whole=whole)
    ]
