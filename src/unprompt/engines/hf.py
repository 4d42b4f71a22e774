"""The default engine: a transformers model in this process.

The prefix that all prompts share is run through the model once; every batch starts from its key-value cache. Labels are drawn from the
same logits that the next token comes from, so they cost no second pass.

Shapes: B prompts in a batch, S their longest own part (behind the shared prefix of P tokens), V vocabulary, D draws.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from unprompt import prompts as prompts_
from unprompt.engines import shared_prefix
from unprompt.errors import UserError
from unprompt.models import end_ids
from unprompt.progress import say
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt, SoftLabels

_STOP_TAIL = 32
"""Tokens at the end of an answer in which a stop string is looked for."""


class HFEngine:
    """A transformers model, decoder-only or encoder-decoder.

    Args:
        model: The model, perhaps with a peft adapter.
        tokenizer: Its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model: PreTrainedModel = model
        self.tokenizer = tokenizer
        self._ends = end_ids(tokenizer, model.generation_config)
        self._prefixes: dict[tuple[int, ...], DynamicCache] = {}
        self._shares: bool | None = None

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        *,
        seed: int = 0,
        prefix_tokens: Sequence[int] | None = None,
        heard: Callable[[int, str], object] | None = None,
    ) -> list[Completion]:
        """See `Engine.generate`."""
        ids = self._encode(prompts)
        draw = _Draws([f"{seed}:{p.context}:{p.example_id}" for p in prompts])
        written: list[list[int]] = [[] for _ in prompts]
        stops = ["length"] * len(prompts)
        texts = [""] * len(prompts)
        said: list[list[SoftLabels]] = [[] for _ in prompts]
        with self.ready(), torch.inference_mode():
            logits_BV, advance = self._start(ids, prefix_tokens)
            running = list(range(len(prompts)))
            for step in range(sampling.max_new_tokens):
                next_B, step_labels = _next_tokens(logits_BV, sampling, labels, draw, running)
                for row, label in enumerate(step_labels):
                    said[running[row]].append(label)
                going = []
                for row, index in enumerate(running):
                    token = int(next_B[row])
                    written[index].append(token)
                    if token in self._ends:
                        stops[index], texts[index] = "end", self._decode(written[index][:-1])
                    elif (text := self._stopped(written[index], sampling.stop)) is not None:
                        stops[index], texts[index] = "stop", text
                    else:
                        going.append(row)
                        if heard:
                            heard(index, self._decode(written[index]))
                running = [running[row] for row in going]
                if not running or step + 1 == sampling.max_new_tokens:
                    break
                logits_BV = advance(next_B, going)
        for index in running:
            texts[index] = self._decode(written[index])
        return [
            Completion(
                p.example_id, p.context, texts[i], tuple(written[i]), stops[i], sum(map(len, ids[i])), SoftLabels.concat(said[i]) if labels else None
            )
            for i, p in enumerate(prompts)
        ]  # fmt: skip

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        *,
        seed: int = 0,
        prefix_tokens: Sequence[int] | None = None,
    ) -> list[SoftLabels]:
        """See `Engine.score`."""
        ids = self._encode(prompts)
        draw = _Draws([f"{seed}:{p.context}:{p.example_id}" for p in prompts])
        longest = max(map(len, completions), default=0)
        said: list[list[SoftLabels]] = [[] for _ in prompts]
        with self.ready(), torch.inference_mode():
            logits_BV, advance = self._start(ids, prefix_tokens)
            rows = list(range(len(prompts)))
            # teacher forcing token by token would be slow: all given tokens go through in one pass, right-padded
            given_BT = torch.full((len(rows), longest), self._pad, dtype=torch.long)
            for row, tokens in enumerate(completions):
                given_BT[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            logits_BTV = torch.cat([logits_BV[:, None], advance(given_BT, rows, every=True)], 1) if longest else logits_BV[:, None]
            for position in range(longest):
                active = [row for row in rows if position < len(completions[row])]
                _, step_labels = _next_tokens(
                    logits_BTV[active, position], Sampling(temperature=0), labels, draw, active, given=given_BT[active, position]
                )
                for row, label in zip(active, step_labels, strict=True):
                    said[row].append(label)
        return [SoftLabels.concat(parts) for parts in said]

    # -- prompts ------------------------------------------------------------------------------------------------------

    def _encode(self, prompts: Sequence[Prompt]) -> list[list[list[int]]]:
        """Token ids of each prompt's renderings."""
        ids = [[prompts_.encode(self.tokenizer, content, p.context) for content in p.renderings] for p in prompts]
        for prompt, renderings in zip(prompts, ids, strict=True):
            if not all(renderings):
                raise UserError(
                    "the prompt has no tokens",
                    where=f"context {prompt.context}, input {prompt.example_id}",
                    fix="give the template some text",
                )
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _stopped(self, ids: list[int], stops: Sequence[str]) -> str | None:
        """The text ahead of the first stop string, if there is one now."""
        if not stops or not any(stop in self._decode(ids[-_STOP_TAIL:]) for stop in stops):
            return None
        text = self._decode(ids)
        found = [at for stop in stops if (at := text.find(stop)) >= 0]
        return text[: min(found)] if found else None

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        assert isinstance(pad, int)
        return pad

    @contextlib.contextmanager
    def ready(self) -> Iterator[None]:
        """The model in evaluation mode."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        except torch.OutOfMemoryError:
            raise UserError("the GPU's memory is full", where="batch_size", fix="lower it: fewer prompts are answered at once") from None
        self.model.train(training)

    def _start(self, ids: list[list[list[int]]], prefix_tokens: Sequence[int] | None) -> tuple[torch.Tensor, Any]:
        """Read the prompts. Of an ensemble, each member's prompts are a batch of their own, and the members' probabilities are averaged:
        log p = logsumexp over members of log p_member - log (number of members), which stands for the logits.

        Returns:
            The logits (B, V) of the first new token, and `advance(tokens, keep, every=False)`, which feeds tokens (B,) or (B, T) to all rows, goes on
            with the rows `keep`, and returns the logits that follow: (B, V), or (B, T, V) with `every`, the last position left out.
        """
        size = len(ids[0])
        members = [
            self._start_seq2seq([renderings[m] for renderings in ids])
            if self.model.config.is_encoder_decoder
            else self._start_decoder([renderings[m] for renderings in ids], None if prefix_tokens is None else prefix_tokens[m], size)
            for m in range(size)
        ]
        if size == 1:
            return members[0]

        def averaged(logits: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack([each.float().log_softmax(-1) for each in logits]).logsumexp(0) - math.log(size)

        def advance(tokens: torch.Tensor, keep: list[int], every: bool = False) -> torch.Tensor:
            return averaged([member_advance(tokens, keep, every) for _, member_advance in members])

        return averaged([logits for logits, _ in members]), advance

    def _start_decoder(self, ids: list[list[int]], prefix_tokens: int | None, kept: int) -> tuple[torch.Tensor, Any]:
        device = self.model.device
        shared = min(prompts_.common_prefix(ids), len(ids[0]) if prefix_tokens is None else prefix_tokens)
        prefix = self._prefix_cache(ids[0][:shared], kept) if shared else None
        once = prefix is not None and len(ids) > 1 and self._shares_prefix()  # else its cache is copied for each prompt
        cache = DynamicCache(config=self.model.config) if once or prefix is None else copy.deepcopy(prefix)
        if prefix is not None and not once:
            cache.batch_repeat_interleave(len(ids))
        own = [tokens[shared:] for tokens in ids]
        longest = max(map(len, own))
        input_BS = torch.full((len(own), longest), self._pad, dtype=torch.long)
        mask = torch.zeros((len(own), longest), dtype=torch.long)
        for row, tokens in enumerate(own):
            input_BS[row, longest - len(tokens) :] = torch.tensor(tokens)
            mask[row, longest - len(tokens) :] = 1
        position_BS = shared + (mask.cumsum(1) - 1).clamp(min=0)
        if not once:
            mask = torch.cat([torch.ones((len(own), shared), dtype=torch.long), mask], 1)
        mask, ahead = mask.to(device), shared if once else 0

        def forward(input_BT: torch.Tensor, position_BT: torch.Tensor, every: bool) -> torch.Tensor:
            with shared_prefix.attending_to(prefix) if once and prefix else contextlib.nullcontext():
                logits = self.model(
                    input_ids=input_BT, attention_mask=mask, position_ids=position_BT, past_key_values=cache, use_cache=True,
                    logits_to_keep=0 if every else 1,
                ).logits  # fmt: skip
            return logits if every else logits[:, -1]

        def advance(tokens: torch.Tensor, keep: list[int], every: bool = False) -> torch.Tensor:
            nonlocal mask
            rows = torch.tensor(keep, device=device)
            if len(keep) < len(mask):
                cache.batch_select_indices(rows)
                mask = mask[rows]
            tokens_BT = tokens.to(device)[rows].view(len(keep), -1)
            if every:
                tokens_BT = tokens_BT[:, :-1]
            fed = tokens_BT.shape[1]
            if fed == 0:
                return torch.zeros((len(keep), 0, self.model.config.get_text_config().vocab_size), device=device)
            position_BT = ahead + mask.sum(1, keepdim=True) + torch.arange(fed, device=device)
            mask = torch.cat([mask, torch.ones_like(tokens_BT)], 1)
            return forward(tokens_BT, position_BT, every)

        return forward(input_BS.to(device), position_BS.to(device), every=False), advance

    def _shares_prefix(self) -> bool:
        """Whether the prefix's cache can stand once for the whole batch; tried once."""
        if self._shares is None:
            reason = shared_prefix.enable(self.model)
            self._shares = reason is None
            if reason:
                say(f"note: the shared prefix is copied for every prompt with this model ({reason}): slower, same answers")
        return self._shares

    def _prefix_cache(self, prefix: list[int], kept: int) -> DynamicCache:
        """Key-value cache of a prefix, for one row; the `kept` newest prefixes' are kept."""
        key = tuple(prefix)
        if key not in self._prefixes:
            while len(self._prefixes) >= kept:
                del self._prefixes[next(iter(self._prefixes))]
            cache = DynamicCache(config=self.model.config)
            self.model(input_ids=torch.tensor([prefix], device=self.model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._prefixes[key] = cache
        return self._prefixes[key]

    def _start_seq2seq(self, ids: list[list[int]]) -> tuple[torch.Tensor, Any]:
        device = self.model.device
        longest = max(map(len, ids))
        input_BS = torch.full((len(ids), longest), self._pad, dtype=torch.long, device=device)
        mask = torch.zeros_like(input_BS)
        for row, tokens in enumerate(ids):
            input_BS[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        hidden = self.model.get_encoder()(input_ids=input_BS, attention_mask=mask).last_hidden_state
        read_BT = torch.full((len(ids), 1), self.model.config.decoder_start_token_id, dtype=torch.long, device=device)

        def logits() -> torch.Tensor:
            return self.model(encoder_outputs=(hidden,), attention_mask=mask, decoder_input_ids=read_BT, use_cache=False).logits

        def advance(tokens: torch.Tensor, keep: list[int], every: bool = False) -> torch.Tensor:
            nonlocal read_BT, hidden, mask
            rows = torch.tensor(keep, device=device)
            tokens_BT = tokens.to(device)[rows].view(len(keep), -1)
            fed = tokens_BT[:, :-1] if every else tokens_BT
            before = read_BT.shape[1]
            read_BT, hidden, mask = torch.cat([read_BT[rows], fed], 1), hidden[rows], mask[rows]
            out = logits()
            return out[:, before:] if every else out[:, -1]

        return logits()[:, -1], advance


class _Draws:
    """A stream of uniform numbers for each prompt: the same draws whatever else is in the batch, and on every device."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16]))) for key in keys]

    def __call__(self, rows: Sequence[int], count: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), float64, shape (len(rows), count)."""
        return torch.from_numpy(np.stack([self._streams[row].random(count) for row in rows]))


def _pick(probs_BV: torch.Tensor, uniform_BD: torch.Tensor) -> torch.Tensor:
    """Draws from each row's distribution by inverting its cumulative sum (float64): ids of shape (B, D)."""
    cdf_BV = probs_BV.double().cumsum(-1)
    target_BD = uniform_BD.to(cdf_BV.device) * cdf_BV[:, -1:]
    return torch.searchsorted(cdf_BV, target_BD, right=True).clamp(max=probs_BV.shape[-1] - 1)


def _next_tokens(
    logits_BV: torch.Tensor, sampling: Sampling, labels: Labels | None, draw: _Draws, rows: Sequence[int], given: torch.Tensor | None = None
) -> tuple[torch.Tensor, list[SoftLabels]]:
    """Choose each row's next token (or take the `given` one) and write its label down."""
    logp_BV = logits_BV.float().log_softmax(-1)
    if given is not None:
        next_B = given.to(logp_BV.device)
    elif sampling.temperature == 0:
        next_B = logp_BV.argmax(-1)
    else:
        probs_BV = (logp_BV / sampling.temperature).softmax(-1)
        if sampling.top_p < 1:
            top_BV, order_BV = probs_BV.sort(-1, descending=True)
            outside = top_BV.cumsum(-1) - top_BV >= sampling.top_p
            probs_BV = probs_BV.scatter(-1, order_BV, top_BV.masked_fill(outside, 0))
        next_B = _pick(probs_BV, draw(rows, 1))[:, 0]
    if labels is None:
        return next_B, []
    if labels.kind == "hard":
        nll_B = -logp_BV.gather(-1, next_B[:, None])[:, 0].cpu().numpy()
        return next_B, [SoftLabels.hard([int(token)], nll_B[row : row + 1]) for row, token in enumerate(next_B)]
    if labels.kind == "top_k":
        top_BK, ids_BK = logp_BV.topk(min(labels.k, logp_BV.shape[-1]), -1)
        q_BK = top_BK.softmax(-1)
        nll_B = -(q_BK * top_BK).sum(-1).cpu().numpy()
        ids, probs = ids_BK.cpu().numpy().astype(np.int32), q_BK.cpu().numpy()
        ends = np.array([0, ids.shape[1]], np.int32)
        return next_B, [SoftLabels(ids[row], probs[row], ends, nll_B[row : row + 1]) for row in range(len(ids))]
    ids_BD = _pick(logp_BV.exp(), draw(rows, labels.draws))
    drawn, logp = ids_BD.cpu().numpy(), logp_BV.gather(-1, ids_BD).cpu().numpy()
    found = []
    for row in range(len(drawn)):
        ids, counts = np.unique(drawn[row], return_counts=True)
        nll = np.array([-logp[row].mean()], np.float32)
        found.append(SoftLabels(ids.astype(np.int32), (counts / labels.draws).astype(np.float32), np.array([0, len(ids)], np.int32), nll))
    return next_B, found
