"""Prompts of one template, most of whose text is the same: that is kept once for a part of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unprompt.records import Lookup, Prompt

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
    """Prompts with the same roles in the same places."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._context, self._shape = prompts[0].context, _shape(prompts[0])
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
            next(texts)
            if roles is None
            else tuple({"role": role, "content": next(texts)} for role in roles)
            for roles in self._shape
        ]
        return Prompt(self._ids[place], self._context, content, tuple(others))


def _alike(prompts: Sequence[Prompt]) -> bool:
    return len(prompts) > 1 and len(set(map(_shape, prompts))) == 1


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)  # in the dictionary: what they share, all share
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((n for n, (a, b) in pairs if a != b), len(first))]


def _shape(prompt: Prompt) -> tuple[tuple[str, ...] | None, ...]:
    """The roles of each rendering; None of plain text."""
    return tuple(
        None if isinstance(content, str) else tuple(message["role"] for message in content)
        for content in prompt.renderings
    )


def _texts(prompt: Prompt) -> list[str]:
    return [
        text
        for content in prompt.renderings
        for text in ([content] if isinstance(content, str) else [m["content"] for m in content])
    ]
