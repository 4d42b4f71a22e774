"""`unprompt show RUN [ID]`: one example through every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unprompt.messages import UserError
from unprompt.recipe import Recipe
from unprompt.records import Completion, Grade, Lesson, Prompt, as_text
from unprompt.stages.lessons import extract as extract_
from unprompt.stages.prompts import Prompts, rendered, sample_ids, several
from unprompt.stages.questions import key_of
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_completions, read_grades, read_lessons
from unprompt.tools.finished import opened
from unprompt.visible import visible

_TOP = 5


def show(folder: Path, example_id: str | None = None, console: Console | None = None) -> None:
    """Print what happened to an example.

    Raises:
        UserError: No run, or no such example.
    """
    console = console or Console()
    files, recipe = opened(folder)
    prompts = rendered(recipe)
    wanted = example_id or next(iter(prompts.inputs.taught.values()))[0].id
    shown = [
        _of_context(console, files, recipe, prompts, name, wanted, held_out=held_out)
        for name in recipe.contexts
        for held_out in (False, True)
    ]
    if not any(shown):
        raise UserError(
            f"there is no example '{wanted}'",
            where=str(folder),
            fix="give the id of an input or of a held-out example",
        )


def _of_context(
    console: Console,
    files: RunDir,
    recipe: Recipe,
    prompts: Prompts,
    name: str,
    wanted: str,
    *,
    held_out: bool,
) -> bool:
    """Print an example of a context; whether it has one of this name."""
    student = prompts.side(name, "student", held_out=held_out)
    ids = [prompt.example_id for prompt in student.prompts] if student else []
    if student is None or wanted not in ids:
        return False
    at, count = ids.index(wanted), 1 if held_out else recipe.per_input(name)
    part = "held-out example" if held_out else "training input"
    console.rule(Text(visible(f"{part} {wanted} in context {name}")), characters="-")
    teacher = prompts.side(name, "teacher", held_out=held_out)
    if teacher:
        _prompt(console, "teacher's prompt", teacher.prompts[at], teacher.lengths[at])
    _prompt(console, "student's prompt", student.prompts[at], student.lengths[at])
    for side in filter(None, (teacher, prompts.side(name, "hint", held_out=held_out))):
        for completion in _answers(files, recipe, several([side.prompts[at]], count)):
            _completion(console, recipe, name, replace(completion, opened=side.opened))
    if held_out:
        path = files.proven("grades.parquet")
        grades = read_grades(path) if path.is_file() else []
        _grades(console, [g for g in grades if (g.context, g.example_id) == (name, wanted)])
        return True
    for round_ in recipe.plan:
        path = files.round(round_).proven("lessons.parquet")
        for lesson in read_lessons(path) if path.is_file() else []:
            if lesson.example_id in sample_ids(wanted, count) and lesson.context == name:
                _lesson(console, prompts, lesson, round_)
    return True


def _answers(files: RunDir, recipe: Recipe, asked: Sequence[Prompt]) -> list[Completion]:
    """What the teacher answered: those with labels."""
    stores: list[Mapping[str, Completion]] = [
        read_completions(store) for store in sorted(files.stores(recipe.store).glob("*"), key=str)
    ]
    answers = []
    for key in map(key_of, asked):
        kept = [store[key] for store in stores if key in store]
        answers += [answer for answer in kept if answer.labels is not None][:1]
    return answers


def _print(console: Console, *parts: str | tuple[str, str]) -> None:
    """A line of texts, or texts and their styles; what can't be seen in them is written out."""
    styled = [(part, "") if isinstance(part, str) else part for part in parts]
    console.print(Text.assemble(*((visible(text), style) for text, style in styled)))


def _prompt(console: Console, title: str, prompt: Prompt, tokens: int) -> None:
    _print(console, (f"\n{title} ({tokens} tokens)", "bold"))
    for content in prompt.renderings:
        _print(console, as_text(content))


def _completion(console: Console, recipe: Recipe, name: str, completion: Completion) -> None:
    title = (
        f"\nteacher's completion ({len(completion.token_ids)} tokens, ended by {completion.stop})"
    )
    _print(console, (title, "bold"))
    rule = recipe.contexts[name].extract
    text, opened = completion.text, completion.opened
    span = extract_.extract(rule, text, completion.stop, "", recipe.modules, opened=opened)
    if isinstance(span, str):
        _print(console, text)
        _print(console, (f"not extracted: {span}", "red"))
        return
    kept = text[span.start : span.end], "bold green"
    _print(console, text[: span.start], kept, text[span.end :])
    _print(console, f"extracted: {kept[0]!r}")


def _lesson(console: Console, prompts: Prompts, lesson: Lesson, round_: str) -> None:
    def token(id_: int) -> str:
        return repr(prompts.readers.student.tokenizer.decode([id_]))

    in_round = "" if round_ == "after" else f" in round {round_}"
    title = f"\nlesson: what the student learns{in_round}, token by token"
    _print(console, (title, "bold"))
    weighted = [n for n, weight in enumerate(lesson.weights) if weight]
    for n, place in enumerate(weighted):
        labels = lesson.labels.token(n)[:_TOP]
        entries = ", ".join(f"{token(id_)} {probability:.2f}" for id_, probability in labels)
        weight = f"weight {lesson.weights[place]:g}"
        _print(console, f"  {token(lesson.input_ids[place]):20} {weight}   {entries}")


def _grades(console: Console, grades: list[Grade]) -> None:
    for grade in grades:
        values = ", ".join(f"{metric} {value:g}" for metric, value in grade.metrics.items())
        answer = (
            repr(grade.answer) if grade.answer is not None else f"not extracted ({grade.failure})"
        )
        _print(console, f"{grade.row:22} {answer} (gold {grade.target!r}) {values}")
