"""Dollars a call, what distilling costs once, and after how many calls it has paid for itself.
Pure; decimal numbers, exact to the cent.

Shirgaonkar et al. 2024 argue with dollars per 1,000 calls (their table 2): prices times token
counts, as in `per_thousand`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.messages import UserError
from unprompt.recipe import Cost, Recipe, prices as prices_
from unprompt.recipe.prices import Price

if TYPE_CHECKING:
    from unprompt.stages.questions import Question
    from unprompt.store.answers import Answers

_MILLION = Decimal(1_000_000)
WAYS = ("plain", "cached")
"""Without and with the provider's prompt caching."""


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
    from_cache = cached * price.cached_input if price.cached_input is not None else Decimal(0)
    return (
        (prompt_tokens - cached) * price.input + from_cache + completion_tokens * price.output
    ) / _MILLION


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
        found = per_thousand(price, prompt_tokens, completion_tokens, cached)
    except ValueError as error:
        raise UserError(
            str(error),
            where="--cached",
            fix="give at most --input, and a model with a price cached_input",
        ) from None
    exact = f"{found.normalize():f}"
    return [f"{model}: ${cents(found):,f} per 1,000 calls (exactly ${exact}; {price.source})"]


def of_usage(price: Price, usage: Usage, *, caching: bool) -> Decimal:
    """What calls cost. With caching, the shared prefix of every call is taken to come from the
    provider's cache, if it is long enough for it.
    """
    held = caching and price.cached_input is not None and usage.shared >= price.cache_minimum
    return dollars(
        price,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.shared * usage.calls if held else 0,
    )


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
    earlier = {who.round for who in (recipe.start_of(name), recipe.teacher_of(name)) if who.round}
    needed = {name, *(each for round_ in earlier for each in lineage(recipe, round_))}
    return [each for each in recipe.plan if each in needed]


def report(
    recipe: Recipe,
    prices: Mapping[str, Price],
    systems: Mapping[tuple[str, str], Usage],
    collected: Mapping[str, Mapping[str, Sequence[Usage]]],
    seconds: Mapping[str, float | None],
) -> dict[str, Any]:
    """The report's section `cost`, in dollars.

    Args:
        prices: Of `teacher` and `student`.
        systems: (context, system) -> its calls on the held-out examples.
        collected: Context -> whose answers (as rounds name their teacher) -> the calls that
            collected them. Inputs that a model wrote are the teacher's, under `inputs`.
        seconds: Round -> measured seconds of training; None if they were not recorded.
    """
    settings = recipe.cost
    assert settings

    def priced(usage: Usage) -> Price:
        return prices["teacher" if usage.whose == "teacher" else "student"]

    once = {name: _once(recipe, settings, name, collected, seconds, prices) for name in recipe.plan}
    contexts: dict[str, dict[str, Any]] = {}
    for (context, system), usage in systems.items():
        call = {
            way: of_usage(priced(usage), usage, caching=way == "cached") / usage.calls
            for way in WAYS
        }
        entry: dict[str, Any] = {
            "model": settings.teacher if usage.whose == "teacher" else settings.student,
            "per_1000_calls": {way: _number(1000 * call[way]) for way in WAYS},
        }
        spent: dict[str, Decimal | None] = dict.fromkeys(WAYS, Decimal(0))
        if system in recipe.plan:
            spent = {way: once[system]["total"][way] for way in WAYS}
        teacher = systems.get((context, "teacher"))
        if (
            system in recipe.plan
            and teacher
            and any(context in recipe.plan[r].contexts for r in lineage(recipe, system))
        ):
            entry["break_even_calls"] = {}
            for way in WAYS:
                there, total = (
                    of_usage(priced(teacher), teacher, caching=way == "cached") / teacher.calls,
                    spent[way],
                )
                found = None if total is None else break_even(total, there, call[way])
                entry["break_even_calls"][way] = (
                    found if found is not None or total is None else "never"
                )
        if settings.calls:
            entry["total"] = {
                way: None
                if (total := spent[way]) is None
                else _number(total + settings.calls * call[way])
                for way in WAYS
            }
        contexts.setdefault(context, {})[system] = entry
    return {
        "prices": {
            who: {
                "model": getattr(settings, who),
                "input": _number(price.input),
                "output": _number(price.output),
                "source": price.source,
                "cached_input": None if price.cached_input is None else _number(price.cached_input),
                "cache_minimum": price.cache_minimum,
            }
            for who, price in prices.items()
        },
        "dollars_per_hour": settings.dollars_per_hour,
        "calls": settings.calls,
        "once": {
            name: {
                "rounds": entry["rounds"],
                "collecting": {way: _number(entry["collecting"][way]) for way in WAYS},
                "seconds_of_training": entry["seconds"],
                "training": None if entry["training"] is None else _number(entry["training"]),
                "total": {
                    way: None if (total := entry["total"][way]) is None else _number(total)
                    for way in WAYS
                },
            }
            for name, entry in once.items()
        },
        "contexts": contexts,
    }


def _once(
    recipe: Recipe,
    settings: Cost,
    name: str,
    collected: Mapping[str, Mapping[str, Sequence[Usage]]],
    seconds: Mapping[str, float | None],
    prices: Mapping[str, Price],
) -> dict[str, Any]:
    """What a round's student costs once: all answers that it and the rounds it needs were taught,
    and the time of their training.
    """
    needed = lineage(recipe, name)
    asked: set[tuple[str, str]] = set()
    for each in needed:
        round_ = recipe.plan[each]
        for context in round_.contexts:
            asked |= {(context, str(recipe.teacher_of(each))), (context, "inputs")}
        for context in round_.replay.contexts if round_.replay else ():
            asked |= {(context, str(recipe.start_of(each))), (context, "inputs")}
    usages = [
        usage
        for context, whose in sorted(asked)
        for usage in collected.get(context, {}).get(whose, ())
    ]
    collecting = {
        way: sum(
            (
                of_usage(
                    prices["teacher" if u.whose == "teacher" else "student"],
                    u,
                    caching=way == "cached",
                )
                for u in usages
            ),
            Decimal(0),
        )
        for way in WAYS
    }
    took = [seconds.get(each) for each in needed]
    known = [each for each in took if each is not None]
    training = (
        Decimal(str(settings.dollars_per_hour)) * Decimal(str(sum(known))) / 3600
        if len(known) == len(took)
        else None
    )
    return {
        "rounds": needed,
        "collecting": collecting,
        "training": training,
        "seconds": sum(known) if training is not None else None,
        "total": {way: None if training is None else collecting[way] + training for way in WAYS},
    }


def _number(amount: Decimal) -> float:
    """For JSON; nobody pays less than a millionth of a cent."""
    return float(round(amount, 8))
