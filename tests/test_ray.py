"""Collecting by two Ray workers gives the bytes of one process, whatever is lost on the way; and
stores behind an address.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from conftest import tiny_recipe
from unprompt import cli, pipeline
from unprompt.engines import Engine
from unprompt.messages import UserError
from unprompt.recipe import Recipe, Sampling, parse
from unprompt.records import BASE, Completion, Prompt
from unprompt.stages import collect, weights
from unprompt.stages.cluster import Workers
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.store.answers import Parts
from unprompt.store.places import place
from unprompt.store.tables import read_completions, read_part

TWO = Workers("local", 2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A connection that all tests here share; each worker has one of its two processors."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't find the tests
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if not ray.is_initialized():
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("part-*.parquet"))
    }


# -- many workers ----------------------------------------------------------------------------------


def test_two_workers_one_of_them_killed(
    cluster: None, decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has answered some, two workers go on, one of them is killed in the middle of a
    part, then a part is lost, which one process asks again. The same records as of one undisturbed
    process, and to rounding the same student; nothing was asked in vain but the one part.
    """
    from safetensors.torch import load_file

    words = tiny_recipe(decoder_folder) | {"evaluate": None, "batch_size": 1}
    words["contexts"]["colours"]["inputs"] = [{"text": f"colour {n}"} for n in range(12)]
    recipe = parse(words)
    pipeline.run(recipe, tmp_path / "one")
    one, two = digests(tmp_path / "one"), tmp_path / "two"
    assert len(one) == 6
    done = next((tmp_path / "one").rglob("part-*.parquet"))
    kept = two / done.relative_to(tmp_path / "one")
    kept.parent.mkdir(parents=True)
    kept.write_bytes(done.read_bytes())
    before = kept.stat().st_mtime_ns

    make = weights.Weights._worker
    with monkeypatch.context() as patch:
        patch.setattr(
            weights.Weights,
            "_worker",
            lambda self, whose: partial(Mortal, make(self, whose), tmp_path / "asked"),
        )
        said = pipeline.collect(recipe, two, TWO)
    assert said[0].endswith("10 of them asked now")
    assert digests(two) == one
    assert kept.stat().st_mtime_ns == before
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    lost = [ids for who, *ids in asked if who == "killed"]
    assert len(lost) == 1
    assert sum(ids == lost[0] for who, *ids in asked if who != "killed") == 2
    assert len(asked) == 5 + 1 + 1  # the parts, the lost one again, and the note of the kill
    assert str(os.getpid()) not in {who for who, *_ in asked}

    kept.unlink()
    pipeline.run(recipe, two)
    assert digests(two) == one
    mine, theirs = (
        load_file(tmp_path / name / "student" / "adapter_model.safetensors")
        for name in ("one", "two")
    )
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert weight.allclose(theirs[name], rtol=1e-4, atol=1e-6)


class Mortal:
    """An engine that notes what it is asked, and kills its own process in the middle of the third
    part that anyone asks.
    """

    def __init__(self, make: Callable[[], Engine], notes: Path) -> None:
        self.engine, self.notes = make(), notes

    def generate(self, prompts: list[Prompt], *given: Any, **more: Any) -> list[Completion]:
        ids = " ".join(prompt.example_id for prompt in prompts)
        with self.notes.open("a") as file:
            print(os.getpid(), ids, file=file, flush=True)
        answered = self.engine.generate(prompts, *given, **more)
        if (
            len(self.notes.read_text().splitlines()) >= 3
            and not self.notes.with_name("killed").exists()
        ):
            self.notes.with_name("killed").touch()
            with self.notes.open("a") as file:
                print("killed", ids, file=file, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return answered


class Deadly:
    """Kills whoever asks it."""

    def generate(self, *_: Any, **__: Any) -> list[Completion]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class Refuses:
    """Answers one prompt, then has to stop."""

    def generate(self, prompts: list[Prompt], *_: Any, done: Any, **__: Any) -> list[Completion]:
        done({0: answer(prompts[0])})
        raise UserError("the budget is spent", where="budget", fix="raise it")


def answer(prompt: Prompt) -> Completion:
    return Completion(prompt.example_id, prompt.context, "x", (5,), "end", 1)


def asked_of(engine: Callable[[], Any], store: Any) -> list[str]:
    """What three prompts in one part come to; gives the ids that are in the store then."""
    prompts = [Prompt(f"i{n}", "c", f"text {n}") for n in range(3)]
    asked = Question(BASE, Side(prompts, [1, 2, 3], (0,)), Sampling())
    try:
        collect.fill(TWO.ask(engine, gpu=False), store, asked, batch_size=2)
    finally:
        kept = sorted(c.example_id for c in read_completions(store).values())
    return kept


def test_a_part_that_kills_every_worker_is_given_up(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="part with i2: a part was asked 3 times, and its worker died each time"
    ):
        asked_of(Deadly, tmp_path)


def test_a_refusal_comes_back_as_it_is_and_what_was_answered_is_kept(
    cluster: None, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        asked_of(Refuses, tmp_path)
    assert str(refused.value) == "budget: the budget is spent -> raise it"
    assert [c.example_id for c in read_completions(tmp_path).values()] == ["i2"]


class Answers:
    """Answers anything."""

    def generate(self, prompts: list[Prompt], *_: Any, **__: Any) -> list[Completion]:
        return [answer(prompt) for prompt in prompts]


def test_a_store_that_workers_do_not_share(cluster: None, tmp_path: Path) -> None:
    shared = place(f"file://{tmp_path}/store", "store")
    assert asked_of(Answers, shared) == ["i0", "i1", "i2"]
    with pytest.raises(UserError, match="on its own machine"):
        asked_of(Answers, place("memory://not-shared", "store"))


# -- stores behind an address ----------------------------------------------------------------------


def test_a_run_whose_completions_are_behind_an_address(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    pipeline.collect(tiny(), tmp_path / "near")
    away, near = tiny(store="memory://bucket/run"), digests(tmp_path / "near")
    assert pipeline.collect(away, tmp_path / "away")[0].endswith("8 of them asked now")
    found = place("memory://bucket/run", "store")
    assert {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found.glob("*/part-*.parquet")
    } == near
    assert pipeline.collect(away, tmp_path / "another folder")[0].endswith("0 of them asked now")
    assert not (tmp_path / "away" / "completions").exists()
    (store,) = found.glob("*")
    (folder,) = (tmp_path / "near" / "completions").iterdir()
    far, here = read_completions(store), read_completions(folder)
    assert far.keys() == here.keys() == Parts(store).places.keys() == Parts(folder).places.keys()
    assert all(completion.token_ids == here[key].token_ids for key, completion in far.items())
    part = next(iter(store.glob("part-*")))
    kept, whole = len(read_part(part)), part.read_bytes()
    part.write_bytes(whole[:-9])
    assert pipeline.collect(away, tmp_path / "away")[0].endswith(f"{kept} of them asked now")
    assert part.read_bytes() == whole
    assert part.with_suffix(".broken").read_bytes() == whole[:-9]


# -- mistakes --------------------------------------------------------------------------------------


def line(recipe: Recipe, folder: Path, workers: Workers | None) -> str:
    with pytest.raises(UserError) as refused:
        pipeline.collect(recipe, folder, workers)
    assert not (folder / "completions").exists()
    return str(refused.value)


def test_what_is_missing_is_said_in_a_line(
    tiny: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tiny()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        for written in (address, f"ray://{address}"):
            assert (
                f"can't reach a Ray cluster at '{written}': [Errno 111] Connection refused"
                in line(recipe, tmp_path, Workers(written))
            )
    server = {"server": {"url": "http://localhost:1/v1", "model": "m"}}
    served = tiny(teacher_model=server, labels={"kind": "hard"})
    assert "leave --ray out" in line(served, tmp_path, TWO)
    assert "Unsupported filesystem" in line(tiny(store="nonsense://x"), tmp_path, None)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert (
        line(recipe, tmp_path, TWO) == "--ray: Ray is not installed -> pip install 'unprompt[ray]'"
    )
    monkeypatch.setattr(sys, "argv", ["unprompt", "collect", "recipe.yaml", "--workers", "2"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "add --ray local" in capsys.readouterr().err


def test_what_a_worker_takes_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    assert Workers("auto")._shares(gpu=False) == (2, 4)
    assert Workers("auto", 3)._shares(gpu=False) == (3, 4)
    assert Workers("auto", 24)._shares(gpu=False) == (24, 0.5)
    with pytest.raises(
        UserError, match="2 workers with 6 CPUs each don't fit onto the cluster's machines, only 1"
    ):
        Workers("auto", 2)._shares(gpu=False)
    with pytest.raises(UserError, match="the cluster has no GPU"):
        Workers("auto")._shares(gpu=True)
    machines[2]["Alive"] = True
    assert Workers("auto")._shares(gpu=True) == (8, 1)
    assert Workers("auto", 2)._shares(gpu=True) == (2, 4)
