"""Answers are on disk as they come, and a stop costs none that came in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import byte_tokenizer, decoder
from unprompt import engines
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling
from unprompt.records import BASE, Completion, Prompt, SoftLabels
from unprompt.stages import collect
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.store import journal
from unprompt.store.answers import Answers, Parts
from unprompt.store.journal import Journal, fold, part_name
from unprompt.store.places import Place, place
from unprompt.store.tables import read_completions

SAMPLED = Labels(kind="sampled", draws=20)
KEYS = ["a", "b", "c", "d"]


def answer(key: str) -> Completion:
    """With labels of another length each."""
    count = ord(key) - ord("a")
    parts = [SoftLabels.hard([n, n + 1]) for n in range(count)]
    return Completion(key, "c", f"é {key}", (1, count), "end", 3, SoftLabels.concat(parts))


def left_behind(store: Place, keys: list[str]) -> Journal:
    """A journal as a kill leaves it: nobody closes it."""
    found = Journal(store, part_name(KEYS))
    for key in keys:
        found.add([(key, answer(key))])
    if found._lines and found._lines._file:
        found._lines._file.close()  # the kernel does, of a killed process
    return found


def same(completion: Completion, key: str) -> bool:
    expected = answer(key)
    assert completion.labels is not None
    assert expected.labels is not None
    own, other = completion.labels, expected.labels
    assert own.ids.tolist() == other.ids.tolist()
    assert own.offsets.tolist() == other.offsets.tolist()
    assert own.teacher_nll.tolist() == other.teacher_nll.tolist()
    return (completion.text, completion.token_ids) == (expected.text, expected.token_ids)


def near(tmp_path: Path) -> Place:
    return tmp_path


def far(tmp_path: Path) -> Place:
    return place(f"memory://journal/{tmp_path.name}", "store")


@pytest.mark.parametrize("where", [near, far])
def test_what_a_kill_left_becomes_a_part(
    where: Callable[[Path], Place],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(journal, "PUT_EVERY", 0.0)
    store = where(tmp_path)
    left_behind(store, ["a", "b", "c"])
    assert not read_completions(store)
    fold(store)
    found = read_completions(store)
    assert all(same(found[key], key) for key in ("a", "b", "c"))
    assert len(found) == 3
    assert not list(store.glob("open-*"))
    assert "3 answers" in capsys.readouterr().err
    fold(store)
    assert "answers" not in capsys.readouterr().err


def test_behind_an_address_answers_are_put_every_now_and_then(tmp_path: Path) -> None:
    """Nothing can be added to a file there; what waits is written when the run is stopped."""
    store = far(tmp_path)
    found = Journal(store, part_name(KEYS))
    found.add([("a", answer("a"))])
    assert not list(store.glob("*"))
    found.__exit__(KeyboardInterrupt)
    assert list(read_completions(store)) == ["a"]


@pytest.mark.parametrize("cut", [1, 100, -2], ids=["most of a line", "a hundred bytes", "its end"])
def test_a_line_that_was_cut_is_left_out_and_said(
    cut: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(tmp_path, ["a", "b", "c"])
    (path,) = tmp_path.glob("open-*.lines")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:cut])
    fold(tmp_path)
    assert list(read_completions(tmp_path)) == ["a", "b"]
    said = capsys.readouterr().err
    assert "BROKEN FILE" in said
    assert "1 of 3 lines" in said


@pytest.mark.parametrize("at", [0, 4, 60, -3])
def test_a_line_that_has_changed_costs_no_other(
    at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(tmp_path, ["a", "b", "c"])
    (path,) = tmp_path.glob("open-*.lines")
    lines = [bytearray(line) for line in path.read_bytes().splitlines(keepends=True)]
    lines[1][at] ^= 1
    path.write_bytes(b"".join(lines))
    fold(tmp_path)
    assert list(read_completions(tmp_path)) == ["a", "c"]
    assert "1 of 3 lines" in capsys.readouterr().err


def test_the_journal_of_a_process_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_journal import KEYS, answer
from unprompt.store.journal import Journal, part_name
found = Journal(Path({str(tmp_path)!r}), part_name(KEYS))
found.add([("a", answer("a"))])
print("there", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "there\n"
        fold(tmp_path)
        assert not read_completions(tmp_path)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        fold(tmp_path)
    assert list(read_completions(tmp_path)) == ["a"]


def test_a_part_that_is_asked_again_goes_on_with_its_journal(tmp_path: Path) -> None:
    """As where a worker was lost, and another gets its part."""
    engine: Any = Told(KEYS)
    keys = question(KEYS).keys()
    before = Journal(tmp_path, part_name(keys))
    before.add([(keys[1], answer("b"))])
    missing = [collect.Missing(key, prompt(KEYS[n]), 1, None) for n, key in enumerate(keys)]
    asking = collect.Asking(tmp_path, Sampling(), None, 0, 2, (0,))
    part = asking.ask(engine, missing)
    assert engine.asked == ["a", "c", "d"]
    assert part.name.startswith(part_name(keys).removesuffix(".parquet"))
    assert not list(tmp_path.glob("open-*"))


# -- engines that are stopped ----------------------------------------------------------------------


def prompt(key: str) -> Prompt:
    return Prompt(key, "c", f"ask {key}")


def question(keys: list[str], labels: Labels | None = None, **changes: Any) -> Question:
    side = Side([prompt(key) for key in keys], [5] * len(keys), (0,))
    return Question(BASE, side, Sampling(max_new_tokens=6), labels, **changes)


class Told:
    """Tells each answer, and is stopped behind some."""

    def __init__(self, keys: list[str], stops: BaseException | None = None) -> None:
        self.asked, self._keys, self._stops = list[str](), keys, stops

    def generate(self, prompts: list[Prompt], *_: Any, done: Any, **__: Any) -> list[Completion]:
        for n, each in enumerate(prompts):
            if self._stops and n == 2:
                raise self._stops
            self.asked.append(each.example_id)
            done({n: answer(each.example_id)})
        return [answer(each.example_id) for each in prompts]

    def score(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("stops", [KeyboardInterrupt(), UserError("no"), MemoryError()], ids=repr)
def test_what_came_in_ahead_of_a_stop_is_not_asked_again(
    stops: BaseException, tmp_path: Path
) -> None:
    engine: Any = Told(KEYS, stops)
    with pytest.raises(type(stops)):
        collect.fill(collect.here(lambda: engine), tmp_path, question(KEYS))
    assert len(read_completions(tmp_path)) == 2
    assert not list(tmp_path.glob("open-*"))
    again: Any = Told(KEYS)
    found = collect.fill(collect.here(lambda: again), tmp_path, question(KEYS))
    assert sorted(engine.asked + again.asked) == KEYS
    assert [c.example_id for c in found] == KEYS


def test_one_more_input_asks_for_no_answer_that_a_kill_left(tmp_path: Path) -> None:
    """The parts are cut otherwise then."""
    keys = question(KEYS).keys()
    found = Journal(tmp_path, part_name(keys))
    found.add([(keys[0], answer("a")), (keys[2], answer("c"))])
    assert found._lines
    found._lines.close()
    more = [*KEYS, "e"]
    engine: Any = Told(more)
    collect.fill(collect.here(lambda: engine), tmp_path, question(more))
    assert engine.asked == ["b", "d", "e"]


class Stop(KeyboardInterrupt):
    """Ctrl-C at a moment that the test chooses."""


@pytest.fixture(scope="module")
def local() -> HFEngine:
    return HFEngine(decoder(3), byte_tokenizer())


def stopping(behind: int) -> Callable[[int], None]:
    """Progress that stops when so many are answered."""
    count = [0]

    def progress(more: int) -> None:
        count[0] += more
        if count[0] >= behind:
            raise Stop

    return progress


def collected(
    engine: HFEngine, store: Path, asked: Question, progress: Any = lambda n: None
) -> Answers:
    return collect.fill(collect.here(lambda: engine), store, asked, batch_size=2, progress=progress)


INPUTS = [f"i{n}" for n in range(4)]


@pytest.mark.parametrize("labels", [None, SAMPLED, Labels(kind="top_k", k=3)], ids=repr)
def test_a_local_model_s_answers_are_kept_when_it_is_stopped(
    labels: Labels | None, local: HFEngine, tmp_path: Path
) -> None:
    whole = collected(local, tmp_path / "whole", question(INPUTS, labels))
    asked = question(INPUTS, labels)
    with pytest.raises(Stop):
        collected(local, tmp_path / "run", asked, stopping(1))
    kept = len(read_completions(tmp_path / "run"))
    assert 0 < kept < len(INPUTS)
    found = collected(local, tmp_path / "run", asked)
    assert found.asked == len(INPUTS) - kept
    assert [c.text for c in found] == [c.text for c in whole]
    for own, other in zip(found, whole, strict=True):
        assert own.token_ids == other.token_ids
        if own.labels and other.labels:
            assert own.labels.ids.tolist() == other.labels.ids.tolist()
            assert own.labels.probs == pytest.approx(other.labels.probs, abs=1e-5)


def test_scores_of_a_local_model_are_kept_when_it_is_stopped(
    local: HFEngine, tmp_path: Path
) -> None:
    given = [("xy", (40 + n, 41)) for n in range(4)]
    asked = question(INPUTS, given=given)
    whole = collected(local, tmp_path / "whole", asked)
    with pytest.raises(Stop):
        collected(local, tmp_path / "run", asked, stopping(2))
    assert len(read_completions(tmp_path / "run")) == 2
    found = collected(local, tmp_path / "run", asked)
    assert found.asked == 2
    for own, other in zip(found, whole, strict=True):
        assert own.labels
        assert other.labels
        assert own.labels.teacher_nll == pytest.approx(other.labels.teacher_nll, abs=1e-5)


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_a_local_model_tells_what_is_whole_as_time_goes_by(
    every: float, local: HFEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of hours costs a kill no more than half a minute of it."""
    monkeypatch.setattr(engines, "DONE_EVERY", every)
    told, prompts = list[dict[int, Completion]](), [prompt(key) for key in INPUTS]
    found = local.generate(
        prompts, Sampling(max_new_tokens=6), SAMPLED, batch_size=2, done=told.append
    )
    assert bool(told) == (every == 0)
    for n, early in {n: each for part in told for n, each in part.items()}.items():
        assert early.token_ids == found[n].token_ids
        assert early.labels
        label = found[n].labels
        assert label
        assert early.labels.probs.tolist() == label.probs.tolist()
    scores = list[dict[int, SoftLabels]]()
    answers = [c.token_ids for c in found]
    local.score(prompts, answers, SAMPLED, batch_size=2, scored=scores.append)
    assert [sorted(each) for each in scores] == ([[0, 1], [2, 3]] if every == 0 else [])


def test_parts_of_an_undisturbed_run_are_cut_as_ever(tmp_path: Path) -> None:
    """Journals leave no trace: part files are named by their prompts, in the same order."""
    engine: Any = Told(KEYS)
    collect.fill(collect.here(lambda: engine), tmp_path, question(KEYS), batch_size=1)
    keys = question(KEYS).keys()
    names = sorted(part_name(each).removesuffix(".parquet") for each in (keys[:2], keys[2:]))
    expected = {path.name for path in Parts(tmp_path).paths}
    assert sorted(name.rpartition("-")[0] for name in expected) == names
    assert {path.name for path in tmp_path.iterdir()} == expected | {"seconds.json"}
