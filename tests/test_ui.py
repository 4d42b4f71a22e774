"""Both pages in a real browser: Try end to end, Rate with three people at once and a reload; and
who is let in.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

import unprompt
from conftest import tiny_recipe
from pages import SLOW, opened, serving, value, wait_for
from unprompt.messages import UserError
from unprompt.recipe import parse
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_grades, write_grades
from unprompt.tools import ui
from unprompt.tools.live import Live, Reply
from unprompt.tools.rating import ballots, rate
from unprompt.tools.ui import rating
from unprompt.tools.ui.guard import Guard
from unprompt.visible import visible

HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">**bold**"
    " \u202eevil \x1b[31m " + "x" * 100_000
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("ui") / "run"
    words = tiny_recipe(decoder_folder) | {
        "cost": {"teacher": "example-big", "student": "example-small", "dollars_per_hour": 1}
    }
    words["sampling"]["max_new_tokens"] = 8
    unprompt.run(parse(words), folder)
    grades = read_grades(folder / "grades.parquet")
    write_grades(
        folder / "hostile.parquet",
        [unprompt.Grade(**{**_plain(g), "text": HOSTILE, "answer": HOSTILE}) for g in grades[:1]]
        + grades[1:],
    )
    return folder


def _plain(grade: unprompt.Grade) -> dict[str, Any]:
    return {name: getattr(grade, name) for name in grade.__dataclass_fields__}


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """The pages of the run, one answer of which is hostile, served to this machine."""
    (run / "grades.parquet").replace(run / "clean.parquet")
    (run / "hostile.parquet").replace(run / "grades.parquet")
    RunDir(run).notes.add("grades.parquet")
    with serving(run, ["teacher", "after"]) as url:
        yield url


# -- try -------------------------------------------------------------------------------------------


def test_try_shows_what_was_graded(run: Path, address: str, chromium: Any) -> None:
    page, wrong = opened(chromium, f"{address}/try/")
    page.locator("#example input").click()
    page.get_by_role("option", name="h2").click()
    page.wait_for_function("document.querySelector('#field-0 textarea').value == 'gold'")
    page.locator("#ask").click()
    wait_for(page, "#figures-after", "written")
    graded = {g.system: g for g in read_grades(run / "clean.parquet") if g.example_id == "h2"}
    assert len({g.text for g in graded.values()}) > 1, "the test proves nothing"
    for system in ("teacher", "before", "after"):
        figures = page.locator(f"#figures-{system}").inner_text()
        assert value(page, f"answer-{system}") == visible(graded[system].text)
        assert figures.startswith(
            f"{graded[system].prompt_tokens} prompt tokens · {graded[system].completion_tokens}"
            " written, cut at max_new_tokens"
        )
        assert " s · $0.0" in figures
    assert wrong == []


def test_answers_come_while_they_are_written_and_as_text(
    address: str, chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def reply(self: Live, context: str, system: str, typed: dict[str, str], heard: Any) -> Reply:
        heard("half of it")
        assert go_on.wait(SLOW / 1000)
        return Reply(HOSTILE, 3, 2, 0.5, "end", None)

    monkeypatch.setattr(Live, "reply", reply)
    page, wrong = opened(chromium, f"{address}/try/")
    page.locator("#field-0 textarea").fill("x")
    page.locator("#ask").click()
    page.wait_for_function(
        "document.querySelector('#answer-teacher textarea').value == 'half of it'"
    )
    assert page.locator("#figures-teacher").inner_text() == "thinking …"
    go_on.set()
    wait_for(page, "#figures-after", "2 written · 0.50 s")
    assert value(page, "answer-teacher") == value(page, "answer-after") == visible(HOSTILE)
    assert page.title() == "Try tiny"
    assert wrong == []


def test_what_is_wrong_is_said(address: str, chromium: Any) -> None:
    page, _ = opened(chromium, f"{address}/try/", viewport={"width": 400, "height": 800})
    page.locator("#field-0 textarea").fill("long " * 200)
    page.locator("#ask").click()
    page.wait_for_function(
        "document.querySelector('#wrong textarea')?.value.includes('over the model\\'s window of"
        " 512')"
    )
    assert page.locator("#figures-teacher").inner_text() == ""
    assert page.evaluate("document.documentElement.scrollWidth") == 400, "nothing sticks out"


# -- rate ------------------------------------------------------------------------------------------


def test_three_people_rate_at_once_and_nothing_is_lost(
    run: Path, address: str, chromium: Any
) -> None:
    """By keys, by clicks, and with a change of mind; one page is reloaded in the middle."""
    key = rate.blinded(run, [], None, 1, 5)
    names, expected = ["ann", "bob", "<b>cy</b>"], {}
    pages = [opened(chromium, f"{address}/rate/") for _ in names]
    assert len(key["rows"]) == 6
    for (page, _), name in zip(pages, names, strict=True):
        expected[name] = {}
        page.locator("#name input, #name textarea").fill(name)
        page.locator("#start").click()
    for done in range(len(key["rows"])):
        for (page, _), name in zip(pages, names, strict=True):
            wait_for(page, "#progress", f"{done} of 6 rated as {name}")
        for number, ((page, _), name) in enumerate(
            zip(pages, names, strict=True)
        ):  # all three are under way before any is waited for
            id_ = value(page, "id")
            assert value(page, "response") == visible(key["rows"][id_]["response"])
            assert value(page, "asked") == key["rows"][id_]["input"]
            expected[name][id_] = (done + number) % 5 + 1
            if number == 1:
                page.locator(f"#rate-{expected[name][id_]}").click()
            else:
                page.keyboard.press(str(expected[name][id_]))
        if done == 2:
            wait_for(pages[1][0], "#progress", "3 of 6")
            pages[1][0].reload()
    for page, _ in pages:
        wait_for(page, "#progress", "all rated, thank you")
    page, shown = pages[0][0], value(pages[0][0], "id")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("id => document.querySelector('#id textarea').value != id", arg=shown)
    id_ = value(page, "id")
    assert page.locator(f"#rate-{expected['ann'][id_]}.primary").count() == 1, (
        "the rating that was given is marked"
    )
    expected["ann"][id_] = expected["ann"][id_] % 5 + 1
    page.locator(f"#rate-{expected['ann'][id_]}").click()
    deadline = time.monotonic() + SLOW / 1000
    while ballots.given(run / rate.BALLOTS) != expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ballots.given(run / rate.BALLOTS) == expected
    found = rate.ratings(run, [run / rate.BALLOTS])
    assert found["raters"] == dict.fromkeys(names, 6)
    assert found["agreement"]["ordinal"] is not None
    for page, wrong in pages:
        assert page.title() == "Rate tiny"
        assert wrong == []


def test_who_begins_at_once_is_not_asked_for_a_name_again(
    run: Path, chromium: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page asks on loading whether a name is known, and may hear of it after a click."""
    begin, begun, heard = rating._begin, threading.Event(), threading.Event()

    def late(key: Any, path: Path, typed: str) -> list[Any]:
        if not typed:
            assert begun.wait(SLOW / 1000)
        try:
            return begin(key, path, typed)
        finally:
            if not typed:
                heard.set()

    monkeypatch.setattr(rating, "_begin", late)
    with serving(run, ["teacher", "after"]) as url:
        page, wrong = opened(chromium, f"{url}/rate/")
        page.locator("#name input, #name textarea").fill("early")
        page.locator("#start").click()
        wait_for(page, "#progress", "0 of 6 rated as early")
        begun.set()
        assert heard.wait(SLOW / 1000)
        for done in (1, 2):  # what it heard has come by then, too
            page.keyboard.press("3")
            wait_for(page, "#progress", f"{done} of 6 rated as early")
        assert page.locator("#progress").is_visible()
        assert not page.locator("#start").is_visible()
    assert wrong == []


def test_the_rating_page_does_not_say_who_wrote_what(address: str) -> None:
    import httpx

    told = (
        httpx.get(f"{address}/rate/config", timeout=SLOW).text
        + httpx.get(f"{address}/rate/", timeout=SLOW).text
    )
    assert "rate-5" in told
    assert not re.findall(r"teacher|colours|(?<![</\w-])h[0-2]\b", told), (
        "no system, context or example (h1 is also a heading)"
    )


def test_everybody_has_an_order_of_ones_own() -> None:
    key = {"made_from": "x", "rows": dict.fromkeys(f"r{n}" for n in range(20))}
    orders = {name: rating.order(key, name) for name in ("ann", "bob")}
    assert orders["ann"] != orders["bob"]
    assert orders["ann"] == rating.order(key, "ann")
    assert sorted(orders["ann"]) == sorted(key["rows"])
    assert rating.following(["a", "b", "c"], {"c": 1}, "b") == "a", "from the beginning again"
    assert rating.following(["a", "b"], {"a": 1, "b": 1}, "b") == "b"
    assert rating.following(["a", "b"], {}, None) == "a"


def test_the_pages_link_to_each_other_and_say_what_to_rate_by(
    run: Path, address: str, chromium: Any
) -> None:
    for width in (375, 1280):
        page, wrong = opened(chromium, f"{address}/try/", viewport={"width": width, "height": 800})
        page.locator("#to-rate").click()
        page.locator("#name input, #name textarea").wait_for()
        assert page.url == f"{address}/rate/"
        rows = rate.blinded(run, [], None, 1, 5)["rows"]
        assert f"{len(rows)} responses." in page.locator("body").inner_text()
        by = page.locator("#rubric li").all_inner_texts()
        assert by[0].startswith("How well does the response do")
        assert [line[:2] for line in (by[1], by[-1])] == ["1:", "5:"]
        page.locator("#name input, #name textarea").fill("dora")
        page.locator("#start").click()
        wait_for(page, "#progress", "of 6 rated")
        assert page.locator("#rubric").is_visible(), "while one rates, too"
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.locator("#to-try").click()
        page.locator("#ask").wait_for()
        assert page.url == f"{address}/try/"
        assert wrong == []


def test_a_run_without_answers_has_no_link_to_rate(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: Any) -> None:
        raise UserError(rate.NO_ANSWERS)

    monkeypatch.setattr(rate, "blinded", none)
    told = TestClient(ui.app(run, None), base_url="http://localhost").get("/try/config").text
    assert "to-rate" not in told
    assert "Ask (Shift" in told


# -- who comes in ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.7", False),
        ("box", False),
    ],
)
def test_what_is_this_machine_alone(host: str, own: bool) -> None:
    assert ui.loopback(host) is own


def test_the_other_internet_protocol(run: Path) -> None:
    import httpx

    with serving(run, ["teacher", "after"], host="::1") as url:
        for path in ("try/", "rate/", "rate/config"):
            assert httpx.get(f"{url}/{path}", timeout=SLOW).status_code == 200, path


def test_nobody_comes_in_without_the_token() -> None:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"in"})

    client = TestClient(Guard(inner, "s3cret"), follow_redirects=False)
    assert (
        client.get("/try/").status_code
        == client.get("/try/?token=wrong").status_code
        == client.get("/try/?token=").status_code
        == 403
    )
    assert client.get("/rate/", headers={"cookie": "unprompt_token=s3cre"}).status_code == 403
    came = client.get("/rate/?token=s3cret")
    assert (came.status_code, came.headers["location"]) == (303, "/rate/")
    assert "HttpOnly" in came.headers["set-cookie"]
    again = client.get("/rate/")  # the client keeps the cookie
    assert (again.status_code, again.text) == (200, "in")
    assert "connect-src 'self'" in again.headers["content-security-policy"]


def test_other_names_of_this_machine_are_refused(address: str) -> None:
    """A page elsewhere, whose name was bent to 127.0.0.1, reads nothing."""
    import httpx

    assert (
        httpx.get(
            f"{address}/try/config", headers={"host": "evil.example"}, timeout=SLOW
        ).status_code
        == 400
    )


def test_beyond_this_machine_a_token_is_made(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str | None] = []
    monkeypatch.setattr(ui, "app", lambda folder, token, systems, examples: made.append(token))
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    told: list[str] = []
    monkeypatch.setattr(ui, "say", told.append)
    ui.serve(run, "127.0.0.1", 0, [], None)
    assert made == [None]
    assert "token" not in told[0]
    ui.serve(run, "0.0.0.0", 0, [], None)
    ui.serve(run, "0.0.0.0", 0, [], None)
    assert made[1]
    assert made[2]
    assert made[1] != made[2]
    assert any(f"/rate/?token={made[2]}" in line for line in told)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="can't listen there"):
            ui.serve(run, "127.0.0.1", taken.getsockname()[1], [], None)
