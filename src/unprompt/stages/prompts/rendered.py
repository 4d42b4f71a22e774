"""Every context's prompts, rendered and measured. No weights are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unprompt.engines import chats
from unprompt.messages import UserError
from unprompt.recipe import Recipe, Template
from unprompt.records import Example, Prompt, Who
from unprompt.stages.inputs.every import Inputs, every
from unprompt.stages.lessons import rationales
from unprompt.stages.prompts.readers import Readers, measure, readers
from unprompt.stages.prompts.side import Side
from unprompt.stages.templates import turns
from unprompt.stages.templates.render import render, render_all, value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Given = Sequence[tuple[str, list[int]]]
"""For each prompt a continuation (text, token ids)."""


@dataclass(frozen=True)
class Prompts:
    """T_teacher and T_student of each context, by its name.

    Attributes:
        inputs: What was rendered.
        readers: Who reads it.
        longest: Tokens that fit behind each prompt.
        teacher, student: Of the inputs that are taught; `hint` with the gold answer in sight.
        held_teacher, held_student: Of the held-out examples.
        gold: Answers of contexts that have no teacher to ask.
        choices: (Context, whether in the teacher's tokens) -> `right` and `wrong` -> the
            continuation of each held-out example.
    """

    inputs: Inputs
    readers: Readers
    longest: int
    teacher: dict[str, Side]
    student: dict[str, Side]
    hint: dict[str, Side]
    held_teacher: dict[str, Side]
    held_student: dict[str, Side]
    gold: dict[str, list[str]]
    choices: dict[tuple[str, bool], dict[str, Given]]

    def side(self, context: str, template: str, *, held_out: bool) -> Side | None:
        """The prompts of one template (`teacher`, `student` or `hint`); None if there are none."""
        return getattr(self, f"held_{template}" if held_out else template, {}).get(context)

    def given(self, context: str, who: Who) -> dict[str, Given]:
        """The continuations that are scored, in the tokens of these weights."""
        return self.choices[context, who.role == "teacher"]


def rendered(recipe: Recipe, inputs: Inputs | None = None) -> Prompts:
    """Render and measure what the recipe says.

    Args:
        inputs: If they were read before.

    Raises:
        UserError: Data, a template or a tokenizer is not in order, or a prompt is over the window.
    """
    inputs = inputs or every(recipe)
    texts, reads = _texts(recipe, inputs), readers(recipe)
    gold = {
        name: _gold(name, recipe, rows, texts[name, "student", ""], reads.student.tokenizer)
        for name, rows in inputs.taught.items()
        if recipe.contexts[name].gold is not None
    }
    choices: dict[tuple[str, bool], dict[str, Given]] = {}
    for name, rows in inputs.held_out.items():
        written = _continuations(recipe, name, rows)
        for of_teacher in (False, True) if written else ():
            tokenizer = (reads.teacher if of_teacher else reads.student).tokenizer
            choices[name, of_teacher] = _tokens(tokenizer, written, name)
    longest = _longest_answer(recipe, choices)
    sides: dict[str, dict[str, Side]] = {key: {} for key in _SIDES}
    for (name, template, part), prompts in texts.items():
        whose = [*recipe.taught_by(name), *recipe.replayed_by(name)]
        asked = [reads.of(who) for who in whose] if template != "student" else [reads.student]
        for reader in reversed(asked):  # the first teacher's lengths are kept
            side = measure(prompts, reader, f"contexts.{name}.{template}", longest)
            sides[part + template][name] = side
    return Prompts(inputs, reads, longest, gold=gold, choices=choices, **sides)


_SIDES = ("teacher", "student", "hint", "held_teacher", "held_student")


def _texts(recipe: Recipe, inputs: Inputs) -> dict[tuple[str, str, str], Sequence[Prompt]]:
    """(Context, template, `held_` or nothing) -> its prompts."""
    texts = {}
    for name, context in recipe.contexts.items():
        shown, pool = inputs.shown[name], inputs.pools[name]
        for part, rows in (
            ("", inputs.taught.get(name)),
            ("held_", inputs.held_out.get(name)),
        ):
            if rows is None:
                continue
            if context.teacher and (part or context.gold is None):
                prompts = render_all(name, context.teacher, "teacher", rows, shown)
                texts[name, "teacher", part] = prompts
            prompts = render_all(name, context.student, "student", rows, [pool])
            texts[name, "student", part] = prompts
        if context.hint and name in inputs.taught:
            rows = [rationales.with_gold(row) for row in inputs.taught[name]]
            prompts = render_all(name, context.hint, "hint", rows, shown)
            texts[name, "hint", ""] = prompts
    return texts


_FIELD = re.compile(r"\s*\{\{((?:(?!\}\}).)+)\}\}\s*", re.DOTALL)
"""A template that is one expression: it may give calls, or a message."""


def _gold(
    name: str,
    recipe: Recipe,
    rows: Sequence[Example],
    asked: Sequence[Prompt],
    tokenizer: PreTrainedTokenizerBase,
) -> list[str]:
    """The gold answers as the student writes them behind its prompts: calls in its own words."""
    source, where = recipe.contexts[name].gold or "", f"contexts.{name}.gold"
    field, answers = _FIELD.fullmatch(source), list[str]()
    for row, prompt in zip(rows, asked, strict=True):
        found = value(field[1].strip(), row, where) if field else None
        if isinstance(found, list | dict):
            answers.append(_called(found, row, prompt, tokenizer, where))
        else:
            answers.append(str(render(Template(text=source), name, row, None, where).content))
    for row, answer in zip(rows, answers, strict=True):
        if not answer.strip():
            raise UserError(
                f"the gold answer of input '{row.id}' is empty",
                where=where,
                fix="mend the template or the data",
            )
    return answers


def _called(
    found: list[Any] | dict[str, Any],
    row: Example,
    prompt: Prompt,
    tokenizer: PreTrainedTokenizerBase,
    where: str,
) -> str:
    """A gold answer that is a message, or what it calls."""
    which = f"the gold answer of input '{row.id}'"
    fields = found if isinstance(found, dict) else {"content": None, "tool_calls": found}
    said = turns.message({"content": None, "role": "assistant"} | fields, which, where)
    if isinstance(prompt.content, str):
        what = f"{which} is a message, and the student's prompt is a text"
        raise UserError(what, where=where, fix="write the student's prompt as messages")
    return chats.answer(tokenizer, prompt.content, said, where)


def _continuations(recipe: Recipe, name: str, rows: Sequence[Example]) -> dict[str, list[str]]:
    """`right` and `wrong` -> that continuation of each held-out example; nothing where answers are
    written.
    """
    evaluation = recipe.evaluation(name)
    if evaluation is None or evaluation.choices is None:
        return {}
    where, choices = f"contexts.{name}.evaluate.choices", evaluation.choices
    return {
        side: [
            str(render(Template(text=source), "", row, None, f"{where}.{side}").content)
            for row in rows
        ]
        for side, source in (("right", choices.right), ("wrong", choices.wrong))
    }


def _tokens(
    tokenizer: PreTrainedTokenizerBase, written: Mapping[str, Sequence[str]], name: str
) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for side, texts in written.items():
        ids = [tokenizer(text, add_special_tokens=False, verbose=False).input_ids for text in texts]
        if not all(ids):
            raise UserError(
                "a continuation is empty",
                where=f"contexts.{name}.evaluate.choices.{side}",
                fix="mend the template or the data",
            )
        given[side] = [(text, list(own)) for text, own in zip(texts, ids, strict=True)]
    return given


def _longest_answer(recipe: Recipe, choices: Mapping[tuple[str, bool], Mapping[str, Given]]) -> int:
    """Tokens that must fit behind every prompt."""
    written = [
        recipe.sampling_of(evaluation).max_new_tokens
        for name in recipe.contexts
        if (evaluation := recipe.evaluation(name)) and not evaluation.choices
    ]
    scored = [len(ids) for sides in choices.values() for own in sides.values() for _, ids in own]
    return max([recipe.sampling.max_new_tokens, *written, *scored])
