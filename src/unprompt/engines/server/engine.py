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
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unprompt.engines import Unfinished
from unprompt.engines.models import end_ids
from unprompt.engines.server import http, replies
from unprompt.engines.server.http import Endpoint
from unprompt.engines.server.ledger import Asked, Ledger, Room
from unprompt.engines.tokens import Reader
from unprompt.messages import UserError, say
from unprompt.recipe import Labels, Sampling, Server
from unprompt.recipe.prices import Price
from unprompt.records import Completion, Prompt, SoftLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Answers = tuple[dict[int, Completion], UserError | None]
"""Place of a prompt -> its completion; what stopped the rest, if something did."""


class _Request(NamedTuple):
    prompt: Prompt
    body: dict[str, Any]
    tokens: int
    """Of the prompt; estimated where the tokenizer is not the server's."""
    where: str


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
        self._server, self._where, self._tokenizer = server, f"{where}.server", tokenizer
        self._reader = Reader(tokenizer, False, None, server)
        http.key(server, self._where)
        self._ends = end_ids(tokenizer)
        self.ledger, self._price, self._sleep = ledger or Ledger(), price, sleep
        self._vocabulary: replies.Vocabulary | None = None
        self._noted = False

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        *,
        seed: int = 0,
        prefix_tokens: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], object] = lambda n: None,
        heard: Callable[[int, str], object] | None = None,
    ) -> list[Completion]:
        """See `Engine.generate`. Answers are heard when they are whole. The server shares prefixes
        itself; `concurrency` prompts are asked at once. The seed is sent along, and kept by servers
        that can.
        """
        if labels and labels.kind not in ("hard", "top_k"):
            raise UserError(
                f"a server can't give {labels.kind} labels",
                where="labels.kind",
                fix="write top_k or hard",
            )
        if labels and labels.kind == "top_k":
            if not self._server.tokenizer:
                raise UserError(
                    "top_k labels need the server's tokenizer",
                    where=f"{self._where}.tokenizer",
                    fix="name it",
                )
            self._vocabulary = self._vocabulary or replies.Vocabulary(self._tokenizer)
        requests = [self._request(prompt, sampling, labels, seed) for prompt in prompts]
        before = self.ledger.total
        answered, stopped = _finished(self._ask(requests, sampling, labels, progress))
        lost = self.ledger.total.unmapped - before.unmapped
        if lost:
            entries = self.ledger.total.entries - before.entries
            say(
                f"note: {lost} of {entries} alternatives that the server named are no token that"
                " can be told; they are left out of the labels"
            )
        if stopped:
            raise Unfinished(stopped, answered)
        if heard:
            for index, completion in answered.items():
                heard(index, completion.text)
        return [answered[n] for n in range(len(prompts))]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        *,
        seed: int = 0,
        prefix_tokens: Sequence[int] | None = None,
        batch_size: int | None = None,
        progress: Callable[[int], object] = lambda n: None,
    ) -> list[SoftLabels]:
        """Not what such an endpoint does.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "a server writes answers and can't score given ones",
            where=self._where,
            fix="use a model whose weights are here",
        )

    # -- requests ----------------------------------------------------------------------------------

    def _request(
        self, prompt: Prompt, sampling: Sampling, labels: Labels | None, seed: int
    ) -> _Request:
        server, content, where = (
            self._server,
            prompt.content,
            f"context {prompt.context}, input {prompt.example_id}",
        )
        if prompt.others:
            raise UserError(
                "a server can't average the probabilities of several prompts",
                where=where,
                fix="show all examples in one prompt",
            )
        ids = self._reader.encode(content, where)
        if not ids:
            raise UserError(
                "the prompt has no tokens", where=where, fix="give the template some text"
            )
        body: dict[str, Any] = {
            "model": server.model,
            server.limit: sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": (
                int.from_bytes(
                    hashlib.sha256(
                        f"{seed}:{prompt.context}:{prompt.example_id}".encode()
                    ).digest()[:4]
                )
                >> 1
            ),
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        refuse_content(server, content, where)
        kept = labels.kept if labels and labels.kind == "top_k" else None
        if server.api == "chat":
            body["messages"] = list(content)
            body |= {"logprobs": True, "top_logprobs": kept} if kept else {}
        else:
            body["prompt"] = (
                content if isinstance(content, str) else ids
            )  # rendered here; as text the server might put another BOS ahead
            body |= {"logprobs": kept} if kept else {}
        return _Request(prompt, body | server.extra, len(ids), where)

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
                request = requests[n]
                try:
                    async with budget.reserved(request.tokens, sampling.max_new_tokens):
                        reply = await endpoint.post(request.body, request.where, halt)
                        if reply is not None:
                            answered[n] = self._completion(request, reply, sampling, labels)
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

    # -- replies -----------------------------------------------------------------------------------

    def _completion(
        self, request: _Request, said: Any, sampling: Sampling, labels: Labels | None
    ) -> Completion:
        """A reply as a completion, and its cost in the ledger, whatever is wrong with it."""
        cost = Asked()
        try:
            reply = replies.read(said, self._server.model, sampling.max_new_tokens)
            cost = Asked(1, *(reply.usage or (request.tokens, 0)))
            text, stop = self._end(reply, sampling)
            if labels and labels.kind == "top_k" and stop != "filtered":
                if reply.tokens is None:
                    raise UserError(
                        "the server sent no log-probabilities",
                        fix="ask one that does, or write labels.kind: hard",
                    )
                ids, label, cost.entries, cost.unmapped = self._soft(
                    reply.tokens, labels.kept, reply.finish
                )
                text, stop = self._told(text, stop, ids, sampling)
                if reply.usage and stop != "stop" and abs(len(ids) - reply.usage[1]) > 1:
                    raise UserError(
                        f"the server counts {reply.usage[1]} tokens in an answer of {len(ids)}"
                    )
                if stop == "end" and (not ids or ids[-1] not in self._ends):
                    ids, label = (*ids, self._end_id), label.then_hard(self._end_id)
            else:
                written = (
                    self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
                    if text
                    else []
                )
                ids = (*written, self._end_id) if stop == "end" else tuple(written)
                label = SoftLabels.hard(ids)
            if reply.usage is None:
                cost.completion_tokens = len(ids)
                self._note_uncounted()
            elif self._server.tokenizer and cost.prompt_tokens != request.tokens:
                raise UserError(
                    f"the server counts {cost.prompt_tokens} tokens in a prompt that has"
                    f" {request.tokens} by its tokenizer here: another tokenizer or chat template",
                    fix=(
                        "name the server's own tokenizer, or none (then labels.kind has to be hard)"
                    ),
                )
        except UserError as error:
            raise UserError(
                error.what,
                where=f"{self._where}, {request.where}",
                fix=error.fix or "check or mend the server",
            ) from None
        finally:
            if cost.answers:
                self.ledger.add(cost)
        prompt = request.prompt
        return Completion(
            prompt.example_id,
            prompt.context,
            text,
            ids,
            stop,
            cost.prompt_tokens,
            label if labels else None,
        )

    def _note_uncounted(self) -> None:
        if not self._noted:
            self._noted = True
            say(
                f"note: {self._where} does not count tokens; they are counted with the tokenizer"
                " here"
            )

    @property
    def _end_id(self) -> int:
        found = self._tokenizer.eos_token_id
        assert isinstance(found, int)
        return found

    @staticmethod
    def _end(reply: replies.Reply, sampling: Sampling) -> tuple[str, str]:
        """The text up to a stop string, and why it ended. Where a server does not say which of the
        two it was, an answer that stop strings might have ended counts as ended by one.
        """
        if reply.finish == "content_filter":
            return "", "filtered"
        found = [at for stop in sampling.stop if (at := reply.text.find(stop)) >= 0]
        if found:
            return reply.text[: min(found)], "stop"
        if reply.finish == "length":
            return reply.text, "length"
        return reply.text, (
            "stop"
            if reply.stopped_by in sampling.stop or (reply.stopped_by is None and sampling.stop)
            else "end"
        )

    def _soft(
        self, tokens: Sequence[tuple[replies.Piece, list[replies.Piece]]], kept: int, finish: str
    ) -> tuple[tuple[int, ...], SoftLabels, int, int]:
        """Ids and labels of an answer's tokens; how many alternatives there were, and how many of
        them are no token that can be told.
        """
        assert self._vocabulary
        ids, parts, entries, unmapped = [], [], 0, 0
        for n, (piece, others) in enumerate(tokens):
            if (
                n == len(tokens) - 1
                and finish == "stop"
                and not piece.text
                and not piece.raw
                and piece.id is None
            ):
                break  # the end token without its name
            id_ = self._vocabulary.id_of(piece)
            if id_ is None:
                raise UserError(
                    f"the token {piece.text[:40]!r} of the answer can't be found in the tokenizer",
                    fix=(
                        "name the server's own tokenizer, have the server send ids (extra:"
                        " {return_tokens_as_token_ids: true} with vLLM), or write labels.kind: hard"
                    ),
                )
            found = [(self._vocabulary.id_of(other), other.logp) for other in others]
            known = {other: logp for other, logp in found if other is not None} or {id_: piece.logp}
            entries += len(found)
            unmapped += sum(other is None for other, _ in found)
            ids.append(id_)
            parts.append(
                _label(dict(sorted(known.items(), key=lambda pair: -pair[1])[:kept]))
            )  # vLLM adds the drawn token as one more
        return tuple(ids), SoftLabels.concat(parts), entries, unmapped

    def _told(
        self, text: str, stop: str, ids: tuple[int, ...], sampling: Sampling
    ) -> tuple[str, str]:
        """The text of the tokens, which has to be the server's, and why it ended, now that the
        tokens are known.
        """
        ended = bool(ids) and ids[-1] in self._ends
        own = ids[:-1] if ended else ids
        shown, plain = (
            str(
                self._tokenizer.decode(
                    list(own), skip_special_tokens=skip, clean_up_tokenization_spaces=False
                )
            )
            for skip in (False, True)
        )
        found = [at for each in sampling.stop if (at := shown.find(each)) >= 0]
        cut = shown[: min(found)] if found else shown
        if _alike(text) not in (_alike(cut), _alike(plain)):
            raise UserError(
                f"the server's text {text[:60]!r} is not that of its tokens, {cut[:60]!r}",
                fix="mend the server",
            )
        return cut, "stop" if found else "end" if ended else stop


def refuse_content(server: Server, content: Any, where: str) -> None:
    """A prompt of a form that the endpoint can't be asked.

    Raises:
        UserError: It is.
    """
    if server.api == "chat":
        if isinstance(content, str):
            raise UserError(
                "a chat endpoint takes messages, not plain text",
                where=where,
                fix="write [{role: user, content: ...}], or api: completions",
            )
        if content[-1]["role"] == "assistant" and not server.extra.get("continue_final_message"):
            raise UserError(
                "a chat endpoint does not go on with an assistant's message",
                where=where,
                fix=(
                    "end with a user's message, or with vLLM write extra: {continue_final_message:"
                    " true, add_generation_prompt: false}"
                ),
            )
    elif not isinstance(content, str) and not server.tokenizer:
        raise UserError(
            "messages have to be rendered for this endpoint",
            where=where,
            fix="name server.tokenizer, or write api: chat",
        )


def _label(logp: dict[int, float]) -> SoftLabels:
    """The label of one token from the log-probabilities of its most probable alternatives,
    renormalised as `top_k` is.
    """
    ids = sorted(logp)
    logp_E = np.array([logp[id_] for id_ in ids])
    q_E = np.exp(logp_E - logp_E.max())
    q_E /= q_E.sum()
    nll_1 = np.array([-(q_E * logp_E).sum()], np.float32)
    return SoftLabels(
        np.array(ids, np.int32), q_E.astype(np.float32), np.array([0, len(ids)], np.int32), nll_1
    )


def _alike(text: str) -> str:
    """A text for comparing: without blanks at its ends, and halves of a letter as one sign
    (decoders differ there).
    """
    return re.sub("\ufffd+", "\ufffd", text).strip().rstrip("\ufffd").strip()


def _finished(work: Coroutine[Any, Any, _Answers]) -> _Answers:
    """Run to the end, in a thread of its own where a loop is at work already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
