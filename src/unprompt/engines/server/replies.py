"""What a server's reply says, and which tokens its answer has. Pure; whatever a server sends, only
`UserError`s come out.

Token ids come from the server itself (`"token_id:17"` of vLLM and SGLang, `id` of llama.cpp) or
from the bytes of a token, which name one token of a byte-level vocabulary. Of other vocabularies
(SentencePiece) the text of a token does not say which it is, so there the server has to give ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unprompt.engines.labels import of_most_probable
from unprompt.engines.tokens import before_stop, decoded, end_ids, own_end
from unprompt.messages import UserError
from unprompt.records import SoftLabels

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
    _refuse_another(body.get("model"), asked_model)
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1:
        raise _odd("choices", choices)
    choice = _mapping(choices[0], "choices[0]")
    holder = _mapping(choice["message"], "message") if "message" in choice else choice
    text = holder.get("content" if "message" in choice else "text")
    if not isinstance(text, str | None):
        raise _odd("the answer's text", text)
    finish = choice.get("finish_reason")
    if finish not in ("stop", "length", "content_filter"):
        raise UserError(
            f"the answer ended with finish_reason {str(finish)[:40]!r}, which is none that a"
            " written answer has"
        )
    by = choice.get("stop_reason", False)
    stopped_by = None if by is False else by if isinstance(by, str) else ""
    usage, tokens = _usage(body.get("usage")), _tokens(choice.get("logprobs"))
    if usage and usage[1] > longest:
        raise UserError(
            f"the server counts {usage[1]} tokens in an answer that may have {longest}",
            fix="mend the server",
        )
    if tokens is not None and len(tokens) > longest + 1:  # the end token may come on top
        raise UserError(
            f"the server sent {len(tokens)} tokens for an answer that may have {longest}",
            fix="mend the server",
        )
    # JSON can spell half a letter
    text = (text or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return Reply(text, finish, stopped_by, tokens, usage)


def _refuse_another(model: Any, asked: str) -> None:
    """Of a reply that says which model it is of."""
    if not isinstance(model, str) or not model:
        return
    if not re.fullmatch(re.escape(asked) + _DATED, model, re.IGNORECASE):
        raise UserError(
            f"the answer is of model {model[:80]!r}, but {asked!r} was asked",
            fix="name the model that the server has as server.model",
        )


def _usage(counts: Any) -> tuple[int, int] | None:
    if counts is None:
        return None
    usage = _mapping(counts, "usage")
    prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    for count in (prompt, completion):
        if type(count) is not int or not 0 <= count < 2**31:
            raise UserError(f"the server counts {str(count)[:40]!r} tokens", fix="mend the server")
    return prompt, completion


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


class Written(NamedTuple):
    """An answer in tokens.

    Attributes:
        stop: As of `Completion`.
        entries: Alternatives that the server named for labels.
        unmapped: How many of them are no token that can be told; they are left out of the labels.
    """

    text: str
    stop: str
    ids: tuple[int, ...]
    labels: SoftLabels
    entries: int = 0
    unmapped: int = 0


class Vocabulary:
    """From a server's tokens to ids.

    Args:
        tokenizer: The model's own.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self._size = len(tokenizer)
        self._by_bytes: dict[bytes, int | None] = {}
        decoder: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        state: Any = getattr(decoder, "__getstate__", bytes)
        if b'"ByteLevel"' not in state():
            return
        known: Any = tokenizer  # the base class names no vocabulary of added tokens
        byte_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
        added = set(known.get_added_vocab())
        for token, id_ in tokenizer.get_vocab().items():
            if token in added:
                raw = token.encode()
            elif all(letter in byte_of for letter in token):
                raw = bytes(byte_of[letter] for letter in token)
            else:
                continue
            # of two tokens of the same bytes nobody can tell which it is
            self._by_bytes[raw] = None if raw in self._by_bytes else id_

    def id_of(self, piece: Piece) -> int | None:
        """The token's id; None if it can't be told."""
        id_ = piece.id
        if id_ is None and (named := re.fullmatch(r"token_id:(\d{1,9})", piece.text)):
            id_ = int(named[1])
        if id_ is not None:
            return id_ if 0 <= id_ < self._size else None
        if piece.raw is None and "\ufffd" in piece.text:
            return None
        spelled = piece.text.encode(errors="surrogatepass")
        return self._by_bytes.get(spelled if piece.raw is None else piece.raw)


def from_text(reply: Reply, stops: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Written:
    """The answer's text alone, tokenised here; each token is its own label."""
    text, stop = _ending(reply, stops)
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text else []
    ids = (*ids, *([own_end(tokenizer, chat=True)] if stop == "end" else []))
    return Written(text, stop, ids, SoftLabels.hard(ids))


def from_tokens(
    reply: Reply,
    stops: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    kept: int,
) -> Written:
    """The answer by the tokens that the server sent, with labels of the `kept` most probable.

    Args:
        tokenizer: The server's own.

    Raises:
        UserError: There are none, or they don't agree with the tokenizer or the text.
    """
    if reply.finish == "content_filter":
        return from_text(reply, stops, tokenizer)
    if reply.tokens is None:
        raise UserError(
            "the server sent no log-probabilities",
            fix="ask one that does, or write labels.kind: hard",
        )
    ids, parts, entries, unmapped = [], [], 0, 0
    for piece, others in _named(reply):
        id_ = vocabulary.id_of(piece)
        if id_ is None:
            raise UserError(
                f"the token {piece.text[:40]!r} of the answer can't be found in the tokenizer",
                fix=(
                    "name the server's own tokenizer, have the server send ids (extra:"
                    " {return_tokens_as_token_ids: true} with vLLM), or write labels.kind: hard"
                ),
            )
        named = [(vocabulary.id_of(other), other.logp) for other in others]
        entries += len(named)
        unmapped += sum(other is None for other, _ in named)
        logp = {other: value for other, value in named if other is not None} or {id_: piece.logp}
        # vLLM adds the drawn token as one more
        most = sorted(logp.items(), key=lambda pair: -pair[1])[:kept]
        ids.append(id_)
        parts.append(of_most_probable(dict(most)))
    labels, ends = SoftLabels.concat(parts), end_ids(tokenizer)
    text, stop = _agreed(*_ending(reply, stops), ids, ends, stops, tokenizer)
    if reply.usage and stop != "stop" and abs(len(ids) - reply.usage[1]) > 1:
        raise UserError(f"the server counts {reply.usage[1]} tokens in an answer of {len(ids)}")
    if stop == "end" and (not ids or ids[-1] not in ends):
        ids.append(own_end(tokenizer, chat=True))
        labels = labels.then_hard(ids[-1])
    return Written(text, stop, tuple(ids), labels, entries, unmapped)


def _ending(reply: Reply, stops: Sequence[str]) -> tuple[str, str]:
    """The text up to a stop string, and why it ended. Where a server does not say which of the two
    it was, an answer that stop strings might have ended counts as ended by one.
    """
    if reply.finish == "content_filter":
        return "", "filtered"
    if (before := before_stop(reply.text, stops)) is not None:
        return before, "stop"
    if reply.finish == "length":
        return reply.text, "length"
    stopped = reply.stopped_by in stops or (reply.stopped_by is None and stops)
    return reply.text, "stop" if stopped else "end"


def _named(reply: Reply) -> list[tuple[Piece, list[Piece]]]:
    """The answer's tokens, without an end token that has no name."""
    tokens = reply.tokens or []
    last = tokens[-1][0] if tokens and reply.finish == "stop" else None
    nameless = last and not last.text and not last.raw and last.id is None
    return tokens[:-1] if nameless else tokens


def _agreed(
    text: str,
    stop: str,
    ids: Sequence[int],
    ends: set[int],
    stops: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[str, str]:
    """The text of the tokens, which has to be the server's, and why it ended, now that the tokens
    are known.
    """
    ended = bool(ids) and ids[-1] in ends
    words = ids[:-1] if ended else ids
    shown, plain = decoded(tokenizer, words), decoded(tokenizer, words, special=False)
    before = before_stop(shown, stops)
    cut = shown if before is None else before
    if _alike(text) not in (_alike(cut), _alike(plain)):
        raise UserError(
            f"the server's text {text[:60]!r} is not that of its tokens, {cut[:60]!r}",
            fix="mend the server",
        )
    return cut, "stop" if before is not None else "end" if ended else stop


def _alike(text: str) -> str:
    """A text for comparing: without blanks at its ends, and halves of a letter as one sign
    (decoders differ there).
    """
    return re.sub("\ufffd+", "\ufffd", text).strip().rstrip("\ufffd").strip()
