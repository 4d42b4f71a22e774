"""The bulleted or numbered instructions of a prompt, and the prompt without each of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unprompt.metrics.statistics import by_group, gap_closed, interval
from unprompt.records import Messages, Prompt, like
from unprompt.stages.templates.items import FEWEST, items

_LEAST = 1e-3
"""Nats per token; what changes the teacher less can't be taken in measurably."""


@dataclass(frozen=True)
class Instruction:
    """One item of a list in a prompt.

    Attributes:
        text: The item, with the lines that go on with it (those that are indented deeper).
        without: Every prompt with just this item left out; the others keep their numbers.
    """

    text: str
    without: list[Prompt]


def find(prompts: Sequence[Prompt]) -> list[Instruction]:
    """Items that stand in each of the prompts; none of an ensemble's, none of fewer than two."""
    if not prompts or prompts[0].others:
        return []
    texts = [_texts(prompt.content) for prompt in prompts]
    found = []
    for part, first in enumerate(texts[0]):
        for item in dict.fromkeys(items(first)):
            if all(len(parts) > part and parts[part].count(item) == 1 for parts in texts):
                without = [_without(prompt, part, item) for prompt in prompts]
                found.append(Instruction(item.strip(), without))
    return found if len(found) >= FEWEST else []


def in_order(items: Sequence[Instruction]) -> list[Instruction]:
    """Those first that may matter most: the longest. That is a guess; what matters is measured."""
    return sorted(items, key=lambda item: -len(item.text))


def _texts(content: str | Messages) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [m["content"] if isinstance(m["content"], str) else "" for m in content]


def _without(prompt: Prompt, part: int, item: str) -> Prompt:
    if isinstance(prompt.content, str):
        return replace(prompt, content=prompt.content.replace(item, "", 1))
    messages = [dict(message) for message in prompt.content]
    messages[part]["content"] = messages[part]["content"].replace(item, "", 1)
    return replace(prompt, content=like(tuple(messages), prompt.content))


def bar(
    text: str,
    removed: Sequence[Sequence[float]],
    before: Sequence[Sequence[float]],
    students: Mapping[str, Sequence[Sequence[float]]],
    groups: Sequence[str | None],
) -> dict[str, Any]:
    """How much an instruction matters to the teacher, and how much of that each student has taken
    in.

    It matters by KL(teacher || teacher without it), in nats per token of the teacher's answers. It
    is taken in by the share of KL(teacher || before) that a student has closed, every token
    counting as much as the instruction matters there. Instructions that change the same tokens
    share that figure.

    Args:
        removed: For each answer, KL(teacher || teacher without the instruction) of each token, in
            nats.
        before: KL(teacher || before) of the same tokens; so `students`, each by name.
        groups: Of each answer; those of one group are one observation.
    """
    mean, low, high = interval(by_group([sum(nats) / len(nats) for nats in removed], groups), None)
    gap = by_group(_weighted(removed, before), groups)
    matters = mean >= _LEAST and (low is None or low > 0) and sum(gap) > 0
    taken: dict[str, dict[str, float | None] | None] = dict.fromkeys(students)
    for name, values in students.items() if matters else ():
        share = gap_closed(gap, by_group(_weighted(removed, values), groups))
        taken[name] = dict(zip(("value", "low", "high"), share, strict=True))
    return {"text": text, "matters": {"mean": mean, "low": low, "high": high}, "taken_in": taken}


def _weighted(weights: Sequence[Sequence[float]], values: Sequence[Sequence[float]]) -> list[float]:
    """Of each answer the sum over its tokens; a weight that the draws put under 0 is 0."""
    return [
        sum(max(weight, 0.0) * value for weight, value in zip(*answer, strict=True))
        for answer in zip(weights, values, strict=True)
    ]
