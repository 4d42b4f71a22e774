"""Files that grow line by line while something goes on, each line with its own checksum: what a
kill, a power cut or a bad disk left of them is known line by line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import zlib
from io import FileIO
from pathlib import Path

from unprompt.store.files import writing

SYNC_EVERY = 1.0
"""Seconds between two syncs of a file: what a power cut may cost. A kill costs no line, since the
kernel has them."""


def marked(text: bytes) -> bytes:
    """A line as it is written: checksum, text."""
    return b"%08x %s\n" % (zlib.crc32(text), text)


def checked(line: bytes) -> bytes | None:
    """The text of such a line; None if it is not as it was written."""
    mark, _, text = line.rstrip(b"\n").partition(b" ")
    return text if mark == b"%08x" % zlib.crc32(text) else None


def split(data: bytes) -> list[bytes]:
    """The lines of a file, as they lie there."""
    return [line for line in data.split(b"\n") if line]


def written(data: bytes) -> tuple[list[bytes], int]:
    """The lines that are as they were written, and how many are not."""
    found = [checked(line) for line in split(data)]
    whole = [text for text in found if text is not None]
    return whole, len(found) - len(whole)


class Lines:
    """A file that lines are added to; several processes may.

    Args:
        path: The file; it is made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._synced = path, 0.0
        self._file: FileIO | None = None

    def add(self, text: bytes) -> None:
        """Write one line; it is on its way to the disk when this is over, and there a second later
        if more lines come.

        Raises:
            UserError: The disk refuses.
        """
        data = marked(text)
        with writing(self._path):
            file = self._file = self._file or _opened(self._path)
            while data:  # a disk that fills up takes a part
                data = data[file.write(data) or 0 :]
            if time.monotonic() >= self._synced + SYNC_EVERY:
                os.fsync(file.fileno())
                self._synced = time.monotonic()

    def close(self) -> None:
        """Have all lines on the disk."""
        if self._file:
            with writing(self._path), self._file as file:
                os.fsync(file.fileno())
            self._file = None


def _opened(path: Path) -> FileIO:
    """For appending, behind a whole line. Its lock says that its process is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileIO(path, "a+")
    with contextlib.suppress(OSError):  # a network's file system may have no locks
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    size = file.seek(0, os.SEEK_END)
    if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
        file.write(b"\n")
    return file


def in_use(path: Path) -> bool:
    """Whether a process is there that adds lines."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # nobody can tell
            return False
    return False
