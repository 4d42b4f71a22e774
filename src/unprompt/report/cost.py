"""Dollars of tokens, and after how many calls a student has paid for itself. Pure; decimal numbers,
exact to the cent.

Shirgaonkar et al. 2024 argue with dollars per 1,000 calls (their table 2): prices times token
counts, as in `per_thousand`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from unprompt.messages import UserError
from unprompt.recipe import Recipe, prices as prices_
from unprompt.recipe.prices import Price

if TYPE_CHECKING:
    from unprompt.stages.questions import Question
    from unprompt.store.answers import Answers

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of calls to one system.

    Attributes:
        whose: `teacher`, or anything else for a student (or the model it is made from).
        calls: How many calls.
        prompt_tokens: Of all calls together.
        completion_tokens: Of all calls together.
        shared: Length of the prefix that all its prompts have in common: what a provider's prompt
            cache can hold.
    """

    whose: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """What a run asked and trained, for the section `cost`.

    Attributes:
        prices: Of `teacher` and `student`.
        systems: (context, system) -> its calls on the held-out examples.
        collected: Context -> whose answers (as rounds name their teacher) -> the calls that
            collected them. Inputs that a model wrote are the teacher's, under `inputs`.
        seconds: Round -> measured seconds of training; None if they were not recorded.
    """

    prices: Mapping[str, Price]
    systems: Mapping[tuple[str, str], Usage]
    collected: Mapping[str, Mapping[str, Sequence[Usage]]]
    seconds: Mapping[str, float | None]


def usage(question: Question, answers: Answers) -> Usage:
    """What collecting answers took."""
    sizes = [(answer.prompt_tokens, len(answer.token_ids)) for answer in answers]
    return Usage(
        question.who.role,
        len(sizes),
        sum(prompt for prompt, _ in sizes),
        sum(written for _, written in sizes),
        sum(question.side.prefix),
    )


def dollars(price: Price, prompt_tokens: int, completion_tokens: int, cached: int = 0) -> Decimal:
    """What tokens cost.

    Args:
        prompt_tokens: All tokens of prompts.
        cached: How many of them come from the provider's cache.

    Raises:
        ValueError: More tokens are cached than there are, or the model has no cached price.
    """
    if cached > prompt_tokens:
        raise ValueError(f"{cached} of {prompt_tokens} prompt tokens can't be cached")
    if cached and price.cached_input is None:
        raise ValueError("the model has no price of cached input")
    from_cache = cached * (price.cached_input or 0)
    read = (prompt_tokens - cached) * price.input
    return (read + from_cache + completion_tokens * price.output) / _MILLION


def per_thousand(
    price: Price, prompt_tokens: int, completion_tokens: int, cached: int = 0
) -> Decimal:
    """Dollars per 1,000 calls of so many tokens each."""
    return 1000 * dollars(price, prompt_tokens, completion_tokens, cached)


def cents(amount: Decimal) -> Decimal:
    """To the cent, halves up."""
    return amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def lines(
    table: Path | None, model: str, prompt_tokens: int, completion_tokens: int, cached: int
) -> list[str]:
    """What `unprompt cost` prints.

    Args:
        table: The user's price table, if there is one.

    Raises:
        UserError: The table, the model or the counts are not in order.
    """
    price = prices_.price(prices_.load(str(table) if table else None), model, "--model")
    try:
        amount = per_thousand(price, prompt_tokens, completion_tokens, cached)
    except ValueError as error:
        fix = "give at most --input, and a model with a price cached_input"
        raise UserError(str(error), where="--cached", fix=fix) from None
    exact = f"{amount.normalize():f}"
    return [f"{model}: ${cents(amount):,f} per 1,000 calls (exactly ${exact}; {price.source})"]


def of_usage(price: Price, usage: Usage, *, caching: bool) -> Decimal:
    """What calls cost. With caching, the shared prefix of every call is taken to come from the
    provider's cache, if it is long enough for it.
    """
    held = caching and price.cached_input is not None and usage.shared >= price.cache_minimum
    cached = usage.shared * usage.calls if held else 0
    return dollars(price, usage.prompt_tokens, usage.completion_tokens, cached)


def break_even(once: Decimal, teacher: Decimal, student: Decimal) -> int | None:
    """The number of calls from which on distilling is no dearer: the one-time cost over what a call
    saves; None if a call saves nothing.
    """
    saved = teacher - student
    return int((once / saved).to_integral_value(ROUND_CEILING)) if saved > 0 else None


def lineage(recipe: Recipe, name: str) -> list[str]:
    """The rounds that a round's student needs: itself, and those that it starts from or is taught
    by, in order.
    """
    needed = {name}
    for earlier in (recipe.start_of(name), recipe.teacher_of(name)):
        needed |= set(lineage(recipe, earlier.round)) if earlier.round else set()
    return [each for each in recipe.plan if each in needed]
