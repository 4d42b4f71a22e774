"""Token ids of rendered prompts, who reads them, and the text of answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from unprompt.engines import chats
from unprompt.engines.thoughts import left_open
from unprompt.messages import UserError
from unprompt.recipe import Server
from unprompt.records import Messages, Prompt, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OPENED_TAIL = 16
"""Tokens at the end of a prompt in which an open thought is looked for."""
_STOP_TAIL = 32
"""Tokens at the end of an answer in which a stop string is looked for."""


def encode(
    tokenizer: PreTrainedTokenizerBase, content: str | Messages, where: str = "template"
) -> list[int]:
    """Token ids of a rendered prompt.

    Plain text gets the tokenizer's own special tokens (a BOS where the model has one; a text that
    begins with it is given no other). Chat messages go through the model's chat template with its
    generation prompt; a last message in the role `assistant` is continued instead.

    Raises:
        UserError: The tokenizer has no chat template, or the template refuses the chat, or would
            leave some of it out.
    """
    if isinstance(content, str):
        return list(tokenizer(content, verbose=False).input_ids)[_own_start(tokenizer, content) :]
    text = chats.written(tokenizer, content, where)
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def encode_places(
    tokenizer: PreTrainedTokenizerBase, text: str
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a plain text as `encode` reads it, and the characters that each stands for
    (first, and behind the last; none, (0, 0), of special tokens).
    """
    found: Any = tokenizer(text, verbose=False, return_offsets_mapping=True)
    first = _own_start(tokenizer, text)
    return list(found.input_ids)[first:], list(found.offset_mapping)[first:]


def _own_start(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """How many start tokens a text gets that has its own already: 1, or 0."""
    return int(text.startswith(str(tokenizer.bos_token)) and adds_start(tokenizer))


def adds_start(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether plain text gets the start token (BOS) ahead."""
    return list(tokenizer("a", verbose=False).input_ids)[:1] == [tokenizer.bos_token_id]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template puts behind an answer; None if text stands there, or
    nothing, or there is no template.
    """
    ids = behind_answer(tokenizer)
    return ids[0] if ids and ids[0] in tokenizer.added_tokens_decoder else None


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: Any = None) -> set[int]:
    """Token ids that end an answer: the tokenizer's EOS, those of the generation settings, and the
    one with which the chat template ends an answer.
    """
    eos: Any = getattr(generation, "eos_token_id", None)
    more = eos if isinstance(eos, (list, tuple)) else [eos]
    ends = [tokenizer.eos_token_id, turn_end(tokenizer), *more]
    for id_ in more:
        if id_ is not None and not isinstance(id_, int):
            what, fix = f"eos_token_id is {str(id_)[:60]!r}", "write a token's id, or a list of ids"
            raise UserError(what, where="generation_config.json", fix=fix)
    return {int(id_) for id_ in ends if id_ is not None}


def behind_answer(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of what the chat template puts behind an answer, leading blanks aside."""
    mark = "unprompt"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    if not tokenizer.chat_template:
        return []
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may refuse this conversation, and is then not judged by it
        return []
    behind = str(text).rpartition(mark)[2].lstrip()
    return list(tokenizer(behind, add_special_tokens=False, verbose=False).input_ids)


def own_end(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> int:
    """The token that ends an answer where nobody wrote one: in a chat the template's, else the
    tokenizer's EOS.
    """
    closing = turn_end(tokenizer) if chat else None
    end = tokenizer.eos_token_id if closing is None else closing
    assert isinstance(end, int)
    return end


def open_thought(tokenizer: PreTrainedTokenizerBase, **variables: Any) -> str:
    """What the chat template opens ahead of the answer and leaves open; empty if nothing.

    Args:
        variables: Of the template.
    """
    turns = [{"role": "user", "content": "?"}]
    try:
        whole = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **variables
        )
    except Exception:  # as in `behind_answer`
        return ""
    return left_open(str(whole))


def default_system(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the chat template writes as a system message where a chat has none; empty: nothing."""
    mark, asked = "unprompt", [{"role": "user", "content": "?"}]
    try:
        plain = str(tokenizer.apply_chat_template(asked, tokenize=False))
        given = [{"role": "system", "content": mark}, *asked]
        whole = str(tokenizer.apply_chat_template(given, tokenize=False))
    except Exception:  # as in `behind_answer`
        return ""
    ahead, found, behind = whole.partition(mark)
    fits = found and plain.startswith(ahead) and plain.endswith(behind)
    return plain[len(ahead) : len(plain) - len(behind)].strip() if fits else ""


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template asks what day it is."""
    return "strftime_now" in json.dumps(tokenizer.chat_template)


def refuse_length(what: str, tokens: int, answer: int, window: int | None, where: str) -> None:
    """Of a prompt, behind which an answer of so many tokens has to have room.

    Args:
        what: What messages call the prompt.

    Raises:
        UserError: It has no tokens, or is over the window with its answer.
    """
    if not tokens:
        raise UserError(f"{what} is empty", where=where, fix="give the template some text")
    if window and tokens + answer > window:
        raise UserError(
            f"{what} has {tokens} tokens; with {answer} new ones that is over the model's window of"
            f" {window}",
            where=where,
            fix=(
                "use fewer examples, shorter inputs or a model with a longer window (nothing is"
                " ever cut)"
            ),
        )


def refuse_switch(what: str, tokens: int, answer: int, switch: int | None, where: str) -> None:
    """Of a prompt up to `models.rope_switch`, whose answer may go beyond.

    Raises:
        UserError: It may.
    """
    if switch and tokens <= switch < tokens + answer:
        raise UserError(
            f"{what} has {tokens} tokens, and within its answer the model changes the factors of"
            f" its positions (LongRoPE, at {switch} tokens): what stands there by then would be"
            " read otherwise",
            where=where,
            fix=f"lower max_new_tokens to {switch - tokens}, or lengthen the prompt",
        )


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of the longest common prefix of all sequences, at least one token short of the
    shortest.
    """
    if not sequences:
        return 0
    low, high = min(sequences), max(sequences)  # the first and the last in the dictionary
    pairs = enumerate(zip(low, high, strict=False))
    shared = next((n for n, (a, b) in pairs if a != b), len(low))
    return max(0, min(shared, min(map(len, sequences)) - 1))


def encoded(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    answers: Sequence[int],
    window: int | None,
) -> list[list[list[int]]]:
    """Token ids of each prompt's renderings, behind which an answer of so many tokens has room.

    Raises:
        UserError: A prompt has no tokens, or is over the window with its answer.
    """
    ids = [[encode(tokenizer, content, p.context) for content in p.renderings] for p in prompts]
    for prompt, renderings, answer in zip(prompts, ids, answers, strict=True):
        for tokens in renderings:
            refuse_length("the prompt", len(tokens), answer, window, place(prompt))
    return ids


def place(prompt: Prompt) -> str:
    """Where a prompt comes from, for messages."""
    return f"context {prompt.context}, input {prompt.example_id}"


def keys(prompts: Sequence[Prompt], seed: int) -> list[str]:
    """What fixes each prompt's draws."""
    return [f"{seed}:{p.context}:{p.example_id}" for p in prompts]


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: bool = True) -> str:
    """The text of tokens, special ones spelled out or left out."""
    text = tokenizer.decode(
        list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """What stands ahead of the first stop string, if there is one."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


class Stops:
    """Finds the token that completes a stop string, with a cheap no for most tokens.

    Args:
        decode: Token ids into text.
        stops: The stop strings.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._stops = decode, stops
        self._lasts = {stop[-1] for stop in stops if stop}
        self._may: dict[int, bool] = {}

    def before(self, ids: Sequence[int]) -> str | None:
        """The text ahead of the first stop string, if the last of these tokens completed one."""
        if not self._lasts or not self._may_complete(ids[-1]):
            return None
        tail = self._decode(ids[-_STOP_TAIL:])
        if not any(stop in tail for stop in self._stops):
            return None
        return before_stop(self._decode(ids), self._stops)

    def _may_complete(self, token: int) -> bool:
        if token not in self._may:
            text = self._decode([token])
            unsure = not text or "\ufffd" in text
            # blanks hang on a token's neighbours
            self._may[token] = unsure or any(last in text or last == " " for last in self._lasts)
        return self._may[token]


class Reader(NamedTuple):
    """Who reads prompts, and how much fits: `window` in tokens, None without a limit; `ends` are
    the ids at which its answers end, `rope_switch` is `models.rope_switch`, and ids from
    `embeddings` on (None: unknown) mean nothing to it. The tokenizer of a `server` that names none
    is the student's, and lengths are then estimates.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder_decoder: bool
    window: int | None
    ends: frozenset[int]
    server: Server | None = None
    rope_switch: int | None = None
    embeddings: int | None = None

    @property
    def chat(self) -> bool:
        """Whether it takes messages."""
        return self.server.api == "chat" if self.server else bool(self.tokenizer.chat_template)

    def opened(self, prompt: Sequence[int]) -> str:
        """The thought that a prompt (token ids) leaves open; empty: none, or nobody can tell."""
        if self.server and not self.server.tokenizer:
            return ""
        return left_open(decoded(self.tokenizer, prompt[-_OPENED_TAIL:]))

    def encode(self, content: str | Messages, where: str) -> list[int]:
        """A prompt's token ids, or, where the tokenizer is not the reader's own, as many as it may
        have.
        """
        if self.server and not self.server.tokenizer:
            return list(self.tokenizer(as_text(content), verbose=False).input_ids)
        return encode(self.tokenizer, content, where)
