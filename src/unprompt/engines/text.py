"""Prompts into tokens, and tokens into answers: the same for every engine that has the model's
tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unprompt.engines.tokens import encode, refuse_length
from unprompt.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STOP_TAIL = 32
"""Tokens at the end of an answer in which a stop string is looked for."""


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
