"""Recipes that can't teach, told from their prompts before anything is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unprompt.messages import UserError
from unprompt.recipe import Recipe
from unprompt.records import TEACHER, Example, Prompt, text_of
from unprompt.stages.prompts import Prompts, Side

PLACEHOLDER = "an input as your users send it"
"""How a row begins that an earlier `unprompt init` wrote for people to replace."""


def refuse(recipe: Recipe, prompts: Prompts) -> None:
    """What teaches nothing, or gives the answer away.

    Raises:
        UserError: Rows that stand for inputs, prompts that end with the answer, a teacher's prompt
            without the input, or the same prompt on both sides.
    """
    for name in recipe.contexts:
        where, taught = f"contexts.{name}", prompts.inputs.taught.get(name, [])
        _refuse_placeholders(taught, f"{where}.inputs")
        for key in ("teacher", "student"):
            for held_out, rows in ((False, taught), (True, prompts.inputs.held_out.get(name, []))):
                if side := prompts.side(name, key, held_out=held_out):
                    _refuse_answered(side, rows, f"{where}.{key}")
        teacher, student = prompts.teacher.get(name), prompts.student.get(name)
        if teacher and student:
            _refuse_blind(teacher, student, f"{where}.teacher")
            if _equal_teaches_nothing(recipe, name):
                _refuse_equal(teacher, student, where)


def _refuse_placeholders(rows: Sequence[Example], where: str) -> None:
    for row in rows:
        if any(str(value).startswith(PLACEHOLDER) for value in row.fields.values()):
            raise UserError(
                f"input '{row.id}' is the placeholder that `unprompt init` wrote",
                where=where,
                fix="put your own inputs there, or write inputs: {from_prompt: {count: 400}}",
            )


def _refuse_answered(side: Side, rows: Sequence[Example], where: str) -> None:
    """A prompt that ends with the answer leaves nothing to say. What all of them end with is no
    answer but the beginning of one, which the model goes on with.
    """
    lasts = [each.content[-1] for each in side.prompts if not isinstance(each.content, str)]
    said = {text_of(last["content"]) for last in lasts if last["role"] == "assistant"}
    if len(said) > 1:
        raise UserError(
            "the prompt ends with the assistant's answer, behind which the model would go on",
            where=where,
            fix="leave the last message out (the answer may be the input's target)",
        )
    pairs = zip(side.prompts, rows, strict=True)
    ends = [_ends_with(prompt, row.target) for prompt, row in pairs if row.target is not None]
    if len(ends) > 3 and all(ends):
        raise UserError(
            f"the prompts of all {len(ends)} examples that have a gold answer end with it",
            where=where,
            fix="take the answer out of the template",
        )


def _ends_with(prompt: Prompt, target: object) -> bool:
    said = prompt.content
    text = said if isinstance(said, str) else text_of(said[-1]["content"])
    answer = str(target).strip()
    return bool(answer) and text.rstrip().endswith(answer)


def _refuse_blind(teacher: Side, student: Side, where: str) -> None:
    if _same(teacher.prompts) and not _same(student.prompts):
        raise UserError(
            f"the teacher's prompt shows nothing of the input: it is the same for all"
            f" {len(teacher.prompts)}",
            where=where,
            fix="name a field of the data in it, as {{ text }}",
        )


def _same(prompts: Sequence[Prompt]) -> bool:
    first = prompts[0].renderings
    return len(prompts) > 1 and all(prompt.renderings == first for prompt in prompts)


def _equal_teaches_nothing(recipe: Recipe, name: str) -> bool:
    """Whether the student would learn what it says anyway, were both prompts equal: the same
    weights, the whole answer, all answers, with their probabilities.
    """
    context = recipe.contexts[name]
    rounds = [each for each in recipe.plan.values() if name in each.contexts]
    return not (
        recipe.teacher_model
        or recipe.rounds
        or context.filter
        or context.gold is not None
        or context.extract != type(context.extract)()
        or recipe.labels.kind == "hard"
        or (recipe.sampling.temperature, recipe.sampling.top_p) != (1, 1)
        or any(each.lessons.kind != "single" for each in rounds)
        or TEACHER not in recipe.taught_by(name)
    )


def _refuse_equal(teacher: Side, student: Side, where: str) -> None:
    pairs = zip(teacher.prompts, student.prompts, strict=True)
    if all(a.renderings == b.renderings for a, b in pairs):
        raise UserError(
            "the teacher's prompt and the student's are the same, and so are their weights: there"
            " is nothing to learn",
            where=where,
            fix="take out of student what is to stand in the weights",
        )


def notes(recipe: Recipe, prompts: Prompts) -> Iterator[str]:
    """What hardly anybody means."""
    student = prompts.readers.student.tokenizer
    for name, side in prompts.student.items():
        if _same(side.prompts) and name in prompts.teacher:
            yield f"note: the student's prompt of context {name} shows nothing of the input"
    plain = [
        name
        for name, context in recipe.contexts.items()
        if context.student.text is not None and name in prompts.student
    ]
    if plain and student.chat_template:
        yield (
            f"note: the prompts of {', '.join(plain)} are plain text, but the model has a chat"
            " template: an instruct model answers better to messages (unprompt init writes them)"
        )
    if not prompts.inputs.held_out:
        yield "note: nothing is held out, so there will be no verdict: evaluate: {hold_out: 0.2}"
