"""What a big model file holds, told by a digest; each file is read once in a process."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from unprompt.store.files import file_digest

_WHOLE, _PIECES, _PIECE = 2**28, 256, 2**18
"""Bytes of a file up to which all of it is read for `digest`; of a longer one so many pieces of so
many bytes, from its beginning (names, settings, vocabulary) to its end.
"""


def sha256(path: Path) -> str:
    """Of all its bytes, in 64 hex digits."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


def digest(path: Path) -> str:
    """Of what tells it from other files: all its bytes, or pieces of a long one."""
    stat = path.stat()
    if stat.st_size <= _WHOLE:
        return _sha256(path, stat.st_size, stat.st_mtime_ns)[:16]
    return _of_pieces(path, stat.st_size, stat.st_mtime_ns)[:16]


@functools.lru_cache(maxsize=16)
def _sha256(path: Path, size: int, changed: int) -> str:
    return file_digest(path)


@functools.lru_cache(maxsize=16)
def _of_pieces(path: Path, size: int, changed: int) -> str:
    found = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for n in range(_PIECES):
            file.seek((size - _PIECE) * n // (_PIECES - 1))
            found.update(file.read(_PIECE))
    return found.hexdigest()
