"""The prompt library: every task renders, is graded as it says, and stands written out in a recipe
that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import unprompt
from conftest import tiny_recipe
from unprompt import pipeline
from unprompt.cli import road
from unprompt.recipe import Evaluate, Extract, Recipe, Template, library, parse
from unprompt.records import Completion, Example, as_text
from unprompt.stages import evaluate
from unprompt.stages.lessons.extract import Span, extract
from unprompt.stages.templates.render import render

ANSWERS: dict[str, tuple[str, str]] = {
    "nli": ("A dog is an animal. The answer must hold.\n**Answer:** Entailment", "Entailment."),
    "multiple_choice": ("Nobody lends books in a kitchen.\nAnswer: a library", "A library."),
    "maths_number": ("In the afternoon 24, together 12 + 24 = 36.\nAnswer: $36", "36"),
    "maths_choice": ("60 / 0.5 = 120, so it is D.\nAnswer: D", "d"),
    "summarise": (
        (
            "Summary 1: A council voted.\n\nSummary 2: x\n\nSummary 3: y\n\n**Summary 4:** It was"
            " built in 1931."
        ),
        "It was built in 1931.",
    ),
}
"""What a teacher and a student say to the task's own example."""


def recipe(folder: Path, name: str, **parts: Any) -> Recipe:
    task = library.task(name)
    context = {
        "library": {"task": name, "form": "text"},
        "inputs": [task.example],
        "evaluate": {"data": [task.example]},
    } | parts
    return parse(
        tiny_recipe(folder) | {"contexts": {"c": context}, "sampling": {}, "evaluate": None}
    )


def example_of(name: str) -> Example:
    fields = library.task(name).example
    return Example("a", fields, fields.get("target"))


def test_tasks_of_the_issue_are_there() -> None:
    wanted = {
        "nli",
        "multiple_choice",
        "maths_number",
        "maths_choice",
        "summarise",
        "conversation",
        "conversation_history",
    }
    assert set(library.names()) == wanted
    for name in wanted:
        assert "Unprompt's own" in library.task(name).source
        assert name in "\n".join(library.listed())


@pytest.mark.parametrize("form", ["chat", "text"])
@pytest.mark.parametrize("name", library.names())
def test_prompts_show_every_field_once_they_are_rendered(name: str, form: str) -> None:
    task, found, example = library.task(name), library.parts(name, form), example_of(name)
    assert set(task.fields) <= set(task.example)
    for side in ("teacher", "student"):
        prompt = render(Template.model_validate(found[side]), "c", example, None, side)
        text = as_text(prompt.content)
        assert isinstance(prompt.content, str) == (form == "text")
        for field in task.fields:
            for value in (
                [example.fields[field]]
                if isinstance(example.fields[field], str)
                else example.fields[field]
            ):
                assert (value["content"] if isinstance(value, dict) else value) in text
        assert "{" not in text
        assert text == text.strip()
    longer = [
        len(as_text(render(Template.model_validate(found[side]), "c", example, None, side).content))
        for side in ("teacher", "student")
    ]
    assert longer[0] > longer[1]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_to_both_prompts_are_read(name: str) -> None:
    found, (elaborate, plain) = library.parts(name), ANSWERS[name]
    span = extract(Extract.model_validate(found["extract"]), elaborate, "end")
    assert isinstance(span, Span)
    taught = elaborate[span.start : span.end]
    assert taught.strip(".").casefold() in plain.casefold().strip(".") or name == "maths_number"
    data = {"rows": [library.task(name).example]}
    evaluation = Evaluate.model_validate({**found["evaluate"], "data": data})
    for text in (elaborate, plain, taught):
        [grade] = evaluate.grade(
            "s",
            "c",
            Extract(),
            [example_of(name)],
            [Completion("a", "c", text, (), "end", 1)],
            evaluation,
            ".",
        )
        assert grade.failure is None
        assert grade.metrics[evaluation.metrics[0]] == (
            1 if name != "summarise" else pytest.approx(1 / 6)
        )
    [grade] = evaluate.grade(
        "s",
        "c",
        Extract(),
        [example_of(name)],
        [Completion("a", "c", "?", (), "end", 1)],
        evaluation,
        ".",
    )
    assert grade.metrics[evaluation.metrics[0]] == 0


def test_a_recipe_that_names_a_task_is_written_out(decoder_folder: Path) -> None:
    found = recipe(decoder_folder, "nli")
    context, parts = found.contexts["c"], library.parts("nli", "text")
    assert context.teacher == Template.model_validate(parts["teacher"])
    assert context.student == Template.model_validate(parts["student"])
    assert context.extract == Extract.model_validate(parts["extract"])
    assert isinstance(context.evaluate, Evaluate)
    assert context.evaluate.metrics == ("accuracy",)
    assert context.evaluate.extract == Extract.model_validate(parts["evaluate"]["extract"])
    assert (found.sampling.max_new_tokens, found.sampling.stop) == (256, ("\n\n",))
    resolved = yaml.safe_load(found.to_yaml())
    assert resolved["contexts"]["c"]["library"] is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "task", None)  # it needs no library
        assert parse(resolved) == found


def test_what_the_recipe_says_wins(decoder_folder: Path) -> None:
    data = {"rows": [library.task("nli").example]}
    own = recipe(
        decoder_folder,
        "nli",
        student="{{ premise }} / {{ hypothesis }}:",
        extract="whole",
        evaluate={"data": data, "metrics": ["exact_match"]},
    ).contexts["c"]
    assert own.student.text == "{{ premise }} / {{ hypothesis }}:"
    assert own.extract.keep == "whole"
    assert isinstance(own.evaluate, Evaluate)
    assert own.evaluate.metrics == ("exact_match",)
    assert own.evaluate.extract is not None
    assert own.teacher == Template.model_validate(library.parts("nli", "text")["teacher"])
    words = tiny_recipe(decoder_folder) | {
        "contexts": {"c": {"library": "nli", "inputs": data}},
        "evaluate": {"data": data, "max_new_tokens": 3},
    }
    common = parse({**words, "sampling": {"max_new_tokens": 7}})
    assert common.sampling.max_new_tokens == 7
    evaluation = common.evaluation("c")
    assert evaluation
    assert (evaluation.metrics, evaluation.max_new_tokens) == (("accuracy",), 3)
    assert evaluation.extract is not None
    assert parse({**words, "evaluate": None}).evaluation("c") is None


def test_fields_may_be_expressions_of_a_nested_row(decoder_folder: Path) -> None:
    row = {
        "id": "a",
        "input": {"body": "Ann has 2 pens and buys 3.", "question": "How many pens has she?"},
        "target": "5",
    }
    wanted = {
        "task": "maths_number",
        "form": "text",
        "fields": {"question": "input.body ~ ' ' ~ input.question"},
    }
    nested = recipe(
        decoder_folder, "maths_number", library=wanted, inputs=[row], evaluate={"data": [row]}
    )
    shown = render(nested.contexts["c"].student, "c", Example("a", row), None, "student")
    assert str(shown.content).startswith(
        "Question: Ann has 2 pens and buys 3. How many pens has she?\n"
    )
    talk = {
        "id": "a",
        "input": {
            "turns": [
                {"role": "user", "content": "Hi."},
                {"role": "assistant", "content": "Hello!"},
            ],
            "last": "Bye.",
        },
    }
    wanted = {
        "task": "conversation_history",
        "fields": {"history": "input.turns", "message": "input.last"},
    }
    nested = recipe(
        decoder_folder, "conversation_history", library=wanted, inputs=[talk], evaluate=False
    )
    assert render(
        nested.contexts["c"].student, "c", Example("a", talk), None, "student"
    ).content == (
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye."},
    )
    report = {"id": "a", "input": {"document": "A bridge in Berlin."}, "target": "A bridge."}
    wanted = {"task": "summarise", "fields": {"document": "input.document"}}
    nested = recipe(
        decoder_folder, "summarise", library=wanted, inputs=[report], evaluate={"data": [report]}
    )
    evaluation = nested.evaluation("c")
    assert evaluation
    evaluate.check(evaluation, [Example("a", report, "A bridge.")], "evaluate", ".")
    [grade] = evaluate.grade(
        "s",
        "c",
        Extract(),
        [Example("a", report, "A bridge.")],
        [Completion("a", "c", "Berlin.", (), "end", 1)],
        evaluation,
        ".",
    )
    assert grade.metrics["entity_density"] == pytest.approx(1 / 2)


def test_fields_may_change_places_and_keep_their_names() -> None:
    row = Example("a", {"premise": "P", "hypothesis": "H", "x": "X"})
    for fields, shown in (
        ({"premise": "hypothesis", "hypothesis": "premise"}, ("Premise: H", "Hypothesis: P")),
        ({"premise": "premise", "hypothesis": "x"}, ("Premise: P", "Hypothesis: X")),
        ({"premise": "premise"}, ("Premise: P", "Hypothesis: H")),
    ):
        text = render(
            Template.model_validate(library.parts("nli", "text", fields)["student"]),
            "c",
            row,
            None,
            "student",
        ).content
        assert tuple(str(text).splitlines()[:2]) == shown


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"tsk": "nli"}, "unknown key 'contexts.c.library.tsk'"),
        (
            {"task": "nli", "form": "html"},
            "'contexts.c.library.form': Input should be 'chat' or 'text'",
        ),
        (
            {"task": "nli", "fields": {"premise": 3}},
            "'contexts.c.library.fields.premise': Input should be a valid string",
        ),
        ({"task": "nli", "fields": ["premise"]}, "'contexts.c.library.fields'"),
        (3, "'contexts.c.library'"),
    ],
)
def test_a_library_section_of_another_form_is_refused(
    decoder_folder: Path, wanted: Any, said: str
) -> None:
    with pytest.raises(unprompt.UserError) as error:
        recipe(decoder_folder, "nli", library=wanted)
    assert said in str(error.value)


def test_turns_stand_where_the_template_says() -> None:
    template = Template.model_validate(
        [
            {"role": "system", "content": "Be brief."},
            {"turns": "history"},
            {"role": "user", "content": "{{ text }}"},
        ]
    )
    assert Template.model_validate(template.model_dump()) == template
    written: Any = template.model_dump()
    assert written[1] == {"turns": "history"}
    empty = render(template, "c", Example("a", {"history": [], "text": "Hi"}), None, "t").content
    assert [m["role"] for m in empty if isinstance(m, dict)] == ["system", "user"]
    turns = [
        {"role": "user", "content": "{{ text }}", "name": None},
        {"role": "assistant", "content": "b"},
    ]
    content = render(
        template, "c", Example("a", {"history": turns, "text": "Hi"}), None, "t"
    ).content
    assert isinstance(content, tuple)
    assert content[1] == {
        "role": "user",
        "content": "{{ text }}",
    }, "what users write is no template"
    assert len(content) == 4


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("hello", "it is str"),
        ([{"role": "user"}], "turn 1 is"),
        ([{"role": "user", "content": 3}], "turn 1 is"),
        (None, "it is NoneType"),
    ],
)
def test_broken_turns_are_refused(history: Any, said: str) -> None:
    with pytest.raises(unprompt.UserError, match=said):
        render(
            Template.model_validate([{"turns": "history"}]),
            "c",
            Example("a", {"history": history}),
            None,
            "t",
        )


def test_missing_turns_are_refused() -> None:
    with pytest.raises(unprompt.UserError, match="'history' is undefined in input 'a'"):
        render(
            Template.model_validate([{"turns": "history"}]),
            "c",
            Example("a", {"text": "b"}),
            None,
            "t",
        )
    with pytest.raises(unprompt.UserError, match="__class__"):
        render(
            Template.model_validate([{"turns": "text.__class__.__mro__"}]),
            "c",
            Example("a", {"text": "b"}),
            None,
            "t",
        )


def test_a_run_from_the_library(tmp_path: Path, decoder_folder: Path) -> None:
    rows = [
        {"id": f"i{n}", "history": [], "message": text} for n, text in enumerate(["Hi.", "Bye."])
    ]
    talk = parse(
        tiny_recipe(decoder_folder)
        | {
            "contexts": {
                "c": {
                    "library": "conversation_history",
                    "inputs": rows,
                    "teacher": [
                        {"role": "system", "content": "Be kind."},
                        {"turns": "history"},
                        {"role": "user", "content": "{{ message }}"},
                    ],
                    "evaluate": {
                        "data": [
                            {
                                "id": "h",
                                "history": [{"role": "user", "content": "a"}],
                                "message": "b",
                            }
                        ]
                    },
                }
            },
            "evaluate": None,
        }
    )
    done = pipeline.run(talk, tmp_path / "out")
    assert {grade.system for grade in done.grades} >= {"teacher", "before", "after"}


def test_the_commands_list_and_print_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    road.library(None)
    listed = capsys.readouterr().out
    assert (
        "nli                   Natural language inference (premise, hypothesis)"
        in listed.splitlines()
    )
    road.library("nli")
    assert yaml.safe_load(capsys.readouterr().out)["title"] == "Natural language inference"


def test_the_teacher_may_get_the_plain_prompt() -> None:
    found = library.parts("nli", "text", teacher="plain")
    assert found["teacher"] == found["student"] == library.task("nli").plain.text
    assert found["extract"] == library.task("nli").evaluate["extract"]
