"""Run folders and the user's cache: what is listed, what is removed, and what is not."""

from __future__ import annotations

import fcntl
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import tiny_recipe
from unprompt import cli
from unprompt.messages import UserError
from unprompt.recipe import parse
from unprompt.store.folder import RunDir
from unprompt.tools import cache, runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    """A finished run, made from Python without a name or a folder."""
    home = tmp_path_factory.mktemp("home")
    written = tiny_recipe(decoder_folder)
    del written["name"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run = unprompt.run(parse(written))
    return home / run.folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The run, one that was stopped, and what is no run."""
    shutil.copytree(finished, tmp_path / "runs" / "one")
    stopped = tmp_path / "runs" / "two"
    shutil.copytree(finished, stopped)
    for name in ("report.json", "state.json", "copies/state.json"):
        (stopped / name).unlink()
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "runs" / "notes" / "recipe.yaml").write_text("mine")
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "runs" / "one")
    return tmp_path / "runs"


def never(question: str) -> bool:
    raise AssertionError(question)


def test_runs_are_listed_with_verdict_size_and_state(folder: Path) -> None:
    _, columns, rows, lines = runs.listed(folder)
    assert columns == ["run", "last written", "verdict", "size", "state"]
    assert {row[0]: (row[2], row[4]) for row in rows} == {
        "one": ("look closer", "finished"),
        "two": ("-", "stopped; run its recipe again to go on"),
    }
    size = sum(file.stat().st_size for file in (folder / "one").rglob("*") if file.is_file())
    assert next(row[3] for row in rows if row[0] == "one") == f"{size / 1e6:,.1f} MB"
    assert lines[0].startswith("2 runs in ")
    assert [row[0] for row in runs.listed(folder / "one")[2]] == ["one"], "of one run itself"
    assert runs.listed(folder / "notes")[3] == [f"no runs in {folder / 'notes'}"]
    with pytest.raises(UserError, match="there is no such folder"):
        runs.listed(folder / "none")


@pytest.mark.parametrize("damage", ["{", "[]", '{"verdict": 3}'])
def test_a_broken_report_is_listed_too(folder: Path, damage: str) -> None:
    (folder / "one" / "report.json").write_text(damage)
    assert {row[0]: row[2] for row in runs.listed(folder)[2]} == {"one": "-", "two": "-"}


def test_a_run_is_removed_when_that_is_wanted(folder: Path) -> None:
    asked = list[str]()

    def no(question: str) -> bool:
        asked.append(question)
        return False

    assert runs.remove(folder / "one", sure=False, ask=no) == ["nothing was removed"]
    assert "finished, verdict: look closer" in asked[0]
    assert (folder / "one" / "report.json").is_file()
    [said] = runs.remove(folder / "one", sure=False, ask=lambda _: True)
    assert said.startswith("removed ")
    assert not (folder / "one").exists()
    (folder / "two" / "student").rename(folder / "kept")
    (folder / "two" / "student").symlink_to(folder / "kept")
    runs.remove(folder / "two", sure=True, ask=never)
    assert not (folder / "two").exists()
    assert any((folder / "kept").iterdir()), "what a link leads to stays"


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("notes", "this is no run's folder"),
        ("none", "this is no run's folder"),
        (".", "this is no run's folder"),
        ("link", "this is a link"),
    ],
)
def test_what_is_no_run_is_not_removed(folder: Path, named: str, said: str) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=said):
        runs.remove(folder / named, sure=True, ask=never)
    assert sorted(folder.rglob("*")) == before


def test_a_run_at_work_is_not_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "one" / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert {row[0]: row[4] for row in runs.listed(folder)[2]}["one"] == "at work"
        with pytest.raises(UserError, match="a run is at work here"):
            runs.remove(folder / "one", sure=True, ask=never)
    monkeypatch.chdir(folder / "one" / "student")
    with pytest.raises(UserError, match="you are in this folder"):
        runs.remove(folder / "one", sure=True, ask=never)
    assert (folder / "one" / "report.json").is_file()


def test_unnamed_recipes_have_folders_of_their_own(finished: Path, decoder_folder: Path) -> None:
    """By what is distilled; other settings go on in the same folder."""
    assert finished.parent.name == "runs"
    assert finished.name.startswith("run-")
    written = tiny_recipe(decoder_folder)
    del written["name"]

    def name(**changes: Any) -> str:
        return RunDir.of(parse(written | changes)).folder.name

    assert name() == name(seed=3) == name(train={"epochs": 9}) == finished.name
    other = written["contexts"]["colours"] | {"student": "colour {{ text }}:"}
    names = {name(), name(contexts={"colours": other}), name(contexts={"c": other})}
    assert len(names) == 3
    assert name(name="run") == "run", "as it is called"
    assert RunDir.of(parse(written), "runs/run").folder == Path("runs/run")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))
    models = tmp_path / "cache" / "models"
    for name, size in (("small-0123abcd", 100_000), ("big-89abcdef", 3_000_000)):
        (models / name).mkdir(parents=True)
        (models / name / "model.safetensors").write_bytes(bytes(size))
    (models / "big-89abcdef.77.partial").mkdir()
    (models / ".rule-89abcdef.partial").mkdir()
    (models / "my own folder").mkdir()
    return models


def test_the_cache_is_listed_and_cleared(cached: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (cached / "link-0123abcd").symlink_to(outside)
    _, _, rows, lines = cache.listed()
    assert [row[:2] for row in rows[:2]] == [
        ["big-89abcdef", "3.0 MB"],
        ["small-0123abcd", "0.1 MB"],
    ]
    assert len(rows) == 4
    assert "3.1 MB" in lines[0]
    assert str(cached) in lines[0]
    [said] = cache.clear()
    assert said.startswith("removed 4 converted models")
    assert said.endswith("not ours, and kept: 2")
    assert {each.name for each in cached.iterdir()} == {"my own folder", "link-0123abcd"}
    assert cache.listed()[2] == []
    shutil.rmtree(cached)
    assert cache.listed()[3] == [f"no converted models in {cached}"]
    assert cache.clear()[0].startswith("removed 0 ")


def test_the_commands(
    folder: Path,
    cached: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def said(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["unprompt", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capfd.readouterr()
        return int(end.value.code or 0), told.out + told.err

    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert "look closer" in said("runs", str(folder))[1]
    code, told = said("rm", str(folder / "one"))
    assert (code, "--yes" in told) == (2, True), "nobody is there to ask"
    assert (folder / "one").is_dir()
    assert said("rm", str(folder / "one"), "--yes")[0] == 0
    assert not (folder / "one").exists()
    assert "big-89abcdef" in said("cache")[1]
    assert "removed 4 converted models" in said("cache", "--clear")[1]
