"""The blocks of README and tutorial run as they stand; what they promise about the files of the
project is true.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import forked
import shallow

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MADE = {"make demo": "demo:", "make test": "test:"}
"""Commands of the README that set up a machine: this test runs under the second of them, and
tests/test_quickstart.py does what the first does."""

LISTED = ("ordinary", "edge", "short", "long", "off_topic", "breaking")
LESS = [
    "--no-measure",
    *("--set", "batch_size=8"),
    *("--set", "contexts.main.inputs.from_prompt.count=3"),
    *("--set", "contexts.main.inputs.from_prompt.max_new_tokens=32"),
    *("--set", "contexts.main.inputs.from_prompt.tries=40"),
    *("--set", f"contexts.main.inputs.from_prompt.stop={list('aeou,.')}"),
    *("--set", "contexts.main.inputs.from_prompt.coverage=false"),
    # instructions are cases already, so that the writer lists none
    *("--set", f"contexts.main.inputs.from_prompt.kinds={dict.fromkeys(LISTED, 0)}"),
    *("--set", "sampling.max_new_tokens=12"),
    *("--set", "train.epochs=1"),
    *("--set", "report.instructions=0"),
]
"""What cuts a whole `distill` down."""


def blocks(page: str) -> list[tuple[str, str | None, str]]:
    return [
        (kind, title or None, text)
        for kind, title, text in BLOCK.findall((ROOT / page).read_text())
    ]


def run_blocks(page: str, folder: Path) -> str:
    """Write the titled blocks, run the others, in the page's order; returns what was printed.
    `distill` has only the first layers of its model.
    """
    (folder / "ahead").mkdir()
    ahead = [str(shallow.package(folder / "ahead"))]
    told = list[dict[str, Any]]()
    for number, (kind, title, text) in enumerate(blocks(page)):
        if title:
            (folder / title).write_text(text)
        elif kind == "python":
            script = folder / f"block-{number}.py"
            script.write_text(text)
            told.append({"script": str(script), "arguments": []})
        elif kind == "bash":
            for line in text.splitlines():
                command, *arguments = shlex.split(line)
                less = arguments[0] == "distill"
                words = [*arguments, *LESS] if less else arguments
                script = str(Path(sys.executable).with_name(command))
                told.append({"script": script, "arguments": words, "sources": ahead * less})
    return said_by(told, folder)


def said_by(told: list[dict[str, Any]], folder: Path) -> str:
    """What scripts say, one run after the other; all end well."""
    ours = [str(ROOT / "src")]
    told = [
        each | {"folder": str(folder), "sources": [*each.get("sources", []), *ours]}
        for each in told
    ]
    done = subprocess.run(
        [sys.executable, forked.__file__],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=True,
    )
    said = ""
    for each, (code, words) in zip(told, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert code == 0, f"{each}\n{words}"
        said += words
    return said


def test_the_tutorial_runs(tmp_path: Path) -> None:
    said = run_blocks("docs/tutorial.md", tmp_path)
    assert (tmp_path / "distilled" / "prompt" / "run" / "report.html").is_file()
    assert re.search(r"^verdict on 'after': \S", said, re.MULTILINE)
    assert "quality is unknown" not in said
    assert "the recipe is in order" in said
    assert "gap closed" in said
    assert "teacher's completion" in said
    assert said.rstrip().splitlines()[-1].startswith("True"), (
        "the run from Python has the settings of the one before"
    )


def test_the_readme_runs(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    shell = [
        line
        for kind, _, text in blocks("README.md")
        if kind == "bash"
        for line in text.splitlines()
    ]
    assert {line.split("#")[0].strip() for line in shell} == set(MADE)
    assert all(f"\n{target}" in makefile for target in MADE.values())
    python = [text for kind, _, text in blocks("README.md") if kind == "python"]
    assert len(python) == 1
    (tmp_path / "example.py").write_text(python[0])
    said = said_by([{"script": str(tmp_path / "example.py"), "arguments": []}], tmp_path)
    after = re.search(
        r"^after ([\d.]+) \{'value': ([\d.]+), 'low': ([\d.]+), 'high': ([\d.]+)\}$",
        said,
        re.MULTILINE,
    )
    assert after, said
    accuracy, value, low, high = map(float, after.groups())
    assert accuracy > 0.5
    assert 0.5 < low < value < high, "most of the gap is closed, and the interval has a width"


@pytest.mark.parametrize(
    "page",
    [str(p.relative_to(ROOT)) for p in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])],
)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_the_equations_are_where_the_page_says() -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([^`]+\.py)` \| `(.+)` \|$", page, re.MULTILINE)
    assert len(rows) >= 12
    for file, line in rows:
        source = (ROOT / "src" / "unprompt" / file).read_text()
        assert _squeezed(source).count(_squeezed(line)) == 1, f"{file}: {line}"


def _squeezed(code: str) -> str:
    """Code however the formatter breaks it into lines."""
    return re.sub(r",(?=[)\]}])", "", re.sub(r"\s", "", code))


def test_the_functions_of_the_extend_page_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(text for kind, _, text in blocks("docs/extend.md") if kind == "python")
    (tmp_path / "mine.py").write_text(source)
    from unprompt import metrics
    from unprompt.recipe import Data, Extract
    from unprompt.stages import inputs
    from unprompt.stages.lessons.extract import Span, extract

    rows = inputs.load(Data(rule="mine:numbers", args={"count": 3}), "inputs", str(tmp_path))
    assert [row.target for row in rows] == ["0", "2", "4"]
    assert extract(
        Extract(keep="mine:last_word"), "it is 42", "end", modules=str(tmp_path)
    ) == Span(6, 8)
    assert metrics.find("mine:close_enough", "metrics", str(tmp_path)).function("3", rows[1]) == 1
    words = metrics.find("mine:words", "metrics", str(tmp_path))
    assert (words.function("a b c", rows[1]), words.needs_gold, words.is_share) == (3, False, False)


def test_the_tree_names_the_files_that_there_are() -> None:
    """Every module stands in the tree of docs/architecture.md, and nothing else; a room's
    `__init__.py` is its own line.
    """
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    tree = page.partition("src/unprompt/\n")[2].partition("```")[0]
    named: set[str] = set()
    rooms: list[str] = []
    for indent, entry in re.findall(r"^( +)(\S+)", tree, re.MULTILINE):
        rooms = rooms[: len(indent) // 2 - 1]
        named.add("/".join([*rooms, entry.rstrip("/")]))
        if entry.endswith("/"):
            rooms.append(entry.rstrip("/"))
    package = ROOT / "src" / "unprompt"
    there = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert named == {path.removesuffix("/__init__.py") for path in there}


def test_hooks_are_the_versions_that_are_installed() -> None:
    lock = (ROOT / "locks" / "test.txt").read_text("utf-8")
    pinned = dict(re.findall(r"^(\S+)==(\S+)", lock, re.MULTILINE))
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    revisions = {hook["repo"].rpartition("/")[2]: hook.get("rev", "") for hook in hooks}
    assert revisions["ruff-pre-commit"] == f"v{pinned['ruff']}"
    assert revisions["codespell"] == f"v{pinned['codespell']}"
