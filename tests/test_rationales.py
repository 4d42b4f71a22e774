"""Several completions per input, the filter, the hint, STaR's loop, and the two extractions of a
graded answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import unprompt
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Extract, Filter, Recipe, Sampling, parse
from unprompt.records import Completion, Example, Prompt
from unprompt.stages.lessons import rationales
from unprompt.store.tables import read_completions
from unprompt.tools import show

ANSWER = Extract(after="is ")


def judged(
    rule: dict[str, Any], *texts: str, target: Any = "8", per_input: int | None = None
) -> list[str]:
    count = per_input or len(texts)
    rows = [Example(str(n), {}, target) for n in range(len(texts) // count)]
    said = [Completion("x", "c", text, (1,), "end", 1) for text in texts]
    return rationales.judge(Filter.model_validate(rule), ANSWER, rows, said, count)


def test_correct_answers_are_kept() -> None:
    assert judged({}, "it is 8", "it is 9", "no idea", "it is 8.") == [
        "kept",
        "wrong",
        "no answer found",
        "kept",
    ]
    assert judged({"metric": "numeric_match"}, "it is 16/2", "it is 9", "it is nothing") == [
        "kept",
        "wrong",
        "wrong",
    ]
    assert judged({"extract": "last_line"}, "it is\n8", "it is 8") == ["kept", "wrong"]


def test_what_most_say_is_kept() -> None:
    rule = {"keep": "majority"}
    assert judged(rule, "it is a", "it is B", "it is b", "nothing") == [
        "minority",
        "kept",
        "kept",
        "no answer found",
    ]
    assert judged(rule, "it is a", "it is b") == ["kept", "minority"], (
        "of equals, what was sampled first"
    )
    assert judged(rule, "-", "-") == ["no answer found"] * 2
    assert judged(rule, "it is a", "it is a", "it is b", "it is b", per_input=2) == ["kept"] * 4, (
        "each input by itself"
    )
    numbers = {"keep": "majority", "metric": "numeric_match"}
    assert judged(numbers, "it is 4", "it is 8", "it is 16/2", "it is so") == [
        "minority",
        "kept",
        "kept",
        "no answer found",
    ]


def test_counts() -> None:
    first = ["kept", "wrong", "wrong", "no answer found", "wrong", "wrong"]
    assert rationales.unkept(first, 2) == [1, 2]
    assert rationales.counts(Filter(), first, None) == {"kept": 1, "wrong": 4, "no answer found": 1}
    told = rationales.counts(Filter(keep="majority"), ["kept", "minority"], ["kept", "wrong"])
    assert told == {
        "kept": 1,
        "minority": 1,
        "no answer found": 0,
        "asked with the hint": 2,
        "hinted": 1,
    }


# -- whole runs ------------------------------------------------------------------------------------

ROWS = [
    {"id": f"i{n}", "text": text, "target": "even"}
    for n, text in enumerate(["red", "green", "blue", "yellow", "black", "white"])
]
HELD = [
    {"id": f"h{n}", "text": text, "target": "x"}
    for n, text in enumerate(["grey", "violet", "gold"])
]
MODULE = """
def parity(answer, example):
    return float((sum(map(ord, answer)) % 3 == 0) == (example.target == "even"))

def same(answer, example):
    return float(len(answer) == len(str(example.target)))

def wide(text):
    return text[:2]
"""
CONTEXT = {
    "inputs": ROWS,
    "teacher": "Think about {{ text }}:",
    "student": "{{ text }}:",
    "filter": {"metric": "parities:parity"},
}


@pytest.fixture
def modules(tmp_path: Path) -> str:
    (tmp_path / "parities.py").write_text(MODULE)
    return str(tmp_path)


def recipe(folder: Path, modules: str, context: dict[str, Any], **sections: Any) -> Recipe:
    return parse(
        {
            "name": "tiny",
            "model": str(folder),
            "contexts": {"colours": context},
            "sampling": {"temperature": 1.5, "max_new_tokens": 5, "per_input": 3},
            "labels": {"kind": "sampled", "draws": 20},
            "lessons": {"max_failed": 1},
            "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-2, "adapter": {"rank": 4}},
            "evaluate": {"data": {"rows": HELD}, "metrics": ["parities:parity"]},
            "batch_size": 4,
            "modules": modules,
            **sections,
        }
    )


def completions(run: unprompt.Run) -> dict[tuple[str, int], Completion]:
    """(id, tokens of the prompt) -> what was answered with labels."""
    stores = [read_completions(store) for store in (run.folder / "completions").iterdir()]
    return {
        (c.example_id, c.prompt_tokens): c for store in stores for c in store.values() if c.labels
    }


def right(text: str) -> bool:
    return bool(text.strip()) and sum(map(ord, text.strip())) % 3 == 0


def test_several_completions_a_filter_and_a_hint(
    decoder_folder: Path, tmp_path: Path, modules: str
) -> None:
    hint = "Think about {{ text }}, which is {{ target }}:"
    made = recipe(decoder_folder, modules, {**CONTEXT, "hint": hint})
    run = unprompt.run(made, tmp_path / "run")
    said = completions(run)
    ids = [f"{row['id']}{k}" for row in ROWS for k in ("", "/2", "/3")]
    long = {
        f"{row['id']}{k}": len(f"Think about {row['text']}:")
        for row in ROWS
        for k in ("", "/2", "/3")
    }
    extra = len(", which is even")
    first = {id_: right(said[id_, long[id_]].text) for id_ in ids}
    empty = sum(not said[id_, long[id_]].text.strip() for id_ in ids)
    left = [
        row["id"] for row in ROWS if not any(first[f"{row['id']}{k}"] for k in ("", "/2", "/3"))
    ]
    hinted = {
        id_: right(said[id_, long[id_] + extra].text) for id_ in ids if id_.split("/")[0] in left
    }
    assert left, "an input is asked again, or this test shows nothing"
    taught = {x.example_id: x for x in run.lessons()}
    assert set(taught) == {id_ for id_ in ids if first[id_] or hinted.get(id_)}
    for id_, lesson in taught.items():
        answer = said[id_, long[id_] + (0 if first[id_] else extra)]
        asked = next(f"{row['text']}:" for row in ROWS if row["id"] == id_.split("/")[0])
        text = unprompt_text(lesson.input_ids)
        assert text.startswith(asked + answer.text.rstrip()), (
            "the student's own prompt, without the hint"
        )
    [told] = run.report["contexts"]["colours"]["filtered"].values()
    assert told == {
        "kept": sum(first.values()),
        "wrong": len(ids) - sum(first.values()) - empty,
        "no answer found": empty,
        "asked with the hint": len(hinted),
        "hinted": sum(hinted.values()),
        "inputs without a lesson": 6 - len({id_.split("/")[0] for id_ in taught}),
    }
    line = "filtered answers of teacher: " + ", ".join(
        f"{count} {what}" for what, count in told.items()
    )
    assert line in (tmp_path / "run" / "report.md").read_text()
    assert run.report["contexts"]["colours"]["failed_extractions"]["reasons"] == {}, (
        "what the filter leaves out is no failure of f"
    )
    assert unprompt.run(made, tmp_path / "run").unchanged
    shown = Console(record=True, width=200)
    show.show(tmp_path / "run", left[0], shown)
    assert shown.export_text().count("teacher's completion") == 6, (
        "three answers, and three with the hint"
    )


def unprompt_text(ids: tuple[int, ...]) -> str:
    from conftest import byte_tokenizer

    return str(byte_tokenizer().decode(list(ids)))


def test_more_completions_ask_only_the_new_ones(
    decoder_folder: Path, tmp_path: Path, modules: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = HFEngine.generate

    def counting(engine: HFEngine, prompts: Any, *rest: Any, **options: Any) -> Any:
        asked.extend(p.example_id for p in prompts if p.example_id.startswith("i"))
        return answer(engine, prompts, *rest, **options)

    monkeypatch.setattr(HFEngine, "generate", counting)
    context = {key: value for key, value in CONTEXT.items() if key != "filter"}
    sampling = {"temperature": 1.5, "max_new_tokens": 5}
    one = unprompt.run(
        recipe(decoder_folder, modules, context, sampling=sampling), tmp_path / "run"
    )
    before = {x.example_id: x.input_ids for x in one.lessons()}
    assert sorted(asked) == [row["id"] for row in ROWS]
    asked.clear()
    several = unprompt.run(
        recipe(decoder_folder, modules, context, sampling={**sampling, "per_input": 2}),
        tmp_path / "run",
    )
    assert sorted(asked) == [f"{row['id']}/2" for row in ROWS]
    after = {x.example_id: x.input_ids for x in several.lessons()}
    assert len(after) == 12
    assert {id_: after[id_] for id_ in before} == before
    assert sum(after[id_] != after[f"{id_}/2"] for id_ in before) >= 5, (
        "they are draws of their own"
    )


def test_self_consistency_in_a_run(decoder_folder: Path, tmp_path: Path, modules: str) -> None:
    context = {**CONTEXT, "filter": {"keep": "majority", "metric": "parities:same"}}
    run = unprompt.run(recipe(decoder_folder, modules, context), tmp_path / "run")
    said = completions(run)
    wanted = []
    for row in ROWS:
        prompt_tokens = len(f"Think about {row['text']}:")
        own = {
            f"{row['id']}{k}": len(said[f"{row['id']}{k}", prompt_tokens].text.strip())
            for k in ("", "/2", "/3")
        }
        lengths = [length for length in own.values() if length]
        most = max(lengths, key=lambda length: (lengths.count(length), -lengths.index(length)))
        wanted += [id_ for id_, length in own.items() if length == most]
    assert [x.example_id for x in run.lessons()] == wanted


def test_star_as_rounds(decoder_folder: Path, tmp_path: Path, modules: str) -> None:
    """Every round starts from the model and is taught by the student of the round before (Zelikman
    et al. 2022).
    """
    rounds = {
        "first": {"contexts": ["colours"]},
        "second": {"contexts": ["colours"], "start": "base", "teacher": "previous"},
        "third": {"contexts": ["colours"], "start": "base", "teacher": "previous"},
    }
    made = recipe(
        decoder_folder,
        modules,
        {**CONTEXT, "hint": "It is {{ target }}. {{ text }}:"},
        rounds=rounds,
    )
    run = unprompt.run(made, tmp_path / "run")
    filtered = run.report["contexts"]["colours"]["filtered"]
    assert list(filtered) == ["teacher", "first", "second"], (
        "each teacher's answers are filtered and counted"
    )
    assert [run.report["rounds"][name]["start"] for name in rounds] == ["base"] * 3
    assert [run.report["rounds"][name]["teacher"] for name in rounds] == ["base", "first", "second"]
    sets = [{x.input_ids for x in run.lessons(name)} for name in rounds]
    assert sets[0] != sets[1] != sets[2]
    for name, told in zip(rounds, filtered.values(), strict=True):
        assert told["kept"] + told["hinted"] == len(run.lessons(name)) > 0


def test_filtered_lessons_with_shots(decoder_folder: Path, tmp_path: Path, modules: str) -> None:
    """Completions of one input are never shots of one another."""
    lessons = {"max_failed": 1, "kind": "shots", "n": 3, "separator": "\n\n\n"}
    run = unprompt.run(
        recipe(
            decoder_folder,
            modules,
            {**CONTEXT, "hint": "It is {{ target }}. {{ text }}:"},
            lessons=lessons,
        ),
        tmp_path / "run",
    )
    for lesson in run.lessons():
        parts = unprompt_text(lesson.input_ids).split("\n\n\n")
        asked = [
            next(row["id"] for row in ROWS if part.startswith(f"{row['text']}:")) for part in parts
        ]
        assert len(set(asked)) == 3
        assert asked[-1] == lesson.example_id.split("/")[0]


def test_strict_and_lenient_extraction_side_by_side(
    decoder_folder: Path, tmp_path: Path, modules: str
) -> None:
    evaluate = {
        "data": {"rows": HELD},
        "metrics": ["parities:parity", "entropy"],
        "temperature": 1.0,
        "extract": {"regex": "^[A-Za-z]"},
        "lenient": "parities:wide",
    }
    context = {key: value for key, value in CONTEXT.items() if key != "filter"}
    run = unprompt.run(
        recipe(decoder_folder, modules, context, evaluate=evaluate), tmp_path / "run"
    )
    systems = run.report["contexts"]["colours"]["systems"]
    for system, values in systems.items():
        own = [g for g in run.grades if g.system == system]
        assert list(values["metrics"]) == ["parities:parity", "parities:parity_lenient", "entropy"]
        for g in own:
            strict = g.text[:1] if g.text[:1].isascii() and g.text[:1].isalpha() else None
            assert g.answer == strict
            assert g.lenient_answer == (g.text[:2].strip() or None)
            assert g.metrics["parities:parity"] == (
                float(sum(map(ord, strict)) % 3 != 0) if strict else 0.0
            )
            assert g.metrics["parities:parity_lenient"] == (
                float(sum(map(ord, g.lenient_answer)) % 3 != 0) if g.lenient_answer else 0.0
            )
        assert values["extraction_failures"] == sum(g.answer is None for g in own)
        assert values["lenient_failures"] == sum(g.lenient_answer is None for g in own)
    assert (
        json.loads((tmp_path / "run" / "report.json").read_text())["contexts"]["colours"]["systems"]
        == systems
    )


def test_a_hint_may_show_the_gold_answer_under_its_own_name(
    decoder_folder: Path, modules: str
) -> None:
    from unprompt.stages import check

    rows = [{"text": row["text"], "gold": f"g{n}"} for n, row in enumerate(ROWS)]
    context = {
        **CONTEXT,
        "inputs": {"rows": rows, "target": "gold"},
        "hint": "{{ text }} ({{ target }}, {{ gold }}):",
    }
    made = recipe(decoder_folder, modules, context)
    assert [p.content for p in check.check(made).prompts.hint["colours"].prompts][:2] == [
        "red (g0, g0):",
        "green (g1, g1):",
    ]


def test_the_seed_of_a_completion_hangs_on_its_id(
    decoder_folder: Path, tmp_path: Path, modules: str
) -> None:
    run = unprompt.run(recipe(decoder_folder, modules, CONTEXT), tmp_path / "run")
    from conftest import byte_tokenizer, decoder

    asked = [Prompt("i1/3", "colours", "Think about green:")]
    [alone] = HFEngine(decoder(), byte_tokenizer()).generate(
        asked, Sampling(temperature=1.5, max_new_tokens=5), run_labels()
    )
    assert completions(run)["i1/3", len("Think about green:")].token_ids == alone.token_ids


def run_labels() -> Any:
    from unprompt.recipe import Labels

    return Labels(draws=20)
