"""The rating sheet: blinded, shuffled, safe in a spreadsheet; ratings by hand, and everything that
can be wrong with a file.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

import unprompt
from conftest import tiny_recipe
from unprompt.messages import UserError
from unprompt.recipe import Recipe, parse
from unprompt.tools.rating import ballots, chosen, rate, rubric, sheets

FORMULAS = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "'quoted", "''", "＝1"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_no_cell_is_a_formula(cell: str) -> None:
    safe = sheets.harmless(cell)
    assert safe == f"'{cell}"
    assert sheets.plain(safe) == cell


@given(st.text(alphabet="'=+-@\t\n ab", max_size=6))
def test_harmless_is_undone(cell: str) -> None:
    assert sheets.plain(sheets.harmless(cell)) == cell
    assert sheets.harmless(cell)[:1] not in list(sheets.FORMULA)


# -- a run's sheet ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("rated") / "run"
    words = tiny_recipe(decoder_folder)
    words["contexts"]["colours"]["student"] = "={{ text }}:"
    unprompt.run(parse(words), folder)
    return folder


@pytest.fixture
def run(finished: Path) -> Path:
    for name in (rate.KEY, rate.SHEET, rate.RATINGS, rate.BALLOTS):
        (finished / name).unlink(missing_ok=True)
    return finished


def export(run: Path, **changes: Any) -> tuple[Path, int, list[str]]:
    """The sheet, and how many rows of which systems the key has."""
    how = {"out": None, "systems": [], "examples": None, "low": 0, "high": 6, **changes}
    lines = rate.export(run, **how)
    sheet = how["out"] or run / rate.SHEET
    rows = json.loads((run / rate.KEY).read_text())["rows"].values()
    systems = sorted({row["system"] for row in rows})
    assert lines[0].startswith(f"{sheet}: {len(rows)} responses of {', '.join(systems)}, blinded")
    return sheet, len(rows), systems


def test_the_sheet_is_blind_shuffled_and_whole(run: Path) -> None:
    sheet, count, systems = export(run)
    text = sheet.read_text("utf-8-sig")
    assert (count, systems) == (12, ["after", "after_teacher_prompt", "before", "teacher"])
    assert not any(word in text for word in ("teacher", "before", "after", "colours", str(run)))
    with sheet.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"'=grey:", "'=violet:", "'=gold:"} == {row["input"] for row in rows}
    assert all(row["rating"] == row["rater"] == "" for row in rows)
    key = json.loads((run / rate.KEY).read_text())["rows"]
    grades = {(g.example_id, g.system): g.shown for g in unprompt.Run(run, {}).grades}
    assert {(row["example_id"], row["system"]): row["response"] for row in key.values()} == grades
    assert [row["id"] for row in rows] == list(key)
    assert all(sheets.plain(row["response"]) == key[row["id"]]["response"] for row in rows)
    in_order = sorted(key, key=lambda id_: (key[id_]["system"], key[id_]["example_id"]))
    assert list(key) != in_order


def test_a_second_export_keeps_the_ids(run: Path, tmp_path: Path) -> None:
    first, *_ = export(run)
    second, *_ = export(run, out=tmp_path / "again.csv")
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(UserError, match="there is a file already"):
        export(run)
    with pytest.raises(
        UserError, match="a sheet of other answers, systems or another scale was exported before"
    ):
        export(run, out=tmp_path / "other.csv", high=5)


def test_only_some_systems_and_examples(run: Path) -> None:
    sheet, count, systems = export(run, systems=["teacher", "after"], examples=2)
    assert (count, systems) == (4, ["after", "teacher"])
    key = json.loads((run / rate.KEY).read_text())["rows"]
    assert len({row["example_id"] for row in key.values()}) == 2
    assert sheet == run / rate.SHEET
    (run / rate.KEY).unlink()
    with pytest.raises(
        UserError, match="there is no system 'afterwards' -> there are: teacher, before, after"
    ):
        export(run, systems=["afterwards"], out=run / "no.csv")
    with pytest.raises(UserError, match="a scale from 3 to 3 has no room"):
        export(run, low=3, high=3)


# -- reading ---------------------------------------------------------------------------------------

KEY: dict[str, Any] = {
    "low": 0,
    "high": 6,
    "rows": {
        f"r{n}": {
            "context": "c",
            "example_id": f"h{n // 2}",
            "system": ("before", "after")[n % 2],
            "group": None,
            "input": "?",
            "response": "x" * (n + 1),
        }
        for n in range(8)
    },
}
KEY["rows"]["r0"]["response"] = "=1+1\n"
GOOD = [0, 4, 1, 5, 0, 6, 2, 6]


def sheet(path: Path, values: list[Any], rater: str = "", **changes: Any) -> Path:
    rows = [
        [id_, "?", sheets.harmless(row["response"]), value, rater]
        for (id_, row), value in zip(KEY["rows"].items(), values, strict=True)
    ]
    rows = changes.get("change", lambda found: found)(rows)
    with path.open("w", encoding=changes.get("encoding", "utf-8"), newline="") as file:
        writer = csv.writer(file, delimiter=changes.get("delimiter", ","))
        writer.writerow(changes.get("header", sheets.COLUMNS))
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / rate.KEY).write_text(json.dumps(KEY))
    return tmp_path


def test_ratings_of_two_people(folder: Path) -> None:
    ann, bob = (
        sheet(folder / "ann.csv", GOOD),
        sheet(
            folder / "b.csv",
            ["", 4, 1, "5.0", 0, " 6 ", 2, 4],
            "bob",
            delimiter=";",
            encoding="utf-8-sig",
        ),
    )
    found = rate.ratings(folder / "run", [ann, bob])
    assert found["raters"] == {"ann": 8, "bob": 7}
    after, before = found["contexts"]["c"]["after"], found["contexts"]["c"]["before"]
    assert after["rating"]["mean"] == (4 + 5 + 6 + 5) / 4
    assert before["rating"]["mean"] == (0 + 1 + 0 + 2) / 4
    assert after["rating"]["low"] is None, "four responses are too few"
    assert (before["ratings"], before["unrated"], after["ratings"]) == (7, 0, 8)
    # by hand: six pairs agree and one is (6, 4); one rating has no partner
    values = [4, 4, 1, 1, 5, 5, 0, 0, 6, 6, 2, 2, 6, 4]
    expected = sum((a - b) ** 2 for a in values for b in values) / (14 * 13)
    assert found["agreement"]["interval"] == pytest.approx(1 - (2 * 4 / 14) / expected)
    assert json.loads((folder / "run" / rate.RATINGS).read_text()) == found
    text = "\n".join(rate.lines(found))
    assert "c, after: 5.00 (too few)" in text
    assert "agreement (Krippendorff's alpha): ordinal 0." in text


def test_length_bias_is_flagged(folder: Path) -> None:
    """The longer the better, within and over systems; and a rating that has nothing to do with
    length.
    """
    found = rate.ratings(folder / "run", [sheet(folder / "ann.csv", [0, 0, 1, 2, 3, 4, 5, 6])])
    assert found["length_bias"]["flagged"]
    assert found["length_bias"]["rho"] == pytest.approx(0.861, abs=1e-3)
    assert "ratings go with the length of the response" in "\n".join(rate.lines(found))
    fair = rate.ratings(folder / "run", [sheet(folder / "ann.csv", GOOD)])
    assert not fair["length_bias"]["flagged"]
    same = rate.ratings(folder / "run", [sheet(folder / "ann.csv", [3] * 8)])
    assert same["length_bias"] is None
    assert same["agreement"] == {"ordinal": None, "interval": None}
    assert "not defined" in "\n".join(rate.lines(same))


def test_a_row_may_stay_unrated(folder: Path) -> None:
    found = rate.ratings(
        folder / "run", [sheet(folder / "ann.csv", [None, 1, "", 2, "", 3, "", 3])]
    )
    before = found["contexts"]["c"]["before"]
    assert before["rating"] is None
    assert before["unrated"] == 4
    assert "c, before: not rated, 0 ratings of 4 responses, 4 of 4 unrated" in rate.lines(found)
    with pytest.raises(UserError, match="there is no rating in these files"):
        rate.ratings(folder / "run", [sheet(folder / "ann.csv", [""] * 8)])


def swap(rows: list[list[Any]]) -> list[list[Any]]:
    rows[1][2], rows[2][2] = rows[2][2], rows[1][2]
    return rows


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing row": (
        {"change": lambda rows: rows[:3] + rows[4:]},
        r"ann.csv: row 'r3' of ann is missing -> put it back",
    ),
    "missing rows": (
        {"change": lambda rows: rows[:3]},
        r"row 'r3' of ann is missing \(and 4 more\)",
    ),
    "unknown id": (
        {"change": lambda rows: [*rows, ["r99", "?", "x", 1, ""]]},
        r"ann.csv:11: there is no row 'r99' in this run's sheet",
    ),
    "out of range": (
        {"values": [7, *GOOD[1:]]},
        r"ann.csv:3: the rating of row 'r0' is '7' -> write a whole number from 0 to 6",
    ),
    "half": ({"values": [2.5, *GOOD[1:]]}, r"the rating of row 'r0' is '2.5'"),
    "word": ({"values": ["good", *GOOD[1:]]}, r"the rating of row 'r0' is 'good'"),
    "nan": ({"values": ["nan", *GOOD[1:]]}, r"the rating of row 'r0' is 'nan'"),
    "twice": (
        {"change": lambda rows: [*rows, rows[4]]},
        r"ann rated row 'r4' twice -> leave one of the two",
    ),
    "no column": (
        {"header": ("id", "input", "response", "score", "rater")},
        r"not a rating sheet: it has no column 'rating'",
    ),
    "too few cells": (
        {"change": lambda rows: [rows[0][:3], *rows[1:]]},
        r"the row has 3 cells, the header 5",
    ),
    "one column sorted alone": (
        {"change": swap},
        r"the response is not the one that row 'r1' was sent with -> undo",
    ),
    "a name missing": (
        {"change": lambda rows: [[*rows[0][:4], "ann"], *rows[1:]]},
        r"row 'r1' does not say who rated it",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_nothing_is_lost(name: str, folder: Path) -> None:
    rate.ratings(folder / "run", [sheet(folder / "ann.csv", GOOD)])
    before = (folder / "run" / rate.RATINGS).read_bytes()
    changes, said = WRONG[name]
    values = changes.get("values", GOOD)
    bad = sheet(
        folder / "ann.csv",
        values,
        **{key: value for key, value in changes.items() if key != "values"},
    )
    kept = bad.read_bytes()
    with pytest.raises(UserError, match=said) as error:
        rate.ratings(folder / "run", [bad])
    assert "\n" not in str(error.value)
    assert (folder / "run" / rate.RATINGS).read_bytes() == before
    assert bad.read_bytes() == kept


def test_files_that_are_no_sheets(folder: Path) -> None:
    (folder / "book.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    (folder / "broken.csv").write_text('id,rating,rater\n"r0"x,1,ann\n')
    (folder / "empty.csv").write_text("")
    for name, said in (
        ("book.xlsx", "not UTF-8 text"),
        ("broken.csv", "not CSV"),
        ("empty.csv", "no column 'id'"),
        ("none.csv", "there is no such file"),
        (".", "can't be read"),
    ):
        with pytest.raises(UserError, match=said):
            rate.ratings(folder / "run", [folder / name])
    with pytest.raises(
        UserError, match="no sheet of this run was exported -> export one with `unprompt rate RUN`"
    ):
        rate.ratings(folder, [folder / "ann.csv"])


def test_people_are_not_mixed_up(folder: Path) -> None:
    ann, bob = sheet(folder / "ann.csv", GOOD), sheet(folder / "bob.csv", GOOD)
    also_ann = sheet(folder / "also.csv", GOOD, "ann")
    with pytest.raises(UserError, match="ann rated row 'r0' twice, here and in another file"):
        rate.ratings(folder / "run", [ann, also_ann])
    rate.ratings(folder / "run", [ann, bob])
    with pytest.raises(
        UserError, match="the ratings of bob were read before, and are in none of these files"
    ):
        rate.ratings(folder / "run", [ann])
    both = sheet(
        folder / "both.csv",
        GOOD,
        "cy",
        change=lambda rows: rows + [[*row[:4], "di"] for row in rows],
    )
    assert rate.ratings(folder / "run", [ann, bob, both])["raters"] == {
        "ann": 8,
        "bob": 8,
        "cy": 8,
        "di": 8,
    }


def test_what_a_spreadsheet_does_to_a_response_is_forgiven(folder: Path) -> None:
    """It drops the quote, or writes other line ends."""

    def change(rows: list[list[Any]]) -> list[list[Any]]:
        rows[0][2] = "=1+1\r\n"
        return rows

    assert rate.ratings(folder / "run", [sheet(folder / "ann.csv", GOOD, change=change)])[
        "raters"
    ] == {"ann": 8}


# -- ratings given in the browser ------------------------------------------------------------------


def test_ratings_of_the_page_are_read_as_sheets_are(folder: Path) -> None:
    path = folder / "run" / rate.BALLOTS
    ballots.create(path)
    ballots.create(path)
    for id_, value in zip(KEY["rows"], GOOD, strict=True):
        ballots.save(path, "ann", id_, 6 - value)
        ballots.save(path, "ann", id_, value)  # a change of mind
    ballots.save(path, "bob", "r1", 4)
    assert ballots.given(path)["bob"] == {"r1": 4}
    written = [sheet(folder / "ann.csv", GOOD), sheet(folder / "bob.csv", ["", 4, *[""] * 6])]
    found = rate.ratings(folder / "run", [path])
    assert found == rate.ratings(folder / "run", written)
    assert found["raters"] == {"ann": 8, "bob": 1}
    with pytest.raises(UserError, match="ann rated row 'r0' twice, here and in another file"):
        rate.ratings(folder / "run", [path, written[0]])
    for id_, value in (("r99", 1), ("r0", 7)):
        other = folder / f"{id_}.sqlite"
        ballots.create(other)
        ballots.save(other, "ann", id_, value)
        with pytest.raises(
            UserError, match=f"ann's rating {value} of '{id_}' does not belong to this run's key"
        ):
            rate.ratings(folder / "run", [other])
    path.with_name("bad.sqlite").write_bytes(b"SQLite format 3\0 and no more")
    with pytest.raises(UserError, match=r"bad\.sqlite: SQLite: "):
        sheets.read(path.with_name("bad.sqlite"), KEY)


def test_page_and_sheet_have_one_key(run: Path, tmp_path: Path) -> None:
    made = rate.blinded(run, ["teacher"], 2, 1, 5)
    assert (made["low"], made["high"], len(made["rows"])) == (1, 5, 2)
    assert rate.blinded(run, [], None, 1, 5) == made, "a second start asks for the same"
    export(run, systems=["teacher"], examples=2, low=1, high=5)
    with pytest.raises(UserError, match="a sheet of other answers, systems or another scale"):
        rate.blinded(run, ["after"], None, 1, 5)
    (run / rate.KEY).unlink()
    export(run, out=tmp_path / "sheet.csv")
    assert rate.blinded(run, [], None, 1, 5)["high"] == 6, "the scale of the sheets that are out"
    key = json.loads((run / rate.KEY).read_text())
    next(iter(key["rows"].values()))["response"] += "!"
    (run / rate.KEY).write_text(json.dumps(key))
    with pytest.raises(UserError, match="the answers have changed since this key was made"):
        rate.blinded(run, [], None, 1, 5)


@pytest.mark.parametrize(("about", "examples"), [(4, 1), (8, 2), (9, 2), (1, 1), (12, 3)])
def test_about_so_many_are_rated_unless_the_user_says_how_many(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, about: int, examples: int
) -> None:
    monkeypatch.setattr(chosen, "RESPONSES", about)
    lines = rate.export(run, tmp_path / "few.csv", [], None, 0, 6)
    rows = json.loads((run / rate.KEY).read_text("utf-8"))["rows"].values()
    systems = {row["system"] for row in rows}
    assert len(systems) == 4
    assert len({row["example_id"] for row in rows}) == examples
    assert len(rows) == 4 * examples, "every system answers the same examples"
    told = "(of 12, drawn with the recipe's seed; --examples 3 takes all)"
    assert (told in lines[0]) == (examples < 3)
    assert rate.export(run, tmp_path / "same.csv", [], None, 0, 6) == [
        line.replace("few.csv", "same.csv") for line in lines
    ]
    (run / rate.KEY).unlink()
    assert "12 responses" in rate.export(run, tmp_path / "all.csv", [], 3, 0, 6)[0]
    # as earlier versions wrote it: it has all, and its sheets stay valid
    assert "12 responses" in rate.export(run, tmp_path / "old.csv", [], None, 0, 6)[0]
    assert len(rate.blinded(run, [], None, 1, 5)["rows"]) == 12


CRITERIA = {"kind": "0: cold. 6: warm.", "short": "0: it rambles.\n6: to the point."}


def test_people_are_told_what_to_rate_by(
    tiny: Callable[..., Recipe], run: Path, tmp_path: Path
) -> None:
    plain, own = tiny(), tiny(judge={"criteria": CRITERIA})
    assert rubric.scale(plain) == rubric.scale(tiny(judge={})) == (1, 5)
    assert rubric.scale(own) == (0, 6)
    assert rubric.lines(plain, 1, 5)[1].startswith("1: ")
    assert rubric.lines(plain, 0, 9)[-1].startswith("9: ")
    assert rubric.lines(own, 0, 6)[1:] == [
        "kind: 0: cold. 6: warm.",
        "short: 0: it rambles. 6: to the point.",
    ]
    assert rubric.lines(own, 1, 5) == rubric.lines(plain, 1, 5), "the criteria speak of 0 to 6"
    lines = rate.export(run, tmp_path / "told.csv", [], None, 0, 6)
    assert set(rubric.lines(plain, 0, 6)) <= set(lines)


def test_both_commands(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from unprompt import cli

    def command(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["unprompt", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    said = command(
        "rate", str(run), "--out", str(tmp_path / "sheet.csv"), "--system", "after", "--high", "5"
    )
    assert "3 responses of after, blinded and shuffled" in said
    with (tmp_path / "sheet.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    with (tmp_path / "ann.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([*row[:3], "4", ""] for row in rows[1:])])
    said = command("rate", str(run), "--read", str(tmp_path / "ann.csv"))
    assert "colours, after: 4.00 (too few), 3 ratings of 3 responses" in said
    assert command(
        "cost", "--model", "example-big", "--input", "1200", "--output", "150", "--cached", "1000"
    ).startswith("example-big: $7.50 per 1,000 calls (exactly $7.5; ")
