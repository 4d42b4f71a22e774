"""What an addition costs: each worked diff of docs/extend.md applies to the package as it is,
touches as many files as its heading says, keeps the style, and does its work in a run.

Where the package has moved on beneath a diff, make the addition again by hand, and put what
`git diff -U2` says into the page.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import additions
import forked

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "unprompt"
FILES = {"metric": 2, "label": 2, "section": 2, "source": 2, "engine": 3}
ADDITION = re.compile(
    r"^### An? (\w+)[^\n]*: (\d) files\n.*?^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
LIST = re.compile(r"^## To add an? (\w+).*?\n\n(.*?)(?=^## )", re.MULTILINE | re.DOTALL)


def worked() -> dict[str, tuple[int, str]]:
    """Addition -> the files that it costs by its heading, and its diff."""
    page = (ROOT / "docs" / "extend.md").read_text("utf-8")
    chapter = page.partition("## Five worked additions\n")[2]
    return {name: (int(files), diff) for name, files, diff in ADDITION.findall(chapter)}


def lists() -> dict[str, str]:
    """Addition -> the lines of CONTRIBUTING.md on it."""
    return dict(LIST.findall((ROOT / "CONTRIBUTING.md").read_text("utf-8")))


def sources(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def checked(*command: str | Path, cwd: Path, given: str = "", **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        input=given,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_headings_say_what_additions_may_cost() -> None:
    assert {name: files for name, (files, _) in worked().items()} == FILES
    assert additions.USES.keys() == FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_the_list_for_contributors_has_five_lines_and_names_the_files(name: str) -> None:
    steps = lists()[name].splitlines()
    assert [line[:3] for line in steps if line] == ["1. ", "2. ", "3. ", "4. ", "5. "]
    diff = worked()[name][1]
    files = re.findall(r"^--- (\S+)\n\+\+\+ b/src/unprompt/(\S+)", diff, re.MULTILINE)
    assert len(files) == FILES[name]
    for before, after in files:
        sought = after if before != "/dev/null" else f"{Path(after).parent}/"
        assert f"`{sought}`" in lists()[name], sought


@pytest.fixture(scope="module")
def used(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Addition -> how its use in a run ended; each is added to a copy of the package of its own."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FILES}
    for name, folder in folders.items():
        shutil.copytree(
            PACKAGE, folder / "src" / "unprompt", ignore=shutil.ignore_patterns("__pycache__")
        )
        # no repository that the temporary folder may lie in is asked; where a diff does not apply,
        # its own test finds that nothing was touched
        alone = {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        with contextlib.suppress(AssertionError):
            checked("git", "apply", "-", cwd=folder, given=worked()[name][1], **alone)
    told = [
        {
            "script": additions.__file__,
            "arguments": [name, str(decoder_folder), str(folder)],
            "folder": str(folder),
            "sources": [str(folder / "src")],
        }
        for name, folder in folders.items()
    ]
    before, touched = sources(PACKAGE), dict[str, list[str]]()
    for name, folder in folders.items():
        after = sources(folder / "src" / "unprompt")
        assert before.keys() <= after.keys()
        touched[name] = [path for path in after if after[path] != before.get(path)]
    said = checked(sys.executable, forked.__file__, cwd=ROOT, given=json.dumps(told))
    return {
        name: [*ended, folders[name] / "src" / "unprompt", touched[name]]
        for name, ended in zip(folders, json.loads(said.splitlines()[-1]), strict=True)
    }


@pytest.mark.parametrize("name", FILES)
def test_an_addition_works(name: str, used: dict[str, list[Any]]) -> None:
    code, said, package, touched = used[name]
    assert len(touched) == FILES[name], touched
    assert code == 0, said
    ruff, rules = Path(sys.executable).with_name("ruff"), ROOT / "pyproject.toml"
    changed = [package / path for path in touched]
    checked(ruff, "check", "--no-cache", "--config", rules, *changed, cwd=package)
    checked(ruff, "format", "--no-cache", "--check", "--config", rules, *changed, cwd=package)
