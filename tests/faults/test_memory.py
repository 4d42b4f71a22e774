"""A memory that has room for two prompts at once only: half as many are answered, and the answers
are the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from conftest import byte_tokenizer, decoder  # pyright: ignore[reportAttributeAccessIssue]  # of tests/, not of this folder
from faults.conftest import Counts
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.hf.members import Members
from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling
from unprompt.records import Prompt

SAMPLING, LABELS = Sampling(temperature=1.0, max_new_tokens=6), Labels(kind="sampled", draws=10)
PROMPTS = [Prompt(f"i{n}", "c", f"prompt {'x' * n}") for n in range(11)]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sequences that have room at once, and in which step the memory fills up. The allocator's own
    refusal, of a quintillion bytes.
    """
    limits = [2, 0]

    def short(call: Any, count: Any) -> Any:
        steps = [0]

        def limited(self: Any, *rest: Any, **options: Any) -> Any:
            steps[0] += 1
            if count(rest) > limits[0] and steps[0] > limits[1]:
                torch.empty(10**18)
            return call(self, *rest, **options)

        return limited

    for name in ("step", "score", "join"):
        call = short(getattr(Members, name), lambda rest: len(rest[0]))
        monkeypatch.setattr(Members, name, call)
    return limits


def plain(completions: Any) -> list[Any]:
    return [
        (
            c.example_id,
            c.text,
            c.token_ids,
            c.stop,
            c.prompt_tokens,
            c.labels.ids.tolist(),
            c.labels.probs.tolist(),
        )
        for c in completions
    ]


def test_answering(room: list[int], counts: Counts, capsys: pytest.CaptureFixture[str]) -> None:
    room[0] = 100
    expected = plain(
        HFEngine(decoder(), byte_tokenizer()).generate(PROMPTS, SAMPLING, LABELS, batch_size=8)
    )
    for late in (0, 2, 5):
        room[:] = [2, late]
        engine, done = HFEngine(decoder(), byte_tokenizer()), list[int]()
        found = plain(
            engine.generate(PROMPTS, SAMPLING, LABELS, batch_size=8, progress=done.append)
        )
        said = capsys.readouterr().err
        assert "note: the memory is full with 8 prompts at once; going on with 4" in said
        assert "full with 4 prompts at once; going on with 2" in said
        assert sum(done) == len(PROMPTS)
        engine.generate(PROMPTS, SAMPLING, LABELS, batch_size=8)
        assert "full" not in capsys.readouterr().err, "it had learnt how many have room"
        assert [row[:5] for row in found] == [row[:5] for row in expected]
        assert [row[5] for row in found] == [row[5] for row in expected]
        counts.note("memory full in a batch", 2)


def test_scoring(room: list[int], counts: Counts) -> None:
    given = [[5 + n, 7, 9] for n in range(len(PROMPTS))]
    room[0] = 100
    expected = HFEngine(decoder(), byte_tokenizer()).score(PROMPTS, given, LABELS, batch_size=8)
    room[0] = 2
    found = HFEngine(decoder(), byte_tokenizer()).score(PROMPTS, given, LABELS, batch_size=8)
    assert [label.ids.tolist() for label in found] == [label.ids.tolist() for label in expected]
    counts.note("memory full in a batch", 2)


def test_no_room_for_one(room: list[int]) -> None:
    room[0] = 0
    with pytest.raises(
        UserError, match="the memory is full with one prompt at a time -> use a smaller model"
    ):
        HFEngine(decoder(), byte_tokenizer()).generate(PROMPTS, SAMPLING, LABELS, batch_size=8)
