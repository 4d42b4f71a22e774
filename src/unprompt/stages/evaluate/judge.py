"""A language model as judge: answers from 0 to 6 on several criteria, inputs' difficulty from 1 to
5.

One prompt shows one answer and all criteria. So a verdict does not hang on which other systems
there are: one more system asks only for its own verdicts, no answer gains by its place beside
another, and prompts stay short. What may pull a judge here is the order of the criteria, so each
repeat has another one, the same for all systems. The same answer to the same input is judged once,
whoever gave it.

A verdict is read from the lines `criterion: number`; what can't be read is counted, never guessed.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from unprompt.engines.tokens import Reader
from unprompt.messages import UserError
from unprompt.recipe import Judge, Recipe, Template
from unprompt.records import Completion, Example, Grade, Prompt, spelled
from unprompt.stages.templates.render import render
from unprompt.store.files import fingerprint

DIFFICULTY = "(difficulty)"
"""What stands as the system of a verdict on an input; no system can be called so."""


@dataclass(frozen=True, slots=True)
class Rubric:
    """Criteria, their scale, and the prompt that asks for them."""

    low: int
    high: int
    criteria: dict[str, str]
    template: Template


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said once about one answer, or (`system` is `(difficulty)`) about one input.

    Attributes:
        repeat: Which of the repeats, from 0.
        scores: Criterion -> the number; None where it could not be read.
        text: The judge's whole answer.
        unjudged: Why the judge was not asked; None if it was.
        group: As in `Grade`.
    """

    example_id: str
    context: str
    system: str
    repeat: int
    scores: dict[str, int | None]
    text: str
    unjudged: str | None = None
    group: str | None = None


class _Task(NamedTuple):
    """One input whose answers, or whose difficulty, is judged."""

    context: str
    example: Example
    asked: Prompt
    rule: Rubric
    where: str
    difficulty: bool


OURS = Path(__file__).with_name("judge.yaml")
"""Our rubrics."""


@functools.cache
def _texts() -> dict[str, Any]:
    return yaml.safe_load(OURS.read_text("utf-8"))


def rubric(settings: Judge, of: Literal["answers", "difficulty"]) -> Rubric:
    """Ours, with the recipe's own criteria and template for answers."""
    ours = _texts()[of]
    criteria, template = dict(ours["criteria"]), Template(text=ours["template"])
    if of == "answers":
        criteria, template = settings.criteria or criteria, settings.template or template
    return Rubric(ours["low"], ours["high"], dict(criteria), template)


def orders(names: Sequence[str], repeats: int, seed: str) -> list[list[str]]:
    """`repeats` different orders of the names, from the seed alone.

    There must be so many: the recipe's schema sees to that.
    """
    draw, chosen = random.Random(seed), list[list[str]]()
    while len(chosen) < repeats:
        order = draw.sample(list(names), len(names))
        if order not in chosen:
            chosen.append(order)
    return chosen


def ask(task: _Task, order: Sequence[str], answer: str, reader: Reader) -> Prompt:
    """The judge's prompt about one answer (or, where the template shows none, about the input); a
    plain text becomes a user's message to a chat model. The conversation is what the student was
    asked.
    """
    rule, turns, example = task.rule, task.asked.content, task.example
    if isinstance(turns, str):
        turns = ({"role": "user", "content": turns},)
    fields = {
        "turns": [{"role": turn["role"], "content": spelled(turn)} for turn in turns],
        "answer": answer,
        "low": rule.low,
        "high": rule.high,
        "fields": example.fields,
        "target": example.target,
        "criteria": [{"name": name, "text": rule.criteria[name]} for name in order],
    }
    shown = Example(example.id, fields)
    question = render(rule.template, f"judge/{task.context}", shown, None, task.where)
    if reader.chat and isinstance(question.content, str):
        return replace(question, content=({"role": "user", "content": question.content},))
    return question


def read(text: str, stop: str, rule: Rubric) -> dict[str, int | None]:
    """Each criterion's number, from the last line that begins with its name; None where that is no
    whole number of the scale.

    `helpful: 4`, `**Helpful**: 4/6` and `- helpful = 4 (clear)` are read; `4 or 5`, `4.5`, `9` and
    `<0-6>` are not. A last line that the limit on tokens cut is not read, since its number may go
    on.

    Args:
        text: The judge's answer.
        stop: Why it ended.
    """
    lines = text.splitlines()
    if stop == "length" and lines and not text.endswith("\n"):
        lines.pop()
    number = rf"([0-9]{{1,9}})[\s*_`]*(?:(?:/|out of)\s*{rule.high}(?![0-9]))?[^0-9]*"
    scores: dict[str, int | None] = dict.fromkeys(rule.criteria)
    for name in rule.criteria:
        begins = rf"[\s>#*_`\-•]*{re.escape(name)}[\s*_`]*[:=][\s*_`]*(.*)"
        begun = [re.fullmatch(begins, line, re.IGNORECASE) for line in lines]
        values = [match[1] for match in begun if match]
        score = re.fullmatch(number, values[-1]) if values else None
        if score and rule.low <= int(score[1]) <= rule.high:
            scores[name] = int(score[1])
    return scores


def _tasks(
    recipe: Recipe,
    settings: Judge,
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
) -> Iterator[_Task]:
    kinds = [("judge.template", rubric(settings, "answers"), False)]
    if settings.difficulty:
        kinds.append(("judge.difficulty", rubric(settings, "difficulty"), True))
    for context in recipe.judged:
        for example, prompt in zip(held_out[context], asked[context], strict=True):
            for where, rule, difficulty in kinds:
                yield _Task(context, example, prompt, rule, where, difficulty)


def _sizes(
    recipe: Recipe,
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
    reader: Reader,
) -> Iterator[tuple[_Task, int]]:
    """Each thing to be judged, and the tokens of the prompt with an empty answer."""
    assert recipe.judge
    for task in _tasks(recipe, recipe.judge, held_out, asked):
        yield task, len(_encode(ask(task, list(task.rule.criteria), "", reader), reader))


def lengths(
    recipe: Recipe,
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
    reader: Reader,
) -> Iterator[tuple[str, bool, int]]:
    """Each thing to be judged: its context, whether that is an input's difficulty, and the tokens
    of the prompt with an empty answer.
    """
    for task, tokens in _sizes(recipe, held_out, asked, reader):
        yield task.context, task.difficulty, tokens


def check(
    recipe: Recipe,
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
    reader: Reader,
) -> str:
    """What can be known before there are answers: templates render, and the judge's prompts fit its
    window with an empty answer.

    Args:
        held_out: Context -> its held-out examples.
        asked: Context -> the student's prompts for them.

    Returns:
        A line for the terminal.

    Raises:
        UserError: They do not.
    """
    settings = recipe.judge
    assert settings
    for task, tokens in _sizes(recipe, held_out, asked, reader):
        if _over(tokens, settings, reader):
            raise UserError(
                f"the judge's prompt on example '{task.example.id}' of context {task.context} has"
                f" {tokens} tokens ahead of any answer; with {settings.max_new_tokens} new ones"
                f" that is over the judge's window of {reader.window}",
                where=task.where,
                fix=(
                    "take a judge with a longer window or shorter examples, or leave that context"
                    " out of judge.contexts"
                ),
            )
    names = ", ".join(rubric(settings, "answers").criteria)
    whose = "judge.model" if settings.model else "the teacher"
    form = "" if reader.chat else ", which has no chat template and is asked in plain text,"
    return f"judge: {whose}{form} rates {names} of each answer, {settings.repeats} times"


def judge(
    recipe: Recipe,
    held_out: Mapping[str, Sequence[Example]],
    asked: Mapping[str, Sequence[Prompt]],
    grades: Sequence[Grade],
    reader: Reader,
    answer: Callable[[list[Prompt], list[list[int]]], Sequence[Completion]],
) -> list[Verdict]:
    """All verdicts.

    Judged is the extracted answer; where nothing could be extracted, the whole text, which is what
    a user would have got. Answers behind shots are left out. A prompt over the judge's
    window is not asked, and its verdict says so.

    Args:
        held_out: Context -> its held-out examples.
        asked: Context -> the student's prompts for them.
        answer: Asks the judge: prompts and their token ids -> completions.
    """
    settings = recipe.judge
    assert settings
    answers: dict[tuple[str, str], list[Grade]] = {}
    for grade in grades:
        if grade.shots is None:
            answers.setdefault((grade.context, grade.example_id), []).append(grade)
    questions: dict[str, Prompt] = {}
    wanted: list[tuple[Rubric, Verdict, str]] = []
    for task in _tasks(recipe, settings, held_out, asked):
        example, names = task.example, list(task.rule.criteria)
        graded = answers.get((task.context, example.id), [])
        shown = [(grade.system, grade.shown) for grade in graded]
        if task.difficulty:
            shown = [(DIFFICULTY, "")]
        group = graded[0].group if graded else None
        seed = f"{recipe.seed}:{task.where}:{task.context}:{example.id}"
        for repeat, order in enumerate(orders(names, settings.repeats, seed)):
            for system, text in shown:
                question = ask(task, order, text, reader)
                key = fingerprint(question.example_id, question.context, question.content)
                questions[key], nothing = question, dict.fromkeys(names)
                blank = Verdict(example.id, task.context, system, repeat, nothing, "", group=group)
                wanted.append((task.rule, blank, key))
    ids = {key: _encode(question, reader) for key, question in questions.items()}
    fits = [key for key in questions if not _over(len(ids[key]), settings, reader)]
    completions = answer([questions[k] for k in fits], [ids[k] for k in fits]) if fits else []
    answered = dict(zip(fits, completions, strict=True))
    verdicts = []
    for rule, blank, key in wanted:
        if key in answered:
            text, scores = answered[key].text, read(answered[key].text, answered[key].stop, rule)
            verdicts.append(replace(blank, scores=scores, text=text))
        else:
            why = f"{len(ids[key])} tokens, over the judge's window of {reader.window}"
            verdicts.append(replace(blank, unjudged=why))
    return verdicts


def _encode(question: Prompt, reader: Reader) -> list[int]:
    return reader.encode(question.content, "judge.template")


def _over(tokens: int, settings: Judge, reader: Reader) -> bool:
    return reader.window is not None and tokens + settings.max_new_tokens > reader.window
