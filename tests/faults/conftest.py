"""A warm process to fork runs from, an undisturbed run to hold others against, and the counts of
what was broken.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import yaml

from conftest import tiny_recipe
from folders import digests, figures

HERE = Path(__file__).parent
TABLED = os.environ.get("UNPROMPT_FAULTS")
"""Where the table of docs/reliability.md goes; all of its faults are put in then, else fewer."""
BATCH = 4
"""Prompts that are asked together, and written as one part, in these tests' recipe."""


@dataclass
class Tally:
    """What became of one kind of fault."""

    injected: int = 0
    survived: int = 0
    """The run went on by itself or, after one line that says what to do, when it was started again,
    to the same final records."""
    lost: int = 0
    """Records that an undisturbed run has."""
    again: int = 0
    """Prompts asked twice that were in a batch (with a server: on their way) when the fault came.
    """
    beyond: int = 0
    """Prompts asked twice that were not."""


class Counts(defaultdict[str, Tally]):
    """Kind of fault -> its tally."""

    def note(
        self,
        kind: str,
        injected: int = 1,
        *,
        lost: int = 0,
        again: int = 0,
        beyond: int = 0,
        survived: bool = True,
    ) -> None:
        """Add faults, and hold them to what is promised."""
        tally = self[kind]
        tally.injected += injected
        tally.survived += injected * survived
        tally.lost += lost
        tally.again += again
        tally.beyond += beyond
        assert survived
        assert (lost, beyond) == (0, 0), kind


@pytest.fixture(scope="session")
def counts() -> Iterator[Counts]:
    found = Counts(Tally)
    yield found
    if TABLED:
        Path(TABLED).write_text(
            json.dumps({kind: asdict(tally) for kind, tally in found.items()}, indent=1)
        )


class Started:
    """A run in a process of its own."""

    def __init__(self, warm: Warm, id_: int, log: Path) -> None:
        self.id, self._warm, self._log = id_, warm, log

    def kill(self) -> None:
        os.kill(self.id, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code; -9 if it was killed."""
        code = self._warm.tell({"wait": self.id})
        assert code != -signal.SIGABRT, f"it hung\n{self.said}"
        return code

    def wait_until_it_stopped(self) -> None:
        """It stands still, as one of its moments told it to."""
        assert self._warm.tell({"stopped": self.id}) == signal.SIGSTOP

    @property
    def said(self) -> str:
        return self._log.read_text()


class Warm:
    """See `warm.py`."""

    def __init__(self, folder: Path) -> None:
        source = os.pathsep.join(path for path in sys.path if path)
        environment = {
            **os.environ,
            "PYTHONPATH": source,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "COLUMNS": "500",
        }
        command = [sys.executable, str(HERE / "warm.py")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._folder, self._runs = folder, 0
        assert self._process.stdout
        assert self._process.stdout.readline() == "ready\n"

    def tell(self, told: dict[str, Any]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, recipe: Path, out: Path, *more: str, **told: Any) -> Started:
        """`unprompt run`; what it asks is noted in `asked.jsonl` beside the run's folder."""
        self._runs += 1
        log = self._folder / f"{self._runs}.log"
        asked = out.parent / "asked.jsonl"
        return Started(
            self,
            self.tell(
                {
                    "arguments": ["run", str(recipe), "--out", str(out), *more],
                    "log": str(log),
                    "asked": str(asked),
                }
                | told
            ),
            log,
        )

    def run(self, recipe: Path, out: Path, *more: str, **told: Any) -> str:
        """To its end, which has to be a good one; what it said."""
        started = self.start(recipe, out, *more, **told)
        code = started.wait()
        assert code == 0, started.said
        return started.said

    def refused(self, recipe: Path, out: Path, *more: str, **told: Any) -> str:
        """It has to end with one line that says what to do; that line."""
        started = self.start(recipe, out, *more, **told)
        code, lines = (
            started.wait(),
            [line for line in started.said.splitlines() if line.startswith("error: ")],
        )
        assert (code, len(lines)) == (2, 1), started.said
        assert "Traceback" not in started.said
        return lines[0]

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    made = Warm(tmp_path_factory.mktemp("warm"))
    yield made
    made.close()


def words(folder: Path, **sections: Any) -> dict[str, Any]:
    """24 inputs in 6 parts, 6 steps of training with a checkpoint every 2, dropout to show that
    random states are restored.
    """
    found = tiny_recipe(folder)  # pyright: ignore[reportCallIssue]  # of tests/conftest.py
    found["contexts"]["colours"]["inputs"] = [
        {"id": f"i{n}", "text": f"colour number {n}"} for n in range(24)
    ]
    found["train"] = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "save_every": 2,
        "adapter": {"rank": 4, "dropout": 0.1},
    }
    return found | sections


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    path = tmp_path_factory.mktemp("faults") / "tiny.yaml"
    path.write_text(yaml.safe_dump(words(decoder_folder)))
    return path


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: its folder, and how many steps of each kind it took (changes to files,
    layers computed).
    """

    folder: Path
    steps: dict[str, int]


@pytest.fixture(scope="session")
def whole(warm: Warm, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    warm.run(recipe, folder / "first")
    found = undisturbed(warm, recipe, folder / "run", asked=str(folder / "again.jsonl"))
    assert digests(folder / "first") == digests(folder / "run"), "two undisturbed runs differ"
    return found


def undisturbed(warm: Warm, recipe: Path, out: Path, **told: Any) -> Whole:
    """A run that nothing disturbs, and its steps counted."""
    steps = out.parent / "steps"
    warm.run(recipe, out, counts=str(steps), **told)
    return Whole(out, json.loads(steps.read_text()))


def records(run: Path) -> set[tuple[str, str]]:
    """(Store, prompt) of all that was answered, and (grade, system of an example)."""
    found = {
        (part.parent.name, key)
        for part in run.glob("completions/*/part-*.parquet")
        for key in pyarrow.parquet.read_table(part)["prompt"].to_pylist()
    }
    grades = pyarrow.parquet.read_table(run / "grades.parquet")
    return found | {
        ("grade", f"{system} {id_}")
        for system, id_ in zip(
            *(grades[name].to_pylist() for name in ("system", "example_id")), strict=True
        )
    }


def lost(run: Path, whole: Path) -> int:
    """Records of an undisturbed run that this one lacks."""
    return len(records(whole) - records(run))


def asked_twice(run: Path, stopped: set[int]) -> tuple[int, int]:
    """Prompts that were asked again: those of the batch at which a process in `stopped` ended, and
    others.
    """
    lines = [json.loads(line) for line in (run.parent / "asked.jsonl").read_text().splitlines()]
    last = {process: number for number, (process, _) in enumerate(lines)}
    asks = Counter(key for _, keys in lines for key in keys)
    unfinished = Counter(
        key for process, number in last.items() if process in stopped for key in lines[number][1]
    )
    again = sum(count - 1 for count in asks.values())
    beyond = sum(max(0, count - 1 - unfinished[key]) for key, count in asks.items())
    return again - beyond, beyond


def same(run: Path, whole: Whole) -> bool:
    """Whether its final records, weights and figures are those of the undisturbed run; what is not
    is printed.
    """
    found, expected = (
        dict(digests(folder)) | _leaves(figures(folder)) for folder in (run, whole.folder)
    )
    differing = sorted(
        key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)
    )
    print(
        "".join(f"{key}: {found.get(key)!r}, not {expected.get(key)!r}\n" for key in differing[:20])
    )
    return not differing


def _leaves(data: Any, path: str = "") -> dict[str, Any]:
    entries = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else None
    )
    if entries is None:
        return {path: repr(data)}
    return {
        key: leaf
        for name, value in entries
        for key, leaf in _leaves(value, f"{path}.{name}").items()
    }
