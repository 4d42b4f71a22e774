"""Prompts of one template, most of whose text is the same: that is kept once for a part of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from unprompt.records import Chat, Lookup, Message, Messages, Prompt

_TEXT = 0
"""Stands where a text does."""

PART = 64
"""Prompts that are kept together; rendered together, too, and may then take as much memory as a
template may.
"""


class Shared(Lookup[Prompt]):
    """Prompts in parts of `PART` (the last may be shorter), each put together when it is read: so
    memory holds what differs, and of each part what all its prompts begin and end with.
    """

    def __init__(self, parts: Iterable[Sequence[Prompt]]) -> None:
        self._parts = [_Part(part) if _alike(part) else part for part in parts]
        self._count = sum(map(len, self._parts))

    def __len__(self) -> int:
        return self._count

    def at(self, place: int) -> Prompt:
        """The prompt, put together."""
        return self._parts[place // PART][place % PART]


class _Part(Lookup[Prompt]):
    """Prompts that differ in nothing but texts."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._context, self._bare = prompts[0].context, _bare(prompts[0])
        self._ids = [prompt.example_id for prompt in prompts]
        self._ends: list[tuple[str, str]] = []
        columns = []
        for texts in zip(*map(_texts, prompts), strict=True):
            head = _common_start(texts)
            rests = [text[len(head) :] for text in texts]
            tail = _common_start([rest[::-1] for rest in rests])[::-1]
            columns.append([rest[: len(rest) - len(tail)] for rest in rests])
            self._ends.append((head, tail))
        self._middles = list(zip(*columns, strict=True))

    def __len__(self) -> int:
        return len(self._ids)

    def at(self, place: int) -> Prompt:
        pairs = zip(self._ends, self._middles[place], strict=True)
        texts = iter([head + middle + tail for (head, tail), middle in pairs])
        content, *others = [
            next(texts) if bare is None else _filled(bare, texts) for bare in self._bare
        ]
        return Prompt(self._ids[place], self._context, content, tuple(others))


def _alike(prompts: Sequence[Prompt]) -> bool:
    return len(prompts) > 1 and len(set(map(_shape, prompts))) == 1


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # in the dictionary: what they share, all share
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((n for n, (a, b) in pairs if a != b), len(first))]


def _shape(prompt: Prompt) -> str:
    """All but the texts, for comparing."""
    return json.dumps(_bare(prompt), default=repr)


def _bare(prompt: Prompt) -> list[list[Any] | None]:
    """Each rendering without the texts: its tools and variables, and its messages with `_TEXT` for
    each content that is one. None: it is a text.
    """
    bare: list[list[Any] | None] = []
    for content in prompt.renderings:
        if isinstance(content, str):
            bare.append(None)
            continue
        beside = (content.tools, content.variables) if isinstance(content, Chat) else ((), {})
        bare.append([beside, *(m | {"content": _TEXT} if _plain(m) else m for m in content)])
    return bare


def _filled(bare: Sequence[Any], texts: Iterator[str]) -> Messages:
    """A chat with its texts back in their places."""
    beside, *messages = bare
    filled = tuple(m | {"content": next(texts)} if m["content"] == _TEXT else m for m in messages)
    return Chat(filled, *beside).plain


def _plain(message: Message) -> bool:
    return isinstance(message["content"], str)


def _texts(prompt: Prompt) -> list[str]:
    texts: list[str] = []
    for content in prompt.renderings:
        plain = isinstance(content, str)
        texts += [content] if plain else [m["content"] for m in content if _plain(m)]
    return texts
