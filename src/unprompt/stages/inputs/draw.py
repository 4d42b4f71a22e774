"""Inputs that a language model writes: few-shot prompts over seeds, and a sieve for what is no new
input (Snell et al. 2022, section 2.1).

Random token strings, as an ablation of D, are a rule: `unprompt.stages.inputs.draw:random_tokens`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unprompt.engines import models
from unprompt.messages import UserError
from unprompt.recipe import Data, Model, Recipe, Sample
from unprompt.records import Completion, Example, Prompt
from unprompt.stages.templates.render import render


def sources(recipe: Recipe) -> dict[str, Sample]:
    """Every `sample` among the contexts' inputs, by its key in the recipe; those inside mixtures,
    too.
    """
    return {
        where: data.sample
        for name, context in recipe.contexts.items()
        if context.inputs
        for where, data in context.inputs.parts(f"contexts.{name}.inputs")
        if data.sample
    }


def resolved(recipe: Recipe, files: dict[str, str]) -> Recipe:
    """The recipe with each sampled source replaced by the file that holds what was drawn."""

    def put(data: Data, where: str) -> Data:
        if data.sample:
            return Data(file=files[where], limit=data.limit, model_written=True)
        if data.mix:
            parts = tuple(
                part.model_copy(update={"data": put(part.data, f"{where}.mix.{n}.data")})
                for n, part in enumerate(data.mix)
            )
            return data.model_copy(update={"mix": parts})
        return data

    contexts = dict(recipe.contexts)
    for name, context in contexts.items():
        if context.inputs:
            inputs = put(context.inputs, f"contexts.{name}.inputs")
            contexts[name] = context.model_copy(update={"inputs": inputs})
    return recipe.model_copy(update={"contexts": contexts})


def ask(
    sample: Sample, seeds: Sequence[Example], start: int, count: int, seed: int, where: str
) -> list[Prompt]:
    """The prompts of draws `start` to `start + count`: each shows its own random few of the seeds,
    in random order.
    """
    prompts, few = [], min(sample.per_prompt, len(seeds))
    for number in range(start, start + count):
        chosen = random.Random(f"{seed}:{where}:{number}").sample(range(len(seeds)), few)
        shown = [seeds[n].fields for n in chosen]
        row = Example(f"draw-{number:06d}", {})
        prompts.append(render(sample.template, where, row, shown, f"{where}.sample.template"))
    return prompts


class Sieve:
    """Keeps what is a new input, and counts what is not, by reason.

    Args:
        near: Similarity from which two texts are near duplicates.
        seeds, held_out: Texts that no input may copy.
    """

    def __init__(self, near: float, seeds: Sequence[str], held_out: Sequence[str]) -> None:
        self.near = near
        self.kept: list[str] = []
        self.counts: Counter[str] = Counter()
        self._like: dict[str, list[str]] = {
            "copy of a seed": [_plain(text) for text in seeds],
            "copy of a held-out input": [_plain(text) for text in held_out],
            "near duplicate": [],
        }

    def add(self, completion: Completion) -> None:
        """Judge one text."""
        reason = self._why_not(completion)
        self.counts[reason or "kept"] += 1
        if reason is None:
            self.kept.append(completion.text.strip())
            self._like["near duplicate"].append(_plain(completion.text))

    def _why_not(self, completion: Completion) -> str | None:
        plain = _plain(completion.text)
        if completion.stop == "length":
            return "cut at max_new_tokens"
        if not plain:
            return "empty"
        if plain in self._like["near duplicate"]:
            return "exact duplicate"
        reasons = (why for why, texts in self._like.items() if _alike(plain, texts, self.near))
        return next(reasons, None)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _alike(text: str, others: Sequence[str], near: float) -> bool:
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    scorer = Levenshtein.normalized_similarity
    return process.extractOne(text, others, scorer=scorer, score_cutoff=near) is not None


def draw(
    sample: Sample,
    seeds: Sequence[Example],
    held_out: Sequence[Example],
    answer: Callable[[list[Prompt]], Sequence[Completion]],
    batch: int,
    seed: int,
    where: str,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Draw inputs until there are as many as wanted.

    Args:
        answer: Asks the model.
        batch: Prompts asked at once.

    Returns:
        The rows, and how many draws came to what (`kept`, and each reason for throwing one away).

    Raises:
        UserError: Too few after `tries` draws for each wanted.
    """
    field = sample.field
    held = [value for example in held_out if isinstance(value := example.fields.get(field), str)]
    sieve = Sieve(sample.near, [str(example.fields[field]) for example in seeds], held)
    most, asked = int(sample.count * sample.tries), 0
    while len(sieve.kept) < sample.count and asked < most:
        count = min(batch, most - asked)
        for completion in answer(ask(sample, seeds, asked, count, seed, where)):
            if len(sieve.kept) < sample.count:
                sieve.add(completion)
            else:
                sieve.counts["not needed"] += 1
        asked += count
    if len(sieve.kept) < sample.count:
        lost = {reason: count for reason, count in sieve.counts.most_common() if reason != "kept"}
        why = ", ".join(f"{count} {reason}" for reason, count in lost.items())
        raise UserError(
            f"{asked} draws gave only {len(sieve.kept)} of {sample.count} inputs ({why})",
            where=f"{where}.sample",
            fix="give more seeds, a higher temperature or more tries, or want fewer; what was drawn"
            " is kept",
        )
    rows = [{"id": f"draw-{n:06d}", field: text} for n, text in enumerate(sieve.kept)]
    return rows, dict(sieve.counts)


def random_tokens(
    model: Any, count: int, shortest: int = 4, longest: int = 20, field: str = "text", seed: int = 0
) -> Iterator[dict[str, str]]:
    """A rule: strings of random tokens, uniform over the vocabulary and over lengths; special
    tokens are left out. Bytes that are no whole letter become blanks; a string of nothing but
    blanks becomes "?".

    Args:
        model: As the recipe's `model`; only its tokenizer is read.
        count: Rows.
        shortest: Fewest tokens.
        longest: Most tokens.
        field: The row's field.
        seed: Of the draws.
    """
    tokenizer = models.load_tokenizer(Model.model_validate(model), "random_tokens")
    special = set(tokenizer.all_special_ids)
    ids = [n for n in range(len(tokenizer)) if n not in special]
    source = random.Random(seed)
    for _ in range(count):
        chosen = source.choices(ids, k=source.randint(shortest, longest))
        text = tokenizer.decode(chosen, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        yield {field: text.replace("�", " ").strip() or "?"}
