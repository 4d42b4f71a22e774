"""What a server's reply says. Pure; whatever a server sends, only `UserError`s come out."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from unprompt.messages import UserError

_MONTH, _DAY = "(0[1-9]|1[0-2])", "(0[1-9]|[12][0-9]|3[01])"
_DATED = rf"[-@:](20\d\d-?{_MONTH}-?{_DAY}|{_MONTH}{_DAY}|2\d{_MONTH}|00\d|latest)|@[\w.:-]+"
"""What a server may put behind the name that was asked: a date (2024-08-06, 20240806, 0613, 2407),
a number like 002, `latest`, or a revision behind an @. Anything else is another model's name."""
_LETTERS_A_TOKEN, _LETTERS = 128, 4096
"""Letters that an answer may have: for each token as many as the longest ones have, and some."""
_BUSY = r"overload|rate.?limit|too.many|unavailable|try.again|timed?.?out|capacity"


class Again(UserError):
    """What may be another answer the next time.

    Args:
        seconds: That the server wants to be left alone.
    """

    def __init__(self, what: str, seconds: float = 0.0) -> None:
        super().__init__(what)
        self.seconds = seconds


class Usage(NamedTuple):
    """Tokens as the server counts them; None where it does not: no text has 0 of them."""

    prompt: int | None
    completion: int | None
    total: int | None


class Piece(NamedTuple):
    """A token as the server wrote it, with its log-probability in nats."""

    text: str
    logp: float
    raw: bytes | None = None
    id: int | None = None


class Reply(NamedTuple):
    """One answer.

    Attributes:
        finish: The server's `finish_reason`.
        stopped_by: The stop string or token that ended it, where the server says so (vLLM); `""`:
            it says that none did; None: it says nothing.
        tokens: Each token with its alternatives; None if the server sent none.
        usage: What the server counts.
        thought: What the server says beside the answer (`reasoning`, `reasoning_content`); empty:
            nothing. It is in `tokens`, ahead of the answer's.
        calls: What the answer calls, as the server took it out of the text.
    """

    text: str
    finish: str
    stopped_by: str | None
    tokens: list[tuple[Piece, list[Piece]]] | None
    usage: Usage
    thought: str = ""
    calls: tuple[dict[str, Any], ...] = ()


def read(reply: Any, asked_model: str, longest: int) -> Reply:
    """Take a reply apart.

    Args:
        reply: Its JSON.
        asked_model: The model that was asked.
        longest: Tokens that the answer may have.

    Raises:
        UserError: It is no reply of an OpenAI-compatible endpoint, another model's, or longer than
            allowed.
        Again: A number in it is none.
    """
    body = _mapping(reply, "the reply")
    _refuse_another(body.get("model"), asked_model)
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise _odd("choices", choices)
    choice = _mapping(choices[0], "choices[0]")
    holder = _mapping(choice["message"], "message") if "message" in choice else choice
    text = holder.get("content" if "message" in choice else "text")
    if not isinstance(text, str | None):
        raise _odd("the answer's text", text)
    if len(text or "") > longest * _LETTERS_A_TOKEN + _LETTERS:
        raise UserError(
            f"the server sent {len(text or ''):,} letters for an answer that may have {longest}"
            " tokens",
            fix="mend the server",
        )
    finish = choice.get("finish_reason")
    calls = _calls(holder)
    # servers differ in what they say of an answer that calls
    finish = "stop" if calls and finish in ("tool_calls", "function_call") else finish
    if finish not in ("stop", "length", "content_filter"):
        raise UserError(
            f"the answer ended with finish_reason {str(finish)[:40]!r}, which is none that a"
            " written answer has"
        )
    by = choice.get("stop_reason", False)
    stopped_by = None if by is False else by if isinstance(by, str) else ""
    usage, tokens = used(body), _tokens(choice.get("logprobs"))
    if usage.completion and usage.completion > longest:
        raise UserError(
            f"the server counts {usage.completion} tokens in an answer that may have {longest}",
            fix="mend the server",
        )
    if tokens is not None and len(tokens) > longest + 1:  # the end token may come on top
        raise UserError(
            f"the server sent {len(tokens)} tokens for an answer that may have {longest}",
            fix="mend the server",
        )
    # JSON can spell half a letter
    text = (text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    thought = holder.get("reasoning") or holder.get("reasoning_content")
    thought = thought if isinstance(thought, str) else ""
    return Reply(text, finish, stopped_by, tokens, usage, thought, calls)


def _calls(message: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """What a message calls, arguments as dictionaries."""
    calls = []
    for call in _list(message, "tool_calls"):
        function = _mapping(_mapping(call, "a call").get("function"), "a call's function")
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                raise Again(f"the arguments of a call are no JSON: {arguments[:60]!r}") from None
        if not isinstance(name, str) or not isinstance(arguments, dict | None):
            raise _odd("a call", call)
        inner = {"name": name, "arguments": arguments or {}}
        named = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append({**named, "type": "function", "function": inner})
    return tuple(calls)


def _refuse_another(model: Any, asked: str) -> None:
    """Of a reply that says which model it is of."""
    if not isinstance(model, str) or not model:
        return
    name = re.sub("[-:]latest$", "", asked)
    same = rf"{re.escape(asked)}|{re.escape(name)}({_DATED})?"
    if not re.fullmatch(same, model, re.IGNORECASE):
        raise UserError(
            f"the answer is of model {model[:80]!r}, but {asked!r} was asked",
            fix="name the model that the server has as server.model",
        )


def used(reply: Any) -> Usage:
    """What a reply says that it took.

    Raises:
        UserError: Something that is no count.
    """
    counts = reply.get("usage") if isinstance(reply, dict) else None
    usage = {} if counts is None else _mapping(counts, "usage")
    found = [usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total")]
    for count in found:
        if count is not None and (type(count) is not int or not 0 <= count < 2**31):
            raise UserError(f"the server counts {str(count)[:40]!r} tokens", fix="mend the server")
    return Usage(*(count or None for count in found))


def refusal(reply: Any) -> tuple[int, str] | None:
    """An error that came as an answer: the HTTP status that it should have had (200 where nothing
    says so) and its text; None if there is none.
    """
    if not isinstance(reply, dict):
        return None
    choices = reply.get("choices")
    inside = (
        [each.get("error") for each in choices if isinstance(each, dict)]
        if (isinstance(choices, list))
        else []
    )
    error = reply.get("error") or next(filter(None, inside), None)
    if not error and reply.get("object") == "error":
        error = reply
    if not error:
        return None
    text = str(error)[:300]
    named = error if isinstance(error, dict) else {}
    for key in ("code", "status", "status_code"):
        if re.fullmatch(r"[45]\d\d", str(named.get(key))[:9]):
            return int(named[key]), text
    return 503 if re.search(_BUSY, text, re.IGNORECASE) else 200, text


def _tokens(logprobs: Any) -> list[tuple[Piece, list[Piece]]] | None:
    if logprobs is None:
        return None
    body = _mapping(logprobs, "logprobs")
    if isinstance(body.get("content"), list):  # chat, and llama.cpp
        entries = [_mapping(entry, "a token") for entry in body["content"]]
        return [(_entry(e), [_entry(other) for other in _list(e, "top_logprobs")]) for e in entries]
    texts, logps = _list(body, "tokens"), _list(body, "token_logprobs")
    tops = _list(body, "top_logprobs")
    if not len(texts) == len(logps) == len(tops):
        raise UserError(
            f"the server sent {len(texts)} tokens, {len(logps)} log-probabilities and {len(tops)}"
            " alternatives for one answer"
        )
    others = [_mapping(top or {}, "top_logprobs").items() for top in tops]
    return [
        (_piece(text, logp), [_piece(*other) for other in top])
        for text, logp, top in zip(texts, logps, others, strict=True)
    ]


def _entry(token: Any) -> Piece:
    entry = _mapping(token, "a token")
    raw, id_ = _list(entry, "bytes"), entry.get("id")
    if not all(isinstance(byte, int) and 0 <= byte < 256 for byte in raw):
        raise _odd("a token's bytes", raw)
    piece = _piece(entry.get("token"), entry.get("logprob"))
    return piece._replace(raw=bytes(raw) or None, id=id_ if type(id_) is int else None)


def _piece(text: Any, logp: Any) -> Piece:
    if not isinstance(text, str):
        raise _odd("a token", text)
    if isinstance(logp, bool) or not isinstance(logp, int | float) or logp != logp or logp > 0.01:
        raise _odd("a log-probability", logp)
    if logp == -math.inf:
        raise Again(f"the server gave the token {text[:40]!r} a log-probability of -inf")
    return Piece(text, float(min(0.0, max(-9999.0, logp))))


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _odd(what, value)
    return value


def _list(body: dict[str, Any], key: str) -> Sequence[Any]:
    value = body.get(key)
    if value is not None and not isinstance(value, list):
        raise _odd("a list", value)
    return value or []


def _odd(what: str, value: Any) -> UserError:
    return UserError(
        f"not the reply of an OpenAI-compatible endpoint: {what} is {str(value)[:60]!r}",
        fix="check server.url and server.api",
    )
