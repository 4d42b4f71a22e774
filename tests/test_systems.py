"""Further systems: some weights under some prompt, in the same tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

import unprompt
from conftest import byte_tokenizer, decoder, seq2seq
from unprompt import pipeline, report
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Recipe, Sampling, parse
from unprompt.records import Prompt
from unprompt.stages import check

ROWS = [{"id": f"i{n}", "text": text} for n, text in enumerate(["red", "green", "blue", "yellow"])]
HELD = [
    {"id": f"h{n}", "text": text, "target": "x"}
    for n, text in enumerate(["grey", "violet", "gold"])
]
SYSTEMS: dict[str, Any] = {
    "teacher_plain": {"model": "teacher", "prompt": "student"},
    "elaborate": {"prompt": "teacher"},
    "from_plain": {
        "model": "plain",
        "prompt": "Say {{ text }}, as {{ examples[0].text }}:",
        "contexts": ["one"],
    },
}


def recipe(folder: Path | str, **sections: Any) -> Recipe:
    return parse(
        {
            "name": "grid",
            "model": str(folder),
            "contexts": {
                "one": {
                    "inputs": ROWS,
                    "examples": [{"text": "plum"}],
                    "teacher": "Think about {{ text }}:",
                    "student": "1 {{ text }}:",
                },
                "two": {
                    "inputs": ROWS,
                    "teacher": "What is {{ text }}?",
                    "student": "2 {{ text }}:",
                },
            },
            "rounds": {
                "plain": {"contexts": ["one"]},
                "both": {"contexts": ["one", "two"], "start": "base"},
            },
            "systems": SYSTEMS,
            "sampling": {"max_new_tokens": 4},
            "train": {"epochs": 1, "batch_size": 4, "adapter": {"rank": 4}},
            "evaluate": {"data": HELD, "metrics": ["rouge_l", "exact_match"]},
            "batch_size": 4,
            **sections,
        }
    )


def answers(run: pipeline.Run, system: str, context: str) -> list[str]:
    return [
        grade.text for grade in run.grades if (grade.system, grade.context) == (system, context)
    ]


def by_hand(model: Any, context: str, texts: list[str]) -> list[str]:
    asked = [Prompt(row["id"], context, text) for row, text in zip(HELD, texts, strict=True)]
    return [
        c.text
        for c in HFEngine(model, byte_tokenizer()).generate(
            asked, Sampling(temperature=0, max_new_tokens=4), None
        )
    ]


def test_the_grid_of_weights_and_prompts(decoder_folder: Path, tmp_path: Path) -> None:
    teacher = decoder(seed=5)
    teacher.save_pretrained(tmp_path / "teacher")
    byte_tokenizer().save_pretrained(tmp_path / "teacher")
    held = [
        {"id": f"h{n}", "text": text, "target": "plum"}
        for n, text in enumerate(["grey", "violet", "gold"])
    ]  # rouge_l needs a word of letters
    made = recipe(
        decoder_folder,
        teacher_model=str(tmp_path / "teacher"),
        evaluate={"data": held, "metrics": ["rouge_l", "exact_match"]},
    )
    run = unprompt.run(made, tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(decoder_folder)
    texts = [row["text"] for row in held]
    assert answers(run, "teacher_plain", "two") == by_hand(
        teacher, "two", [f"2 {text}:" for text in texts]
    )
    assert answers(run, "elaborate", "one") == by_hand(
        base, "one", [f"Think about {text}:" for text in texts]
    )
    student = PeftModel.from_pretrained(
        base, str(tmp_path / "run" / "rounds" / "plain" / "student")
    )
    assert answers(run, "from_plain", "one") == by_hand(
        student, "one", [f"Say {text}, as plum:" for text in texts]
    )
    assert not answers(run, "from_plain", "two")

    found = run.report["contexts"]
    assert set(found["one"]["systems"]) == {
        "teacher",
        "before",
        "plain",
        "both",
        "both_teacher_prompt",
        *SYSTEMS,
    }
    assert "to_teacher" in found["two"]["systems"]["elaborate"]["metrics"]["rouge_l"]
    tables = {title: (columns, rows) for title, columns, rows, _ in report.tables(run.report)}
    columns, rows = tables["Systems"]
    assert columns == ["system", "one: rouge_l [95 %]", "two: rouge_l [95 %]"]
    shown = {row[0]: row[1:] for row in rows}
    assert len(shown) == len(found["one"]["systems"])
    assert shown["from_plain (plain model, own prompt)"][1] == "-"
    assert all(
        "(too few)" in cell for cell in shown["teacher_plain (teacher model, student prompt)"]
    )
    assert any(
        row[0] == "elaborate (base model, teacher prompt)" for row in tables["Context two"][1]
    )
    assert unprompt.run(made, tmp_path / "run").unchanged


def test_systems_of_an_encoder_decoder(tmp_path: Path) -> None:
    seq2seq().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    run = unprompt.run(
        recipe(tmp_path / "model", evaluate={"data": HELD, "metrics": ["exact_match"]}),
        tmp_path / "run",
    )
    assert answers(run, "elaborate", "one") == by_hand(
        seq2seq(), "one", [f"Think about {row['text']}:" for row in HELD]
    )


def test_systems_where_continuations_are_scored(decoder_folder: Path, tmp_path: Path) -> None:
    evaluate = {"data": HELD, "choices": {"right": " {{ text }}", "wrong": " no"}}
    found = unprompt.run(recipe(decoder_folder, evaluate=evaluate), tmp_path / "run").report[
        "contexts"
    ]["two"]["systems"]
    assert found["elaborate"]["metrics"] == found["teacher"]["metrics"] | {
        key: value | {"to_teacher": found["elaborate"]["metrics"][key]["to_teacher"]}
        for key, value in found["teacher"]["metrics"].items()
    }


def test_one_context_needs_no_grid(decoder_folder: Path, tmp_path: Path) -> None:
    contexts = {
        "one": {"inputs": ROWS, "teacher": "Think about {{ text }}:", "student": "1 {{ text }}:"}
    }
    made = recipe(
        decoder_folder,
        contexts=contexts,
        rounds={},
        systems={},
        evaluate={"data": HELD, "metrics": ["exact_match"]},
    )
    assert not any(
        title == "Systems"
        for title, *_ in report.tables(unprompt.run(made, tmp_path / "run").report)
    )


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        (
            {"x": {"prompt": [{"role": "user", "content": "a"}], "model": "bose"}},
            "systems.x.model names 'bose', which is no round",
        ),
        ({"x": {"contexts": ["three"]}}, "systems.x names 'three', which is no context"),
        ({"plain": {}}, "'plain' can't name a system"),
        (
            {"x": {"prompt": "teachr"}},
            (
                "'systems.x.prompt': a template that shows nothing of the input (it is 'teachr') ->"
                " write teacher, student"
            ),
        ),
        ({"x": {"promt": "teacher"}}, "unknown key 'systems.x.promt' -> did you mean 'prompt'?"),
        ({"x": {"prompt": 3}}, "'systems.x.prompt"),
        (
            {"x": {"prompt": [{"rle": "user", "content": "a"}]}},
            "unknown key 'systems.x.prompt.messages.0.rle' -> did you mean 'role'?",
        ),
    ],
)
def test_a_system_that_is_none(decoder_folder: Path, systems: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        recipe(decoder_folder, systems=systems)
    assert said in str(error.value)


def test_a_prompt_is_measured_by_who_reads_it(decoder_folder: Path, tmp_path: Path) -> None:
    """The student's prompt fits the student, but not a teacher with a small window; the other way
    round for the teacher's.
    """
    teacher = {"name": str(decoder_folder), "window": 29}
    with pytest.raises(
        UserError,
        match=r"systems\.x\.prompt: the prompt of input 'h0' has .* over the model's window of 29",
    ):
        check.check(
            recipe(
                decoder_folder,
                teacher_model=teacher,
                systems={"x": {"model": "teacher", "prompt": "A rather long prompt of {{ text }}"}},
            )
        )
    check.check(
        recipe(
            decoder_folder,
            teacher_model=teacher,
            systems={"x": {"model": "base", "prompt": "A rather long prompt of {{ text }}"}},
        )
    )
