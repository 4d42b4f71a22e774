"""Lessons that stay on disk while a student trains."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from unprompt.records import Lesson, Lookup
from unprompt.store.files import replacing
from unprompt.store.tables import LESSON, lesson_at, lesson_batches

_ROWS = 32
"""Read at once for one lesson; so many share one entry in the file's index."""


class StoredLessons(Lookup[Lesson]):
    """A transfer set on disk. A lesson is read when it is asked for, in any order, and none is kept
    in memory.

    Args:
        path: What `copied` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def copied(source: Path) -> StoredLessons:
        """From what `write_lessons` wrote. Parquet can't be read a row at a time, so its rows are
        copied into an Arrow file beside it, which is several times as big and not kept.

        Raises:
            UserError: It is broken, or the copy can't be written.
        """
        target = StoredLessons.beside(source)
        with (
            replacing(target) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_file(sink, LESSON) as writer,
        ):
            for batch in lesson_batches(source, _ROWS):
                writer.write_batch(batch)
        return StoredLessons(target)

    @staticmethod
    def beside(source: Path) -> Path:
        """Where `copied` writes."""
        return source.with_suffix(".arrow")

    @cached_property
    def _file(self) -> Any:
        # not mapped into memory: what was read would count as ours until it is needed
        return pa.ipc.open_file(pa.OSFile(str(self.path), "rb"))

    @cached_property
    def _count(self) -> int:
        batches = self._file.num_record_batches
        return _ROWS * (batches - 1) + self._file.get_batch(batches - 1).num_rows if batches else 0

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each lesson, shape (lessons,)."""
        batches = map(self._file.get_batch, range(self._file.num_record_batches))
        found = [np.diff(batch.column("input_ids").offsets.to_numpy()) for batch in batches]
        return np.concatenate([np.zeros(0, np.int32), *found])

    def __len__(self) -> int:
        return self._count

    def at(self, place: int) -> Lesson:
        """The lesson, read from the disk."""
        batch, row = divmod(place, _ROWS)
        return lesson_at(self._file.get_batch(batch), row)

    def __reduce__(self) -> Any:
        return StoredLessons, (self.path,)  # each process opens the file for itself
