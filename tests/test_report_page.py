"""The report page: its numbers, its verdict, and what it does with text that means harm."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import unprompt
from unprompt import cli, report
from unprompt.recipe import Recipe, parse
from unprompt.records import Grade
from unprompt.report import svg, templates
from unprompt.report.compare import differences
from unprompt.report.examples import browser, vanished
from unprompt.store.folder import RunDir
from unprompt.tools import screen
from unprompt.tools.compare import compare
from unprompt.visible import embedded, visible

LETTERS = (
    "def first(answer, example):\n    return float(ord(answer[:1] or ' ') % 2 =="
    " len(example.target) % 2)\n"
)
HOSTILE = [
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\"><b>bold</b>&amp;",
    "\u202eevil\u202c \u0645\u0631\u062d\u0628\u0627 abc",
    "long " + "x" * 100_000,
    "bell\x07 escape\x1b[31m nul\x00 del\x7f sep\u2028end \ud800",
    "<!--<script>",
]


class Page(HTMLParser):
    """What a browser would see: numbers, scripts, tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.numbers: list[tuple[str, str, str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open: tuple[str, str] | None = None
        self._script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        self._script = tag == "script"
        if tag == "script":
            self.scripts.append("")
        if tag == "data":
            self._open = named["data-key"] or "", named["value"] or ""

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data
        if self._open:
            self.numbers.append((*self._open, data))
            self._open = None


def at(found: Any, pointer: str) -> Any:
    for key in pointer.split("/")[1:]:
        found = (
            found[int(key)]
            if isinstance(found, list)
            else found[key.replace("~1", "/").replace("~0", "~")]
        )
    return found


@pytest.fixture(scope="module")
def run(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> unprompt.Run:
    from conftest import tiny_recipe

    folder = tmp_path_factory.mktemp("page")
    (folder / "page_letters.py").write_text(LETTERS)
    held = [
        {"id": f"h{n}", "text": f"{word} {n}", "target": "yes" if n % 3 else "no"}
        for n, word in enumerate(["grey", "violet", "gold"] * 8)
    ]
    sections: dict[str, Any] = {
        "modules": str(folder),
        "evaluate": {"data": {"rows": held}, "metrics": ["page_letters:first", "accuracy"]},
        "report": {"self_agreement": 9},
        "rounds": {
            "one": {"contexts": ["colours"]},
            "two": {"contexts": ["colours"], "train": {"learning_rate": 3e-2}},
        },
    }
    return unprompt.run(parse(tiny_recipe(decoder_folder) | sections), folder / "run")


def test_the_numbers_on_the_page_are_those_of_the_report(run: unprompt.Run) -> None:
    page = Page((run.folder / "report.html").read_text("utf-8"))
    found = json.loads((run.folder / "report.json").read_text("utf-8"))
    assert found["schema"] == report.SCHEMA
    assert len(page.numbers) > 60
    for key, value, text in page.numbers:
        assert float(value) == at(found, key), key
        shown = float(text.replace("\u00a0%", "").replace(",", "").replace("$", ""))
        scale = 100 if "%" in text or "to_teacher" in key or key.endswith("margin") else 1
        assert (
            shown
            == pytest.approx(
                scale * float(value), abs=0.0501 if scale == 100 or abs(shown) >= 1 else 0.0006
            )
            or abs(shown) >= 100
        ), key


def test_the_numbers_are_those_of_a_few_lines_of_pandas(run: unprompt.Run) -> None:
    pytest.importorskip("pandas")
    table, metric = run.examples.to_pandas(), "page_letters:first"
    assert list(table["id"]) == [f"h{n}" for n in range(24)]
    systems = run.report["contexts"]["colours"]["systems"]
    for system in ("before", "one", "two"):
        own, teacher, values = (
            table[f"{system}.{metric}"],
            table[f"teacher.{metric}"],
            systems[system],
        )
        assert values["metrics"][metric]["mean"] == pytest.approx(own.mean())
        assert values["metrics"][metric]["to_teacher"]["mean"] == pytest.approx(
            (own - teacher).mean()
        )
        assert values["metrics"][metric]["kept"]["value"] == pytest.approx(
            own.mean() / teacher.mean()
        )
        assert values["outcomes"]["lost"] == (own < teacher).sum()
        assert values["outcomes"]["won"] == (own > teacher).sum()
        assert values["outcomes"]["failed"] == table[f"{system}.failure"].notna().sum()
        assert values["kl_nats_per_token"]["mean"] == pytest.approx(table[f"{system}.kl"].mean())
        if system != "before":
            assert values["gap_closed"]["value"] == pytest.approx(
                1 - table[f"{system}.kl"].mean() / table["before.kl"].mean()
            )
    positions = run.report["contexts"]["colours"]["kl_by_position"]
    at_third = [x.nats["two"][2] for x in run.examples if len(x.pieces) > 2]
    assert positions["answers"][2] == len(at_third)
    assert positions["systems"]["two"][2] == pytest.approx(np.mean(at_third))


def test_the_pieces_are_the_teachers_answer(run: unprompt.Run) -> None:
    told = {g.example_id: g.text for g in run.grades if g.system == "teacher"}
    for x in run.examples:
        if x.pieces:
            if "�" not in told[x.example_id]:  # half a character has no text of its own
                assert "".join(x.pieces) == told[x.example_id]
            assert all(len(nats) == len(x.pieces) for nats in x.nats.values())


def test_a_character_of_several_tokens_is_one_piece(tokenizer: Any) -> None:
    from unprompt.records import Lesson, SoftLabels
    from unprompt.stages.train.kl import pieces

    ids = [*tokenizer("q:").input_ids, *tokenizer("aé€").input_ids]
    weights = np.asarray([0, 0, 1, 1, 1, 1, 1, 1], np.float32)
    assert pieces(
        tokenizer, Lesson("0", "c", tuple(ids), 2, weights, SoftLabels.hard(ids[2:]))
    ) == ["a", "é", "", "€", "", ""]
    weights[-1] = 0
    assert pieces(
        tokenizer, Lesson("0", "c", tuple(ids), 2, weights, SoftLabels.hard(ids[2:-1]))
    ) == ["a", "é", "", "�", "�"], "torn at the end"


def test_the_last_students_verdict_is_the_runs(run: unprompt.Run) -> None:
    assert [each["student"] for each in run.report["students"]] == ["one", "two"]
    assert run.report["verdict"] == {
        "student": "two",
        "verdict": run.report["students"][1]["verdict"],
    }
    assert run.report["students"][0]["verdict"] != "ship", (
        "24 examples are too few for a margin of 5 points"
    )
    assert (
        "needed" in run.report["students"][0]["reasons"][0]["text"]
        or "margin" in run.report["students"][0]["reasons"][0]["text"]
    )


def test_a_new_margin_asks_nobody_again(run: unprompt.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from unprompt.stages.weights import Weights

    def refuse(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Weights, "engine", refuse)
    made = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    again = unprompt.run(parse(made | {"report": {"margin": 0.9, "self_agreement": 9}}), run.folder)
    assert again.report["recipe"]["report"]["margin"] == 0.9
    unprompt.run(parse(made), run.folder)


# -- the verdict -----------------------------------------------------------------------------------


def judged(run: unprompt.Run, **changes: Any) -> dict[str, Any]:
    """The run's report with other figures of the student `two`."""
    found = json.loads(json.dumps(run.report))
    entry = found["contexts"]["colours"]
    own = entry["systems"]["two"]
    own |= {
        "examples": changes.get("examples", 400),
        "extraction_failures": changes.get("failed", 0),
        "cut_at_limit": changes.get("student_cut", 0),
    }
    entry["systems"]["teacher"]["cut_at_limit"] = changes.get("teacher_cut", 0)
    for figures, change in (
        (own, changes.get("change", (0.0, -0.02, 0.02))),
        (entry["systems"]["before"], changes.get("before", (-0.3, -0.4, -0.2))),
    ):
        metric = figures["metrics"]["page_letters:first"]
        metric["to_teacher"] = dict(zip(("mean", "low", "high"), change, strict=True))
        metric["needed"] = changes.get("needed", 200)
    if "dropped" in changes:
        entry["failed_extractions"]["reasons"] = {"no match": changes["dropped"]}
    found["recipe"]["report"]["failures"] = changes.get("failures", 0.02)
    entry["cut_at_limit"] = changes.get("cut", 0)
    entry["overlap"]["held-out inputs among the training inputs"] = changes.get("overlap", 0)
    if "drift" in changes:
        found["drift"] = {"two": {"mean": changes["drift"], "low": 0, "high": 1, "inputs": 4}}
        found["recipe"]["drift"] = {"limit": 0.1}
    report.conclude(found)
    return found["students"][1]


@pytest.mark.parametrize(
    ("changes", "verdict", "says"),
    [
        ({}, "ship", "no worse than the margin"),
        ({"examples": 199}, "look closer", "199 held-out examples are too few for the margin"),
        ({"examples": 200}, "ship", "200 needed"),
        ({"needed": 1600}, "look closer", "about 1,600 are needed"),
        (
            {"examples": 9, "change": (0.0, None, None)},
            "look closer",
            "+0.0 (too few) to the teacher: 9 held-out examples are too few to tell; about 200",
        ),
        ({"before": (0.0, -0.02, 0.02)}, "look closer", "the prompt does not help this model"),
        ({"before": (-0.3, -0.4, -0.2)}, "ship", "the prompt helps this model"),
        ({"before": (-0.1, -0.2, 0.0)}, "look closer", "the prompt does not help this model"),
        (
            {"change": (-0.06, -0.09, -0.03), "needed": None},
            "look closer",
            "more held-out examples would not mend it",
        ),
        ({"change": (-0.2, -0.3, -0.06)}, "don't ship", "worse by more than"),
        ({"failed": 9}, "look closer", "could not be extracted"),
        ({"overlap": 1}, "look closer", "may be remembered"),
        ({"cut": 8}, "look closer", "cut at max_new_tokens"),
        ({"cut": 8, "failures": 1.0}, "look closer", "were cut or dropped"),
        ({"cut": 1, "failures": 1.0}, "ship", "cut at max_new_tokens"),
        ({"dropped": 99, "failures": 1.0}, "look closer", "were cut or dropped"),
        ({"student_cut": 9}, "look closer", "9 of the student's 400 held-out answers were cut"),
        ({"teacher_cut": 5}, "look closer", "5 of the teacher's 24 held-out answers were cut"),
        ({"student_cut": 400}, "look closer", "(100.0%): raise sampling.max_new_tokens"),
        ({"student_cut": 8}, "ship", "8 of the student's 400 held-out answers were cut"),
        ({"drift": 0.2}, "don't ship", "over the limit"),
        ({"drift": 0.05}, "ship", "within the limit"),
    ],
)
def test_the_verdict_and_its_reasons(
    run: unprompt.Run, changes: dict[str, Any], verdict: str, says: str
) -> None:
    found = judged(run, **changes)
    assert found["verdict"] == verdict
    assert any(
        says in reason["text"]
        for reason in found["reasons"]
        if verdict == "ship" or reason["says"] == verdict
    )


@pytest.mark.parametrize("contexts", [1, 2])
def test_a_run_without_evaluate_says_what_to_add(
    decoder_folder: Path,
    tmp_path: Path,
    contexts: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from conftest import tiny_recipe

    written = tiny_recipe(decoder_folder)
    del written["evaluate"]
    for n in range(1, contexts):
        written["contexts"][f"more{n}"] = written["contexts"]["colours"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    out = tmp_path / "run"
    monkeypatch.setattr(
        "sys.argv", ["unprompt", "run", str(tmp_path / "recipe.yaml"), "--out", str(out)]
    )
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    page, words = (out / "report.html").read_text(), capsys.readouterr()
    known = f"{len(unprompt.Run.open(out).lessons())} lessons"
    for said in (words.out, (out / "report.md").read_text(), page):
        assert "nothing was evaluated" in said
        added = re.search(r"evaluate:\n +hold_out:.*\n +metrics:.*", said)
        assert added
        assert known in re.sub("<[^>]*>", "", said)
    assert "loss " in words.out
    assert "<h2>Systems</h2>" not in page
    assert "nothing was evaluated" in report.summary(unprompt.Run.open(out).report)
    parse(written | yaml.safe_load(added[0]))


def test_answers_that_are_cut_are_counted_where_it_harms(
    decoder_folder: Path, tmp_path: Path
) -> None:
    """A model that never ends: whole answers are cut, and the fields that are found in them are
    not.
    """
    from conftest import tiny_recipe

    written = tiny_recipe(decoder_folder)
    written["lessons"] = {"max_failed": 1.0}
    found = {}
    for name, rule in (("whole", "whole"), ("first", {"regex": "^(.)"})):
        written["contexts"]["colours"]["extract"] = rule
        made = unprompt.run(parse(written), tmp_path / name)
        systems = made.report["contexts"]["colours"]["systems"]
        found[name] = {who: figures["cut_at_limit"] for who, figures in systems.items()}
        kept = [(g.system, g.cut) for g in made.grades]
        assert found[name] == {who: kept.count((who, True)) for who in systems}
        if name == "whole":
            text = "of 'teacher' were cut at max_new_tokens"
            assert text in (tmp_path / name / "report.md").read_text()
            assert made.report["verdict"]["verdict"] == "look closer"
    assert min(found["whole"].values()) > 0
    assert set(found["first"].values()) == {0}


def test_grades_of_an_older_run_are_read(run: unprompt.Run, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from unprompt.store.tables import read_grades

    table = pq.read_table(run.folder / "grades.parquet")
    for lacking in (["cut"], ["shots", "draw", "cut"]):
        pq.write_table(table.drop_columns(lacking), tmp_path / "grades.parquet")
        assert len(read_grades(tmp_path / "grades.parquet")) == len(run.grades)


# -- text that means harm --------------------------------------------------------------------------


def hostile(run: unprompt.Run) -> str:
    texts = iter(HOSTILE * 100)
    grades = [
        Grade(
            g.example_id,
            g.context,
            g.system,
            text,
            text if n % 2 else None,
            text,
            1,
            1,
            None if n % 2 else "nothing",
            g.metrics,
        )
        for n, (g, text) in enumerate(zip(run.grades, texts, strict=False))
    ]
    rows = [
        report.HeldOut(
            x.context,
            x.example_id,
            text,
            f"Be kind. {text}",
            f"{text}:",
            [text, "!"],
            {"before": [1.0, 2.0], "two": [0.1, -0.1]},
        )
        for x, text in zip(run.examples, HOSTILE * 100, strict=False)
    ]
    found = json.loads(json.dumps(run.report))
    found["name"] = HOSTILE[0]
    confusion = {"labels": HOSTILE[:2], "counts": [[1, 0, 2, 3], [0, 4, 1, 1]]}
    found["contexts"]["colours"]["systems"]["two"]["confusion"] = confusion
    bars = [
        {"text": text, "matters": {"mean": 1.0, "low": 0.5, "high": 2.0}, "taken_in": {"two": None}}
        for text in HOSTILE
    ]
    found["contexts"]["colours"]["instructions"] = {"examples": 3, "bars": bars}
    return report.page(found, rows, grades)


def test_hostile_output_is_text(run: unprompt.Run) -> None:
    html = hostile(run)
    html.encode("utf-8")
    page = Page(html)
    assert len(page.scripts) == 2, "ours, and the data"
    assert not any(tag in ("img", "b") and "src" in named for tag, named in page.tags)
    assert not any(name.startswith("on") for _, named in page.tags for name in named)
    assert not any(c in html for c in "\x00\x07\x1b\x7f\u2028\u202e")
    [context] = json.loads(page.scripts[0])
    told = [said[0] for row in context["rows"] for said in row[4]]
    assert HOSTILE[0] in told
    assert HOSTILE[3] in told, "nothing is cut"
    assert any("⟨U+202E⟩evil" in text for text in told)
    assert any("bell␇ escape␛[31m nul␀ del␡ sep⟨U+2028⟩end ⟨U+D800⟩" in text for text in told)


def test_visible_and_embedded() -> None:
    assert visible("a\tb\nc\r") == "a\tb\nc␍"
    assert visible("👩\u200d💻 \u200b") == "👩\u200d💻 ⟨U+200B⟩"
    assert json.loads(embedded({"a": "</script><!-- & é"})) == {"a": "</script><!-- & é"}
    assert "<" not in embedded(["</script>"])


def test_prompts_are_put_together_again(run: unprompt.Run) -> None:
    [context] = browser(list(run.examples), run.grades, ["two"])
    for row, x in zip(context["rows"], run.examples, strict=True):
        own = row[3] if row[2] is None else row[2]
        assert context["teacher"][0] + own + context["teacher"][1] == x.teacher
        assert context["student"][0] + row[3] + context["student"][1] == x.student


def test_what_vanished_is_what_the_student_is_not_shown() -> None:
    parts = vanished(["Be kind.\nMessage: ", "\nTopic: Answer:"], ["Message: ", "\nTopic:"])
    assert parts == [
        ("Be kind.\n", True),
        ("Message: ", False),
        ("", False),
        ("\nTopic:", False),
        (" Answer:", True),
    ]


# -- the card, several runs, the Run object --------------------------------------------------------


def test_the_model_card_has_metadata_and_the_measured_values(run: unprompt.Run) -> None:
    for name in ("one", "two"):
        text = (RunDir(run.folder).round(name).student / "README.md").read_text("utf-8")
        _, metadata, body = text.split("---\n", 2)
        found = yaml.safe_load(metadata)
        assert found["library_name"] == "peft"
        assert "base_model" not in found, "a folder is no name on the hub"
        own = next(each for each in run.report["students"] if each["student"] == name)
        assert (
            found["model-index"][0]["results"][0]["metrics"][0]["value"] == own["quality"]["mean"]
        )
        assert own["verdict"] in body
        assert all(reason["text"] in body for reason in own["reasons"])
    repocard = pytest.importorskip("huggingface_hub.repocard")
    assert repocard.ModelCard(text).data.model_name == "tiny"


def test_compare_shows_every_run_and_what_differs(
    run: unprompt.Run, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:

    other = unprompt.run(tiny(seed=7), tmp_path / "other")
    out = compare([run.folder, other.folder], tmp_path / "compare.html")
    page = Page(out.read_text("utf-8"))
    together = {"runs": {"run": run.report, "other": other.report}}
    assert len(page.numbers) > 20
    for key, value, _ in page.numbers:
        assert float(value) == at(together, key), key
    assert {key.split("/")[2] for key, _, _ in page.numbers} == {"run", "other"}
    assert dict(
        differences({"a": {"recipe": {"x": {"y": 1}}}, "b": {"recipe": {"x": {"y": 2}}}})
    ) == {"x.y": ["1", "2"]}
    assert "not measured" not in out.read_text()
    with pytest.raises(unprompt.UserError, match="nothing to compare"):
        compare([run.folder], tmp_path / "one.html")
    with pytest.raises(unprompt.UserError, match="no finished run"):
        compare([run.folder, tmp_path], tmp_path / "one.html")


def test_runs_on_other_examples_and_unevaluated_ones_are_told_apart(
    tiny: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"one": ["grey", "violet"], "same": ["grey", "violet"], "other": ["grey", "gold"]}
    for name, held in texts.items():
        rows = [{"id": f"h{n}", "text": text, "target": "x"} for n, text in enumerate(held)]
        unprompt.run(tiny(evaluate={"data": {"rows": rows}}), tmp_path / name)
    unprompt.run(tiny(evaluate=None), tmp_path / "none")

    def told(*names: str) -> tuple[str, str]:
        out = compare([tmp_path / name for name in names], tmp_path / "compare.html")
        return out.read_text(), " ".join(capsys.readouterr().err.split())

    capsys.readouterr()
    for said in told("one", "same"):
        assert "different held-out" not in said
    page, words = told("one", "other", "same", "none")
    for said in (page, words):
        assert "colours: measured on different held-out examples (one, same; other)" in said
        assert "none is in no table: its student was not measured" in said
    assert "Held-out examples 2 of 2" in page
    assert page.count("<figure") == 2, "no picture sets them side by side"
    for changed in ({"target": "y"}, {"id": "h7"}):  # of the gold answer alone, of the id alone
        rows = [
            {"id": f"h{n}", "text": t, "target": "x"} | (changed if n else {})
            for n, t in enumerate(texts["one"])
        ]
        unprompt.run(tiny(evaluate={"data": {"rows": rows}}), tmp_path / "other")
        assert "(one; other)" in told("one", "other")[0]
    old = json.loads((tmp_path / "one" / "report.json").read_text())
    del old["contexts"]["colours"]["held_out"]
    RunDir(tmp_path / "one").keep("report.json", json.dumps(old))
    for said in told("one", "same"):
        assert "which examples one was measured on is not known" in said


def test_a_run_shows_itself_in_a_notebook(run: unprompt.Run) -> None:
    found = unprompt.Run.open(run.folder)
    assert found.report == json.loads((run.folder / "report.json").read_text("utf-8"))
    shown = Page(found._repr_html_())
    assert all(float(value) == at(found.report, key) for key, value, _ in shown.numbers)
    assert len(found.examples) == 24


# -- the terminal's tables, on screens of several widths -------------------------------------------

METRICS = ["page_letters:first", "accuracy", "exact_match", "rouge_l", "entropy", "numeric_match"]


def with_metrics(run: unprompt.Run, count: int) -> Any:
    """The run's report as one of so many metrics, each with values of its own."""
    found = json.loads(json.dumps(run.report))
    for figures in found["contexts"]["colours"]["systems"].values():
        of, figures["metrics"] = figures["metrics"]["page_letters:first"], {}
        for n, name in enumerate(METRICS[:count]):
            figures["metrics"][name] = {**of, "mean": of["mean"] + n / 1000}
    return found


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("width", [80, 100, 160, 50])
def test_the_terminals_table_is_as_wide_as_the_screen_and_breaks_no_number(
    run: unprompt.Run,
    count: int,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = with_metrics(run, count)
    monkeypatch.setenv("COLUMNS", str(width))
    screen.show_run(unprompt.Run(run.folder, found))
    said = capsys.readouterr().out
    [table] = [table for table in report.tables(found) if table.title == "Context colours"]
    shown, _, _ = said.partition(f"\n{table.title}\n")[2].partition("distilled: ")
    lines = [line for line in shown.splitlines() if "; " not in line]
    assert max(map(len, lines)) <= width
    whole, cells = " ".join(lines), [cell for row in table.rows for cell in row[1:]]
    # a screen of 50 letters has the interval below the mean
    pieces = cells if width >= 80 else [each for c in cells for each in re.split(r" (?=\[)", c)]
    assert [piece for piece in pieces if piece not in whole] == [], "no number is broken"
    heads = re.sub(r"\s+", " ", whole)
    assert all(name in heads for name in METRICS[:count])
    assert heads.count("to teacher") == count, "each beside its metric"


# -- a real browser --------------------------------------------------------------------------------


def opened(chromium: Any, path: Path, **options: Any) -> tuple[Any, list[str]]:
    page, errors = chromium.new_context(offline=True, **options).new_page(), []
    page.on(
        "console",
        lambda said: errors.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    return page, errors


def test_the_page_opens_from_disk_and_its_filters_work(run: unprompt.Run, chromium: Any) -> None:
    page, errors = opened(chromium, run.folder / "report.html")
    outcomes = run.report["contexts"]["colours"]["systems"]["two"]["outcomes"]
    assert page.locator(".ex").count() == 24
    for name, count in outcomes.items():
        page.locator(f"[data-filter={name}]").click()
        assert page.locator(".ex").count() == count, name
    page.locator("#student").select_option("one")
    page.locator("[data-filter=changed]").click()
    assert (
        page.locator(".ex").count()
        == run.report["contexts"]["colours"]["systems"]["one"]["outcomes"]["changed"]
    )
    page.locator("[data-filter=all]").click()
    page.locator("#query").fill("violet 4")
    pytest.importorskip("playwright.sync_api").expect(page.locator(".ex")).to_have_count(1)
    page.locator(".ex .line").click()
    assert page.locator(".shaded").count() == 2
    page.get_by_text("show the teacher's prompt").click()
    assert (
        "A long instruction that the student never sees. violet 4:"
        in page.locator(".ex").inner_text()
    )
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_dark_and_on_400_pixels(
    run: unprompt.Run, chromium: Any, scheme: str
) -> None:
    page, errors = opened(
        chromium,
        run.folder / "report.html",
        color_scheme=scheme,
        viewport={"width": 400, "height": 800},
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 400, "nothing sticks out"
    contrast = page.evaluate("""() => {
      const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
      const light = c => {
        const [r, g, b] = c.match(/[\\d.]+/g).map(v => linear(Number(v) / 255));
        return .2126 * r + .7152 * g + .0722 * b;
      };
      const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      const back = light(getComputedStyle(document.body).backgroundColor);
      const text = [...document.querySelectorAll('p, td, th, li, h1, h2, h3, b, .cell, .verdict')];
      return Math.min(...text.map(e => ratio(light(getComputedStyle(e).color), back)));
    }""")
    assert contrast >= 4.5, "WCAG AA"
    assert errors == []


def test_hostile_output_does_nothing_in_a_browser(
    run: unprompt.Run, chromium: Any, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(hostile(run), "utf-8")
    page, errors = opened(chromium, tmp_path / "page.html", viewport={"width": 1000, "height": 800})
    for place in range(page.locator(".ex .line").count()):
        page.locator(".ex .line").nth(place).click()
    assert "taken" not in page.title().replace(HOSTILE[0], "")
    assert page.locator("#list img, #list script").count() == 0
    page.get_by_role("button", name="show all 100,005 characters").first.click()
    assert page.evaluate(
        "[...document.querySelectorAll('.text bdi')].some(e => e.textContent.length >= 100000)"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 1000
    assert errors == []


@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize(("count", "scheme"), [(1, "light"), (3, "dark"), (6, "light")])
def test_the_page_by_picture(
    run: unprompt.Run, chromium: Any, tmp_path: Path, count: int, width: int, scheme: str
) -> None:
    path = tmp_path / "page.html"
    path.write_text(report.page(with_metrics(run, count), list(run.examples), run.grades), "utf-8")
    page, errors = opened(
        chromium, path, color_scheme=scheme, viewport={"width": width, "height": 800}
    )
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out"
    tables = page.evaluate(
        "[...document.querySelectorAll('.systems')]"
        ".map(e => [e.offsetWidth, e.parentElement.clientWidth])"
    )
    assert len(tables) == {1: 1, 3: 2, 6: 3}[count]
    if width == 1280:
        assert all(own <= box for own, box in tables), "the whole table is seen at once"
    else:  # the names of the rows stay where they are while the rest of a table is moved
        first = page.locator(".systems td").first
        before = first.bounding_box()
        page.locator(".systems").first.evaluate("e => { e.parentElement.scrollLeft = 200; }")
        assert first.bounding_box() == before
    margin = pixels(page.screenshot(full_page=True))[:, -12:]
    assert len(np.unique(margin.reshape(-1, 3), axis=0)) == 1, "the margin is empty"
    for drawing in page.locator("svg").all():
        assert len(np.unique(pixels(drawing.screenshot()).reshape(-1, 3), axis=0)) > 20
    assert meetings(page) == []
    assert errors == []


def pixels(png: bytes) -> np.ndarray:
    """A picture's pixels (height, width, 3)."""
    image = pytest.importorskip("PIL.Image")
    return np.asarray(image.open(io.BytesIO(png)).convert("RGB"))


def meetings(page: Any) -> list[str]:
    """Texts of drawings that lie on one another, or beyond their drawing, as the browser draws
    them.
    """
    return page.evaluate("""() => {
      const found = [];
      for (const drawing of document.querySelectorAll('svg')) {
        const frame = drawing.getBoundingClientRect();
        const texts = [...drawing.querySelectorAll('text')];
        const boxes = texts.map(e => e.getBoundingClientRect());
        boxes.forEach((a, n) => {
          if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 ||
              a.bottom > frame.bottom + 1) found.push('beyond: ' + texts[n].textContent);
          boxes.slice(n + 1).forEach((b, m) => {
            const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (x > .5 && y > .5)
              found.push(texts[n].textContent + ' / ' + texts[n + 1 + m].textContent);
          });
        });
      }
      return found;
    }""")


POINTS = {
    "at one place": [svg.Point(f"system {n}", 8.2, 0.5, None, (0.4, 0.6), n % 7) for n in range(9)],
    "many": [
        svg.Point(f"task {n}", 0.02 * n + 0.01, 0.02 * n + 0.01 * (n % 3), None, (0.0, 1.0))
        for n in range(40)
    ],
    "long names": [svg.Point("a_run_" * 12 + ": after", 8.2, 0.5), svg.Point("teacher", 900, 0.8)],
    "near each other": [
        svg.Point("before", 56.1, 0.2),
        svg.Point("after", 56.4, 0.21),
        svg.Point("teacher", 57.9, 0.9, None, (0.8, 1.0)),
    ],
    "at the edge": [
        svg.Point("W" * 36, 12_000, 0.999),
        svg.Point("x", 3, 0.0),
        svg.Point("\u6f22\u5b57" * 6, 6_000, 0.98),
        svg.Point("\u202egone", 5_000, 0.97),
    ],
    "one": [svg.Point("after", 8, 0.5)],
}


@pytest.mark.parametrize("width", [375, 1280])
def test_no_name_in_a_picture_lies_on_another(chromium: Any, tmp_path: Path, width: int) -> None:
    metric = "my_package.metrics:close_enough_to_what_the_example_says_is_gold"
    drawings = [
        svg.dots(points, "prompt tokens per call (logarithmic)", name, log_x=log)
        for points in POINTS.values()
        for name, log in ((metric, True), ("accuracy", False))
    ]
    drawings.append(svg.dots(POINTS["many"], "in context", "distilled", diagonal=True))
    steps = [(1000 * n, 1e-4 * n) for n in range(1, 101)]
    drawings.append(svg.lines([svg.Series("w" * 70, steps)], "step", "loss, nats"))
    body = "".join(f"<figure>{drawing}</figure>" for drawing in drawings)
    style, path = templates._file("page.css"), tmp_path / "page.html"
    path.write_text(
        f'<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<style>{style}</style><body><div class="pictures">{body}</div>',
        "utf-8",
    )
    page, errors = opened(chromium, path, viewport={"width": width, "height": 800})
    assert meetings(page) == []
    shown = page.locator("body").inner_text()
    for points in POINTS.values():
        for point in points[:3]:
            assert shown.count(point.name) >= 2, "every name is there to read"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert errors == []
