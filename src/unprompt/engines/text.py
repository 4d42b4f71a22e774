"""Prompts into tokens, and tokens into answers: the same for every engine that has the model's
tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unprompt.engines.tokens import encode
from unprompt.messages import UserError
from unprompt.records import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        where, longest = (
            f"context {prompt.context}, input {prompt.example_id}",
            max(map(len, renderings)),
        )
        if not all(renderings):
            raise UserError(
                "the prompt has no tokens", where=where, fix="give the template some text"
            )
        if window and longest + answer > window:
            raise UserError(
                f"the prompt has {longest} tokens; with {answer} new ones that is over the model's"
                f" window of {window}",
                where=where,
                fix="use fewer examples or shorter inputs (nothing is ever cut)",
            )
    return ids


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of tokens, special ones spelled out."""
    text = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """What stands ahead of the first stop string, if there is one."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(found)] if found else None


def keys(prompts: Sequence[Prompt], seed: int) -> list[str]:
    """What fixes each prompt's draws."""
    return [f"{seed}:{p.context}:{p.example_id}" for p in prompts]
