"""How much each instruction of a teacher's prompt matters, measured one by one: what is there is
kept, whatever stops the rest.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from unprompt.messages import bar
from unprompt.records import TokenKL, Who
from unprompt.stages.asks import Ask, of_system
from unprompt.stages.evaluate import instructions
from unprompt.stages.evaluate.grade import group_of
from unprompt.stages.evaluate.removed import Removed, beginning
from unprompt.stages.prompts import Prompts
from unprompt.stages.weights import Weights
from unprompt.store.answers import Answers

_LATER = "they are measured behind the report's first version: run the recipe again to go on"


class Bars:
    """The instruction bars of a run.

    Args:
        kl: Context -> `before` and each round -> KL(teacher || system).
    """

    def __init__(
        self,
        weights: Weights,
        prompts: Prompts,
        answers: Mapping[Ask, Answers],
        kl: Mapping[str, Mapping[str, TokenKL]],
    ) -> None:
        self._weights, self._contexts = weights, dict[str, _Context]()
        self._over = False
        for name, systems in kl.items() if weights.recipe.report.instructions.examples else ():
            if teacher := of_system(list(answers), name, "teacher"):
                context = _Context(weights, prompts, name, teacher.who, answers[teacher], systems)
                if context.found:
                    self._contexts[name] = context

    @property
    def missing(self) -> list[Item]:
        """Those that are to be measured, and are not, in the order in which they will be."""
        return [item for of in self._contexts.values() for item in of.items if item.nats is None]

    def measure(self) -> None:
        """Measure those, until all are there or no further one would end in time."""
        began, slowest, limit = time.monotonic(), 0.0, self._weights.recipe.report.instructions
        missing = self.missing
        with bar("prompt without each instruction", sum(map(len, missing))) as progress:
            for item in missing:
                start = time.monotonic()
                if limit.seconds is not None and start - began + slowest > limit.seconds:
                    self._over = True
                    return
                item.measure(progress)
                slowest = max(slowest, time.monotonic() - start)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Context -> its bars as far as they are measured, and why others are not."""
        settings, told = self._weights.recipe.report.instructions, dict[str, dict[str, Any]]()
        for name, context in self._contexts.items():
            bars = [item.bar(nats) for item in context.items if (nats := item.nats) is not None]
            bars.sort(key=lambda each: -each["matters"]["mean"])
            why = _LATER
            if self._over:
                why = f"report.instructions.seconds: {settings.seconds:g} is used up"
            elif len(bars) == len(context.items):
                why = f"report.instructions.items: {settings.items}"
            told[name] = {"examples": len(context.asked), "items": context.found, "bars": bars}
            if len(bars) < context.found:
                told[name]["left_out"] = why
        return told


class _Context:
    """What the items of one context share."""

    def __init__(
        self,
        weights: Weights,
        prompts: Prompts,
        name: str,
        who: Who,
        answers: Answers,
        systems: Mapping[str, TokenKL],
    ) -> None:
        recipe, side = weights.recipe, prompts.held_teacher[name]
        settings, evaluation = recipe.report.instructions, recipe.evaluation(name)
        assert evaluation
        self.weights, self.name, self.who, self.systems = weights, name, who, systems
        self.reader = prompts.readers.of(who)
        ids = systems["before"].example_ids[: settings.examples]
        self.place = {id_: n for n, id_ in enumerate(ids)}
        self.asked = [n for n, prompt in enumerate(side.prompts) if prompt.example_id in self.place]
        self.answers = [answers[n] for n in self.asked]
        self.groups = {x.id: group_of(x, evaluation) for x in prompts.inputs.held_out[name]}
        self._side = side
        found = instructions.find(side.prompts)
        self.found = len(found)
        self.items = [Item(self, each) for each in instructions.in_order(found)[: settings.items]]

    @cached_property
    def like(self) -> Sequence[int]:
        """What all of its prompts begin with, nothing left out."""
        return beginning(self.reader, self._side, self.name)


class Item:
    """One instruction of a context."""

    def __init__(self, of: _Context, instruction: instructions.Instruction) -> None:
        self._of, self._instruction = of, instruction
        self._removed = Removed(
            of.weights,
            of.who,
            of.reader,
            of.name,
            [instruction.without[n] for n in of.asked],
            of.answers,
            lambda: of.like,
        )

    def __len__(self) -> int:
        """Examples on which it is measured."""
        return len(self._of.asked)

    @property
    def nats(self) -> list[list[float]] | None:
        """KL(teacher || teacher without it) of each token of each answer; None: not measured."""
        return self._removed.nats

    def measure(self, progress: Any) -> None:
        """Have the teacher read its answers behind the prompts without it."""
        self._removed.measure(progress)

    def bar(self, removed: list[list[float]]) -> dict[str, Any]:
        """How much it matters, and how much of that each student has taken in."""
        of = self._of
        ids = self._removed.ids
        at = [of.place[id_] for id_ in ids]
        nats = {system: [values.nats[n] for n in at] for system, values in of.systems.items()}
        groups = [of.groups[id_] for id_ in ids]
        return instructions.bar(self._instruction.text, removed, nats.pop("before"), nats, groups)
