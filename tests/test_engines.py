"""One contract for all engines: the same tiny model in this process, and behind an
OpenAI-compatible server on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import decoder
from endpoint import NAME, around, serving
from unprompt.engines import Engine
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.server.engine import ServerEngine
from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling, Server
from unprompt.records import Messages, Prompt

TOP = Labels(kind="top_k", k=20)
SHARED = "These are instructions that stand ahead of every input. "
TEXTS = [SHARED + text for text in ("one", "twenty two", "three hundred thirty three", "4")]
CHATS: list[Messages] = [
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    for text in ("hello", "what now?")
]
GREEDY = Sampling(temperature=0, max_new_tokens=10)


def asked(contents: list[Any]) -> list[Prompt]:
    return [Prompt(str(n), "c", content) for n, content in enumerate(contents)]


@pytest.fixture(scope="module")
def urls(tokenizer: Any) -> Iterator[str]:
    with serving(around(decoder(), tokenizer)) as (url, _):
        yield url


@pytest.fixture(scope="module")
def here(tokenizer: Any) -> HFEngine:
    return HFEngine(decoder(), tokenizer)


@pytest.fixture(params=["hf", "server chat", "server completions"])
def engine(
    request: pytest.FixtureRequest, tokenizer: Any, here: HFEngine, urls: str, decoder_folder: Path
) -> Engine:
    if request.param == "hf":
        return here
    api = request.param.split()[1]
    own = Server.model_validate(
        {"url": urls, "model": NAME, "api": api, "tokenizer": str(decoder_folder)}
    )
    return ServerEngine(own, "teacher_model", tokenizer)


@pytest.fixture
def contents(request: pytest.FixtureRequest) -> list[Any]:
    """Plain texts, or messages where only these can be asked."""
    return list(CHATS) if "chat" in request.node.callspec.id else list(TEXTS)


def test_greedy_tokens_and_log_probabilities_are_those_of_the_model(
    engine: Engine, here: HFEngine, contents: list[Any]
) -> None:
    said, own = (each.generate(asked(contents), GREEDY, TOP) for each in (engine, here))
    for a, b in zip(said, own, strict=True):
        assert (a.example_id, a.token_ids, a.text, a.stop, a.prompt_tokens) == (
            b.example_id,
            b.token_ids,
            b.text,
            b.stop,
            b.prompt_tokens,
        )
        assert a.labels
        assert b.labels
        assert len(a.labels) == len(a.token_ids)
        for n in range(len(a.labels)):
            left, right = dict(a.labels.token(n)), dict(b.labels.token(n))
            assert left.keys() == right.keys()
            np.testing.assert_allclose(
                [left[k] for k in sorted(left)], [right[k] for k in sorted(right)], atol=1e-4
            )


def test_the_answer_does_not_hang_on_how_many_are_asked(
    engine: Engine, contents: list[Any]
) -> None:
    together = engine.generate(asked(contents), GREEDY, None)
    alone = [engine.generate([prompt], GREEDY, None)[0] for prompt in asked(contents)]
    assert [c.text for c in together] == [c.text for c in alone]
    assert all(c.labels is None for c in together)


def test_sampling_goes_by_the_seed(engine: Engine, contents: list[Any]) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=8)
    first, again, other = (
        engine.generate(asked(contents), sampling, TOP, seed=seed) for seed in (5, 5, 6)
    )
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert [c.token_ids for c in first] != [c.token_ids for c in other]


def test_hard_labels_are_the_tokens(engine: Engine, contents: list[Any]) -> None:
    """The model writes bytes that are no letter, which a server's text may hold if the prompt
    does.
    """
    with_mark = [
        content + "\ufffd"
        if isinstance(content, str)
        else ({**content[0], "content": content[0]["content"] + "\ufffd"}, *content[1:])
        for content in contents
    ]
    for completion in engine.generate(asked(with_mark), GREEDY, Labels(kind="hard")):
        assert completion.labels
        assert completion.labels.ids.tolist() == list(completion.token_ids)
        assert set(completion.labels.probs.tolist()) == {1.0}


def test_a_stop_string_ends_the_answer_and_is_left_out(engine: Engine, contents: list[Any]) -> None:
    [free] = engine.generate(asked(contents[:1]), GREEDY, TOP)
    assert free.stop == "length"
    stop = free.text[4:6]
    [stopped] = engine.generate(
        asked(contents[:1]), GREEDY.model_copy(update={"stop": (stop,)}), TOP
    )
    assert (stopped.stop, stopped.text) == ("stop", free.text[: free.text.find(stop)])
    assert free.token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_chat_roles_are_told_apart(engine: Engine) -> None:
    said = [{"role": "user", "content": "hello"}]
    given: list[Any] = [
        tuple(said),
        ({"role": "system", "content": "hello"}, *said),
        (*said, {"role": "assistant", "content": "yes"}, *said),
    ]
    lengths = [c.prompt_tokens for c in engine.generate(asked(given), GREEDY, TOP)]
    assert len(set(lengths)) == 3
    assert lengths == sorted(lengths)


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(
        UserError, match=r"input 0: (the prompt is empty|a chat endpoint takes messages)"
    ):
        engine.generate(asked([""]), GREEDY, None)


def test_a_prompt_over_the_window_is_refused_by_name(engine: Engine, contents: list[Any]) -> None:
    long: Any = (
        "x" * 600 if isinstance(contents[0], str) else ({"role": "user", "content": "x" * 600},)
    )
    with pytest.raises(UserError, match=r"input 1.*(context length|window)"):
        engine.generate(asked([contents[0], long]), GREEDY, None)
