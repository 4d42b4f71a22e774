"""A server that fails in every way it can: what passes is asked again, what does not is one line;
then the same command again. No model, no waiting.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import byte_tokenizer  # pyright: ignore[reportAttributeAccessIssue]  # of tests/, not of this folder
from endpoint import HELD, NAME, Asked, Sent, serving
from faults.conftest import Counts
from unprompt.engines.server import engine as server_
from unprompt.engines.server.http import Endpoint
from unprompt.messages import UserError
from unprompt.records import TEACHER, Prompt
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.stages.weights import Weights
from unprompt.store.folder import RunDir

INPUTS, CONCURRENCY = 40, 4


def said(prompt: str, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": f"re: {prompt}", "finish_reason": "length"}
    return {
        "model": NAME,
        "choices": [choice],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4},
    } | changes


PASSING: dict[str, Any] = {
    "server: 429": Sent({"error": "slow down"}, 429, {"Retry-After": "7"}),
    "server: 500": Sent({"error": "oops"}, 500),
    "server: 503, a page": Sent(b"<html>try later</html>", 503),
    "server: half a JSON": Sent(b'{"model": "tiny-model", "choi'),
    "server: connection cut in the answer": Sent(
        b'{"model": "tiny', headers={"Content-Length": "5000"}
    ),
    "server: not JSON": Sent(b"\x00\xff" * 50),
    "server: answers too late": Sent(said("x"), after=HELD),
}
STAYING: dict[str, Any] = {
    "server: more tokens than allowed": lambda prompt: said(
        prompt, usage={"prompt_tokens": 5, "completion_tokens": 999}
    ),
    "server: counts that are none": lambda prompt: said(
        prompt, usage={"prompt_tokens": -1, "completion_tokens": "many"}
    ),
    "server: another model": lambda prompt: said(prompt, model="gpt-0"),
    "server: 400": lambda prompt: Sent({"error": "no"}, 400),
    "server: never answers": lambda prompt: Sent(said(prompt), after=HELD),
}


async def at_once(seconds: float) -> None:
    pass


@pytest.fixture(autouse=True)
def time_runs_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Asked]], None]:
    """Of a request whose reply the server holds back, as soon as it does; of no other."""
    post, told = Endpoint._sent, [list[Asked]()]

    async def sent(self: Endpoint, url: str, body: Any) -> Any:
        reply = asyncio.ensure_future(post(self, url, body))
        while not reply.done():
            for asked in told[-1]:
                if asked.held and asked.body == body:
                    asked.held = False
                    reply.cancel()
                    raise TimeoutError
            await asyncio.sleep(0.001)
        return reply.result()

    monkeypatch.setattr(Endpoint, "_sent", sent)
    return told.append


def collected(made: Any, folder: Path, count: int = INPUTS) -> list[str]:
    prompts = [Prompt(f"i{n}", "c", f"ask {n}") for n in range(count)]
    weights = Weights(made, RunDir(folder), byte_tokenizer())
    engine: Any = weights.engine(TEACHER)
    assert isinstance(engine, server_.ServerEngine)
    engine._sleep = at_once
    side = Side(prompts, [5] * count, (0,))
    found = weights.collect("asks", Question(TEACHER, side, made.sampling, made.labels))
    return [c.text for c in found]


def recipe(tiny: Any, url: str, **settings: Any) -> Any:
    section = {
        "url": url,
        "model": NAME,
        "api": "completions",
        "concurrency": CONCURRENCY,
        "retries": 5,
        "timeout": 3600,
    } | settings
    return tiny(
        teacher_model={"server": section},
        labels={"kind": "hard"},
        sampling={"temperature": 1.0, "max_new_tokens": 8},
        batch_size=4,
    )


@pytest.mark.parametrize("kind", PASSING)
def test_trouble_that_passes(
    kind: str, tiny: Any, counts: Counts, time_runs_out: Any, tmp_path: Path
) -> None:
    count = 10
    at = set(random.Random(kind).sample(range(INPUTS), count))
    with serving(
        lambda asked, number: PASSING[kind] if number in at else said(asked.body["prompt"])
    ) as (url, seen):
        time_runs_out(seen)
        found = collected(recipe(tiny, url), tmp_path)
    assert found == [f"re: ask {n}" for n in range(INPUTS)]
    counts.note(
        kind,
        count,
        again=len(seen) - INPUTS,
        beyond=len(seen) - INPUTS - count,
        survived=len(found) == INPUTS,
    )


@pytest.mark.parametrize("kind", STAYING)
def test_trouble_that_stays(
    kind: str, tiny: Any, counts: Counts, time_runs_out: Any, tmp_path: Path
) -> None:
    """The run stops with a line that names the input; with the server mended it goes on."""
    broken, times = {f"ask {n}" for n in random.Random(kind).sample(range(INPUTS), 3)}, 0
    mended: set[str] = set()
    found: list[str] = []

    def answer(asked: Asked, number: int) -> Any:
        prompt = asked.body["prompt"]
        return STAYING[kind](prompt) if prompt in broken - mended else said(prompt)

    with serving(answer) as (url, seen):
        time_runs_out(seen)
        made = recipe(tiny, url, retries=0)
        for _ in range(len(broken) + 1):
            try:
                found = collected(made, tmp_path)
                break
            except UserError as error:
                line = str(error)
            hit = {f"ask {n}" for n in range(INPUTS) if f"input i{n}:" in line}
            assert "\n" not in line
            assert hit <= broken - mended
            assert hit
            mended |= hit
            times += 1
        asked = [each.body["prompt"] for each in seen]
    assert found == [f"re: ask {n}" for n in range(INPUTS)]
    twice = {prompt: asked.count(prompt) - 1 for prompt in set(asked)}
    counts.note(
        kind,
        times,
        again=sum(twice[prompt] for prompt in broken),
        beyond=sum(n for prompt, n in twice.items() if prompt not in broken),
    )


# -- budgets that a server would have exceeded -----------------------------------------------------

BUDGET, WORTH = 600, 6 + 8
"""Tokens; and of one request, with its longest answer."""


def counting(counts: Any) -> Callable[[str, int], Any]:
    """A reply with these counts."""
    return lambda prompt, _: said(prompt, usage=counts)


def broken(**changes: Any) -> Callable[[str, int], Any]:
    """Every other reply is billed, and such that it can't be taken."""
    return lambda prompt, number: said(prompt, **(changes if number % 2 else {"usage": {}}))


def half(prompt: str, number: int) -> Any:
    return Sent(b'{"model": "tiny-model", "choi') if number % 3 else said(prompt, usage={})


def cut(prompt: str, number: int) -> Any:
    whole = said(prompt, usage={})
    return Sent(b'{"mo', headers={"Content-Length": "5000"}) if number % 3 else whole


REFUSED = [{"text": "x" * 8, "finish_reason": "tool_calls"}]
HOSTILE: dict[str, Callable[[str, int], Any]] = {
    "usage of {}": counting({}),
    "usage of null": counting(None),
    "usage of zeros": counting(dict.fromkeys(("prompt_tokens", "completion_tokens"), 0)),
    "usage of ones": counting(dict.fromkeys(("prompt_tokens", "completion_tokens"), 1)),
    "usage of total_tokens": counting({"total_tokens": 14}),
    "usage of zeros and total_tokens": counting(
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 14}
    ),
    "billed but refused": broken(choices=REFUSED, usage={}),
    "billed as another model": broken(model="gpt-0", usage={"prompt_tokens": 0}),
    "billed with counts that are none": broken(usage={"prompt_tokens": "many"}),
    "half JSON is billed": half,
    "a cut answer is billed": cut,
}


def spend(
    kind: str, tiny: Any, folder: Path, after: Callable[[Path], object] = lambda _: None
) -> tuple[int, int]:
    """Run until the budget is spent; what the server bills then, and how often it was run. Of each
    request it bills the prompt and the longest answer.
    """
    times = 0
    with serving(lambda asked, number: HOSTILE[kind](asked.body["prompt"], number)) as (url, seen):
        made = recipe(tiny, url, budget={"tokens": BUDGET}, retries=3)
        while True:
            times += 1
            assert times < 100
            with pytest.raises(UserError) as caught:
                collected(made, folder, 100)
            if f"the budget of {BUDGET} tokens is spent" in str(caught.value):
                break
            after(folder)
        for _ in range(3):  # and it stays spent
            after(folder)
            with pytest.raises(UserError):
                collected(made, folder, 100)
        return sum(len(asked.body["prompt"]) + 8 for asked in seen), times


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_counts(kind: str, tiny: Any, counts: Counts, tmp_path: Path) -> None:
    billed, times = spend(kind, tiny, tmp_path)
    counts.note(f"server: {kind}, under a budget", survived=billed <= BUDGET)
    assert billed > BUDGET // 2
    assert times == 1 or kind.startswith(("billed", "half", "a cut"))


def lose(folder: Path) -> None:
    for path in folder.glob("asked-*.jsonl"):
        path.unlink()


def cut_in_half(folder: Path) -> None:
    for path in folder.glob("asked-*.jsonl"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_over(folder: Path) -> None:
    for path in folder.glob("asked-*.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line.replace("6,", "0,") for line in lines))


def blank(folder: Path) -> None:
    for path in folder.glob("asked-*.jsonl"):
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("damage", [lose, cut_in_half, write_over, blank])
def test_a_ledger_that_is_not_as_it_was(
    damage: Callable[[Path], None],
    tiny: Any,
    counts: Counts,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The answers are there, and what they took counts, however often the ledger is damaged."""
    billed, _ = spend("usage of zeros", tiny, tmp_path, damage)
    kinds: dict[Any, str] = {
        lose: "lost",
        cut_in_half: "cut",
        write_over: "with other numbers",
        blank: "blanked",
    }
    counts.note(f"ledger of a server {kinds[damage]}", 3, survived=billed <= BUDGET + 4 * WORTH)
    said = capsys.readouterr().err
    assert ("BROKEN FILE" in said) == (damage is not lose)
    assert "in this run's folder took" in said
