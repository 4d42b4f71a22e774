"""An OpenAI-compatible endpoint as an engine: asked over HTTP, many prompts at a time, never beyond
the budget.

What is answered is never asked again: each answer is told as it comes, and an error that can't be
mended by asking again lets those that are on their way come in. Labels are hard, or the
server's `top_logprobs` (the model's own distribution with vLLM, llama.cpp and OpenAI; whether a
server applies the temperature to them is its own business, and can't be seen from here).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from unprompt.engines import Options, chats
from unprompt.engines.labels import KINDS
from unprompt.engines.server import CAN, http, refuse_labels, replies, written
from unprompt.engines.server.http import Endpoint
from unprompt.engines.server.ledger import Asked, Attempt, Ledger, Room
from unprompt.engines.server.loop import finished
from unprompt.engines.server.replies import Again
from unprompt.engines.tokens import Reader, end_ids, keys, place, refuse_length
from unprompt.messages import UserError, say
from unprompt.recipe import Labels, Sampling, Server
from unprompt.recipe.prices import Price
from unprompt.records import Completion, Messages, Prompt, SoftLabels, as_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Request(NamedTuple):
    """One prompt on its way."""

    prompt: Prompt
    body: dict[str, Any]
    tokens: int
    """Of the prompt; estimated where the tokenizer is not the server's."""


class ServerEngine:
    """A server that answers.

    Args:
        server: The recipe's section.
        where: Its key in the recipe.
        tokenizer: The server's own, if the recipe names it; else the student's.
        ledger: What was asked before.
        price: What it costs, if that is known.
        sleep: Waits so many seconds.
        variables: Of its chat template.

    Raises:
        UserError: The environment lacks the key.
    """

    def __init__(
        self,
        server: Server,
        where: str,
        tokenizer: PreTrainedTokenizerBase,
        ledger: Ledger | None = None,
        price: Price | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        http.key(server, f"{where}.server")
        self._server, self._role, self._where = server, where, f"{where}.server"
        ends = frozenset(end_ids(tokenizer))
        self._tokenizer, self._reader = tokenizer, Reader(tokenizer, False, None, ends, server)
        self.ledger, self._price, self._sleep = ledger or Ledger(), price, sleep
        self._noted = False
        self._short = self._thoughts = 0
        self._variables = dict(variables or {})

    @functools.cached_property
    def _vocabulary(self) -> written.Vocabulary:
        return written.Vocabulary(self._tokenizer)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """See `Engine.generate`. Answers are heard when they are whole. The server shares prefixes
        itself; `concurrency` prompts are asked at once. The seed is sent along, and kept by servers
        that can.
        """
        if labels:
            refuse_labels(self._server, labels, self._role)
        seed = options.get("seed", 0)
        requests = [self._request(prompt, sampling, labels, seed) for prompt in prompts]
        before, self._short, self._thoughts = self.ledger.total, 0, 0
        try:
            answered = finished(self._ask(requests, sampling, labels, options))
        finally:
            self.ledger.close()
        self._note_what_lacks(self.ledger.total - before)
        if heard := options.get("heard"):
            for n, answer in answered.items():
                heard(n, answer.text)
        return [answered[n] for n in range(len(prompts))]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        **options: Unpack[Options],
    ) -> list[SoftLabels]:
        """Not what such an endpoint does.

        Raises:
            UserError: Always.
        """
        CAN.given(self._where, "use a model whose weights are here")
        return []

    def _request(
        self, prompt: Prompt, sampling: Sampling, labels: Labels | None, seed: int
    ) -> _Request:
        """What is sent for a prompt.

        Raises:
            UserError: It has no tokens, or a form that the endpoint can't be asked.
        """
        server, content, where = self._server, prompt.content, place(prompt)
        if prompt.others:
            CAN.one_prompt(where, "show all examples in one prompt")
        ids = self._reader.encode(content, where)
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
        top = _kept(labels)
        if server.api == "chat":
            assert not isinstance(content, str)
            body |= chats.sent(content)
            variables = self._variables | chats.variables_of(content)
            body |= {"chat_template_kwargs": variables} if variables else {}
            body |= {"logprobs": True, "top_logprobs": top} if top else {}
        else:
            # messages are rendered here; as text the server might put another BOS ahead
            body["prompt"] = content if isinstance(content, str) else ids
            body |= {"logprobs": top} if top else {}
        return _Request(prompt, body | server.extra, len(ids))

    async def _ask(
        self,
        requests: Sequence[_Request],
        sampling: Sampling,
        labels: Labels | None,
        options: Options,
    ) -> dict[int, Completion]:
        """Place of a prompt -> its completion.

        Raises:
            UserError: Something stopped the rest.
        """
        answered: dict[int, Completion] = {}
        stopped: list[UserError] = []
        halt = asyncio.Event()
        todo = iter(range(len(requests)))
        budget = Room(self._server, self._price, self.ledger, self._where)
        progress, done = options.get("progress"), options.get("done")

        async def work(endpoint: Endpoint) -> None:
            for n in todo:
                if halt.is_set():
                    return
                asked = requests[n]
                try:
                    answer = await endpoint.post(
                        asked.body,
                        place(asked.prompt),
                        lambda asked=asked: budget.attempt(
                            asked.tokens, sampling.max_new_tokens, halt
                        ),
                        lambda body, sent, asked=asked: self._completion(
                            asked, body, sampling, labels, sent
                        ),
                        halt,
                    )
                    if answer is not None:
                        answered[n] = answer
                        if done:
                            done({n: answer})
                        if progress:
                            progress(1)
                except UserError as error:
                    stopped.append(error)
                    halt.set()

        async with (
            Endpoint(self._server, self._where, self._sleep) as endpoint,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(self._server.concurrency, len(requests))):
                group.create_task(work(endpoint))
        if stopped:
            raise stopped[0]
        return answered

    def _completion(
        self,
        asked: _Request,
        body: Any,
        sampling: Sampling,
        labels: Labels | None,
        sent: Attempt,
    ) -> Completion:
        """A reply as a completion, and its cost in the ledger, whatever is wrong with it.

        Raises:
            Again: Another reply may do.
            UserError: None will.
        """
        used, reply, answer = _used(body), None, None
        try:
            reply = replies.read(body, self._server.model, sampling.max_new_tokens)
            answer = self._written(asked, reply, sampling, labels)
            if self._server.tokenizer and used.prompt not in (None, asked.tokens):
                raise UserError(
                    f"the server counts {used.prompt} tokens in a prompt that has"
                    f" {asked.tokens} by its tokenizer here: another tokenizer or chat template",
                    fix="name the server's own tokenizer, or none, with labels.kind: hard",
                )
        except Again:
            raise
        except UserError as error:
            raise UserError(
                error.what,
                where=f"{self._where}, {place(asked.prompt)}",
                fix=error.fix or "check or mend the server",
            ) from None
        finally:
            sent.took(*_costs(used, answer, sent.most))
        assert reply
        assert answer
        if used.prompt is None:
            self._note_uncounted()
        self._short += answer.short
        self._thoughts += bool(reply.thought)
        prompt = used.prompt or asked.tokens
        at = asked.prompt.example_id, asked.prompt.context
        label = answer.labels if labels else None
        return Completion(*at, answer.text, answer.ids, answer.stop, prompt, label)

    def _written(
        self, asked: _Request, reply: replies.Reply, sampling: Sampling, labels: Labels | None
    ) -> written.Written:
        if reply.calls:
            reply = self._in_own_words(asked.prompt, reply, labels)
        if top := _kept(labels):
            return written.from_tokens(reply, sampling.stop, self._tokenizer, self._vocabulary, top)
        repeated = as_text(asked.prompt.content) if labels else None
        return written.from_text(reply, sampling.stop, self._tokenizer, repeated)

    def _in_own_words(
        self, asked: Prompt, reply: replies.Reply, labels: Labels | None
    ) -> replies.Reply:
        """An answer that calls, its calls written into the text as the model does it."""
        if _kept(labels):
            raise UserError(
                "the server took the calls out of the answer's text, so that labels of its tokens"
                " can't be told",
                fix="write labels.kind: hard, or have the server leave calls in the text",
            )
        assert not isinstance(asked.content, str)
        message = {"role": "assistant", "content": reply.text, "tool_calls": list(reply.calls)}
        text = chats.answer(self._tokenizer, asked.content, message, place(asked))
        return reply._replace(text=text)

    def _note_uncounted(self) -> None:
        if not self._noted:
            self._noted = True
            say(
                f"note: {self._where} does not count tokens; they are counted with the tokenizer"
                " here"
            )

    def _note_what_lacks(self, named: Asked) -> None:
        """Of what was asked just now."""
        if named.unmapped:
            say(
                f"note: {named.unmapped} of {named.entries} alternatives that the server named are"
                " no token that can be told; they are left out of the labels"
            )
        if self._thoughts:
            say(
                f"note: {self._where} sent a thought beside {self._thoughts} of the answers"
                " (reasoning); it is no part of them"
            )
        if self._short:
            say(
                f"note: at {self._short} tokens the server named fewer alternatives than it was"
                " asked for; the labels there hold those"
            )


def _used(body: Any) -> replies.Usage:
    """What a reply says that it took; nothing, where that is no count."""
    try:
        return replies.used(body)
    except UserError:
        return replies.Usage(None, None, None)


def _costs(used: replies.Usage, answer: written.Written | None, most: Asked) -> tuple[Asked, Asked]:
    """What a reply took, for the report and for the budget, which counts the larger of the server's
    number and ours; a reply that is refused may have taken the most.
    """
    here = most.completion_tokens if answer is None else len(answer.ids)
    prompt = max(used.prompt or 0, most.prompt_tokens)
    spent = Asked(1, prompt, max(used.completion or 0, here, (used.total or 0) - prompt))
    if answer is None and not any(used):
        return Asked(), spent
    beside = (used.total or 0) - (used.prompt or most.prompt_tokens)
    told = used.completion or max(0 if answer is None else here, beside)
    entries = (answer.entries, answer.unmapped) if answer else (0, 0)
    return Asked(1, used.prompt or most.prompt_tokens, told, *entries), spent


def _kept(labels: Labels | None) -> int | None:
    """How many of the most probable tokens labels need; None: none."""
    return labels.kept if labels and KINDS[labels.kind].needs == "top" else None


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
