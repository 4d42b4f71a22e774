"""Caches of prefixes that prompts share: the newest are kept, and one can be gone on from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import DynamicCache

from unprompt.engines.hf.sequences import read_prefix
from unprompt.engines.tokens import common_prefix


class Prefixes:
    """What a model has read of prefixes.

    Args:
        model: A decoder.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._caches: dict[tuple[int, ...], DynamicCache] = {}
        self._source: tuple[tuple[int, ...], DynamicCache] | None = None
        self._like: tuple[int, ...] = ()

    @contextlib.contextmanager
    def going_on(self, like: tuple[int, ...]) -> Iterator[None]:
        """Prefixes that are read inside begin like this one, for as far as they do: it is read
        once, and they go on from there. Never from what happened to be read before, so that
        numbers do not hang on it. Empty: each is read from its start.
        """
        self._like = like
        try:
            yield
        finally:
            self._like = ()

    def read(self, key: tuple[int, ...], *, whole: bool, kept: int) -> DynamicCache:
        """The cache of a prefix; those of the `kept` newest stay in memory.

        Args:
            whole: As in `read_prefix`; of other caches no part can be taken.
        """
        if key not in self._caches:
            while len(self._caches) >= kept:
                del self._caches[next(iter(self._caches))]
            alike = self._alike(key) if whole and self._like else None
            self._caches[key] = read_prefix(self._model, key, alike, whole=whole)
        return self._caches[key]

    def clear(self) -> None:
        """All of them go."""
        self._caches.clear()
        self._source = None

    def _alike(self, key: tuple[int, ...]) -> tuple[DynamicCache, int]:
        if self._source is None or self._source[0] != self._like:
            self._source = self._like, read_prefix(self._model, self._like, whole=True)
        return self._source[1], common_prefix([list(self._like), list(key)])
