"""A metric of the user's own: a plain function, or a `Metric` that says itself what it is."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import tiny_recipe
from unprompt import metrics
from unprompt.metrics import Metric
from unprompt.recipe import Filter, parse
from unprompt.records import Example
from unprompt.report import verdict
from unprompt.report.format import is_share
from unprompt.report.sections import shots
from unprompt.stages import evaluate
from unprompt.stages.lessons import rationales
from unprompt.store.folder import RunDir
from unprompt.tools.compare import compare

OWN = """
from unprompt.metrics import Metric


def plain(answer, example):
    return float(answer == example.target)


def _length(answer, example):
    assert example.target is None
    return 100.0 + len(answer)


def _cut(completion):
    return float(completion.stop == "length")


def _longer(answer, source):
    return len(answer) / len(source)


def _even(answer, example):
    if len(example.target) % 2:
        raise ValueError("it is odd")
    return 1.0


length = Metric(_length, needs_gold=False, is_share=False)
cut = Metric(_cut, reads="completion", needs_gold=False)
longer = Metric(_longer, reads="source", needs_gold=False, is_share=False)
even = Metric(_even, refuses_gold=True)
neither = 3
"""
NUMBER, ALL = "own_metrics:length", ["own_metrics:length", "own_metrics:cut", "own_metrics:longer"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("own")
    (made / "own_metrics.py").write_text(OWN)
    return made


@pytest.fixture(scope="module")
def run(folder: Path, decoder_folder: Path) -> unprompt.Run:
    """Two contexts, no gold answer anywhere, and whatever shows a metric."""
    made: dict[str, Any] = tiny_recipe(decoder_folder)
    one = made["contexts"]["colours"]
    made["contexts"] = {"one": one, "two": {**one, "student": "{{ text }}, two:"}}
    rows = [{"id": f"h{n}", "text": "grey, violet and gold"[: n % 20 + 2]} for n in range(24)]
    made |= {
        "modules": str(folder),
        "evaluate": {
            "data": {"rows": rows},
            "metrics": ALL,
            "source": "text",
            "lenient": "whole",
        },
        "rounds": {"first": {"contexts": ["one"]}, "second": {"contexts": ["two"]}},
        "association": ["one", "two"],
        "margins": {f"task {n}": ["one", "two"] for n in range(4)},
    }
    return unprompt.run(parse(made), folder / "run")


def numbers(m: dict[str, float], sign: str = "") -> str:
    if m["low"] is None:
        return f"{m['mean']:{sign}.3f} (too few)"
    return f"{m['mean']:{sign}.3f} [{m['low']:{sign}.3f}, {m['high']:{sign}.3f}]"


def test_what_is_no_share_is_a_number_in_markdown(run: unprompt.Run) -> None:
    page = (run.folder / "report.md").read_text("utf-8")
    for context in run.report["contexts"].values():
        for system, measured in context["systems"].items():
            for name in (NUMBER, f"{NUMBER}_lenient", "own_metrics:longer"):
                m = measured["metrics"][name]
                assert m["is_share"] is False
                assert m["kept"] is None
                assert numbers(m) in page
                assert system == "teacher" or numbers(m["to_teacher"], "+") in page
    for measured in run.report["association"]["systems"].values():
        assert numbers(measured["correct"]) in page
        assert all(f"| {mean:.3f} " in page for row in measured["matrix"] for mean in row)
    assert numbers(run.report["margins"]["tasks"][0]["in_context"], "+") in page
    assert not re.search(r"\d{4,}\.\d%", page), "100 and more, in percent"


def test_what_is_no_share_is_a_number_on_the_page(run: unprompt.Run) -> None:
    page = (run.folder / "report.html").read_text("utf-8")
    shown = re.findall(
        rf'<data value="([^"]*)" data-key="[^"]*/metrics/{NUMBER}(?:_lenient)?/(to_teacher/)?\w+">'
        r"([^<]*)</data>",
        page,
    )
    assert len(shown) > 20
    for value, change, text in shown:
        wanted = f"{float(value):{'+' if change else ''}.3f}"
        assert text == wanted or float(value) == 0
    assert not re.search(r"\d{4,}\.\d(\u00a0)?%", page)
    assert "In-context against distilled margin" not in page, "its axes are in percent"
    assert "Quality against prompt length" not in page, "its axis is in percent"


def test_no_margin_of_points_is_held_against_a_number(run: unprompt.Run) -> None:
    for each in run.report["students"]:
        assert each["metric"] == NUMBER
        assert each["verdict"] != "ship"
        # without gold answers the number decides nothing: likeness to the teacher does
        assert not any(NUMBER in reason["text"] for reason in each["reasons"])
    alone = copy.deepcopy(run.report)
    for context in alone["contexts"].values():
        context.pop("likeness", None)
    verdict.conclude(alone)
    for each in alone["students"]:
        assert any("no scale from 0 to 1" in reason["text"] for reason in each["reasons"]), each
    card = (RunDir(run.folder).round("second").student / "README.md").read_text("utf-8")
    assert f"{run.report['students'][-1]['quality']['mean']:.3f}" in card
    assert not re.search(r"\d{4,}\.\d%", card)
    out = compare([run.folder, run.folder], run.folder / "compare.html")
    assert not re.search(r"\d{4,}\.\d(\u00a0)?%", out.read_text("utf-8"))


def test_a_share_of_completions_is_in_percent(run: unprompt.Run) -> None:
    for context in run.report["contexts"].values():
        for measured in context["systems"].values():
            assert measured["metrics"]["own_metrics:cut"]["is_share"]
            assert "own_metrics:cut_lenient" not in measured["metrics"], "nothing is extracted"
    assert re.search(r"\d\.\d% \[", (run.folder / "report.md").read_text("utf-8"))


def test_a_plain_function_is_a_share_that_needs_gold(folder: Path) -> None:
    found = metrics.find("own_metrics:plain", "here", str(folder))
    assert found == Metric(found.function)
    assert (found.reads, found.needs_gold, found.is_share) == ("answer", True, True)
    with pytest.raises(unprompt.UserError, match="'own_metrics:neither' is not a function"):
        metrics.find("own_metrics:neither", "here", str(folder))
    made = parse({**tiny_recipe(folder), "modules": str(folder)}).evaluation("colours")
    assert made
    without = [Example("h0", {"text": "grey"})]
    for asked, refused in ((("own_metrics:plain",), True), ((NUMBER,), False)):
        wanted = made.model_copy(update={"metrics": asked})
        if refused:
            with pytest.raises(unprompt.UserError, match="has no gold answer"):
                evaluate.check(wanted, without, "evaluate", str(folder))
        else:
            evaluate.check(wanted, without, "evaluate", str(folder))


def test_a_gold_answer_that_it_refuses_is_told_ahead_of_asking(folder: Path) -> None:
    made = parse({**tiny_recipe(folder), "modules": str(folder)}).evaluation("colours")
    assert made
    wanted = made.model_copy(update={"metrics": ("own_metrics:even",)})
    evaluate.check(wanted, [Example("h0", {}, "xx")], "evaluate", str(folder))
    with pytest.raises(unprompt.UserError, match=r"can't use the gold answer .* it is odd"):
        evaluate.check(wanted, [Example("h0", {}, "x")], "evaluate", str(folder))


def test_what_needs_no_gold_does_not_say_what_is_correct(folder: Path) -> None:
    with pytest.raises(unprompt.UserError, match="does not say whether an answer is correct"):
        rationales.check(Filter(metric=NUMBER), [Example("i0", {}, "x")], 1, "c", str(folder))


def test_behind_shots_it_is_a_number() -> None:
    drawn = {"mean": 104.0, "sd": None, "draws": [104.0], "is_share": False}
    behind = {"0": {NUMBER: drawn, "extraction_failures": 0, "answers": 1}}
    found: Any = {"contexts": {"c": {"shots": {"before": behind, "after": behind}}}}
    [table] = shots.tables(found)
    assert table.rows == [["before", "104.000"], ["after", "104.000"]]


def test_figures_of_an_older_report_are_told_by_name() -> None:
    assert not is_share("entropy", {"mean": 2.5})
    assert not is_share("entity_density_lenient", {"mean": 0.1})
    assert is_share("accuracy", {"mean": 0.5})
    assert is_share("mine:close_enough", {"mean": 0.5})
