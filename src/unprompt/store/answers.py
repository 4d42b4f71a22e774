"""A store's answers, read when they are needed: of a million of them, a few parts are in memory at
a time. A broken part is set aside, and said.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from unprompt.messages import say
from unprompt.records import Completion, Lookup
from unprompt.store.places import Place, move
from unprompt.store.tables import Broken, part_files, part_keys, read_part

_READERS = 16
"""Parts that are read at once from a store behind a network."""


Times = dict[str, tuple[int, float]]
"""Name of a part -> its prompts, and the seconds that asking them took."""


class Parts:
    """A store's parts, each read once and held against its checksums.

    Attributes:
        paths: The parts.
        places: A prompt's fingerprint -> (number of the part among `paths`, row).
    """

    def __init__(self, store: Place) -> None:
        self.paths: list[Place] = []
        self.places: dict[str, tuple[int, int]] = {}
        # behind a network, most of the time is spent waiting
        with ThreadPoolExecutor(1 if isinstance(store, Path) else _READERS) as pool:
            for path, keys in pool.map(_keys, part_files(store)):
                if keys is not None:
                    self.add(path, keys)

    def add(self, path: Place, keys: Sequence[str]) -> None:
        """A part that was written, with the fingerprints of its prompts."""
        self.places.update((key, (len(self.paths), row)) for row, key in enumerate(keys))
        self.paths.append(path)


def _keys(path: Place) -> tuple[Place, list[str] | None]:
    """A part's prompts; None of a broken one, which is set aside."""
    try:
        return path, part_keys(path)
    except Broken as error:
        if not path.exists():  # another run on this store was faster
            return path, None
        say(
            f"BROKEN FILE: {path} {error.what}. It is kept as {move(path, '.broken').name};"
            " its answers, and no others, are asked for again"
        )
        return path, None


class Answers(Lookup[Completion]):
    """Completions in the prompts' order, read from their parts when they are needed; of `window` of
    them, one behind the other, at a time.

    Attributes:
        store: The folder that keeps them.
        asked: How many were missing there, and had to be asked.
    """

    def __init__(
        self,
        store: Place,
        parts: Parts,
        keys: Sequence[str],
        *,
        window: int,
        asked: int = 0,
        times: Times | None = None,
        opened: str = "",
    ) -> None:
        self.store, self.asked, self._opened = store, asked, opened
        self._paths, self._window, self._times = parts.paths, window, times or {}
        places = [parts.places[key] for key in keys]
        self._places_N2 = np.array(places, np.int32).reshape(-1, 2)
        self._first, self._read = 0, list[Completion]()

    def __len__(self) -> int:
        return len(self._places_N2)

    def at(self, place: int) -> Completion:
        """The completion; with it, those near it are read."""
        if not self._first <= place < self._first + len(self._read):
            self._first, self._read = place // self._window * self._window, []
            places_W2 = self._places_N2[self._first : self._first + self._window]
            numbers = np.unique(places_W2[:, 0]).tolist()
            parts = {number: read_part(self._paths[number]) for number in numbers}
            read = (parts[part][row][1] for part, row in places_W2.tolist())
            self._read = [replace(each, opened=self._opened) for each in read]
        return self._read[place - self._first]

    @property
    def seconds_a_call(self) -> float | None:
        """Measured seconds for one prompt, batching and prefix cache included, over the parts in
        which these answers lie; None if nobody noted them.
        """
        names = (self._paths[part].name for part in np.unique(self._places_N2[:, 0]).tolist())
        noted = [self._times[name] for name in names if name in self._times]
        calls = sum(calls for calls, _ in noted)
        return sum(seconds for _, seconds in noted) / calls if calls else None
