"""The default engine: a transformers model in this process.

The prefix that all prompts share is run through the model once, and every sequence goes on from its
key-value cache. Sequences that are finished leave, and waiting prompts take their places. Labels
are drawn from the same logits that the next token comes from, so they cost no second pass.

Shapes: B running sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psutil
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from unprompt.engines import drawing, models, text
from unprompt.engines.hf import sequences
from unprompt.engines.tokens import common_prefix
from unprompt.messages import UserError, say
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt, SoftLabels

_STOP_TAIL = 32
"""Tokens at the end of an answer in which a stop string is looked for."""
_FASTEST = {"cpu": 128, "cuda": 256}
"""Sequences at once from which on more are no faster (`benchmarks/growth.py`)."""
_SCORED_LOGITS = 2**26
"""Numbers of logits in memory at once when answers are scored."""


class HFEngine:
    """A transformers model, decoder-only or encoder-decoder.

    Args:
        model: The model, perhaps with a peft adapter.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: PreTrainedModel = model
        self.tokenizer = tokenizer
        self._ends = models.end_ids(tokenizer, model.generation_config)
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}
        self._shares: bool | None = None
        self._room: int | None = None
        """Sequences at once that the memory has room for, if it was full before."""

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
        """See `Engine.generate`. Where the memory is full, half as many are answered at once from
        there on; what is answered by then is kept.
        """
        ids = self._encode(prompts, [sampling.max_new_tokens] * len(prompts))
        said: dict[int, Completion] = {}
        while len(said) < len(prompts):
            left = [n for n in range(len(prompts)) if n not in said]
            size = self._fitting(
                batch_size
                or self._at_once([ids[n] for n in left], prefix_tokens, sampling.max_new_tokens)
            )
            found = self._write(
                [prompts[n] for n in left],
                [ids[n] for n in left],
                sampling,
                labels,
                seed,
                prefix_tokens,
                min(size, len(left)),
                progress,
                (
                    (lambda place, said_so_far, left=left: heard(left[place], said_so_far))
                    if heard
                    else None
                ),
            )
            said |= {left[place]: completion for place, completion in found.items()}
        return [said[n] for n in range(len(prompts))]

    def _write(
        self,
        prompts: Sequence[Prompt],
        ids: list[list[list[int]]],
        sampling: Sampling,
        labels: Labels | None,
        seed: int,
        prefix_tokens: Sequence[int] | None,
        size: int,
        progress: Callable[[int], object],
        heard: Callable[[int, str], object] | None,
    ) -> dict[int, Completion]:
        """Answer prompts, `size` at once. Gives each place's completion; not those that the memory
        had no room for.
        """
        draw, book = drawing.Draws(text.keys(prompts, seed)), drawing.Book()
        written: list[list[int]] = [[] for _ in prompts]
        stops, texts, done = ["length"] * len(prompts), [""] * len(prompts), list[int]()
        can_stop = _CanStop(self._decode, sampling.stop)
        with self.ready(), torch.inference_mode(), self._halving(size):
            together = self._sequences(ids, prefix_tokens)
            running: list[int] = []
            logits_BV = torch.zeros(0)
            begun = 0
            while running or begun < len(prompts):
                free, waiting = size - len(running), len(prompts) - begun
                # a few join at once: reading one prompt costs about as much as a step of all
                if not running or (
                    waiting and together.joins and free >= min(waiting, -(-size // 4))
                ):
                    new = range(begun, begun + min(free, waiting))
                    first_nV = together.join([ids[index] for index in new])[:, -1]
                    logits_BV = torch.cat([logits_BV, first_nV]) if running else first_nV
                    running += new
                    begun += len(new)
                next_B = drawing.next_tokens(logits_BV, sampling, labels, draw, running, book)
                going = []
                for row, (index, token) in enumerate(zip(running, next_B.tolist(), strict=True)):
                    written[index].append(token)
                    if token in self._ends:
                        stops[index], texts[index] = "end", self._decode(written[index][:-1])
                    elif (
                        can_stop(token)
                        and (before := self._stopped(written[index], sampling.stop)) is not None
                    ):
                        stops[index], texts[index] = "stop", before
                    elif len(written[index]) == sampling.max_new_tokens:
                        texts[index] = self._decode(written[index])
                    else:
                        going.append(row)
                        if heard:
                            heard(index, self._decode(written[index]))
                rows = _gaps_closed(going)
                done += [running[row] for row in sorted(set(range(len(running))) - set(going))]
                progress(len(running) - len(going))
                running = [running[row] for row in rows]
                together.keep(rows)
                if running:
                    logits_BV = together.step(next_B[rows])
        labelled = book.of(len(prompts)) if labels else [None] * len(prompts)
        return {
            i: Completion(
                p.example_id,
                p.context,
                texts[i],
                tuple(written[i]),
                stops[i],
                sum(map(len, ids[i])),
                labelled[i],
            )
            for i, p in ((i, prompts[i]) for i in done)
        }

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
        """See `Engine.score`."""
        ids = self._encode(prompts, [len(given) for given in completions])
        draw, book = drawing.Draws(text.keys(prompts, seed)), drawing.Book()
        longest, start = max(map(len, completions), default=0), 0
        at_once = min(
            batch_size or self._at_once(ids, prefix_tokens, longest),
            max(
                1,
                _SCORED_LOGITS // max(1, longest * self.model.config.get_text_config().vocab_size),
            ),
        )
        with self.ready(), torch.inference_mode():
            while start < len(prompts):
                batch = range(start, min(start + self._fitting(at_once), len(prompts)))
                said, before = [row for row in batch if completions[row]], start
                with self._halving(len(batch)):
                    if said:
                        logits_BTV = self._sequences(ids, prefix_tokens).score(
                            [ids[row] for row in said], [completions[row] for row in said]
                        )
                        rows = [row for row in said for _ in completions[row]]
                        logits_NV = torch.cat(
                            [
                                logits_TV[-len(completions[row]) :]
                                for row, logits_TV in zip(said, logits_BTV, strict=True)
                            ]
                        )
                        given_N = torch.tensor(
                            [token for row in said for token in completions[row]],
                            device=logits_NV.device,
                        )
                        drawing.write_labels(
                            logits_NV.float().log_softmax(-1), given_N, labels, draw, rows, book
                        )
                    progress(len(batch))
                    start = batch.stop
                if start == before:  # from the first draw again
                    draw = drawing.Draws(text.keys(prompts, seed))
        return book.of(len(prompts))

    # -- prompts -----------------------------------------------------------------------------------

    def _encode(self, prompts: Sequence[Prompt], answers: Sequence[int]) -> list[list[list[int]]]:
        return text.encoded(self.tokenizer, prompts, answers, models.positions(self.model.config))

    def _decode(self, ids: Sequence[int]) -> str:
        return text.decoded(self.tokenizer, ids)

    def _stopped(self, ids: list[int], stops: Sequence[str]) -> str | None:
        """The text ahead of the first stop string, if there is one now."""
        if not stops or not any(stop in self._decode(ids[-_STOP_TAIL:]) for stop in stops):
            return None
        return text.before_stop(self._decode(ids), stops)

    # -- the model ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The model in evaluation mode."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def _fitting(self, size: int) -> int:
        """So many at once, or as many as were found to have room."""
        return size if self._room is None else min(size, self._room)

    @contextlib.contextmanager
    def _halving(self, size: int) -> Iterator[None]:
        """Where `size` sequences at once have no room in memory, go on behind the block, from now
        on with half as many.

        Raises:
            UserError: It was only one.
        """
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not _memory_full(error):
                raise
            if size == 1:
                raise UserError(
                    "the memory is full with one prompt at a time",
                    where=f"device {self.model.device}",
                    fix=(
                        "use a smaller model, shorter prompts or a lower max_new_tokens; what is"
                        " answered is kept"
                    ),
                ) from None
            self._room = size // 2
            say(f"note: the memory is full with {size} prompts at once; going on with {self._room}")

    def _sequences(
        self, ids: list[list[list[int]]], prefix_tokens: Sequence[int] | None
    ) -> _Members:
        """Who reads prompts (each of one or more renderings) that all begin with the same tokens; a
        reader for each rendering.
        """
        size = len(ids[0])
        return _Members(
            [
                self._reader(
                    [renderings[m] for renderings in ids],
                    None if prefix_tokens is None else prefix_tokens[m],
                    size,
                )
                for m in range(size)
            ]
        )

    def _reader(
        self, ids: list[list[int]], prefix_tokens: int | None, kept: int
    ) -> sequences.Sequences:
        """A reader of prompts; the caches of the `kept` newest prefixes are kept."""
        if self.model.config.is_encoder_decoder:
            return sequences.Waves(self.model, None)
        made = sequences.Slots if self._shares_prefix() else sequences.Waves
        shared = min(common_prefix(ids), len(ids[0]) if prefix_tokens is None else prefix_tokens)
        if not shared or (made is sequences.Waves and sequences.is_windowed(self.model)):
            return made(self.model, None)
        key = tuple(ids[0][:shared])
        if key not in self._prefixes:
            while len(self._prefixes) >= kept:
                del self._prefixes[next(iter(self._prefixes))]
            self._prefixes[key] = sequences.read_prefix(
                self.model, key, whole=made is sequences.Slots
            )
        return made(self.model, self._prefixes[key])

    def _at_once(
        self, ids: list[list[list[int]]], prefix_tokens: Sequence[int] | None, answer: int
    ) -> int:
        """How many sequences to run together: what half of the free memory holds, up to the number
        from which on more are no faster.
        """
        config, device = self.model.config.get_text_config(), self.model.device
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = (
            getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        )
        column = 2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize
        kept = (
            sum(prefix_tokens or ())
            if not self.model.config.is_encoder_decoder and self._shares_prefix()
            else 0
        )
        own = max(sum(map(len, renderings)) for renderings in ids) - kept + answer * len(ids[0])
        each = own * column + 4 * 4 * config.vocab_size * len(
            ids[0]
        )  # logits, and what is drawn from them
        free = (
            torch.cuda.mem_get_info(device)[0]
            if device.type == "cuda"
            else psutil.virtual_memory().available
        )
        return max(1, min(_FASTEST["cuda" if device.type == "cuda" else "cpu"], free // 2 // each))

    def _shares_prefix(self) -> bool:
        """Whether the prefix's cache can stand once for all sequences; tried once."""
        if self._shares is None:
            reason = sequences.slots_work(self.model)
            self._shares = reason is None
            if reason:
                how = "read again" if sequences.is_windowed(self.model) else "copied"
                say(
                    f"note: the shared prefix is {how} for every prompt with this model ({reason}):"
                    " slower, same answers"
                )
        return self._shares


class _Members:
    """A reader for each member of a prompt ensemble, whose probabilities are averaged: log p =
    logsumexp over members of log p_member - log (number of members), which stands for the logits.
    Of a single member the logits are its own.
    """

    def __init__(self, members: list[sequences.Sequences]) -> None:
        self._members = members
        self.joins = all(member.joins for member in members)

    def join(self, ids: Sequence[list[list[int]]], last: int = 1) -> torch.Tensor:
        """Logits (n, last, V) of new prompts, each of several renderings."""
        return self._mean(
            [
                member.join([renderings[m] for renderings in ids], last)
                for m, member in enumerate(self._members)
            ]
        )

    def keep(self, rows: Sequence[int]) -> None:
        for member in self._members:
            member.keep(rows)

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        return self._mean([member.step(token_B) for member in self._members])

    def score(self, ids: Sequence[list[list[int]]], given: Sequence[Sequence[int]]) -> torch.Tensor:
        """Logits (B, T, V) that predict each given token, in one pass, those of shorter answers at
        the end of their rows.
        """
        return self._mean(
            [
                sequences.score(member, [row[m] for row in ids], given)
                for m, member in enumerate(self._members)
            ]
        )

    def _mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        size = len(logits)
        if size == 1:
            return logits[0]
        return torch.stack([each.float().log_softmax(-1) for each in logits]).logsumexp(
            0
        ) - math.log(size)


class _CanStop:
    """Whether an answer may hold a stop string from this token on that it did not hold before: a
    cheap no for most tokens.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str]) -> None:
        self._decode, self._known = decode, dict[int, bool]()
        self._lasts = {stop[-1] for stop in stops if stop}
        self._always = any(
            last == " " for last in self._lasts
        )  # blanks hang on a token's neighbours

    def __call__(self, token: int) -> bool:
        if not self._lasts:
            return False
        if token not in self._known:
            text = self._decode([token])
            self._known[token] = (
                self._always
                or not text
                or "\ufffd" in text
                or any(last in text for last in self._lasts)
            )
        return self._known[token]


def _memory_full(error: BaseException) -> bool:
    """Whether it is a GPU's, PyTorch's or Python's way of saying so."""
    return isinstance(
        error, torch.OutOfMemoryError | MemoryError
    ) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _gaps_closed(going: list[int]) -> list[int]:
    """The rows that go on, in an order that moves few: the last ones take the places of those that
    left.
    """
    rows = list(range(len(going)))
    movers = [row for row in going if row >= len(going)]
    for gap in sorted(set(rows) - set(going)):
        rows[gap] = movers.pop()
    return rows
