"""A run that asks a paid server is stopped: what had come in is never paid for again, and no kill
gives a budget anything back.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from endpoint import HELD, NAME, Asked, Sent, serving
from faults.conftest import Counts, Started, Warm, words
from unprompt.store.tables import read_completions

SEED = 20261129
INPUTS, CONCURRENCY, STOPS = 60, 4, 5
SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
PROMPT, ANSWER = 60, 8
"""Tokens of a request, at most."""


class Server:
    """Answers until it is told to hold the rest back, and counts what each prompt was sent."""

    def __init__(self, budget: int = 10**9) -> None:
        self._budget, self._spent = budget, 0
        self._lock, self.until, self.open = threading.Lock(), INPUTS, 0
        self.asked: list[str] = []
        self.answered = 0
        self.reached = threading.Event()

    def hold_behind(self, count: int) -> None:
        """From `count` answers more on, none."""
        self.until, self.open = self.answered + count, 0
        self.reached.clear()

    def __call__(self, asked: Asked, _: int) -> Any:
        prompt = asked.body["prompt"]
        with self._lock:
            self.asked.append(prompt)
            held = self.answered >= self.until
            self.answered += not held
            self.open += held
            self._spent += len(prompt) + (ANSWER if held else 6)
            full = self._spent + len(prompt) + ANSWER > self._budget
            if self.open >= CONCURRENCY or (held and full):  # nothing more will be sent
                self.reached.set()
        choice = {"index": 0, "text": prompt[-5:], "finish_reason": "stop"}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 6}
        reply = {"model": NAME, "choices": [choice], "usage": usage}
        return Sent(reply, after=HELD if held else None)


@pytest.fixture
def started(
    warm: Warm, decoder_folder: Path, tmp_path: Path
) -> Callable[[str, dict[str, Any]], Started]:
    """`unprompt collect` in a process of its own."""

    def start(url: str, server: dict[str, Any]) -> Started:
        section = {"url": url, "model": NAME, "api": "completions", "concurrency": CONCURRENCY}
        data = words(
            decoder_folder,
            teacher_model={"server": section | {"retries": 0, "timeout": 3600} | server},
            labels={"kind": "hard"},
            name="paid",
            batch_size=INPUTS,
        )
        data["contexts"]["colours"]["inputs"] = [
            {"id": f"i{n}", "text": f"{n:04}"} for n in range(INPUTS)
        ]
        data["sampling"] = {"temperature": 1.0, "max_new_tokens": ANSWER}
        path = tmp_path / "paid.yaml"
        path.write_text(yaml.safe_dump(data))
        out = tmp_path / "run"
        return warm.start(path, out, arguments=["collect", str(path), "--out", str(out)])

    return start


@pytest.mark.parametrize("kind", SIGNALS)
def test_a_stop_costs_what_is_on_its_way(
    kind: str, started: Any, counts: Counts, tmp_path: Path
) -> None:
    """Stopped at random answers (even times: with all requests held back, so it is known what came
    in; odd ones: anywhere), and started again.
    """
    print(f"seed {SEED}")
    draw, server = random.Random(f"{SEED} {kind}"), Server()
    with serving(server) as (url, _):
        for number in range(STOPS):
            before = server.answered
            server.hold_behind(draw.randint(1, 9))
            process = started(url, {})
            if number % 2 == 0:
                assert server.reached.wait(60)
            else:
                until = before + draw.randint(1, server.until - before)
                while server.answered < until:
                    time.sleep(0.001)
            os.kill(process.id, SIGNALS[kind])
            code = process.wait()
            if kind == "kill -9":
                assert code == -signal.SIGKILL
            else:
                assert code == 130, process.said
                assert process.said.count("stopped; run the same command again to go on") == 1
                assert "Traceback" not in process.said
                assert "error" not in process.said
        server.hold_behind(INPUTS)
        process = started(url, {})
        assert process.wait() == 0, process.said
    again = len(server.asked) - len(set(server.asked))
    assert len(set(server.asked)) == INPUTS
    (store,) = (tmp_path / "run" / "completions").iterdir()
    found = read_completions(store)
    assert len(found) == INPUTS
    assert all(c.text == f"{int(c.example_id[1:]):04}:" for c in found.values())
    counts.note(
        f"stop of a paid server: {kind}",
        STOPS,
        lost=INPUTS - len(found),
        again=min(again, STOPS * CONCURRENCY),
        beyond=max(0, again - STOPS * CONCURRENCY),
    )


@pytest.mark.parametrize("kind", ["kill -9", "Ctrl-C"])
def test_no_stop_gives_a_budget_anything_back(
    kind: str, started: Any, counts: Counts, tmp_path: Path
) -> None:
    """The server bills every request that it gets, answered or not."""
    draw, budget, stops, line = random.Random(SEED), 30 * (PROMPT + ANSWER), 0, ""
    server = Server(budget)
    with serving(server) as (url, _):
        while "budget" not in line:
            server.hold_behind(draw.randint(1, 4))
            process = started(url, {"budget": {"tokens": budget}})
            while not server.reached.wait(0.05) and not _ended(process.id):
                pass
            if server.reached.is_set():
                os.kill(process.id, SIGNALS[kind])
            stops += 1
            process.wait()
            line = next((s for s in process.said.splitlines() if s.startswith("error: ")), "")
            assert stops < 30
    billed = sum(len(prompt) + ANSWER for prompt in server.asked)
    assert "for requests without an answer" in line
    counts.note("server: stopped on its way, under a budget", stops, survived=billed <= budget)
    assert billed > budget // 2


def _ended(process: int) -> bool:
    """Whether it is a zombie, whose parent has not asked for it yet."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
