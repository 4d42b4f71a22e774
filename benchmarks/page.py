"""How long a report of many held-out examples takes: its numbers, its browser's rows, the page, and
opening it.

    python benchmarks/page.py [--examples 10000]

Answers of 40 words to messages of 20 by three systems, a teacher's prompt of 4,000 words, KL of
each of 40 pieces: all drawn at random. Opening is measured in headless Chromium (extra `dev`, and a
browser on the PATH) from disk, without network, until the first example shows; then the time of a
filter and of a search.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from unprompt import report
from unprompt.recipe import parse
from unprompt.records import Example, Grade, Prompt, TokenKL
from unprompt.report import Evidence, held_out
from unprompt.stages.prompts import Side
from unprompt.store.tables import write_rows

WORDS = [
    "room",
    "bill",
    "pool",
    "noise",
    "breakfast",
    "key",
    "parking",
    "wifi",
    "late",
    "early",
    "thanks",
    "please",
    "towels",
    "booking",
]
SYSTEMS = ("teacher", "before", "after")
FACTS = {
    "inputs": 336,
    "taught_by": ["teacher"],
    "lessons": 336,
    "failed_extractions": {"reasons": {}, "examples": []},
    "cut_at_limit": 0,
    "overlap": {},
    "drawn": {},
    "filtered": {},
}
ROUND = {
    "contexts": ["hotel"],
    "start": "base",
    "teacher": "base",
    "lessons": 336,
    "replayed": 0,
    "weighted_tokens": 672,
    "steps": 2,
    "first_loss": 2.0,
    "last_loss": 1.0,
    "log": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}],
}


def sentence(length: int) -> str:
    return " ".join(random.choice(WORDS) for _ in range(length))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    count = parser.parse_args().examples
    random.seed(0)
    examples = [
        Example(f"e{n}", {"text": sentence(20)}, random.choice(WORDS[:8])) for n in range(count)
    ]
    prefix = f"Message: {sentence(4000)}\n"
    student = [Prompt(e.id, "hotel", f"Message: {e.fields['text']}\nTopic:") for e in examples]
    teacher = [
        Prompt(e.id, "hotel", f"{prefix}{own.content}")
        for e, own in zip(examples, student, strict=True)
    ]
    grades = [
        Grade(
            e.id,
            "hotel",
            system,
            sentence(40),
            str(e.target),
            e.target,
            4900 if system == "teacher" else 30,
            40,
            None,
            {"accuracy": float(random.random() < 0.8)},
        )
        for system in SYSTEMS
        for e in examples
    ]
    pieces = [[f"{word} " for word in sentence(40).split()] for _ in examples]
    kl = {
        system: TokenKL(
            [e.id for e in examples],
            pieces,
            [[random.random() for _ in range(40)] for _ in examples],
        )
        for system in ("before", "after")
    }
    recipe = parse(
        {
            "name": "many",
            "model": "none/needed",
            "evaluate": {"data": [{"text": "x", "target": "key"}], "metrics": ["accuracy"]},
            "contexts": {
                "hotel": {
                    "inputs": [{"text": "x"}],
                    "teacher": "{{ text }}",
                    "student": "{{ text }}",
                }
            },
        }
    )
    took: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()

        def done(what: str) -> None:
            took[what] = time.perf_counter() - began - sum(took.values())

        evidence = Evidence(
            recipe, {"hotel": FACTS}, grades, {"hotel": kl}, {}, {"after": ROUND}, "student"
        )
        found = report.numbers(evidence)
        done("numbers, with their intervals")
        rows = held_out("hotel", examples, Side(student, [], ()), Side(teacher, [], ()), kl)
        write_rows(Path(folder, "examples.parquet"), [row.row() for row in rows])
        done("examples.parquet")
        page = Path(folder, "report.html")
        page.write_text(report.page(found, rows, grades), "utf-8")
        done("report.html")
        whole = sum(took.values())
        print(f"| {count:,} examples | seconds |\n|---|---|")
        for what, seconds in [
            *took.items(),
            ("**together** (goal: under 20)", whole),
            *opening(page),
        ]:
            print(f"| {what} | {seconds:.2f} |")
        print(f"\nreport.html: {page.stat().st_size / 1e6:.1f} MB")


def opening(page: Path) -> list[tuple[str, float]]:
    """Seconds until the page shows its examples, the median of three, and of a filter and a search
    then.
    """
    from playwright.sync_api import sync_playwright

    browser = next(
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    )
    times: dict[str, list[float]] = {"**opening** (goal: under 2)": [], "filter": [], "search": []}
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for _ in range(3):
            tab = started.new_context(offline=True).new_page()
            began = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector(".ex")
            times["**opening** (goal: under 2)"].append(time.perf_counter() - began)
            began = time.perf_counter()
            tab.locator("[data-filter=lost]").click()
            times["filter"].append(time.perf_counter() - began)
            before, began = tab.locator("#found").inner_text(), time.perf_counter()
            tab.locator("#query").fill("towels booking pool")
            tab.wait_for_function(
                "said => document.querySelector('#found').innerText != said", arg=before
            )
            times["search"].append(time.perf_counter() - began)
        started.close()
    return [(what, sorted(found)[1]) for what, found in times.items()]


if __name__ == "__main__":
    main()
