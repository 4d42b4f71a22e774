"""An OpenAI-compatible endpoint as an engine: asked over HTTP, many prompts at a time, never beyond
the budget.

What is answered is never asked again: an error that can't be mended by asking again lets the
answers that are on their way come in, and `Unfinished` carries them all. Labels are hard, or the
server's `top_logprobs` (the model's own distribution with vLLM, llama.cpp and OpenAI; whether a
server applies the temperature to them is its own business, and can't be seen from here).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

from unprompt.engines import Options, Unfinished
from unprompt.engines.labels import KINDS
from unprompt.engines.server import CAN, http, refuse_labels, replies
from unprompt.engines.server.http import Endpoint
from unprompt.engines.server.ledger import Asked, Ledger, Room
from unprompt.engines.tokens import Reader, end_ids, keys, place, refuse_length
from unprompt.messages import UserError, say
from unprompt.recipe import Labels, Sampling, Server
from unprompt.recipe.prices import Price
from unprompt.records import Completion, Messages, Prompt, SoftLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Answers = tuple[dict[int, Completion], UserError | None]
"""Place of a prompt -> its completion; what stopped the rest, if something did."""


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
    ) -> None:
        http.key(server, f"{where}.server")
        self._server, self._role, self._where = server, where, f"{where}.server"
        ends = frozenset(end_ids(tokenizer))
        self._tokenizer, self._reader = tokenizer, Reader(tokenizer, False, None, ends, server)
        self.ledger, self._price, self._sleep = ledger or Ledger(), price, sleep
        self._noted = False

    @functools.cached_property
    def _vocabulary(self) -> replies.Vocabulary:
        return replies.Vocabulary(self._tokenizer)

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
        before, progress = self.ledger.total, options.get("progress", lambda n: None)
        answered, stopped = _finished(self._ask(requests, sampling, labels, progress))
        named = self.ledger.total - before
        if named.unmapped:
            say(
                f"note: {named.unmapped} of {named.entries} alternatives that the server named are"
                " no token that can be told; they are left out of the labels"
            )
        if stopped:
            raise Unfinished(stopped, answered)
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
            body["messages"] = list(content)
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
        progress: Callable[[int], object],
    ) -> _Answers:
        answered: dict[int, Completion] = {}
        stopped: list[UserError] = []
        halt = asyncio.Event()
        todo = iter(range(len(requests)))
        budget = Room(self._server, self._price, self.ledger, self._where)

        async def work(endpoint: Endpoint) -> None:
            for n in todo:
                if halt.is_set():
                    return
                asked = requests[n]
                try:
                    async with budget.reserved(asked.tokens, sampling.max_new_tokens):
                        reply = await endpoint.post(asked.body, place(asked.prompt), halt)
                        if reply is not None:
                            answered[n] = self._completion(asked, reply, sampling, labels)
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
        return answered, stopped[0] if stopped else None

    def _completion(
        self, asked: _Request, body: Any, sampling: Sampling, labels: Labels | None
    ) -> Completion:
        """A reply as a completion, and its cost in the ledger, whatever is wrong with it."""
        cost, prompt, top = Asked(), asked.prompt, _kept(labels)
        try:
            reply = replies.read(body, self._server.model, sampling.max_new_tokens)
            cost = Asked(1, *(reply.usage or (asked.tokens, 0)))
            if top:
                answer = replies.from_tokens(
                    reply, sampling.stop, self._tokenizer, self._vocabulary, top
                )
            else:
                answer = replies.from_text(reply, sampling.stop, self._tokenizer)
            cost.entries, cost.unmapped = answer.entries, answer.unmapped
            if reply.usage is None:
                cost.completion_tokens = len(answer.ids)
                self._note_uncounted()
            elif self._server.tokenizer and cost.prompt_tokens != asked.tokens:
                raise UserError(
                    f"the server counts {cost.prompt_tokens} tokens in a prompt that has"
                    f" {asked.tokens} by its tokenizer here: another tokenizer or chat template",
                    fix="name the server's own tokenizer, or none, with labels.kind: hard",
                )
        except UserError as error:
            raise UserError(
                error.what,
                where=f"{self._where}, {place(prompt)}",
                fix=error.fix or "check or mend the server",
            ) from None
        finally:
            if cost.answers:
                self.ledger.add(cost)
        text, stop, ids, label, *_ = answer
        at = prompt.example_id, prompt.context
        return Completion(*at, text, ids, stop, cost.prompt_tokens, label if labels else None)

    def _note_uncounted(self) -> None:
        if not self._noted:
            self._noted = True
            say(
                f"note: {self._where} does not count tokens; they are counted with the tokenizer"
                " here"
            )


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


def _finished(work: Coroutine[Any, Any, _Answers]) -> _Answers:
    """Run to the end, in a thread of its own where a loop is at work already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
