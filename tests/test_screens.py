"""What reaches a terminal, a spreadsheet or a page neither acts nor hides."""

from __future__ import annotations

import csv
import io
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import regex
from hypothesis import given, settings, strategies as st
from rich.console import Console
from starlette.testclient import TestClient

from conftest import tiny_recipe
from endpoint import NAME, Asked, Sent, serving
from unprompt import messages
from unprompt.cli.app import printed
from unprompt.messages import UserError, say
from unprompt.recipe import Data, parse
from unprompt.stages import inputs
from unprompt.tools import show
from unprompt.tools.rating import sheets
from unprompt.tools.ui.guard import Guard
from unprompt.visible import visible

ACTS = {
    "colour": "\x1b[31mred",
    "title": "\x1b]0;owned\x07",
    "link": "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "C1": "\x9b2Jgone",
    "erased": "rm -rf\b\b\b\b\b\bls    ",
    "overwritten": "error\rall is well",
    "bidi": "\u202eexe.txt",
    "isolate": "\u2066a\u2069",
    "del": "a\x7f",
}
"""What a hostile text does to a terminal."""
RAW = regex.compile(r"[\p{Cc}\p{Cf}--[\n\t]]", regex.V1)


@pytest.mark.parametrize("name", ACTS)
def test_no_text_acts_on_the_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    hostile, out = ACTS[name], io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=80)
    say(f"a {hostile} [bold]b[/x] :smile:", to=terminal)
    printed([hostile])
    shown = out.getvalue() + capsys.readouterr().out
    assert not RAW.search(shown)
    assert "[bold]b[/x] :smile:" in shown, "no markup of a library's either"
    error = UserError(hostile, where=hostile, fix=hostile)
    assert not RAW.search(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "console", terminal)
        with messages.bar(f"[/b]{hostile}", 3) as advance:
            advance(3)
    title = out.getvalue()
    assert hostile not in title


def test_an_example_is_shown_as_it_is_seen() -> None:
    out = io.StringIO()
    show._print(Console(file=out, width=200), "a\x1b[2J", ("kept\x9b", "bold"), "[b]\u202e")
    assert out.getvalue() == "a\u241b[2Jkept\u27e8U+009B\u27e9[b]\u27e8U+202E\u27e9\n"


def test_what_a_server_says_is_written_out(decoder_folder: Path, tmp_path: Path) -> None:
    from unprompt.pipeline import run

    hostile = "".join(ACTS.values())

    def answer(asked: Asked, number: int) -> Sent:
        return Sent({"error": {"message": hostile, "type": hostile}}, 400)

    with serving(answer) as (url, _):
        server = {"url": url, "model": NAME, "api": "completions", "retries": 0}
        words = tiny_recipe(decoder_folder) | {
            "teacher_model": {"server": server},
            "labels": {"kind": "hard"},
        }
        with pytest.raises(UserError) as caught:
            run(parse(words), tmp_path / "run")
    assert "all is well" in str(caught.value)
    assert not RAW.search(str(caught.value))


@pytest.mark.parametrize("hostile", ["\x1b[31m", "a\x9bb", "x\u202ey"])
def test_names_of_files_and_columns_are_written_out(hostile: str, tmp_path: Path) -> None:
    path = tmp_path / f"{hostile}.csv"
    path.write_text(f"{hostile},{hostile}\n1,2\n")
    for file in (path, tmp_path / f"{hostile}.xls", tmp_path / f"no{hostile}.csv"):
        with pytest.raises(UserError) as caught:
            inputs.load(Data(file=str(file)), "inputs", ".")
        assert not RAW.search(str(caught.value))


# -- what can't be seen ----------------------------------------------------------------------------

HIDDEN = "\u115f\u1160\u3164\uffa0\u2800\u00a0\u2007\u3000\u200b\u2060\u034f\u180b\u17b4\ufe01"
HIDDEN += "\U000e0001\U000e0041\U000e0100\U000e0fff\ue000\U000f0000\u0378\ufff0\ud800\u2028\u00ad"


@pytest.mark.parametrize("letter", HIDDEN, ids=lambda letter: f"U+{ord(letter):04X}")
def test_what_hides_is_written_out(letter: str) -> None:
    code = f"\u27e8U+{ord(letter):04X}\u27e9"
    assert visible(f"a{letter}b") == f"a{code}b"
    assert visible(letter * 2) == code * 2


def test_no_code_point_of_an_unseen_category_is_left() -> None:
    left = [
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp", "Zs")
        and visible(chr(code)) == chr(code)
    ]
    assert left == [ord("\t"), ord("\n"), ord(" ")]


@pytest.mark.parametrize(
    "text",
    [
        "\u2764\ufe0f\u200d\U0001f525",
        "\U0001f469\U0001f3fd\u200d\U0001f680",
        "1\ufe0f\u20e3",
        "\u0915\u094d\u200d\u0937",
        "\u0645\u06cc\u200c\u062e",
        "caf\u0301e, 日本語, ไทย, 한국어\n\tfine",
    ],
)
def test_what_scripts_and_pictures_need_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "text", ["a\u200db", "\u2764\ufe0f\ufe0f", "\u0915\u200d\u200d\u0937", "\u200dx"]
)
def test_joiners_that_join_nothing_are_written_out(text: str) -> None:
    assert "\u27e8U+" in visible(text)


@given(st.text())
@settings(derandomize=True, max_examples=200)
def test_what_was_written_out_stays(text: str) -> None:
    assert visible(visible(text)) == visible(text)


# -- spreadsheets ----------------------------------------------------------------------------------

CELLS = st.text(alphabet="'\"=+-@;,\t\r\n \u00a0ab1＝\u2028", max_size=14) | st.text(max_size=20)


@given(CELLS)
@settings(derandomize=True, max_examples=1_000)
def test_the_guard_of_a_cell_is_undone(cell: str) -> None:
    assert sheets.plain(sheets.harmless(cell)) == cell


@given(st.lists(CELLS, min_size=2, max_size=2))
@settings(derandomize=True, max_examples=1_000)
def test_no_separator_makes_a_formula(tmp_path_factory: Any, cells: list[str]) -> None:
    """Cells as a spreadsheet reads them that takes quotes for quotes, and as one that does not."""
    text = _sheet(tmp_path_factory.getbasetemp(), *cells)
    found = [cell for line in text.splitlines() for cell in line.replace("\t", ";").split(";")]
    for separator in ",;\t":
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        found += [cell for row in rows for cell in row]
    starts = {cell.lstrip('" \t\r\n\v\f\xa0\u2028')[:1] for cell in found} - {""}
    assert not starts & set(sheets.FORMULA)


def _sheet(folder: Path, shown: str, response: str) -> str:
    path = folder / "formulas.csv"
    path.unlink(missing_ok=True)
    row = {"input": shown, "response": response}
    sheets.write(path, {"rows": {"r1": row}})
    return path.read_bytes().decode("utf-8-sig")


@pytest.mark.parametrize(
    "response",
    [
        "a;=1+1",
        "a\t@SUM(1)",
        'x"; "=1',
        "one\n-2",
        ";\t '=1",
        "a'=1;'=2",
        "\t=1",
        "b;＝1",
        "\n\n+1",
    ],
)
def test_a_guarded_sheet_is_read_as_it_was_sent(response: str, tmp_path: Path) -> None:
    row = {"input": "?", "response": response}
    key = {"low": 0, "high": 6, "rows": {"r1": row}}
    sheets.write(tmp_path / "sheet.csv", key)
    assert sheets.read(tmp_path / "sheet.csv", key) == {("r1", "sheet"): None}
    with (tmp_path / "old.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)  # a sheet that was written before cells were guarded inside
        writer.writerows([sheets.COLUMNS, ["r1", "?", response, "3", "ann"]])
    assert sheets.read(tmp_path / "old.csv", key) == {("r1", "ann"): 3}


# -- pages -----------------------------------------------------------------------------------------


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("[::1]:7860", 200),
        ("[::1]", 200),
        ("[0:0:0:0:0:0:0:1]:80", 200),
        ("127.0.0.1:7860", 200),
        ("127.0.0.9", 200),
        ("LOCALHOST:1", 200),
        ("evil.example", 400),
        ("[::2]:7860", 400),
        ("[::1", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost:99999999", 400),
        ("", 400),
    ],
)
def test_this_machine_is_asked_by_its_own_names(host: str, status: int) -> None:
    client = TestClient(Guard(_inner, None))
    assert client.get("/try/", headers={"host": host}).status_code == status


@pytest.mark.parametrize("token", [None, "s3cret"])
@pytest.mark.parametrize("host", ["127.0.0.1:7860", "[::1]:7860", "localhost"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://{}1", "http://[", "{}"])
def test_a_page_from_elsewhere_gets_nothing(token: str | None, host: str, origin: str) -> None:
    client = TestClient(Guard(_inner, token))
    headers = {"host": host, "origin": origin.format(host), "cookie": "unprompt_token=s3cret"}
    asks = {"access-control-request-method": "POST"}
    for answer in (
        client.get("/try/", headers=headers),
        client.post("/try/", headers=headers),
        client.options("/try/", headers=headers | asks),
    ):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    own = headers | {"origin": f"http://{host}"}
    assert client.get("/try/", headers=own).text == "in"
