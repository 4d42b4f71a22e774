"""The default engine: a transformers model in this process.

The prefix that all prompts share is run through the model once, and every sequence goes on from its
key-value cache. Sequences that are finished leave, and waiting prompts take their places. Labels
are drawn from the same logits that the next token comes from, so they cost no second pass.

Shapes: B running sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

import psutil
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from unprompt.engines import Options, drawing, models, tokens
from unprompt.engines.hf import head, sequences
from unprompt.engines.hf.answers import Answer, Written, telling
from unprompt.engines.hf.members import Members
from unprompt.engines.hf.prefixes import Prefixes
from unprompt.messages import UserError, say
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt, SoftLabels

_FASTEST = {"cpu": 128, "cuda": 256}
"""Sequences at once from which on more are no faster (`benchmarks/growth.py`)."""
_SCORED_LOGITS = 2**26
"""Numbers of logits in memory at once when answers are scored."""
_SHORTEST = 16
"""Tokens with which it is tried at least whether a prefix can be shared."""
_say_once = functools.cache(say)
_Ids = list[list[list[int]]]
"""Token ids of each prompt's renderings."""


class HFEngine:
    """A transformers model, decoder-only or encoder-decoder.

    Args:
        model: The model, perhaps with a peft adapter.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: PreTrainedModel = model
        self.tokenizer = tokenizer
        self._ends = tokens.end_ids(tokenizer, model.generation_config)
        self._prefixes = Prefixes(model)
        self._shares: bool | None = None
        self._tried = 0
        """Length in tokens up to which that was tried."""
        self._switch = models.rope_switch(model.config)
        self._room: int | None = None
        """Sequences at once that the memory has room for, if it was full before."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """See `Engine.generate`. Where the memory is full, half as many are answered at once from
        there on; what is answered by then is kept.
        """
        ids = self._encode(prompts, [sampling.max_new_tokens] * len(prompts))
        if len(halves := self._halves([max(map(len, each)) for each in ids])) > 1:
            return self._by_halves(halves, prompts, sampling, labels, options)
        for prompt, renderings in zip(prompts, ids, strict=True):
            longest, where = max(map(len, renderings)), tokens.place(prompt)
            new = sampling.max_new_tokens
            tokens.refuse_switch("the prompt", longest, new, self._switch, where)
        read, done = [sum(map(len, each)) for each in ids], options.get("done")
        written = Written(prompts, read, labelled=labels is not None, done=done)
        while len(written.whole) < len(prompts):
            left = [n for n in range(len(prompts)) if n not in written.whole]
            answers, book = {n: Answer() for n in left}, drawing.Book()
            draw = drawing.Draws(tokens.keys(prompts, options.get("seed", 0)))
            choose = functools.partial(
                drawing.next_tokens, sampling=sampling, labels=labels, draw=draw, book=book
            )
            size = self._size([ids[n] for n in left], sampling.max_new_tokens, options)
            size = min(size, len(left))
            with self._halving(size), written.taking(answers, book) as look:
                together = self._sequences(
                    [ids[n] for n in left], options.get("prefix_tokens"), sampling.max_new_tokens
                )
                self._write(answers, ids, together, size, choose, look, sampling, options)
        return [written.whole[n] for n in range(len(prompts))]

    def _halves(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of prompts, those up to `models.rope_switch` apart from longer ones: in one batch
        all would get the factors of the longest. Both have members.
        """
        longer = [self._switch is not None and length > self._switch for length in lengths]
        halves = [[n for n, each in enumerate(longer) if each == which] for which in (False, True)]
        return [half for half in halves if half]

    def _by_halves(
        self,
        halves: list[list[int]],
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        options: Options,
    ) -> list[Completion]:
        heard, done = options.get("heard"), options.get("done")
        found = dict[int, Completion]()
        for half in halves:
            own = {**options, "done": done and _placed(done, half)}
            own["heard"] = heard and (lambda n, text, half=half: heard(half[n], text))
            asked = [prompts[n] for n in half]
            found |= zip(half, self.generate(asked, sampling, labels, **own), strict=True)  # pyright: ignore[reportArgumentType]
        return [found[n] for n in range(len(prompts))]

    def _write(
        self,
        answers: dict[int, Answer],
        ids: _Ids,
        together: Members,
        size: int,
        choose: Callable[..., torch.Tensor],
        look: Callable[[], object],
        sampling: Sampling,
        options: Options,
    ) -> None:
        """Write answers to prompts, `size` at once; `choose` gives their next tokens, and `look`
        hears that some may be whole.
        """
        heard, progress = options.get("heard"), options.get("progress")
        stops = tokens.Stops(self._decode, sampling.stop)
        waiting, running, logits_BV = list(answers), list[int](), torch.zeros(0)
        while running or waiting:
            free = size - len(running)
            # a few join at once: reading one prompt costs about as much as a step of all
            few = min(len(waiting), -(-size // 4))
            if not running or (waiting and together.joins and free >= few):
                new, waiting = waiting[:free], waiting[free:]
                first_nV = together.join([ids[n] for n in new])[:, -1]
                logits_BV = torch.cat([logits_BV, first_nV]) if running else first_nV
                running += new
            next_B = choose(logits_BV, rows=running)
            going = []
            for row, (n, token) in enumerate(zip(running, next_B.tolist(), strict=True)):
                answer = answers[n]
                answer.ids.append(token)
                answer.text, answer.stop = self._ended(answer.ids, stops, sampling)
                if answer.text is None:
                    going.append(row)
                    if heard:
                        heard(n, self._decode(answer.ids))
            if progress:
                progress(len(running) - len(going))
            look()
            rows = _gaps_closed(going)
            running = [running[row] for row in rows]
            together.keep(rows)
            if running:
                logits_BV = together.step(next_B[rows])

    def _ended(
        self, ids: list[int], stops: tokens.Stops, sampling: Sampling
    ) -> tuple[str | None, str]:
        """An answer's text and why it ended; no text while it goes on."""
        if ids[-1] in self._ends:
            return self._decode(ids[:-1]), "end"
        if (before := stops.before(ids)) is not None:
            return before, "stop"
        if len(ids) == sampling.max_new_tokens:
            return self._decode(ids), "length"
        return None, ""

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        **options: Unpack[Options],
    ) -> list[SoftLabels]:
        """See `Engine.score`."""
        ids = self._encode(prompts, [len(given) for given in completions])
        scored = dict[int, SoftLabels]()

        def labelled(places: list[int], logits_NV: torch.Tensor) -> None:
            book, seed = drawing.Book(), options.get("seed", 0)
            if given := [token for n in places for token in completions[n]]:
                draw = drawing.Draws(tokens.keys([prompts[n] for n in places], seed))
                rows = [row for row, n in enumerate(places) for _ in completions[n]]
                given_N = torch.tensor(given, device=logits_NV.device)
                logp_NV = logits_NV.float().log_softmax(-1)
                drawing.write_labels(logp_NV, given_N, labels, draw, rows, book)
            scored.update(zip(places, book.of(len(places)), strict=True))
            look()

        with telling(scored, options.get("scored")) as look:
            self.read(ids, completions, labelled, **options)
        return [scored[n] for n in range(len(prompts))]

    def read(
        self,
        ids: _Ids,
        given: Sequence[Sequence[int]],
        use: Callable[[list[int], torch.Tensor], object],
        like: Sequence[int] = (),
        **options: Unpack[Options],
    ) -> None:
        """Read given answers behind prompts, the prefix that the prompts share once.

        Args:
            ids: Token ids of each prompt's renderings.
            given: Token ids of each answer.
            use: Told, batch by batch, the places of some prompts, and the logits (N, V) that
                predict each token of their answers, one answer behind the other.
            like: Token ids that the shared prefix begins like, for as far as it does: read once
                for all calls that name them. Empty: each prefix is read from its start.
        """
        pairs = zip(ids, given, strict=True)
        whole = [max(map(len, each)) + len(answer) - 1 for each, answer in pairs]
        vocabulary = self.model.config.get_text_config().vocab_size
        progress = options.get("progress") or (lambda n: None)
        for half in self._halves(whole):
            asked, longest = [ids[n] for n in half], max(len(given[n]) for n in half)
            most, done = max(1, _SCORED_LOGITS // max(1, longest * vocabulary)), 0
            while done < len(half):
                size = min(most, self._size(asked, longest, options))
                places = half[done : done + size]
                with self._halving(len(places)), self._prefixes.going_on(tuple(like)):
                    together = self._sequences(asked, options.get("prefix_tokens"), longest)
                    use(places, self._given(together, ids, given, places))
                    done += len(places)
                    progress(len(places))

    def _given(
        self, together: Members, ids: _Ids, given: Sequence[Sequence[int]], places: list[int]
    ) -> torch.Tensor:
        """Logits (N, V) that predict each given token of one batch."""
        if not (some := [n for n in places if given[n]]):
            return torch.zeros(0)
        logits_BTV = together.score([ids[n] for n in some], [given[n] for n in some])
        pairs = zip(some, logits_BTV, strict=True)
        return torch.cat([row_TV[-len(given[n]) :] for n, row_TV in pairs])

    # -- prompts -----------------------------------------------------------------------------------

    def _encode(self, prompts: Sequence[Prompt], answers: Sequence[int]) -> _Ids:
        return tokens.encoded(self.tokenizer, prompts, answers, models.positions(self.model.config))

    def _decode(self, ids: Sequence[int]) -> str:
        return tokens.decoded(self.tokenizer, ids)

    # -- the model ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The model in evaluation mode."""
        training = self.model.training
        self.model.eval()
        try:
            with head.in_one_piece(self.model):
                yield
        finally:
            self.model.train(training)

    @contextlib.contextmanager
    def _halving(self, size: int) -> Iterator[None]:
        """Ask the model. Where `size` sequences at once have no room in memory, go on behind the
        block, from now on with half as many.

        Raises:
            UserError: It was only one.
        """
        try:
            with self.ready(), torch.inference_mode():
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

    def _size(self, ids: _Ids, answer: int, options: Options) -> int:
        """How many sequences to run together: as many as are wanted, or as half of the free memory
        holds, up to the number from which on more are no faster; never more than were seen to have
        room.
        """
        size = options.get("batch_size") or self._at_once(ids, options.get("prefix_tokens"), answer)
        return size if self._room is None else min(size, self._room)

    def _at_once(self, ids: _Ids, prefix_tokens: Sequence[int] | None, answer: int) -> int:
        config, device = self.model.config.get_text_config(), self.model.device
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        column = 2 * config.num_hidden_layers * heads * head * self.model.dtype.itemsize
        once = not self.model.config.is_encoder_decoder and self._shares_prefix(ids, answer)
        shared = sum(prefix_tokens or ()) if once else 0
        longest = max(sum(map(len, renderings)) for renderings in ids) - shared
        logits = 4 * 4 * config.vocab_size  # and what is drawn from them
        each = (longest + answer * len(ids[0])) * column + logits * len(ids[0])
        on_gpu = device.type == "cuda"
        memory = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
        return max(1, min(_FASTEST["cuda" if on_gpu else "cpu"], memory // 2 // each))

    def _sequences(self, ids: _Ids, prefix_tokens: Sequence[int] | None, answer: int) -> Members:
        """Who reads prompts (each of one or more renderings) that all begin with the same tokens,
        and answers of up to `answer` tokens; a reader for each rendering.
        """
        made = sequences.Slots if self._shares_prefix(ids, answer) else sequences.Waves
        columns = [list(column) for column in zip(*ids, strict=True)]
        prefixes = prefix_tokens or [None] * len(columns)
        pairs = zip(columns, prefixes, strict=True)
        return Members(
            [self._reader(column, prefix, made, len(columns)) for column, prefix in pairs]
        )

    def _reader(
        self,
        ids: list[list[int]],
        prefix_tokens: int | None,
        made: type[sequences.Sequences],
        kept: int,
    ) -> sequences.Sequences:
        """A reader of prompts; the caches of the `kept` newest prefixes are kept."""
        if self.model.config.is_encoder_decoder:
            return sequences.Waves(self.model, None)
        shared = min(
            tokens.common_prefix(ids), len(ids[0]) if prefix_tokens is None else prefix_tokens
        )
        whole = made is sequences.Slots
        switched = self._switch is not None and max(map(len, ids)) > self._switch
        if not shared or switched or (not whole and sequences.is_windowed(self.model)):
            return made(self.model, None)
        key = tuple(ids[0][:shared])
        return made(self.model, self._prefixes.read(key, whole=whole, kept=kept))

    def _shares_prefix(self, ids: _Ids, answer: int) -> bool:
        """Whether the prefix's cache can stand once for all sequences; tried at the length of the
        longest prompt and answer, and again when longer ones come.
        """
        if self.model.config.is_encoder_decoder or self._shares is False:
            return False
        longest = max(len(each) for renderings in ids for each in renderings) + answer
        if self._switch is not None and longest > self._switch:
            _say_once(
                f"note: prompts over {self._switch} tokens are read whole with this model"
                " (LongRoPE): slower, same answers"
            )
            return False
        if longest > self._tried:
            # an eighth longer at most, so that few lengths are tried while prompts grow
            step = 2 ** max(3, longest.bit_length() - 4)
            most = models.positions(self.model.config) or longest + step
            self._tried = max(_SHORTEST, longest, min(-(-longest // step) * step, most))
            reason = sequences.slots_work(self.model, self._tried)
            self._shares = not reason
            if reason:
                self._prefixes.clear()
                how = "read again" if sequences.is_windowed(self.model) else "copied"
                say(
                    f"note: the shared prefix is {how} for every prompt with this model ({reason}):"
                    " slower, same answers"
                )
        return bool(self._shares)


def _placed(
    told: Callable[[dict[int, Any]], object], half: Sequence[int]
) -> Callable[[dict[int, Any]], object]:
    """Tells of some of the prompts by their places among all."""
    return lambda found: told({half[n]: each for n, each in found.items()})


def _memory_full(error: BaseException) -> bool:
    """Whether it is a GPU's, PyTorch's or Python's way of saying so."""
    kinds = torch.OutOfMemoryError | MemoryError
    return isinstance(error, kinds) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def _gaps_closed(going: list[int]) -> list[int]:
    """The rows that go on, in an order that moves few: the last ones take the places of those that
    left.
    """
    rows = list(range(len(going)))
    movers = [row for row in going if row >= len(going)]
    for gap in sorted(set(rows) - set(going)):
        rows[gap] = movers.pop()
    return rows
