"""Run these tests and write what they counted into docs/reliability.md: `python
tests/faults/table.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by tests/faults/table.py -->", "<!-- end of faults -->"
HEAD = [
    "fault",
    "injected",
    "survived",
    "records lost",
    "asked twice",
    "beyond the unfinished batch",
]
FEWER = {"kill -9 of a Ray worker", "kill -9 of the server", "finished run: a file damaged", "all"}
"""Of which a suite that makes no table puts in fewer."""
VARYING = {"kill -9 of the driver", "kill -9 of the trainer"}
"""Which of the two a kill hits hangs on how often a run writes, which its libraries decide;
together they are always as many."""


def rows(counts: dict[str, dict[str, int]]) -> list[list[str]]:
    """The table's cells."""
    numbers = [
        [counts[kind][name] for name in ("injected", "survived", "lost", "again", "beyond")]
        for kind in sorted(counts)
    ]
    found = [[kind, *map(str, row)] for kind, row in zip(sorted(counts), numbers, strict=True)]
    return [*found, ["all", *(str(sum(column)) for column in zip(*numbers, strict=True))]]


def in_page() -> list[list[str]]:
    """The cells that the page has."""
    text = PAGE.read_text("utf-8")
    lines = text[text.index(BEGIN) : text.index(END)].splitlines()[4:]
    return [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in lines
        if line.startswith("|")
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counts.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            str(HERE),
            "--deselect",
            "tests/faults/test_zz_table.py",
        ]
        code = subprocess.run(
            command, env={**os.environ, "UNPROMPT_FAULTS": str(path)}, check=False
        ).returncode
        if code:
            sys.exit(code)
        found = rows(json.loads(path.read_text()))
    table = [HEAD, ["---", *["---:"] * (len(HEAD) - 1)], *found]
    text = PAGE.read_text("utf-8")
    lines = "\n".join(f"| {' | '.join(row)} |" for row in table)
    PAGE.write_text(
        text[: text.index(BEGIN)] + f"{BEGIN}\n\n{lines}\n\n" + text[text.index(END) :], "utf-8"
    )


if __name__ == "__main__":
    main()
