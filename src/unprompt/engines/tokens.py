"""Token ids of rendered prompts, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jinja2

from unprompt.messages import UserError
from unprompt.recipe import Server
from unprompt.records import Messages, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    tokenizer: PreTrainedTokenizerBase, content: str | Messages, where: str = "template"
) -> list[int]:
    """Token ids of a rendered prompt.

    Plain text gets the tokenizer's own special tokens (a BOS where the model has one). Chat
    messages go through the model's chat template with its generation prompt; a last message in the
    role `assistant` is continued instead.

    Raises:
        UserError: The tokenizer has no chat template, or the template refuses the roles.
    """
    if isinstance(content, str):
        return list(tokenizer(content, verbose=False).input_ids)
    if not tokenizer.chat_template:
        raise UserError(
            "this model has no chat template",
            where=where,
            fix="write the prompt as plain text, or use a chat model",
        )
    goes_on = content[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in content],
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
    except (jinja2.TemplateError, ValueError) as error:
        raise UserError(
            f"the model's chat template refuses it: {error}",
            where=where,
            fix="use the roles it knows",
        ) from None
    assert isinstance(text, str)
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


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


class Reader(NamedTuple):
    """Who reads prompts, and how much fits: `window` in tokens, None without a limit. The tokenizer
    of a `server` that names none is the student's, and lengths are then estimates.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder_decoder: bool
    window: int | None
    server: Server | None = None

    @property
    def chat(self) -> bool:
        """Whether it takes messages."""
        return self.server.api == "chat" if self.server else bool(self.tokenizer.chat_template)

    def encode(self, content: str | Messages, where: str) -> list[int]:
        """A prompt's token ids, or, where the tokenizer is not the reader's own, as many as it may
        have.
        """
        if self.server and not self.server.tokenizer:
            return list(self.tokenizer(as_text(content), verbose=False).input_ids)
        return encode(self.tokenizer, content, where)
