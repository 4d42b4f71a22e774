"""Runs that share a store, locks that are none, and folders that are moved under a run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from folders import digests
from unprompt import UserError, pipeline
from unprompt.recipe import Recipe
from unprompt.stages import collect
from unprompt.stages.train.loop import LessonTrainer
from unprompt.store import files
from unprompt.store.answers import Parts
from unprompt.store.files import replacing
from unprompt.store.folder import RunDir
from unprompt.store.places import put

Make = Callable[..., Recipe]


# -- one store, several runs -----------------------------------------------------------------------


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "part-x.parquet"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as two:
            assert one != two
            two.write_text("two")
        assert path.read_text() == "two"
        assert one.read_text() == "one", "the other's was taken away"
    assert path.read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_two_writers_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "student") as one:
        one.mkdir()
        (one / "weights").write_text("one")
        with replacing(tmp_path / "student") as two:
            two.mkdir()
            (two / "weights").write_text("two")
        assert (one / "weights").read_text() == "one"
    assert (tmp_path / "student" / "weights").read_text() == "one"


def test_what_fails_leaves_nothing_aside(tmp_path: Path) -> None:
    def half() -> None:
        with replacing(tmp_path / "a") as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    stale, young = tmp_path / ".a.json.7-0123abcd.partial", tmp_path / ".b.json.8-0123abcd.partial"
    folder, users = tmp_path / ".c.9-0123abcd.partial", tmp_path / ".mine.partial"
    folder.mkdir()
    (folder / "weights").write_text("half")
    for path in (stale, young, users):
        path.write_text("half")
    for path in (stale, folder, users):
        os.utime(path, (1e9, 1e9))
    put(tmp_path / "new", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [young.name, users.name, "new"]
    )
    with RunDir(tmp_path).locked():
        gone = not Path("/proc/8").exists()
        assert young.exists() != gone, "in a run's own folder nobody else writes"


def test_a_broken_part_that_another_run_has_set_aside(
    tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny(store=str(tmp_path / "store"))
    pipeline.run(made, tmp_path / "a")
    (first, *_) = sorted((tmp_path / "store").glob("*/part-*.parquet"))
    count = len(Parts(first.parent).paths)
    first.write_bytes(first.read_bytes()[:-9])
    read = Path.read_bytes

    def slower(path: Path) -> bytes:
        data = read(path)
        if path == first:
            path.rename(path.with_suffix(".broken"))
        return data

    monkeypatch.setattr(Path, "read_bytes", slower)
    assert len(Parts(first.parent).paths) == count - 1


def test_a_store_that_is_a_link_and_two_runs_on_it(tiny: Make, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "real")
    made = tiny(store=str(tmp_path / "store"))
    pipeline.run(made, tmp_path / "a")
    assert list((tmp_path / "real").glob("*/part-*.parquet"))
    assert pipeline.run(made, tmp_path / "a").unchanged
    pipeline.run(made, tmp_path / "b")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    (part, *_) = sorted((tmp_path / "real").glob("*/part-*.parquet"))
    part.unlink()
    assert not pipeline.run(made, tmp_path / "a").unchanged
    assert part.exists()


# -- locks that are none ---------------------------------------------------------------------------


def _link(path: Path, other: Path) -> None:
    path.symlink_to(other)


LOCKS: dict[str, Callable[[Path, Path], object]] = {
    "a link to a file": _link,
    "a link to nothing": lambda path, other: path.symlink_to(other / "nothing"),
    "a link to a folder": lambda path, other: path.symlink_to(other.parent),
    "a folder": lambda path, _: path.mkdir(),
    "a pipe": lambda path, _: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", LOCKS)
def test_a_lock_that_is_no_file_of_ours(kind: str, tmp_path: Path) -> None:
    run, precious = RunDir(tmp_path / "run"), tmp_path / "precious"
    precious.write_text("of somebody else")
    run.folder.mkdir()
    LOCKS[kind](run.folder / ".lock", precious)
    line = "is no file of ours, but a link, a folder or a pipe -> "
    with pytest.raises(UserError, match=line), run.locked():
        pass
    assert precious.read_text() == "of somebody else"
    assert not (tmp_path / "precious" / "nothing").exists()


def test_a_lock_that_shares_its_bytes_with_another_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("of somebody else")
    (tmp_path / "run").mkdir()
    os.link(tmp_path / "precious", tmp_path / "run" / ".lock")
    with RunDir(tmp_path / "run").locked():
        pass
    assert (tmp_path / "precious").read_text() == "of somebody else"


# -- folders that are moved ------------------------------------------------------------------------

MOVES: dict[str, Callable[[Path], object]] = {
    "moved": lambda run: run.rename(run.with_name("moved")),
    "moved, and another in its place": lambda run: (
        run.rename(run.with_name("moved")),
        run.mkdir(),
        (run / ".lock").touch(),
    ),
    "its lock is gone": lambda run: (run / ".lock").unlink(),
    "removed": shutil.rmtree,
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("stage", ["answers", "training"])
def test_a_folder_that_is_moved_while_a_run_is_at_work(
    stage: str, move: str, tiny: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "run", list[Any]()
    told = {"report": {"watch": 0, "sampled": 0}}
    ask, compute = collect.Asking.ask, LessonTrainer.compute_loss

    def moving(verb: Any, at: int) -> Any:
        def moved(*given: Any, **options: Any) -> Any:
            done = verb(*given, **options)
            asked.append(1)
            if len(asked) == at:
                MOVES[move](out)
            return done

        return moved

    with monkeypatch.context() as patch:
        if stage == "answers":
            patch.setattr(collect.Asking, "ask", moving(ask, 1))
        else:
            patch.setattr(LessonTrainer, "compute_loss", moving(compute, 3))
        with pytest.raises(UserError, match="was moved or removed while the run was at work"):
            pipeline.run(tiny(**told, batch_size=1), out)
    assert files._HELD == {}
    left = {path.name for path in out.iterdir()} if out.exists() else set()
    if move != "its lock is gone":
        assert left <= {".lock"}, "nothing is made anew at the old place"
    there = tmp_path / "moved" if move.startswith("moved") else out
    if move == "removed":
        return
    kept = {path.name for path in there.glob("completions/*/part-*.parquet")}
    assert kept
    monkeypatch.setattr(collect.Asking, "ask", moving(ask, 0))
    asked.clear()
    pipeline.run(tiny(**told, batch_size=1), there)
    parts = list(there.glob("completions/*/part-*.parquet"))
    assert len(asked) == len(parts) - len(kept), "what was there is not asked again"
    assert kept <= {path.name for path in parts}
    assert not re.search("checkpoint", " ".join(path.name for path in there.iterdir()))
