"""What a run asks and reads, as records; and the sums over them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from unprompt.recipe import Recipe
from unprompt.records import BASE, JUDGE, TEACHER, WRITER, System, Who
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question

Purpose = Literal[
    "draws",
    "lessons",
    "hint",
    "held-out",
    "sampled",
    "likeness",
    "association",
    "drift",
    "judge",
]
"""What answers are for."""


class Size(NamedTuple):
    """Calls; tokens of their prompts, and of these those that are read (a shared prefix once);
    tokens of their answers.
    """

    calls: int
    prompt_tokens: int
    read: int
    answer_tokens: int


NOTHING = Size(0, 0, 0, 0)
Sizes = dict[Who, tuple[Size, bool]]
"""Whose weights -> what they are asked at most, and whether that is exact."""


@dataclass(frozen=True, eq=False)
class Ask:
    """A question of the run, and what its answers are for.

    Attributes:
        context: Whose prompts, or whose held-out examples; empty of drift.
        question: What is asked. None where that hangs on answers: `bound` then says how much it
            may be.
        system: Whose row of a table the answers are.
        part: Of scored continuations `right` or `wrong`; of association whose student prompt.
        at_most: Less may be asked.
    """

    purpose: Purpose
    context: str
    who: Who
    question: Question | None = None
    bound: Size | None = None
    system: System | None = None
    part: str = ""
    at_most: bool = False

    @property
    def size(self) -> Size:
        """Its most."""
        if self.question is None:
            return self.bound or NOTHING
        return _size(self.question.side, self.question.answer_tokens)

    @property
    def title(self) -> str:
        """What the terminal calls it."""
        if self.purpose == "held-out" and self.system:
            behind = f" behind {self.system.shots} shots" if self.system.shots is not None else ""
            part = f", {self.part}" if self.part else ""
            return f"{self.context}: {self.system.name} on held-out{behind}{part}"
        if self.purpose == "likeness" and self.system:
            name = self.system.name
            other = "itself" if name == "teacher" else "the teacher"
            return f"{self.context}: {name} against {other}"
        return {
            "lessons": f"{self.context}: {self.who} answers",
            "sampled": f"{self.context}: {self.who} samples on held-out",
            "association": f"{self.part}: {self.who} on examples of {self.context}",
        }.get(self.purpose, f"{self.purpose}: {self.who} answers")


class Pass(NamedTuple):
    """Answers that were written before, read again by other weights (for KL)."""

    what: str
    who: Who
    side: Side


@dataclass(frozen=True)
class Plan:
    """Everything that is asked and read, in the order in which it is first needed.

    Attributes:
        notes: What is left out, for the terminal.
    """

    asks: list[Ask]
    passes: list[Pass]
    notes: list[str] = field(default_factory=list)

    def of(self, *purposes: Purpose, who: Who | None = None) -> list[Ask]:
        """What is asked for these purposes, of these weights."""
        return [ask for ask in self.asks if ask.purpose in purposes and who in (None, ask.who)]

    def measured(self, who: Who) -> list[Ask]:
        """What these weights are asked so that they can be measured, or others by them."""
        return self.of("held-out", "sampled", "likeness", "association", "drift", who=who)

    def sizes(self, recipe: Recipe) -> Sizes:
        """Whose weights -> what they are asked at most, equal questions once; and whether that is
        exact.
        """
        alike: dict[tuple[Who, str], list[Ask]] = {}
        for ask in self.asks:
            who = answering(recipe, ask.who)
            decided = ask.question.decided_by([], recipe.seed) if ask.question else id(ask)
            alike.setdefault((who, json.dumps(decided)), []).append(ask)
        sums: Sizes = {}
        for (who, _), asks in alike.items():
            size, exact = sums.get(who, (NOTHING, True))
            for more in [asks[0].size] if len(asks) == 1 else _distinct(asks):
                size = Size(*map(sum, zip(size, more, strict=True)))
            exact = exact and not any(ask.at_most for ask in asks)
            sums[who] = size, exact
        return sums


def _distinct(asks: Sequence[Ask]) -> Iterator[Size]:
    """Sizes of questions that weights, sampling and labels do not tell apart: a prompt that stands
    in several is asked once.
    """
    known: set[str] = set()
    for ask in asks:
        assert ask.question
        keys, side = ask.question.keys(), ask.question.side
        new = [n for n, key in enumerate(keys) if key not in known]
        known.update(keys)
        each = ask.question.answer_tokens / max(len(keys), 1)
        yield _size(side.only(new), round(each * len(new)))


def _size(side: Side, answer_tokens: int) -> Size:
    read = side.read if side.prompts else 0
    return Size(len(side.prompts), sum(side.lengths), read, answer_tokens)


def answering(recipe: Recipe, who: Who) -> Who:
    """Who answers for these weights: without a model of their own, judge and writer are the
    teacher, and the teacher is the model that is trained.
    """
    if who == WRITER and not recipe.writer:
        who = TEACHER
    if who == JUDGE and not (recipe.judge and recipe.judge.model):
        who = TEACHER
    own_engine = recipe.teacher_model or recipe.model.engine != "hf"
    return BASE if who == TEACHER and not own_engine else who


def of_system(asks: Sequence[Ask], context: str, name: str) -> Ask | None:
    """What one row of a context's table is asked, where answers are written, without shots."""
    for ask in asks:
        written = ask.context == context and ask.purpose == "held-out" and not ask.part
        if written and ask.system and (ask.system.name, ask.system.shots) == (name, None):
            return ask
    return None
