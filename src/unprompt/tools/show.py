"""`unprompt show RUN [ID]`: one example through every stage."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from unprompt import recipe
from unprompt.messages import UserError
from unprompt.records import Completion, Grade, Lesson, Prompt, as_text
from unprompt.stages import check
from unprompt.stages.collect import key_of
from unprompt.stages.lessons import extract as extract_
from unprompt.stages.prompts import sample_ids, several
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_completions, read_grades, read_lessons

_TOP = 5


def show(folder: Path, example_id: str | None = None, console: Console | None = None) -> None:
    """Print what happened to an example.

    Raises:
        UserError: No run, or no such example.
    """
    console = console or Console()
    files = RunDir(folder)
    if not files.recipe.is_file():
        raise UserError(
            "there is no run here", where=str(folder), fix="run `unprompt run RECIPE` first"
        )
    plan = recipe.load(files.recipe)
    checked = check.check(plan, estimate=False)
    stores = [
        read_completions(store) for store in sorted(files.stores(plan.store).glob("*"), key=str)
    ]
    grades = (
        read_grades(files.folder / "grades.parquet")
        if (files.folder / "grades.parquet").is_file()
        else []
    )
    kept = {
        name: path
        for name in plan.plan
        if (path := files.round(name).folder / "lessons.parquet").is_file()
    }
    lessons = [(name, lesson) for name, path in kept.items() for lesson in read_lessons(path)]
    wanted = example_id or next(iter(checked.inputs.values()))[0].id
    found = False
    for name in plan.contexts:
        for part, teacher, student, hint, count in (
            (
                "training input",
                checked.teacher,
                checked.student,
                checked.hint,
                plan.per_input(name),
            ),
            ("held-out example", checked.held_teacher, checked.held_student, {}, 1),
        ):
            at = (
                next(
                    (n for n, p in enumerate(student[name].prompts) if p.example_id == wanted), None
                )
                if name in student
                else None
            )
            if at is None:
                continue
            found = True
            console.rule(f"{part} {wanted} in context {name}", characters="-")
            asked = teacher[name].prompts[at] if name in teacher else None
            if asked:
                _prompt(console, "teacher's prompt", asked, teacher[name].lengths[at])
            _prompt(
                console, "student's prompt", student[name].prompts[at], student[name].lengths[at]
            )
            for said in several(
                [side[name].prompts[at] for side in (teacher, hint) if name in side], count
            ):
                store = next(
                    (s for s in stores if key_of(said) in s and s[key_of(said)].labels is not None),
                    None,
                )
                if store is not None:
                    _completion(console, checked, plan, name, store[key_of(said)])
            for round_, lesson in lessons:
                if (
                    part == "training input"
                    and lesson.example_id in sample_ids(wanted, count)
                    and lesson.context == name
                ):
                    _lesson(console, checked, lesson, round_)
            _grades(
                console,
                [
                    g
                    for g in grades
                    if part != "training input" and g.example_id == wanted and g.context == name
                ],
            )
    if not found:
        raise UserError(
            f"there is no example '{wanted}'",
            where=str(folder),
            fix="give the id of an input or of a held-out example",
        )


def _prompt(console: Console, title: str, prompt: Prompt, tokens: int) -> None:
    console.print(Text(f"\n{title} ({tokens} tokens)", style="bold"))
    for content in prompt.renderings:
        console.print(Text(as_text(content)))


def _completion(
    console: Console, checked: check.Checked, plan: recipe.Recipe, name: str, completion: Completion
) -> None:
    console.print(
        Text(
            f"\nteacher's completion ({len(completion.token_ids)} tokens, ended by"
            f" {completion.stop})",
            style="bold",
        )
    )
    span = extract_.extract(
        plan.contexts[name].extract, completion.text, completion.stop, "", plan.modules
    )
    if isinstance(span, str):
        console.print(Text(completion.text))
        console.print(Text(f"not extracted: {span}", style="red"))
        return
    shown = Text(completion.text)
    shown.stylize("bold green", span.start, span.end)
    console.print(shown)
    console.print(Text(f"extracted: {completion.text[span.start : span.end]!r}"))


def _lesson(console: Console, checked: check.Checked, lesson: Lesson, round_: str) -> None:
    in_round = "" if round_ == "after" else f" in round {round_}"
    console.print(
        Text(f"\nlesson: what the student learns{in_round}, token by token", style="bold")
    )
    weighted = [n for n, weight in enumerate(lesson.weights) if weight]
    for n, place in enumerate(weighted):
        entries = ", ".join(
            f"{_token(checked, id_)} {probability:.2f}"
            for id_, probability in lesson.labels.token(n)[:_TOP]
        )
        console.print(
            Text(
                f"  {_token(checked, lesson.input_ids[place]):20} weight {lesson.weights[place]:g} "
                f"  {entries}"
            )
        )


def _token(checked: check.Checked, id_: int) -> str:
    return repr(checked.tokenizer.decode([id_]))


def _grades(console: Console, grades: list[Grade]) -> None:
    for grade in grades:
        values = ", ".join(f"{metric} {value:g}" for metric, value in grade.metrics.items())
        answer = (
            repr(grade.answer) if grade.answer is not None else f"not extracted ({grade.failure})"
        )
        console.print(Text(f"{grade.row:22} {answer} (gold {grade.target!r}) {values}"))
