"""The quickstart on the real model: what `make demo` does, on fewer messages, held to what the
project promises.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pages import opened, serving, value, wait_for
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_grades
from unprompt.tools.rating import ballots, rate
from unprompt.visible import visible

INPUTS, HELD_OUT = 140, 60
"""Of 336 and 240; of these 60 the teacher had 46 right, of all 196."""
FEWER = [
    *("--set", f"contexts.hotel.inputs={{file: quickstart/messages.jsonl, limit: {INPUTS}}}"),
    *("--set", f"evaluate.data.limit={HELD_OUT}"),
]
DEMO = [sys.executable, "-m", "unprompt", "demo", *FEWER, "--out"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished demo."""
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    done = subprocess.run([*DEMO, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_prompt_disappears(run: Path) -> None:
    context = RunDir(run).report()["contexts"]["hotel"]
    accuracy = {
        system: values["metrics"]["accuracy"]["mean"]
        for system, values in context["systems"].items()
    }
    assert accuracy["teacher"] >= 0.70
    assert accuracy["before"] <= 0.15
    assert accuracy["after"] >= accuracy["teacher"] - 0.03
    assert context["systems"]["after"]["gap_closed"]["value"] >= 0.80
    assert context["times_fewer_prompt_tokens"] >= 30
    assert context["lessons"] >= 0.98 * context["inputs"]
    assert all(count == 0 for count in context["overlap"].values())
    again = subprocess.run([*DEMO, str(run)], capture_output=True, text=True)
    assert "nothing was done" in again.stdout


def test_the_pages_with_the_real_model(run: Path, chromium: Any) -> None:
    """Try gives the graded answers; three people rate at once, one reloads in the middle, and
    nothing is lost.
    """
    graded = {
        grade.system: grade.text
        for grade in read_grades(run / "grades.parquet")
        if grade.example_id == "h001"
    }
    with serving(run, ["teacher", "after"], 2) as address:
        page, wrong = opened(chromium, f"{address}/try/")
        page.locator("#example input").click()
        page.get_by_role("option", name="h001").click()
        page.wait_for_function("document.querySelector('#field-0 textarea').value != ''")
        page.locator("#ask").click()
        for system in ("teacher", "before", "after"):
            wait_for(page, f"#figures-{system}", "written")
            assert value(page, f"answer-{system}") == visible(graded[system])
        people = {name: opened(chromium, f"{address}/rate/") for name in ("ann", "bob", "cy")}
        expected: dict[str, dict[str, int]] = {name: {} for name in people}
        for name, (page, _) in people.items():
            page.locator("#name input, #name textarea").fill(name)
            page.locator("#start").click()
        for done in range(4):
            for number, (name, (page, _)) in enumerate(people.items()):
                wait_for(page, "#progress", f"{done} of 4 rated as {name}")
                expected[name][value(page, "id")] = (done + number) % 5 + 1
                page.locator(f"#rate-{(done + number) % 5 + 1}").click()
            if done == 1:
                wait_for(people["bob"][0], "#progress", "2 of 4")
                people["bob"][0].reload()
        for page, _ in people.values():
            wait_for(page, "#progress", "all rated, thank you")
    assert ballots.given(run / rate.BALLOTS) == expected
    assert [wrong, *(found for _, found in people.values())] == [[], [], [], []]
