"""Inputs that a language model writes from a few examples: few-shot prompts over seeds (Snell et
al. 2022, section 2.1).

Random token strings, as an ablation of D, are a rule: `unprompt.stages.inputs.draw:random_tokens`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unprompt.engines import models
from unprompt.recipe import Data, Model, Recipe, Sample
from unprompt.records import Completion, Example, Prompt
from unprompt.stages.inputs.sieve import Sieve, texts
from unprompt.stages.templates.render import render


def resolved(recipe: Recipe, files: dict[str, str]) -> Recipe:
    """The recipe with each source that a model writes replaced by the file that holds what was
    drawn.
    """

    def put(data: Data, where: str) -> Data:
        if data.written:
            own = {"limit": data.limit, "min_gain": data.min_gain}
            return Data(file=files[where], model_written=True, **own)
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


def draw(
    sample: Sample,
    seeds: Sequence[Example],
    held_out: Sequence[Example],
    answer: Callable[[list[Prompt]], Sequence[Completion]],
    seed: int,
    where: str,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Draw inputs until there are as many as wanted.

    Args:
        answer: Asks the model.

    Returns:
        The rows, and how many draws came to what (`kept`, and each reason for throwing one away).

    Raises:
        UserError: Too few after `tries` draws for each wanted.
    """
    sieve = Sieve(sample.near, texts(seeds, sample.field), texts(held_out, sample.field))

    def asked(start: int, count: int) -> list[Prompt]:
        return ask(sample, seeds, start, count, seed, where)

    sieve.fill(sample, asked, answer, f"{where}.sample", "give more seeds")
    rows = [{"id": f"draw-{n:06d}", sample.field: text} for n, text in enumerate(sieve.kept)]
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
