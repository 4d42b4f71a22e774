"""What a server's reply says, and whose token each of its tokens is. Pure; whatever a server sends,
only `UserError`s come out.

Token ids come from the server itself (`"token_id:17"` of vLLM and SGLang, `id` of llama.cpp) or
from the bytes of a token, which name one token of a byte-level vocabulary. Of other vocabularies
(SentencePiece) the text of a token does not say which it is, so there the server has to give ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unprompt.messages import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DATED = r"([-@:]\d[\w.-]*|@\w+)?"
"""What a server may put behind the name that was asked: a date or a revision."""


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
        usage: Tokens of prompt and answer as the server counts them; None if it does not.
    """

    text: str
    finish: str
    stopped_by: str | None
    tokens: list[tuple[Piece, list[Piece]]] | None
    usage: tuple[int, int] | None


def read(reply: Any, asked_model: str, longest: int) -> Reply:
    """Take a reply apart.

    Args:
        reply: Its JSON.
        asked_model: The model that was asked.
        longest: Tokens that the answer may have.

    Raises:
        UserError: It is no reply of an OpenAI-compatible endpoint, another model's, or longer than
            allowed.
    """
    body = _mapping(reply, "the reply")
    if body.get("error"):
        raise UserError(f"the server refused: {str(body['error'])[:200]}")
    said = body.get("model")
    if (
        isinstance(said, str)
        and said
        and not re.fullmatch(re.escape(asked_model) + _DATED, said, re.IGNORECASE)
    ):
        raise UserError(
            f"the answer is of model {said[:80]!r}, but {asked_model!r} was asked",
            fix="name the model that the server has as server.model",
        )
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise _odd("choices", choices)
    choice = _mapping(choices[0], "choices[0]")
    text = (
        _mapping(choice["message"], "message").get("content")
        if "message" in choice
        else choice.get("text")
    )
    if not isinstance(text, str | None):
        raise _odd("the answer's text", text)
    finish = choice.get("finish_reason")
    if finish not in ("stop", "length", "content_filter"):
        raise UserError(
            f"the answer ended with finish_reason {str(finish)[:40]!r}, which is none that a"
            " written answer has"
        )
    by = choice.get("stop_reason", False)
    usage = _usage(body.get("usage"))
    if usage and usage[1] > longest:
        raise UserError(
            f"the server counts {usage[1]} tokens in an answer that may have {longest}",
            fix="mend the server",
        )
    tokens = _tokens(choice.get("logprobs"))
    if tokens is not None and len(tokens) > longest + 1:  # the end token may come on top
        raise UserError(
            f"the server sent {len(tokens)} tokens for an answer that may have {longest}",
            fix="mend the server",
        )
    text = (
        (text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )  # JSON can spell half a letter
    return Reply(
        text, finish, None if by is False else by if isinstance(by, str) else "", tokens, usage
    )


def _usage(found: Any) -> tuple[int, int] | None:
    if found is None:
        return None
    prompt, completion = (
        _mapping(found, "usage").get(key, 0) for key in ("prompt_tokens", "completion_tokens")
    )
    for count in (prompt, completion):
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 2**31:
            raise UserError(f"the server counts {str(count)[:40]!r} tokens", fix="mend the server")
    return prompt, completion


def _tokens(found: Any) -> list[tuple[Piece, list[Piece]]] | None:
    if found is None:
        return None
    said = _mapping(found, "logprobs")
    if isinstance(said.get("content"), list):  # chat, and llama.cpp
        return [
            (
                _piece(entry),
                [_piece(other) for other in _list(_mapping(entry, "a token").get("top_logprobs"))],
            )
            for entry in said["content"]
        ]
    texts, logps, tops = (
        _list(said.get(key)) for key in ("tokens", "token_logprobs", "top_logprobs")
    )
    if not len(texts) == len(logps) == len(tops):
        raise UserError(
            f"the server sent {len(texts)} tokens, {len(logps)} log-probabilities and {len(tops)}"
            " alternatives for one answer"
        )
    return [
        (
            _said(text, logp),
            [_said(other, value) for other, value in _mapping(top or {}, "top_logprobs").items()],
        )
        for text, logp, top in zip(texts, logps, tops, strict=True)
    ]


def _piece(entry: Any) -> Piece:
    found = _mapping(entry, "a token")
    raw, id_ = found.get("bytes"), found.get("id")
    if not all(isinstance(byte, int) and 0 <= byte < 256 for byte in _list(raw)):
        raise _odd("a token's bytes", raw)
    return _said(found.get("token"), found.get("logprob"))._replace(
        raw=bytes(_list(raw)) or None, id=id_ if type(id_) is int else None
    )


def _said(text: Any, logp: Any) -> Piece:
    if not isinstance(text, str):
        raise _odd("a token", text)
    if isinstance(logp, bool) or not isinstance(logp, int | float) or logp != logp or logp > 0.01:
        raise _odd("a log-probability", logp)
    return Piece(text, float(min(0.0, max(-9999.0, logp))))


def _mapping(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise _odd(what, found)
    return found


def _list(found: Any) -> Sequence[Any]:
    if found is None:
        return []
    if not isinstance(found, list):
        raise _odd("a list", found)
    return found


def _odd(what: str, found: Any) -> UserError:
    return UserError(
        f"not the reply of an OpenAI-compatible endpoint: {what} is {str(found)[:60]!r}",
        fix="check server.url and server.api",
    )


class Vocabulary:
    """From a server's tokens to ids.

    Args:
        tokenizer: The model's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._size = len(tokenizer)
        self._by_bytes: dict[bytes, int | None] = {}
        decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        state: Any = getattr(decoder, "__getstate__", bytes)
        if b'"ByteLevel"' not in state():
            return
        known: Any = tokenizer  # the base class names no vocabulary of added tokens
        letters, added = _letters(), set(known.get_added_vocab())
        for token, id_ in tokenizer.get_vocab().items():
            if token in added:
                raw = token.encode()
            elif all(letter in letters for letter in token):
                raw = bytes(letters[letter] for letter in token)
            else:
                continue
            self._by_bytes[raw] = (
                None if raw in self._by_bytes else id_
            )  # two tokens of the same bytes: nobody can tell which

    def id_of(self, piece: Piece) -> int | None:
        """The token's id; None if it can't be told."""
        id_ = piece.id
        if id_ is None and (named := re.fullmatch(r"token_id:(\d{1,9})", piece.text)):
            id_ = int(named[1])
        if id_ is not None:
            return id_ if 0 <= id_ < self._size else None
        if piece.raw is None and "\ufffd" in piece.text:
            return None
        return self._by_bytes.get(
            piece.text.encode(errors="surrogatepass") if piece.raw is None else piece.raw
        )


def _letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's rule: printable ones
    stand for themselves).
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }
