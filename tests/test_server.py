"""The server engine where a server, the network or the budget fails. No model: the replies are
written here.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import signal
import sys
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import byte_tokenizer, tiny_recipe
from endpoint import HELD, NAME, Asked, Sent, serving
from unprompt import cli, pipeline
from unprompt.engines.server import http, loop
from unprompt.engines.server.engine import ServerEngine
from unprompt.engines.server.http import Endpoint
from unprompt.engines.server.ledger import Asked as Spent, Ledger
from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling, Server, parse
from unprompt.records import JUDGE, TEACHER, Completion, Prompt
from unprompt.stages import check, collect
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question, key_of
from unprompt.stages.weights import Weights
from unprompt.store import lines
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_completions, write_completions

KEY = "sk-planted-0123456789"
SAMPLING = Sampling(temperature=0, max_new_tokens=8)
SECTION = {"url": "http://127.0.0.1:9/v1", "model": NAME, "api": "completions"}


def said(text: str = "yes", **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    return {
        "model": NAME,
        "choices": [choice],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4},
    } | changes


OTHER_MODELS = (
    "-mini",
    "-2x7b",
    "-32k",
    "-70b",
    ":8b",
    "-4.1",
    "-2024-13-40",
    "-9999",
    "-1b-0613",
    "0613",
    "-latest-x",
    "-3",
    "-123",
)
"""Behind a model's name: another model's."""


def asked(count: int) -> list[Prompt]:
    return [Prompt(f"i{n}", "c", f"ask {n}") for n in range(count)]


class Clock:
    """A clock that nobody waits for."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waited.append(seconds)
        await asyncio.sleep(0)


def ask(
    answer: Callable[[Asked, int], Any],
    prompts: list[Prompt],
    labels: Labels | None = None,
    done: Callable[[dict[int, Completion]], object] | None = None,
    sampling: Sampling = SAMPLING,
    **settings: Any,
) -> tuple[list[Completion], list[Asked], Clock]:
    clock = Clock()
    with serving(answer) as (url, seen):
        engine = ServerEngine(
            Server.model_validate(SECTION | {"url": url, "concurrency": 1} | settings),
            "teacher_model",
            byte_tokenizer(),
            sleep=clock,
        )
        return engine.generate(prompts, sampling, labels, done=done), seen, clock


class Stopped(NamedTuple):
    """What the user reads, and the answers that had come in."""

    line: str
    answered: dict[int, Completion]


def refused(
    answer: Callable[[Asked, int], Any],
    match: str,
    prompts: int = 1,
    labels: Labels | None = None,
    **settings: Any,
) -> Stopped:
    answered = dict[int, Completion]()
    with pytest.raises(UserError, match=match) as caught:
        ask(answer, asked(prompts), labels, done=answered.update, **settings)
    assert "\n" not in str(caught.value)
    return Stopped(str(caught.value), answered)


# -- asked again -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        Sent({"error": "busy"}, 429),
        Sent({"error": "oops"}, 500),
        Sent(b"<html>bad gateway</html>", 502),
        Sent(b'{"model": "tiny-model", "choi'),
        Sent(b'{"model": "tiny', headers={"Content-Length": "5000"}),
        Sent(b""),
        Sent(b"[" * 100_000),
    ],
    ids=["429", "500", "502", "half a JSON", "cut connection", "nothing", "deep"],
)
def test_trouble_that_passes_is_asked_again_and_nothing_twice(trouble: Sent) -> None:
    found, seen, clock = ask(lambda _, n: trouble if n in (1, 2) else said(f"answer {n}"), asked(3))
    assert [c.text for c in found] == ["answer 0", "answer 3", "answer 4"]
    assert [a.body["prompt"] for a in seen] == ["ask 0", "ask 1", "ask 1", "ask 1", "ask 2"]
    assert 0.5 <= clock.waited[0] <= 1.0 <= clock.waited[1] <= 2.0


def test_a_slow_server_is_asked_again_and_then_given_up() -> None:
    """The clock runs against a reply that never comes; one that does come has ten seconds."""
    found, seen, _ = ask(
        lambda _, n: Sent(said(), after=HELD if n == 0 else None), asked(1), timeout=10.0
    )
    assert (found[0].text, len(seen)) == ("yes", 2)
    refused(
        lambda *_: Sent(said(), after=HELD),
        "no answer after 2 tries; at last nothing within 0.5 s.*what is answered is kept",
        timeout=0.5,
        retries=1,
    )


def test_ctrl_c_is_heard_while_a_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes just before the loop goes to sleep wakes nothing. So does one that
    another thread takes, which here can be made to happen.
    """
    monkeypatch.setattr(loop, "_BEAT", 0.1)
    over = threading.Event()
    other = threading.Thread(target=over.wait, daemon=True)
    other.start()
    assert other.ident
    stop = threading.Timer(0.5, signal.pthread_kill, (other.ident, signal.SIGINT))
    stop.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        loop.finished(asyncio.sleep(300))
    over.set()
    assert time.monotonic() - begun < 100


def test_waits_double_up_to_a_minute_and_differ() -> None:
    clock = Clock()
    with serving(lambda *_: Sent({}, 503)) as (url, _):
        engine = ServerEngine(
            Server.model_validate(SECTION | {"url": url, "retries": 10}),
            "t",
            byte_tokenizer(),
            sleep=clock,
        )
        with pytest.raises(UserError, match="after 11 tries; at last HTTP 503"):
            engine.generate(asked(1), SAMPLING, None)
    assert all(0.5 * min(60, 2**n) <= wait <= min(60, 2**n) for n, wait in enumerate(clock.waited))
    assert len({wait / min(60, 2**n) for n, wait in enumerate(clock.waited)}) == 10


@pytest.mark.parametrize(
    ("header", "least"), [("17", 17), ("7.5", 7.5), ("date", 200), ("nonsense", 0.5), ("-5", 0.5)]
)
def test_retry_after_is_kept(header: str, least: float) -> None:
    """A date 300 seconds ahead; the server's own clock may have gone on by 100 until it answers."""
    header = formatdate(time.time() + 300, usegmt=True) if header == "date" else header
    _, _, clock = ask(
        lambda _, n: said() if n else Sent({}, 429, {"Retry-After": header}), asked(1)
    )
    assert least <= clock.waited[0] <= 2 * least


def test_a_retry_after_of_hours_ends_the_run() -> None:
    refused(
        lambda *_: Sent({}, 429, {"Retry-After": "7200"}),
        "asked again in 7200 s.*run again then: what is answered is kept",
    )


def test_nobody_there() -> None:
    server = Server.model_validate(SECTION | {"retries": 2})
    with pytest.raises(UserError, match="no answer after 3 tries; at last Connect"):
        ServerEngine(server, "teacher_model", byte_tokenizer(), sleep=Clock()).generate(
            asked(1), SAMPLING, None
        )


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (said(model="another"), "the answer is of model 'another', but 'tiny-model' was asked"),
        *(
            (said(model=f"tiny-model{more}"), f"of model 'tiny-model{more}'")
            for more in OTHER_MODELS
        ),
        (
            said(usage={"prompt_tokens": 5, "completion_tokens": 999}),
            "counts 999 tokens in an answer that may have 8",
        ),
        (said(usage={"prompt_tokens": -5, "completion_tokens": 1}), "counts '-5' tokens"),
        (said(usage={"prompt_tokens": "many", "completion_tokens": 1}), "counts 'many' tokens"),
        (said(choices=[]), "not the reply of an OpenAI-compatible endpoint: choices"),
        (said(choices=[{"text": 7, "finish_reason": "stop"}]), "the answer's text is '7'"),
        (said(choices=[{"text": "", "finish_reason": "tool_calls"}]), "finish_reason 'tool_calls'"),
        ([1, 2], "the reply is"),
        (Sent(b"null"), "choices is 'None'"),
        ({"error": {"message": "no such thing"}}, "the server refused: .*no such thing"),
        (Sent({"error": "prompt too long"}, 400), "HTTP 400.*prompt too long"),
        (Sent({"error": "who are you"}, 401), "HTTP 401.*check the key"),
        (Sent(b"", 302, {"Location": "http://elsewhere/"}), "HTTP 302"),
    ],
)
def test_what_asking_again_can_not_mend_is_one_error_that_names_the_input(
    reply: Any, match: str
) -> None:
    stopped = refused(lambda _, n: said() if n == 0 else reply, match, prompts=3)
    assert "input i1" in stopped.line
    assert [c.text for c in stopped.answered.values()] == ["yes"]


@pytest.mark.parametrize(
    "name",
    [
        *(
            f"tiny-model{more}"
            for more in (
                "-2026-01-31",
                "-20260131",
                ":2024-08-06",
                "@20240806",
                "-0613",
                "-1106",
                "-2407",
                "-002",
                "@main",
                "@1.0.3",
                "@sha256:0a1b",
                ":latest",
            )
        ),
        "Tiny-Model",
        "",
        None,
    ],
)
def test_a_date_or_revision_behind_the_name_is_the_same_model(name: str | None) -> None:
    assert ask(lambda *_: said(model=name), asked(1))[0][0].text == "yes"


def test_the_latest_of_a_model_may_have_a_date() -> None:
    for asked_for in ("tiny-model-latest", "tiny-model:latest"):
        for model in ("tiny-model-20241022", asked_for, "tiny-model"):
            found = ask(lambda *_, model=model: said(model=model), asked(1), model=asked_for)[0]
            assert found[0].text == "yes"
    refused(lambda *_: said(model="tiny-model-8b"), "of model", model="tiny-model-latest")


# -- an error that came as an answer ---------------------------------------------------------------

BUSY = {
    "a code": {"error": {"code": 503, "message": "later"}},
    "a code as text": {"error": {"code": "429", "message": "slow down"}},
    "a status": {"error": {"status": 500, "message": "oops"}},
    "a type": {"error": {"type": "overloaded_error", "message": "no"}},
    "words": {"error": "the engine is currently overloaded, please try again"},
    "rate": {"error": {"message": "Rate limit reached"}},
    "vLLM": {"object": "error", "code": 503, "message": "later"},
    "in a choice": {"choices": [{"error": {"code": 502, "message": "bad"}, "text": ""}]},
}


@pytest.mark.parametrize("body", BUSY.values(), ids=BUSY)
def test_an_error_in_an_answer_is_asked_again_as_its_status_is(body: Any) -> None:
    found, seen, clock = ask(lambda _, n: said() if n > 1 else body, asked(1))
    assert (found[0].text, len(seen), len(clock.waited)) == ("yes", 3, 2)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"error": {"code": 400, "message": "too long"}}, "HTTP 400: .*too long"),
        ({"error": {"code": 401, "message": "who"}}, "HTTP 401.*check the key"),
        ({"error": {"code": "model_not_found", "message": "no"}}, "server refused.*no"),
    ],
)
def test_an_error_in_an_answer_that_stays_is_told_at_once(body: Any, match: str) -> None:
    refused(lambda *_: body, match)


HALVES = {
    "a mark": "caf\ufffd!",
    "a mark at the end": "caf\ufffd",
    "half a letter": "caf\\ud83d!",
    "the other half": "\\udc00 caf",
}


@pytest.mark.parametrize("text", HALVES.values(), ids=HALVES)
def test_an_answer_with_bytes_that_are_no_letter_is_asked_again(text: str) -> None:
    raw = json.dumps(said("TEXT")).replace("TEXT", text).encode()
    hard = Labels(kind="hard")
    found, seen, _ = ask(lambda _, n: said("café") if n else Sent(raw), asked(1), hard)
    assert (found[0].text, len(seen)) == ("café", 2)
    no_letter = "at last the answer has bytes that are no letter"
    refused(lambda *_: Sent(raw), no_letter, labels=hard, retries=1)
    found, seen, _ = ask(lambda *_: Sent(raw), asked(1))
    assert ("\ufffd" in found[0].text, len(seen)) == (True, 1)  # it is graded, not taught


@pytest.mark.parametrize(
    "raw", [b"caf\xe9!", b"caf\xc3", b"\xed\xa0\x80"], ids=["latin 1", "cut", "a surrogate"]
)
def test_a_reply_that_is_not_utf_8_is_asked_again(raw: bytes) -> None:
    body = json.dumps(said("TEXT")).encode().replace(b"TEXT", raw)
    found, seen, _ = ask(lambda _, n: said() if n else Sent(body), asked(1))
    assert (found[0].text, len(seen)) == ("yes", 2)


def test_half_a_letter_where_an_answer_was_cut_is_left_out() -> None:
    """And one that the prompt has may be repeated."""
    cut = said(choices=[{"text": "caf\ufffd\ufffd", "finish_reason": "length"}])
    assert ask(lambda *_: cut, asked(1), Labels(kind="hard"))[0][0].text == "caf"
    prompt = Prompt("i", "c", "say a \ufffd b")
    found = ask(lambda *_: said("a \ufffd b"), [prompt], Labels(kind="hard"))[0]
    assert found[0].text == "a \ufffd b"


def test_an_answer_with_the_key_in_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNPROMPT_TEST_KEY", KEY)
    for raw in (
        json.dumps(said(KEY)),
        json.dumps(said("TEXT")).replace("TEXT", "\\u0073" + KEY[1:]),
    ):
        stopped = refused(
            lambda *_, raw=raw: Sent(raw.encode()),
            "the server's answer holds the API key",
            api_key_env="UNPROMPT_TEST_KEY",
        )
        assert KEY not in stopped.line


def test_answers_on_their_way_are_kept_when_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal comes when all three are asked, the two answers when the refusal is heard."""
    all_asked, heard, post = threading.Barrier(3), threading.Event(), Endpoint.post

    async def listening(self: Endpoint, *asked: Any) -> Any:
        asyncio.ensure_future(asked[-1].wait()).add_done_callback(lambda _: heard.set())
        return await post(self, *asked)

    def answer(request: Asked, _: int) -> Any:
        all_asked.wait()
        prompt = request.body["prompt"]
        return Sent({"error": "no"}, 400) if prompt == "ask 0" else Sent(said(prompt), after=heard)

    monkeypatch.setattr(Endpoint, "post", listening)
    stopped = refused(answer, "input i0", prompts=6, concurrency=3)
    assert {n: c.text for n, c in stopped.answered.items()} == {1: "ask 1", 2: "ask 2"}


def test_a_filtered_answer_is_empty_and_says_so() -> None:
    choice = {"text": None, "finish_reason": "content_filter"}
    [found] = ask(lambda *_: said(choices=[choice]), asked(1), Labels(kind="hard"))[0]
    assert (found.text, found.token_ids, found.stop) == ("", (), "filtered")


@pytest.mark.parametrize(
    ("stops", "more", "finish", "expected"),
    [
        ((), {}, "stop", ("a;b", "end")),
        ((), {}, "length", ("a;b", "length")),
        ((";",), {}, "stop", ("a", "stop")),
        (("#",), {}, "stop", ("a;b", "stop")),
        (("#",), {"stop_reason": None}, "stop", ("a;b", "end")),
        (("#",), {"stop_reason": "#"}, "stop", ("a;b", "stop")),
        (("#",), {"stop_reason": 2}, "stop", ("a;b", "end")),
    ],
)
def test_why_an_answer_ended(
    stops: tuple[str, ...], more: dict[str, Any], finish: str, expected: tuple[str, str]
) -> None:
    with serving(lambda *_: said(choices=[{"text": "a;b", "finish_reason": finish} | more])) as (
        url,
        _,
    ):
        engine = ServerEngine(
            Server.model_validate(SECTION | {"url": url}),
            "teacher_model",
            byte_tokenizer(),
            sleep=Clock(),
        )
        [found] = engine.generate(asked(1), SAMPLING.model_copy(update={"stop": stops}), None)
    assert (found.text, found.stop) == expected
    assert (found.token_ids[-1:] == (1,)) == (found.stop == "end")


# -- labels ----------------------------------------------------------------------------------------


def token(text: str, logp: Any = -0.5, top: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "token": text,
        "logprob": logp,
        "top_logprobs": [{"token": t, "logprob": p} for t, p in top or [(text, logp), ("~", -5)]],
    } | more


def with_tokens(text: str, *tokens: Any, count: int | None = None) -> dict[str, Any]:
    choice = {"text": text, "finish_reason": "length", "logprobs": {"content": list(tokens)}}
    return said(
        choices=[choice],
        usage={"prompt_tokens": 5, "completion_tokens": len(tokens) if count is None else count},
    )


TWO = Labels(kind="top_k", k=2)


def test_a_token_that_can_not_be_told_is_counted(
    decoder_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    top = [("h", -0.7), ("\ufffd", -1.7), ("hello", -2.5), ("i", -2.7)]
    with serving(lambda *_: with_tokens("h", token("h", -0.7, top))) as (url, _):
        server = Server.model_validate(SECTION | {"url": url, "tokenizer": str(decoder_folder)})
        engine = ServerEngine(
            server, "teacher_model", byte_tokenizer(), Ledger(tmp_path / "asked.jsonl")
        )
        [found] = engine.generate(asked(1), SAMPLING, TWO)
    assert found.labels
    h, i = (byte_tokenizer().get_vocab()[letter] for letter in "hi")
    assert dict(found.labels.token(0)) == pytest.approx({h: 0.8808, i: 0.1192}, abs=1e-3)
    assert "2 of 4 alternatives that the server named are no token" in capsys.readouterr().err
    assert Ledger(tmp_path / "asked.jsonl").total.unmapped == 2


def test_legacy_log_probabilities_and_ids_of_the_server(decoder_folder: Path) -> None:
    h, i = (byte_tokenizer().get_vocab()[letter] for letter in "hi")
    names = [f"token_id:{h}", f"token_id:{i}"]
    logprobs = {
        "tokens": names,
        "token_logprobs": [-0.1, -0.2],
        "top_logprobs": [{names[0]: -0.1, names[1]: -3.0}, {names[1]: -0.2}],
    }
    reply = said(
        choices=[{"text": "hi", "finish_reason": "length", "logprobs": logprobs}],
        usage={"prompt_tokens": 5, "completion_tokens": 2},
    )
    [found] = ask(lambda *_: reply, asked(1), TWO, tokenizer=str(decoder_folder))[0]
    assert found.token_ids == (h, i)
    assert found.labels
    assert set(dict(found.labels.token(0))) == {h, i}


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (said(), "sent no log-probabilities"),
        (with_tokens("hello", token("hello")), "the token 'hello' of the answer can't be found"),
        (with_tokens("hi", token("h")), "the server's text 'hi' is not that of its tokens, 'h'"),
        (with_tokens("h", token("h"), count=6), "counts 6 tokens in an answer of 1"),
        (with_tokens("h", token("h", logp="x")), "a log-probability is 'x'"),
        (with_tokens("h", token("h", logp=3.0)), "a log-probability is '3.0'"),
        (with_tokens("h", token("h", bytes=[300])), "a token's bytes"),
        (
            with_tokens("h", token("h")) | {"usage": {"prompt_tokens": 77, "completion_tokens": 1}},
            "77 tokens in a prompt that has 5",
        ),
    ],
)
def test_labels_that_can_not_be_trusted_are_refused(
    decoder_folder: Path, reply: Any, match: str
) -> None:
    refused(lambda *_: reply, match, labels=TWO, tokenizer=str(decoder_folder))


LOW = [("h", -1.5), ("i", -2.0), ("j", -3.0)]
TOP = [("h", -0.7), ("i", -1.5), ("j", -2.0)]
ODD = {
    "-inf": (token("h", -0.7, [("h", -0.7), ("i", float("-inf"))]), "of -inf"),
    "-inf, the token itself": (token("h", float("-inf"), TOP), "of -inf"),
    "a sum": (token("h", -0.1, [("h", -0.1), ("i", -0.5)]), "sum to 1.51"),
    "a sum with others": (token("k", -0.5, [("h", -0.5), ("i", -1)]), "sum to 1.58"),
    "zeros": (token("h", 0.0, [("h", 0.0), ("i", 0.0)]), "sum to 2"),
    "twice": (token("h", -0.7, [("h", -0.7), ("h", -0.8)]), "one token twice"),
    "others twice": (token("h", -0.7, [*TOP, ("j", -3)]), "one token twice"),
    "not in the list": (token("k", -1.0, LOW), "not among the alternatives"),
    "ahead of the list": (token("k", -0.8, [("h", -1.2), ("i", -1.5)]), "not among the alternat"),
}


@pytest.mark.parametrize(("odd", "match"), ODD.values(), ids=ODD)
def test_probabilities_that_can_not_be_are_asked_again(
    decoder_folder: Path, odd: Any, match: str
) -> None:
    good = with_tokens("h", token("h", -0.7, TOP))
    bad = with_tokens(odd["token"], odd)
    own = {"labels": TWO, "tokenizer": str(decoder_folder)}
    found, seen, _ = ask(lambda _, n: good if n else bad, asked(1), **own)
    assert (found[0].text, len(seen)) == ("h", 2)
    refused(lambda *_: bad, f"no answer after 2 tries; at last .*{match}", retries=1, **own)


def test_a_token_beyond_the_list_is_one_more(decoder_folder: Path) -> None:
    """As vLLM and OpenAI name it where it was improbable; and probabilities are rounded."""
    rounded = token("k", -3.0, [("h", -0.1), ("i", -3.0)])
    for odd in (token("k", -2.5, TOP), token("k", -2.5, [*TOP, ("k", -2.5)]), rounded):
        reply = with_tokens("k", odd)
        [found] = ask(lambda *_, reply=reply: reply, asked(1), TWO, tokenizer=str(decoder_folder))[
            0
        ]
        assert found.text == "k"
        assert found.labels is not None
        assert found.labels.offsets.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("tops", "k", "match"),
    [
        ([[], []], 20, "named 0 of the 20.*top_logprobs.*labels.kind: hard"),
        ([TOP[:1], [("i", -1.0)]], 20, "named 1 of the 20.*top_logprobs.*labels.kind: hard"),
        ([TOP, TOP[:2]], 20, "named 3 of the 20.*write labels.k: 3"),
        ([TOP[:1]], 2, "named 1 of the 2 .*labels.kind: hard"),
    ],
)
def test_fewer_alternatives_than_asked_for_are_no_top_k(
    decoder_folder: Path, tops: Any, k: int, match: str
) -> None:
    tokens = [
        {"token": letter, "logprob": -0.7 if letter == "h" else -1.5}
        | {"top_logprobs": [{"token": t, "logprob": p} for t, p in top]}
        for letter, top in zip("hi", tops, strict=False)
    ]
    reply = with_tokens("hi"[: len(tops)], *tokens)
    labels = Labels(kind="top_k", k=k)
    refused(lambda *_: reply, match, labels=labels, tokenizer=str(decoder_folder))


def test_fewer_alternatives_at_some_tokens_are_counted(
    decoder_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reply = with_tokens("hi", token("h", -0.7, TOP), token("i", -0.7, [("i", -0.7)]))
    [found] = ask(lambda *_: reply, asked(1), TWO, tokenizer=str(decoder_folder))[0]
    assert found.labels is not None
    assert found.labels.offsets.tolist() == [0, 2, 3]
    assert "at 1 tokens the server named fewer alternatives" in capsys.readouterr().err


# -- one answer's size -----------------------------------------------------------------------------

MANY = 20 * 2**20
"""Bytes."""


def long_text(*_: Any) -> Any:
    return Sent(json.dumps(said("x y " * (MANY // 4))).encode())


def long_letters(*_: Any) -> Any:
    return Sent(json.dumps(said("語" * (MANY // 3)), ensure_ascii=False).encode())


def long_labels(*_: Any) -> Any:
    entry = json.dumps(token("h", -0.7, TOP)).encode()
    head, tail = json.dumps(with_tokens("h", "X")).encode().split(b'"X"')
    return Sent(head + b",".join([entry] * (MANY // len(entry))) + tail)


def packed(*_: Any) -> Any:
    """A few thousand bytes on their way."""
    body = gzip.compress(json.dumps(said("x" * (8 * MANY))).encode())
    assert len(body) < MANY // 100
    return Sent(body, headers={"Content-Encoding": "gzip"})


def packed_error(*_: Any) -> Any:
    return Sent(packed().body, 503, {"Content-Encoding": "gzip"})


@pytest.mark.parametrize("reply", [long_text, long_letters, long_labels, packed, packed_error])
def test_a_reply_far_over_what_was_asked_takes_little_memory(
    reply: Any, decoder_folder: Path
) -> None:
    sent = reply()
    labels = TWO if reply is long_labels else Labels(kind="hard")
    with serving(lambda *_: sent) as (url, _):
        section = SECTION | {"url": url, "tokenizer": str(decoder_folder)}
        server = Server.model_validate(section | {"concurrency": 4})
        engine = ServerEngine(server, "teacher_model", byte_tokenizer(), sleep=Clock())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=r"the server's reply is over .* at most 8 tokens"):
                engine.generate(asked(4), SAMPLING, labels)
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    # the server of this test, in this process, holds and sends the 20 MiB itself
    assert most < MANY
    assert grown * 1024 < 4 * MANY


def test_a_text_over_what_tokens_can_hold_is_refused_unread() -> None:
    """Where the reply's other parts have room for it."""
    text = "x" * (8 * 128 + 4096 + 1)
    refused(lambda *_: said(text), "sent 5,121 letters for an answer that may have 8 tokens")
    assert len(ask(lambda *_: said(text[:-1]), asked(1))[0][0].text) == 5120


def test_packed_replies_are_read_and_others_refused() -> None:
    body = json.dumps(said("packed")).encode()
    for name, data in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        sent = Sent(data, headers={"Content-Encoding": name})
        assert ask(lambda *_, sent=sent: sent, asked(1))[0][0].text == "packed"
    broken = Sent(b"no gzip", headers={"Content-Encoding": "gzip"})
    assert ask(lambda _, n: said() if n else broken, asked(1))[0][0].text == "yes"
    refused(lambda *_: Sent(body, headers={"Content-Encoding": "br"}), "packs its replies as 'br'")


def test_long_replies_come_in_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those on their way together each may have its share of a fixed memory."""
    monkeypatch.setattr(http, "_TOGETHER", 64)
    long = [said(f"{n} " + "x" * 4000) for n in range(12)]
    found, _, _ = ask(lambda _, n: long[n], asked(12), concurrency=6)
    assert sorted(int(c.text.split()[0]) for c in found) == list(range(12))


# -- the budget, and what a run keeps --------------------------------------------------------------


def recipe(url: str, **server: Any) -> Any:
    section = {"url": url, "model": NAME, "api": "completions", "concurrency": 2} | server
    return {
        "teacher_model": {"server": section},
        "labels": {"kind": "hard"},
        "sampling": {"temperature": 1.0, "max_new_tokens": 8},
    }


def collected(made: Any, folder: Path) -> list[Completion]:
    weights = Weights(made, RunDir(folder), byte_tokenizer())
    side = Side(asked(20), [5] * 20, (0,))
    return list(weights.collect("asks", Question(TEACHER, side, made.sampling, made.labels)))


def test_a_budget_is_never_exceeded_and_can_be_raised(tiny: Any, tmp_path: Path) -> None:
    def answer(request: Asked, _: int) -> Any:
        return said(request.body["prompt"], usage={"prompt_tokens": 5, "completion_tokens": 8})

    with serving(answer) as (url, seen):
        for tokens, known in ((70, 5), (140, 10), (1000, 20)):
            made = tiny(**recipe(url, budget={"tokens": tokens}))
            if known < 20:
                with pytest.raises(
                    UserError,
                    match=(
                        rf"teacher_model\.server\.budget: the budget of {tokens} tokens is spent:"
                        rf" {known} answers took {known * 13}"
                    ),
                ):
                    collected(made, tmp_path)
            else:
                assert [c.text for c in collected(made, tmp_path)] == [
                    f"ask {n}" for n in range(20)
                ]
            assert len(seen) == known
    assert sorted(a.body["prompt"] for a in seen) == sorted(f"ask {n}" for n in range(20))


def test_a_budget_in_dollars(tiny: Any, tmp_path: Path) -> None:
    with serving(lambda *_: said(usage={"prompt_tokens": 5, "completion_tokens": 8})) as (
        url,
        seen,
    ):
        made = tiny(
            **recipe(url, budget={"dollars": 0.001}, price={"input": 4.0, "output": 10.0})
        )  # an answer costs 0.0001
        with pytest.raises(
            UserError, match=r"the budget of \$0.001 is spent: 10 answers cost \$0.0010"
        ):
            collected(made, tmp_path)
    assert len(seen) == 10


def test_what_was_answered_before_an_error_is_not_asked_again(tiny: Any, tmp_path: Path) -> None:
    broken = [True]

    def answer(request: Asked, number: int) -> Any:
        return (
            Sent({"error": "no"}, 400)
            if broken[0] and number >= 5
            else said(request.body["prompt"])
        )

    with serving(answer) as (url, seen):
        made = tiny(**recipe(url))
        with pytest.raises(UserError, match="HTTP 400"):
            collected(made, tmp_path)
        broken[0] = False
        failed = {a.body["prompt"] for a in seen[5:]}
        found = collected(made, tmp_path)
    assert [c.text for c in found] == [f"ask {n}" for n in range(20)]
    assert {
        p: n for p in failed for n in [sum(a.body["prompt"] == p for a in seen)]
    } == dict.fromkeys(failed, 2)
    assert len(seen) == 20 + len(failed)


def marked(*parts: Any) -> str:
    """A ledger's line."""
    return lines.marked(json.dumps(parts).encode()).decode()


SENT = marked("sent", "a", 5, 8)
TOOK = marked("took", "a", 1, 5, 3, 0, 0, 5, 4)


@pytest.mark.parametrize(
    ("text", "total", "spent", "broken"),
    [
        ("[1, 5, 8, 0, 0]\n[1, 5, 8, 0, 0]\n", 26, 26, 0),  # of a version before checksums
        ("[1, 5, 8, 0, 0]\n[1, 5", 13, 13, 1),
        (SENT, 0, 13, 0),
        (SENT + TOOK, 8, 9, 0),
        (TOOK + SENT, 8, 9, 0),
        (SENT + TOOK[:-5], 0, 13, 1),
        (SENT + TOOK.replace(", 4", ", 0"), 0, 13, 1),
        (SENT[:-5] + "\n" + TOOK, 8, 9, 1),
        (SENT + TOOK + "\0" * 80 + "\n" + marked("sent", "b", 1, 1), 8, 11, 1),
        (marked("sent", "a", -5, 8) + marked("sent", "a", "x", 8) + marked(7), 0, 0, 3),
    ],
)
def test_a_ledger_is_read_line_by_line(
    text: str,
    total: int,
    spent: int,
    broken: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(text)
    found = Ledger(path)
    assert (found.total.tokens, found.spent.tokens) == (total, spent)
    said = capsys.readouterr().err
    assert (f"{broken} lines were cut or have changed" in said) == bool(broken)
    found.end(found.begin(Spent(1, 2, 2)), Spent(1, 1, 1), Spent(1, 1, 1))
    found.close()
    again = Ledger(path)
    assert (again.total.tokens, again.spent.tokens) == (total + 2, spent + 2)


@pytest.mark.parametrize(
    ("usage", "total", "spent"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 4}, 9, 9),
        ({"prompt_tokens": 7, "completion_tokens": 8}, 15, 15),
        ({}, 9, 9),
        (None, 9, 9),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, 9, 9),
        ({"prompt_tokens": 1, "completion_tokens": 1}, 2, 9),
        ({"total_tokens": 40}, 40, 40),
        ({"prompt_tokens": 5, "total_tokens": 12}, 12, 12),
        ({"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 30}, 9, 30),
    ],
)
def test_of_the_server_s_count_and_ours_the_larger_one_is_spent(
    usage: Any, total: int, spent: int
) -> None:
    """`ask 0` has 5 tokens, `yes` with its end 4."""
    with serving(lambda *_: said(usage=usage)) as (url, _):
        server = Server.model_validate(SECTION | {"url": url})
        engine = ServerEngine(server, "teacher_model", byte_tokenizer(), sleep=Clock())
        engine.generate(asked(1), SAMPLING, None)
    assert (engine.ledger.total.tokens, engine.ledger.spent.tokens) == (total, spent)


@pytest.mark.parametrize(
    ("reply", "billed"),
    [
        (Sent({"error": "no"}, 400), 0),
        (Sent({"error": "slow down"}, 429), 0),
        (Sent({"error": "later"}, 503), 0),
        (Sent({"error": "oops"}, 500), 0),
        (Sent({"error": {"code": 503}}), 0),
        (Sent({"error": {"code": 503}, "usage": {"total_tokens": 9}}), 13),
        (Sent({"error": "gateway"}, 504), 13),
        (Sent(b'{"model": "tiny-mo'), 13),
        (Sent(b'{"mo', headers={"Content-Length": "5000"}), 13),
        (said(model="another"), 13),
        (said(usage={"prompt_tokens": 5, "completion_tokens": 999}), 1004),
        (said(choices=[]), 13),
        (said("x" * 9000), 13),
    ],
)
def test_a_request_that_may_be_billed_is_spent_with_its_most(reply: Any, billed: int) -> None:
    with serving(lambda *_: reply) as (url, _):
        server = Server.model_validate(SECTION | {"url": url, "retries": 0})
        engine = ServerEngine(server, "teacher_model", byte_tokenizer(), sleep=Clock())
        with pytest.raises(UserError):
            engine.generate(asked(1), SAMPLING, None)
    assert engine.ledger.spent.tokens == billed
    server = Server.model_validate(SECTION | {"retries": 2})
    engine = ServerEngine(server, "teacher_model", byte_tokenizer(), sleep=Clock())
    with pytest.raises(UserError, match="no answer after 3 tries"):
        engine.generate(asked(1), SAMPLING, None)
    assert engine.ledger.spent.tokens == 0  # nobody was there


def test_two_roles_of_one_server_pay_for_their_own_answers(tiny: Any, tmp_path: Path) -> None:
    """The folder's answers can't be told by who asked for them."""
    with serving(lambda request, _: said(request.body["prompt"][:2])) as (url, _):
        section = recipe(url, budget={"tokens": 20 * 13 + 5})
        judge = {"model": section["teacher_model"], "max_new_tokens": 8, "repeats": 1}
        made = tiny(**section, judge=judge)
        collected(made, tmp_path)
        weights = Weights(made, RunDir(tmp_path), byte_tokenizer())
        for who, spent in ((TEACHER, 20 * 9), (JUDGE, 0)):
            engine: Any = weights.engine(who)
            assert engine.ledger.spent.tokens >= spent
            assert (engine.ledger.spent.tokens == 0) == (who == JUDGE)


def test_parts_of_a_store_are_never_overwritten(tmp_path: Path) -> None:
    completion = Completion("a", "c", "x", (1,), "end", 1)
    for part in (0, 2):
        write_completions(tmp_path / f"part-{part:05d}.parquet", [(str(part), completion)])

    class Engine:
        def generate(self, prompts: list[Prompt], *_: Any, **__: Any) -> list[Completion]:
            return [Completion(p.example_id, p.context, "y", (1,), "end", 1) for p in prompts]

    engine: Any = Engine()
    collect.fill(
        collect.here(lambda: engine),
        tmp_path,
        Question(TEACHER, Side(asked(1), [5], (0,)), SAMPLING),
        batch_size=1,
    )
    assert set(read_completions(tmp_path)) == {"0", "2", key_of(asked(1)[0])}


# -- the recipe, the key, and a whole run ----------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "server", "kind", "kept"),
    [
        (None, {}, "hard", 16),
        (None, {"tokenizer": "somewhere"}, "top_k", 20),
        ({"k": 5}, {"tokenizer": "somewhere"}, "top_k", 5),
        ({"kind": "hard"}, {"tokenizer": "somewhere"}, "hard", 16),
        (
            {"draws": 100},
            {"tokenizer": "somewhere"},
            "sampled",
            16,
        ),  # asked for, so refused by check
    ],
)
def test_labels_are_what_a_server_can_tell_unless_given(
    decoder_folder: Path, labels: Any, server: Any, kind: str, kept: int
) -> None:
    recipe = tiny_recipe(decoder_folder) | {"teacher_model": {"server": SECTION | server}}
    recipe.pop("labels", None)
    found = parse(recipe | ({"labels": labels} if labels else {}))
    assert (found.labels.kind, found.labels.kept) == (kind, kept)
    assert parse(found.model_dump(mode="json")).labels == found.labels, (
        "what a run's folder keeps reads back the same"
    )


def test_labels_that_a_server_chose_are_said(decoder_folder: Path) -> None:
    recipe = tiny_recipe(decoder_folder)
    recipe.pop("labels", None)
    said = {
        kind: "\n".join(
            check.check(parse(recipe | {"teacher_model": {"server": SECTION | server}})).lines
        )
        for kind, server in (("hard", {}), ("top_k", {"tokenizer": str(decoder_folder)}))
    }
    assert "note: labels.kind hard: with server.tokenizer it could be top_k" in said["hard"]
    assert (
        "note: labels.kind top_k cuts what lies behind the 20 most probable tokens" in said["top_k"]
    )
    assert "a server tells no more" in said["top_k"]


def test_labels_stay_draws_where_a_server_only_sits_beside(decoder_folder: Path) -> None:
    recipe = tiny_recipe(decoder_folder) | {"teacher_model": {"server": SECTION}}
    [(name, context)] = recipe["contexts"].items()
    recipe.pop("labels", None)
    recipe["contexts"] = {
        "own": {
            "inputs": [{"id": "a", "text": "x", "target": "y"}],
            "student": "{{ text }}",
            "gold": "{{ target }}",
        },
        name: context,
    }
    recipe["rounds"] = {
        "first": {"contexts": ["own"]},
        "second": {"contexts": [name], "teacher": "previous"},
    }
    assert parse(recipe).labels.kind == "sampled"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"labels": {"kind": "sampled"}},
            "labels.kind: a server tells at most its most probable tokens",
        ),
        (
            {"labels": {"kind": "top_k"}},
            r"server\.tokenizer: top_k labels need the server's tokenizer",
        ),
        ({"model": {"server": SECTION}}, "a server's weights can't be trained"),
        (
            {"teacher_model": {"server": SECTION | {"api": "chat"}}},
            "a chat endpoint takes messages, not plain text",
        ),
        (
            {"teacher_model": {"server": SECTION | {"api_key_env": "UNPROMPT_NO_KEY"}}},
            "the environment variable UNPROMPT_NO_KEY is not set",
        ),
        (
            {"teacher_model": {"server": SECTION | {"api_key_env": KEY}}},
            "not the name of an environment variable",
        ),
        (
            {"teacher_model": {"server": SECTION | {"url": f"https://me:{KEY}@x/v1"}}},
            "no plain http",
        ),
        (
            {"teacher_model": {"server": SECTION | {"url": f"https://x/v1?key={KEY}"}}},
            "no plain http",
        ),
        ({"teacher_model": {"server": SECTION | {"api_key": KEY}}}, "did you mean 'api_key_env'"),
        (
            {"teacher_model": {"server": SECTION | {"extra": {"seed": 3}}}},
            "'seed' is set by the recipe",
        ),
        (
            {"teacher_model": {"server": SECTION | {"extra": {"x": float("nan")}}}},
            "can't be sent as JSON",
        ),
        ({"teacher_model": {"server": SECTION | {"budget": {}}}}, "a budget of nothing"),
        (
            {"teacher_model": {"server": SECTION | {"budget": {"dollars": 1}}}},
            "nobody knows what 'tiny-model' costs",
        ),
        (
            {"teacher_model": {"server": SECTION, "dtype": "float16"}},
            "a server has its weights elsewhere -> leave out dtype",
        ),
    ],
)
def test_a_recipe_that_can_not_work_is_refused_before_anything_is_asked(
    decoder_folder: Path, changes: Any, match: str
) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check.check(
            parse(
                tiny_recipe(decoder_folder)
                | {"teacher_model": {"server": SECTION}, "labels": {"kind": "hard"}}
                | changes
            )
        )
    assert KEY not in str(caught.value)


def test_the_check_says_what_will_be_asked_and_asks_nothing(tiny: Any) -> None:
    with serving(lambda *_: said()) as (url, seen):
        price = {"input": 1000.0, "output": 2000.0}
        lines = check.check(
            tiny(**recipe(url, price=price, budget={"dollars": 2, "tokens": 9000}))
        ).lines
    [line] = [line for line in lines if line.startswith("server of the teacher")]
    prompts = sum(
        len("A long instruction that the student never sees. :") + len(text)
        for text in (
            "red",
            "green",
            "blue",
            "yellow",
            "black",
            "white",
            "pink",
            "brown",
            "grey",
            "violet",
            "gold",
        )
    )
    dollars = (prompts * 1000 + 11 * 8 * 2000) / 1e6
    assert (
        f"at most 11 calls, {prompts:,} prompt tokens, 88 answer tokens, ${dollars:.2f}; stops at"
        " 9,000 tokens or $2" in line
    )
    assert any("lengths are estimates by the student's" in line for line in lines)
    assert not seen


def test_a_run_asks_a_server_as_often_as_check_says(tiny: Any, tmp_path: Path) -> None:
    """The answers that the report compares with one another among them."""
    with serving(lambda *_: said()) as (url, seen):
        made = tiny(**recipe(url), report={"self_agreement": 2})
        [line] = [line for line in check.check(made).lines if line.startswith("server of the")]
        pipeline.run(made, tmp_path / "run")
    assert f"at most {8 + 3 + 2 * 2} calls" in line
    assert len(seen) == 8 + 3 + 2 * 2


def test_a_run_with_a_server_and_no_key_in_anything_it_writes(
    decoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def answer(request: Asked, number: int) -> Any:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        return (
            Sent({"error": f"bad key {KEY}"}, 429 if number == 0 else 400)
            if number in (0, 4)
            else said("yes")
        )

    with serving(answer) as (url, seen):
        data = tiny_recipe(decoder_folder) | recipe(url, api_key_env="UNPROMPT_TEST_KEY", retries=1)
        data["judge"] = {"model": data["teacher_model"], "max_new_tokens": 20, "repeats": 1}
        data["name"] = "keyed"
        file = tmp_path / "keyed.yaml"
        file.write_text(json.dumps(data))
        monkeypatch.setenv("UNPROMPT_TEST_KEY", KEY)
        monkeypatch.setattr(
            sys, "argv", ["unprompt", "run", str(file), "--out", str(tmp_path / "run")]
        )
        with pytest.raises(SystemExit) as refused:
            cli.main()
        assert refused.value.code == 2
        first = capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            cli.main()
        second = capfd.readouterr()
        assert done.value.code in (None, 0), second.err
    assert "HTTP 400" in first.err
    assert "bad key ***" in first.err
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert not any(KEY in said for said in (*first, *second))
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["servers"]["teacher"]["answers"] == 8 + 3
    assert report["servers"]["judge"]["answers"] > 0
    assert "does not tell its whole distribution" in report["contexts"]["colours"]["kl_left_out"]
    teachers = [a.body["prompt"] for a in seen if a.body["prompt"].startswith("A long")]
    assert len(teachers) - len(set(teachers)) == 2  # the two that were refused
