"""Sequences that a model goes on with together, token by token: two ways to hold what it has read.

`Slots`, for decoders with ordinary attention: the shared prefix stands once in memory, each
sequence's own keys and values in a slot of one preallocated block, and sequences come and go at any
time. `Waves`, for every other model and for encoder-decoders: a batch with a copy of the prefix in
each row, which others can't join while it runs. Both give the same logits up to rounding.

Shapes: B running sequences, n new ones, S their longest own part, Q tokens fed, V vocabulary, G
key-value heads, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from unprompt.engines.hf import head, shared_prefix

_LAYERS = {"full_attention", "sliding_attention"}
"""Kinds of layers that `shared_prefix` knows."""
_BLOCK, _SMALL = 64, 16
"""Columns by which slots grow, and while they are shorter than the first."""


class Slots:
    """Sequences behind a prefix that stands once in memory.

    Args:
        model: A decoder with `shared_prefix`'s attention.
        prefix: Its cache of the shared prefix (one row); None without one.
    """

    joins = True
    """Whether others may join while some run."""

    def __init__(self, model: Any, prefix: DynamicCache | None) -> None:
        self._model, self._prefix = model, prefix
        self._shared = prefix.get_seq_length() if prefix else 0
        self._layers: list[_Layer] = []
        self._cache = Cache(layers=self._layers)  # pyright: ignore[reportArgumentType]
        self._lengths_B = torch.zeros(0, dtype=torch.long)

    def join(self, ids: Sequence[Sequence[int]], last: int = 1) -> torch.Tensor:
        """Read new sequences, prefix included, and put them behind the running ones. Logits (n,
        last, V) behind their last tokens.
        """
        input_nS, at_nS = _padded([row[self._shared :] for row in ids])
        before = len(self._lengths_B)
        self._lengths_B = torch.cat([self._lengths_B, at_nS[:, -1] + 1])
        return self._forward(input_nS, at_nS, before, last)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only; row i is then what row `rows[i]` was. Only rows that change
        places are copied.
        """
        moved = [(new, old) for new, old in enumerate(rows) if new != old]
        self._lengths_B = self._lengths_B[list(rows)]
        for layer in self._layers if moved else ():
            layer.move(*map(list, zip(*moved, strict=True)))

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        """Feed one token to each running sequence: logits (B, V)."""
        at_BQ = self._lengths_B[:, None].clone()
        self._lengths_B += 1
        return self._forward(token_B[:, None], at_BQ, 0, 1)[:, -1]

    def _forward(
        self, input_BQ: torch.Tensor, at_BQ: torch.Tensor, first: int, last: int
    ) -> torch.Tensor:
        device = self._model.device
        width = int(at_BQ.max()) + 1
        at_BQ = at_BQ.to(device)
        if not self._layers:
            count = self._model.config.get_text_config().num_hidden_layers
            self._layers += [_Layer() for _ in range(count)]
        for layer in self._layers:
            layer.place = (first, at_BQ, width)
        seen_BQ = at_BQ.clamp(min=0)
        state = shared_prefix.Reading(self._prefix, seen_BQ, width, self._model.dtype)
        with shared_prefix.reading(state):
            return self._model(
                input_ids=input_BQ.to(device),
                position_ids=self._shared + seen_BQ,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=last,
            ).logits


class _Layer(CacheLayerMixin):
    """One layer's own keys and values, a row for each slot (slots, G, columns, D). The last column
    takes padding and is never read.
    """

    is_sliding = False
    place: tuple[int, torch.Tensor, int]
    """Of the next tokens: their first row, their columns (B, Q), and how many columns are read."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """An empty block."""
        (_, g, _, d), dv = key_states.shape, value_states.shape[-1]
        self.keys = key_states.new_zeros(0, g, 1, d)
        self.values = value_states.new_zeros(0, g, 1, dv)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put new keys and values (B, G, Q, D) into their places; all that their rows hold (B, G,
        width, D).
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        first, at_BQ, width = self.place
        rows = first + len(key_states)
        if rows > len(self.keys) or width >= self.keys.shape[2]:
            block = _BLOCK if width > _BLOCK else _SMALL
            slots = max(rows, len(self.keys))
            columns = max(-(-width // block) * block + 1, self.keys.shape[2])
            self.keys = _grown(self.keys, slots, columns)
            self.values = _grown(self.values, slots, columns)
        rows_B1 = torch.arange(first, rows, device=at_BQ.device)[:, None]
        self.keys[rows_B1, :, at_BQ.clamp(min=-1)] = key_states.transpose(1, 2)
        self.values[rows_B1, :, at_BQ.clamp(min=-1)] = value_states.transpose(1, 2)
        return self.keys[first:rows, :, :width], self.values[first:rows, :, :width]

    def move(self, to: list[int], of: list[int]) -> None:
        """Copy slots over others."""
        assert self.keys is not None
        assert self.values is not None
        self.keys[to], self.values[to] = self.keys[of], self.values[of]

    def get_seq_length(self) -> int:
        """Columns, which no model needs to know: positions are given."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As of a growing cache; the mask made of it is not used."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


def _grown(block: torch.Tensor, slots: int, columns: int) -> torch.Tensor:
    larger = block.new_zeros(slots, block.shape[1], columns, block.shape[3])
    larger[: len(block), :, : block.shape[2] - 1] = block[:, :, :-1]
    return larger


class Waves:
    """Sequences that start together: rows padded on the left, each with its copy of the prefix; an
    encoder-decoder has its prompts in the encoder.

    Args:
        model: Any model that transformers' `generate` can use.
        prefix: Its cache of the shared prefix (one row); None without one.
    """

    joins = False

    def __init__(self, model: Any, prefix: DynamicCache | None) -> None:
        self._model, self._prefix, self.encodes = model, prefix, model.config.is_encoder_decoder
        self._shared = prefix.get_seq_length() if prefix else 0

    def join(self, ids: Sequence[Sequence[int]], last: int = 1) -> torch.Tensor:
        """See `Slots.join`; only where none run. An encoder-decoder's logits are those behind
        its start token.
        """
        device, rows = self._model.device, [row[self._shared :] for row in ids]
        input_nS, at_nS = _padded(rows, left=not self.encodes)
        mask_nS = (at_nS >= 0).long()
        if self.encodes:
            self._mask = mask_nS.to(device)
            self._hidden = self._model.get_encoder()(
                input_ids=input_nS.to(device), attention_mask=self._mask
            ).last_hidden_state
            self._cache: Any = EncoderDecoderCache(DynamicCache(), DynamicCache())
            start = self._model.config.decoder_start_token_id
            return self.feed(torch.full((len(rows), 1), start))
        if self._prefix:
            self._cache = copy.deepcopy(self._prefix)
            self._cache.batch_repeat_interleave(len(rows))
        else:
            self._cache = DynamicCache(config=self._model.config)
        self._mask = torch.ones((len(rows), self._shared), dtype=torch.long, device=device)
        return self.feed(input_nS, mask_nS, last)

    def keep(self, rows: Sequence[int]) -> None:
        """See `Slots.keep`."""
        if rows and list(rows) != list(range(len(self._mask))):
            kept = torch.tensor(rows, device=self._mask.device)
            self._cache.batch_select_indices(kept)
            self._mask = self._mask[kept]
            if self.encodes:
                self._hidden = self._hidden[kept]

    def step(self, token_B: torch.Tensor) -> torch.Tensor:
        """See `Slots.step`."""
        return self.feed(token_B[:, None])[:, -1]

    def feed(
        self, token_BQ: torch.Tensor, mask_BQ: torch.Tensor | None = None, last: int = 0
    ) -> torch.Tensor:
        """Feed tokens: logits (B, last, V) behind the last of them, behind all of them for 0."""
        token_BQ = token_BQ.to(self._model.device)
        if self.encodes:
            return self._model(
                encoder_outputs=(self._hidden,),
                attention_mask=self._mask,
                decoder_input_ids=token_BQ,
                past_key_values=self._cache,
                use_cache=True,
            ).logits
        mask_BQ = torch.ones_like(token_BQ) if mask_BQ is None else mask_BQ.to(token_BQ.device)
        self._mask = torch.cat([self._mask, mask_BQ], 1)
        position_BQ = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -token_BQ.shape[1] :]
        return self._model(
            input_ids=token_BQ,
            attention_mask=self._mask,
            position_ids=position_BQ,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits


Sequences = Slots | Waves
"""Running sequences, in rows 0, 1, ..."""


def _padded(
    rows: Sequence[Sequence[int]], *, left: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, S) and their places in the rows (n, S), which are below 0 for padding."""
    longest = max(map(len, rows))
    input_nS = torch.zeros((len(rows), longest), dtype=torch.long)
    at_nS = torch.full_like(input_nS, -1)
    for row, tokens in enumerate(rows):
        there = slice(longest - len(tokens), longest) if left else slice(len(tokens))
        input_nS[row, there], at_nS[row, there] = torch.tensor(tokens), torch.arange(len(tokens))
    return input_nS, at_nS


def score(
    together: Sequences, ids: Sequence[Sequence[int]], given: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Logits (B, T, V) that predict each of the given tokens behind prompts, in one pass; those of
    shorter answers stand at the end of their rows.
    """
    longest = max(map(len, given))
    if not (isinstance(together, Waves) and together.encodes):
        whole = [[*row, *tokens[:-1]] for row, tokens in zip(ids, given, strict=True)]
        return together.join(whole, last=longest)
    logits_BTV = together.join(ids)
    if longest > 1:
        fed_BT = torch.tensor([[*tokens, *[0] * (longest - len(tokens))][:-1] for tokens in given])
        logits_BTV = torch.cat([logits_BTV, together.feed(fed_BT)], 1)
    rows = zip(logits_BTV, given, strict=True)
    return torch.stack([row_TV.roll(longest - len(tokens), 0) for row_TV, tokens in rows])


@torch.no_grad()
def slots_work(model: Any, length: int) -> str | None:
    """Switch the model to the attention of `Slots` if they give what the plain path gives, tried on
    random tokens: a sequence of this length, half of it the prefix, and a shorter one.

    Returns:
        None, or why not; the model then has its own attention.
    """
    with head.in_one_piece(model):
        return _slots_fail(model, length)


def _slots_fail(model: Any, length: int) -> str | None:
    config = model.config.get_text_config()
    now, before = config._attn_implementation, "sdpa"
    if now not in (before, shared_prefix.NAME):
        return f"its attention is '{now}', not '{before}'"
    if strange := set(getattr(config, "layer_types", None) or ()) - _LAYERS:
        return f"it has layers of {', '.join(sorted(strange))}"
    shared, ends = length // 2, (length, length // 2 + 2)
    seeded = torch.Generator().manual_seed(0)
    ids_2S = torch.randint(0, config.vocab_size, (2, length), generator=seeded).to(model.device)
    ids_2S[1, :shared] = ids_2S[0, :shared]
    try:
        model.set_attn_implementation(before)
        plain_2V = []
        for row, end in zip(ids_2S, ends, strict=True):
            said = model(input_ids=row[None, :end], use_cache=False, logits_to_keep=1)
            plain_2V.append(said.logits[0, -1].float())
        model.set_attn_implementation(shared_prefix.NAME)
        made = Slots(model, read_prefix(model, ids_2S[0, :shared].tolist(), whole=True))
        rows = list(zip(ids_2S, ends, strict=True))
        made.join([row[: end - 1].tolist() for row, end in rows])
        shared_2V = made.step(torch.stack([row[end - 1] for row, end in rows])).float()
        near = 1e-4 if model.dtype == torch.float32 else 0.1
        pairs = zip(shared_2V, plain_2V, strict=True)
        if all(torch.allclose(a, b, atol=near * float(b.abs().max()), rtol=0) for a, b in pairs):
            return None
        reason = "it gave other numbers"
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
    model.set_attn_implementation(before)
    return reason


def is_windowed(model: Any) -> bool:
    """Whether some layers count padding between prefix and own part as read (sliding windows), so
    that `Waves` can't copy the prefix.
    """
    config = model.config.get_text_config()
    return bool(getattr(config, "sliding_window", None)) or any(
        "full" not in kind for kind in getattr(config, "layer_types", None) or ()
    )


def read_prefix(
    model: Any,
    ids: Sequence[int],
    alike: tuple[DynamicCache, int] | None = None,
    *,
    whole: bool,
) -> DynamicCache:
    """Cache of a prefix, of one row.

    Args:
        alike: A cache that was read before, and how many of its first tokens are this prefix's,
            too: those are taken from it. It stays as it is.
        whole: Layers with a sliding window keep all of it, as `Slots` need.
    """
    cache, known = DynamicCache() if whole else DynamicCache(config=model.config), 0
    if alike:
        before, known = alike
        layers: Any = before.layers if known else ()
        for number, layer in enumerate(layers):
            cache.update(layer.keys[:, :, :known], layer.values[:, :, :known], number)
    model(
        input_ids=torch.tensor([list(ids)[known:]], device=model.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return cache
