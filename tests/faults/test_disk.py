"""A disk that is full, may not be written, or gives back other bytes than were written; and clocks
that jump.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faults.conftest import Counts, Warm, Whole, asked_twice, lost, same
from folders import digests
from unprompt.messages import UserError
from unprompt.recipe import Sampling
from unprompt.records import BASE, Completion, Prompt, SoftLabels
from unprompt.stages import collect
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.store.tables import read_grades, read_part, write_grades

FULL = [
    "recipe.yaml",
    "completions/{store}/{first}",
    "completions/{store}/{last}",
    "completions/{store}/seconds.json",
    "lessons.parquet",
    "train_log.json",
    "state.json",
    "grades.parquet",
    "report.html",
]


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk(
    name: str, warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """Where this file is written there is no space left (the kernel's own /dev/full); then there
    is.
    """
    out = tmp_path / "run"
    store = min(
        (whole.folder / "completions").iterdir(), key=lambda store: store.stat().st_ctime_ns
    )
    parts = sorted(store.glob("part-*.parquet"), key=lambda part: part.stat().st_ctime_ns)
    path = out / name.format(store=store.name, first=parts[0].name, last=parts[-1].name)
    line = warm.refused(recipe, out, full=str(path))
    assert "No space left on device" in line
    assert path.name in line
    warm.run(recipe, out)
    again, beyond = asked_twice(out, _processes(out))
    counts.note(
        "disk full",
        lost=lost(out, whole.folder),
        again=again,
        beyond=beyond,
        survived=same(out, whole),
    )


@pytest.mark.parametrize("size", [3_000, 6_000, 24_000])
def test_files_that_can_not_grow(
    size: int, warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """A limit on the size of a file, which PyTorch, safetensors and Arrow all word in their own
    ways.
    """
    out = tmp_path / "run"
    assert "can't be written" in warm.refused(recipe, out, largest_file=size)
    warm.run(recipe, out)
    again, beyond = asked_twice(out, _processes(out))
    counts.note(
        "disk full",
        lost=lost(out, whole.folder),
        again=again,
        beyond=beyond,
        survived=same(out, whole),
    )


def _processes(run: Path) -> set[int]:
    return (
        {json.loads(line)[0] for line in (run.parent / "asked.jsonl").read_text().splitlines()}
        if (run.parent / "asked.jsonl").exists()
        else set()
    )


@pytest.mark.parametrize("where", [".", "completions", "kl", "a file"])
def test_a_folder_that_may_not_be_written(
    where: str, warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """Root has to give up its power to write anyway for this one."""
    out = tmp_path / "run"
    out.mkdir()
    if where == "a file":
        (tmp_path / "file").write_text("")
        assert "can't be written: Not a directory" in warm.refused(
            recipe, tmp_path / "file" / "run"
        )
    else:
        (out / where).mkdir(exist_ok=True)
        (out / where).chmod(0o555)
        line = warm.refused(recipe, out, permissions=True)
        assert "can't be written: Permission denied -> choose another folder" in line
        (out / where).chmod(0o755)
    warm.run(recipe, out, permissions=True)
    again, beyond = asked_twice(out, _processes(out))
    counts.note(
        "folder that may not be written",
        lost=lost(out, whole.folder),
        again=again,
        beyond=beyond,
        survived=same(out, whole),
    )


# -- other bytes than were written -----------------------------------------------------------------


def cut(raw: bytearray, draw: random.Random) -> None:
    del raw[draw.randrange(len(raw)) :]


def flip(raw: bytearray, draw: random.Random) -> None:
    raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)


def blank(raw: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(raw))
    raw[start : start + 64] = bytes(len(raw[start : start + 64]))


class Fake:
    """Answers at once, always the same."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def generate(self, prompts: Any, *_: Any, **__: Any) -> list[Completion]:
        self.asked += [p.example_id for p in prompts]
        return [
            Completion(
                p.example_id,
                p.context,
                f"said {p.content}",
                (5, 6, n),
                "end",
                3,
                SoftLabels.hard([5, 6, len(p.content)]),
            )
            for n, p in enumerate(prompts)
        ]


def _asked(engine: Any, store: Path, count: int = 60) -> list[tuple[Any, ...]]:
    prompts = [Prompt(f"i{n}", "c", f"prompt {n}" * (n % 3)) for n in range(count)]
    side = Side(prompts, [len(p.content) for p in prompts], (0,))
    asked = Question(BASE, side, Sampling())
    found = collect.fill(collect.here(lambda: engine), store, asked, batch_size=5)
    return [
        (c.example_id, c.text, c.token_ids[:2], c.stop, c.labels and c.labels.ids.tolist())
        for c in found
    ]


@pytest.mark.parametrize("fault", [cut, flip, blank])
def test_a_broken_part_is_found_and_only_it_is_asked_again(
    fault: Callable[..., None], counts: Counts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, draw = tmp_path / "store", random.Random(fault.__name__)
    expected, injected, again = _asked(Fake(), store), 0, 0
    parts = sorted(store.glob("part-*.parquet"))
    whole = {path: path.read_bytes() for path in parts}
    for _ in range(60):
        path = draw.choice(parts)
        raw = bytearray(whole[path])
        fault(raw, draw)
        if raw == whole[path]:
            continue
        mine = [c.example_id for _, c in read_part(path)]
        path.write_bytes(raw)
        engine = Fake()
        assert _asked(engine, store) == expected
        injected += 1
        if engine.asked:  # not, where nothing hangs on the bytes: the same is read
            assert sorted(engine.asked) == sorted(mine)
            said = capsys.readouterr().err
            assert "BROKEN FILE" in said
            assert str(path) in said
            assert path.with_suffix(".broken").read_bytes() == bytes(raw)
            path.with_suffix(".broken").unlink()
            again += len(mine)
        path.write_bytes(whole[path])
    assert injected > 50
    kinds = {"cut": "cut", "flip": "with a flipped bit", "blank": "with 64 bytes lost"}
    counts.note(f"part file {kinds[fault.__name__]}", injected, again=again)


BROKEN = [
    "completions/*/part-*.parquet",
    "kl/*.tokens.json",
    "student/adapter_model.safetensors",
    "train_log.json",
    "state.json",
    "lessons.parquet",
    "completions/*/seconds.json",
    "student/adapter_config.json",
    "grades.parquet",
    "report.json",
]


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_of_a_run_that_was_cut(
    name: str, warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """Half of it is gone, and the report has to be made anew: it is made again, or one line names
    it.
    """
    out = tmp_path / "run"
    shutil.copytree(whole.folder, out)
    # the folder's name is part of what a finished run was made from, so all stages look at their
    # files again
    path = sorted(out.glob(name))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (out.parent / "asked.jsonl").touch()
    said = warm.run(recipe, out)
    lines = (out.parent / "asked.jsonl").read_text().splitlines()
    if "part-" in name:
        assert "BROKEN FILE" in said
        assert len(lines) == 1
        assert {p: q for p, q in digests(out).items() if path.name not in p} == {
            p: q for p, q in digests(whole.folder).items() if path.name not in p
        }
    else:
        assert lines == []
    counts.note("other file of a run cut", lost=lost(out, whole.folder), survived=same(out, whole))


def test_a_flipped_bit_in_the_student_is_found(
    warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole.folder, out)
    path = out / "student" / "adapter_model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.write_bytes(raw)
    said = warm.run(recipe, out)
    assert "BROKEN FILE" in said
    counts.note(
        "student's weights with a flipped bit",
        lost=lost(out, whole.folder),
        survived=same(out, whole),
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_clocks_that_jump(
    seed: int, warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """By up to ten years to and fro at every look, in a run that is stopped in the middle; and
    files that are younger than now.
    """
    out = tmp_path / "run"
    started = warm.start(
        recipe, out, clock=seed, moment={"kind": "change", "steps": whole.steps["change"] // 2}
    )
    assert started.wait() == -9
    for path in out.rglob("*"):
        os.utime(path, (2**32, 2**32) if seed == 1 else (1, 1))
    warm.run(recipe, out, clock=seed + 10)
    again, beyond = asked_twice(out, {started.id})
    counts.note(
        "clock that jumps",
        lost=lost(out, whole.folder),
        again=again,
        beyond=beyond,
        survived=same(out, whole),
    )
    assert "nothing was done" in warm.run(recipe, out, clock=seed + 20)


def test_what_no_checksum_of_ours_holds_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "grades.parquet"
    write_grades(path, [])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"grades\.parquet: can't be read: .* -> delete"):
        read_grades(path)
