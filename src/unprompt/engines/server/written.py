"""Which tokens a server's answer has. Pure; whatever a server sends, only `UserError`s come out.

Token ids come from the server itself (`"token_id:17"` of vLLM and SGLang, `id` of llama.cpp) or
from the bytes of a token, which name one token of a byte-level vocabulary. Of other vocabularies
(SentencePiece) the text of a token does not say which it is, so there the server has to give ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unprompt.engines.labels import of_most_probable
from unprompt.engines.server.replies import Again, Piece, Reply
from unprompt.engines.tokens import before_stop, decoded, end_ids, own_end
from unprompt.messages import UserError
from unprompt.records import SoftLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HALF = "\ufffd"
"""What stands in a text for bytes that are no letter."""
_OVER_ONE = 1.01
"""What the probabilities of some tokens may sum to: servers round."""
_APART = 0.01
"""Nats by which a token has to be above the last of a list to belong into it."""


class Written(NamedTuple):
    """An answer in tokens.

    Attributes:
        stop: As of `Completion`.
        entries: Alternatives that the server named for labels.
        unmapped: How many of them are no token that can be told; they are left out of the labels.
        short: Tokens for which the server named fewer than it was asked for.
    """

    text: str
    stop: str
    ids: tuple[int, ...]
    labels: SoftLabels
    entries: int = 0
    unmapped: int = 0
    short: int = 0


class Vocabulary:
    """From a server's tokens to ids.

    Args:
        tokenizer: The model's own.

    Attributes:
        size: Tokens that there are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.size = len(tokenizer)
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
            return id_ if 0 <= id_ < self.size else None
        if piece.raw is None and "\ufffd" in piece.text:
            return None
        spelled = piece.text.encode(errors="surrogatepass")
        return self._by_bytes.get(spelled if piece.raw is None else piece.raw)


def from_text(
    reply: Reply,
    stops: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    repeated: str | None = "",
) -> Written:
    """The answer's text alone, tokenised here; each token is its own label. Half a letter at the
    end of an answer that was cut is left out.

    Args:
        repeated: The prompt, whose U+FFFD may be repeated; None: the answer is not learned, and may
            hold any.

    Raises:
        Again: There are bytes that are no letter.
    """
    text, stop = _ending(reply, stops)
    if stop == "length":
        text = text.rstrip(_HALF)
    if repeated is not None and _HALF in text and _HALF not in repeated:
        at = text.index(_HALF)
        raise Again(
            f"the answer has bytes that are no letter (U+FFFD): {text[max(0, at - 20) : at + 20]!r}"
        )
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
        UserError: There are none, or fewer than asked for, or they don't agree with the tokenizer
            or the text.
        Again: Their probabilities can't be.
    """
    if reply.finish == "content_filter":
        return from_text(reply, stops, tokenizer)
    if reply.tokens is None:
        raise UserError(
            "the server sent no log-probabilities",
            fix="ask one that does, or write labels.kind: hard",
        )
    ids, parts, entries, unmapped, short = [], [], 0, 0, 0
    tokens, wanted = _named(reply), min(kept, vocabulary.size)
    for piece, others in tokens:
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
        _refuse_odd(id_, piece, named)
        entries, short = entries + len(named), short + (len(named) < wanted)
        unmapped += sum(other is None for other, _ in named)
        logp = {other: value for other, value in named if other is not None} or {id_: piece.logp}
        # vLLM adds the drawn token as one more
        most = sorted(logp.items(), key=lambda pair: -pair[1])[:kept]
        ids.append(id_)
        parts.append(of_most_probable(dict(most)))
    counted, sent, ends = reply.usage.completion, len(ids), end_ids(tokenizer)
    if reply.thought:
        first = _behind_thought(_ending(reply, stops)[0], ids, ends, stops, tokenizer)
        ids, parts = ids[first:], parts[first:]
    labels = SoftLabels.concat(parts)
    text, stop = _agreed(*_ending(reply, stops), ids, ends, stops, tokenizer)
    _refuse_fewer([len(others) for _, others in tokens], wanted)
    if counted and stop != "stop" and abs(sent - counted) > 1:
        raise UserError(f"the server counts {counted} tokens in an answer of {sent}")
    if stop == "end" and (not ids or ids[-1] not in ends):
        ids.append(own_end(tokenizer, chat=True))
        labels = labels.then_hard(ids[-1])
    return Written(text, stop, tuple(ids), labels, entries, unmapped, short)


def _behind_thought(
    text: str,
    ids: Sequence[int],
    ends: set[int],
    stops: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Which token the answer begins with, of those of a thought and of the answer behind it; the
    last that gives the text, blanks aside. 0 where none does.
    """
    last, wanted = len(ids) - (bool(ids) and ids[-1] in ends), _alike(text)
    for place in range(last, -1, -1):
        shown = decoded(tokenizer, ids[place:last])
        before = before_stop(shown, stops)
        if _alike(shown if before is None else before) == wanted:
            return place
    return 0


def _refuse_fewer(counts: Sequence[int], wanted: int) -> None:
    """Of an answer no token of which has as many alternatives as were asked for."""
    most = max(counts, default=wanted)
    if most < wanted:
        ask = "ask one that gives top_logprobs, or write labels.kind: hard"
        raise UserError(
            f"the server named {most} of the {wanted} most probable tokens that it was asked for"
            " (top_logprobs)",
            fix=ask if most < 2 else f"write labels.k: {most}, or ask one that gives more",
        )


def _refuse_odd(id_: int, piece: Piece, named: Sequence[tuple[int | None, float]]) -> None:
    """Alternatives of a token that no model has."""
    ids, token = [other for other, _ in named if other is not None], piece.text[:40]
    if len(set(ids)) < len(ids):
        raise Again(f"the server named one token twice among the alternatives of {token!r}")
    total = sum(math.exp(logp) for _, logp in named)
    apart = len(ids) == len(named) and id_ not in ids
    total += math.exp(piece.logp) if apart else 0.0
    if total > _OVER_ONE:
        raise Again(f"the probabilities of {token!r} and its alternatives sum to {total:.3g}")
    if apart and named and piece.logp > min(logp for _, logp in named) + _APART:
        raise Again(f"the token {token!r} is not among the alternatives, but more probable")


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
