"""What a server is asked: the body of each request, and prompts that no request can hold."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from unprompt.engines.labels import KINDS
from unprompt.engines.text import keys, place
from unprompt.engines.tokens import Reader, refuse_length
from unprompt.messages import UserError
from unprompt.recipe import Labels, Sampling, Server
from unprompt.records import Messages, Prompt


class Request(NamedTuple):
    """One prompt on its way."""

    prompt: Prompt
    body: dict[str, Any]
    tokens: int
    """Of the prompt; estimated where the tokenizer is not the server's."""


def kept(labels: Labels | None) -> int | None:
    """How many of the most probable tokens labels need; None: none."""
    return labels.kept if labels and KINDS[labels.kind].needs == "top" else None


def request(
    server: Server,
    reader: Reader,
    prompt: Prompt,
    sampling: Sampling,
    labels: Labels | None,
    seed: int,
) -> Request:
    """What is sent for a prompt.

    Raises:
        UserError: The prompt has no tokens, or a form that the endpoint can't be asked.
    """
    content, where = prompt.content, place(prompt)
    ids = reader.encode(content, where)
    refuse_length("the prompt", len(ids), 0, None, where)
    refuse_content(server, content, where)
    [key] = keys([prompt], seed)
    body: dict[str, Any] = {
        "model": server.model,
        server.limit: sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    top = kept(labels)
    if server.api == "chat":
        body["messages"] = list(content)
        body |= {"logprobs": True, "top_logprobs": top} if top else {}
    else:
        # messages are rendered here; as text the server might put another BOS ahead
        body["prompt"] = content if isinstance(content, str) else ids
        body |= {"logprobs": top} if top else {}
    return Request(prompt, body | server.extra, len(ids))


def refuse_content(server: Server, content: str | Messages, where: str) -> None:
    """A prompt of a form that the endpoint can't be asked.

    Raises:
        UserError: It is.
    """
    if server.api == "chat" and isinstance(content, str):
        raise UserError(
            "a chat endpoint takes messages, not plain text",
            where=where,
            fix="write [{role: user, content: ...}], or api: completions",
        )
    if isinstance(content, str):
        return
    goes_on = server.extra.get("continue_final_message")
    if server.api == "chat" and content[-1]["role"] == "assistant" and not goes_on:
        raise UserError(
            "a chat endpoint does not go on with an assistant's message",
            where=where,
            fix=(
                "end with a user's message, or with vLLM write extra: {continue_final_message:"
                " true, add_generation_prompt: false}"
            ),
        )
    if server.api == "completions" and not server.tokenizer:
        raise UserError(
            "messages have to be rendered for this endpoint",
            where=where,
            fix="name server.tokenizer, or write api: chat",
        )
