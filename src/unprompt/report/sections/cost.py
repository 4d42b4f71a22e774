"""Dollars a call, what distilling costs once, and after how many calls it has paid for itself."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from unprompt.recipe import Recipe
from unprompt.report.cost import Spending, Usage, break_even, lineage, of_usage
from unprompt.report.evidence import Evidence
from unprompt.report.format import dollars
from unprompt.report.sections import Section, Table

if TYPE_CHECKING:
    from unprompt.report.figures import Cost
    from unprompt.report.schema import Report

_WAYS = ("plain", "cached")
"""Without and with the provider's prompt caching."""


def numbers(evidence: Evidence, report: Report) -> None:
    """In dollars."""
    recipe, spending, settings = evidence.recipe, evidence.spending, evidence.recipe.cost
    if not spending or not settings:
        return
    once = {name: _once(recipe, spending, name) for name in recipe.plan}
    contexts: dict[str, dict[str, Any]] = {}
    for context, system in spending.systems:
        entry = _system(recipe, spending, context, system, once.get(system))
        contexts.setdefault(context, {})[system] = entry
    report["cost"] = _plain(
        {
            "prices": {
                who: {
                    "model": getattr(settings, who),
                    "input": price.input,
                    "output": price.output,
                    "source": price.source,
                    "cached_input": price.cached_input,
                    "cache_minimum": price.cache_minimum,
                }
                for who, price in spending.prices.items()
            },
            "dollars_per_hour": settings.dollars_per_hour,
            "calls": settings.calls,
            "once": once,
            "contexts": contexts,
        }
    )


def _system(
    recipe: Recipe, spending: Spending, context: str, system: str, once: dict[str, Any] | None
) -> dict[str, Any]:
    """A system's calls; of a student that was taught the context, when it has paid for itself."""
    settings, usage = recipe.cost, spending.systems[context, system]
    assert settings
    call = _per_call(spending, usage)
    entry: dict[str, Any] = {
        "model": settings.teacher if usage.whose == "teacher" else settings.student,
        "per_1000_calls": {way: 1000 * call[way] for way in _WAYS},
    }
    spent = once["total"] if once else dict.fromkeys(_WAYS, Decimal(0))
    teacher = spending.systems.get((context, "teacher"))
    if once and teacher and any(context in recipe.plan[r].contexts for r in once["rounds"]):
        there = _per_call(spending, teacher)
        entry["break_even_calls"] = {
            way: None if spent[way] is None else _pays(spent[way], there[way], call[way])
            for way in _WAYS
        }
    if settings.calls:
        entry["total"] = {
            way: None if spent[way] is None else spent[way] + settings.calls * call[way]
            for way in _WAYS
        }
    return entry


def _pays(once: Decimal, teacher: Decimal, student: Decimal) -> int | str:
    calls = break_even(once, teacher, student)
    return "never" if calls is None else calls


def _of(spending: Spending, usage: Usage, way: str) -> Decimal:
    price = spending.prices["teacher" if usage.whose == "teacher" else "student"]
    return of_usage(price, usage, caching=way == "cached")


def _per_call(spending: Spending, usage: Usage) -> dict[str, Decimal]:
    return {way: _of(spending, usage, way) / usage.calls for way in _WAYS}


def _once(recipe: Recipe, spending: Spending, name: str) -> dict[str, Any]:
    """What a round's student costs once: all answers that it and the rounds it needs were taught,
    and the time of their training.
    """
    rounds, asked, settings = lineage(recipe, name), set[tuple[str, str]](), recipe.cost
    assert settings
    for each in rounds:
        round_ = recipe.plan[each]
        for context in round_.contexts:
            asked |= {(context, str(recipe.teacher_of(each))), (context, "inputs")}
        for context in round_.replay.contexts if round_.replay else ():
            asked |= {(context, str(recipe.start_of(each))), (context, "inputs")}
    usages = [
        usage
        for context, whose in sorted(asked)
        for usage in spending.collected.get(context, {}).get(whose, ())
    ]
    collecting = {
        way: sum((_of(spending, usage, way) for usage in usages), Decimal(0)) for way in _WAYS
    }
    took = [spending.seconds.get(each) for each in rounds]
    seconds = None if None in took else sum(each for each in took if each is not None)
    training = None
    if seconds is not None:
        training = Decimal(str(settings.dollars_per_hour)) * Decimal(str(seconds)) / 3600
    return {
        "rounds": rounds,
        "collecting": collecting,
        "seconds_of_training": seconds,
        "training": training,
        "total": {way: None if training is None else collecting[way] + training for way in _WAYS},
    }


def _plain(value: Any) -> Any:
    """For JSON; nobody pays less than a millionth of a cent."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return float(round(value, 8)) if isinstance(value, Decimal) else value


# -- tables ----------------------------------------------------------------------------------------


def tables(report: Report) -> list[Table]:
    """One for each context: dollars per 1,000 calls of each system, and from how many calls on a
    student has paid for itself.
    """
    cost = report.get("cost")
    if not cost:
        return []
    wanted = cost["calls"]
    pairs = ["$ per 1,000 calls", "one-time $", "break-even calls"]
    pairs += [f"$ for {wanted:,} calls"] if wanted else []
    columns = ["system", "priced as", *(c for pair in pairs for c in (pair, "with caching"))]
    made = []
    for context, systems in cost["contexts"].items():
        rows = []
        for system, of in systems.items():
            once, calls = cost["once"].get(system), of.get("break_even_calls")
            row = [system, of["model"], *(dollars(of["per_1000_calls"][way]) for way in _WAYS)]
            row += [dollars(once["total"][way]) if once else "-" for way in _WAYS]
            row += [_calls(calls[way]) if calls else "-" for way in _WAYS]
            row += [dollars(of["total"][way]) for way in _WAYS if "total" in of]
            rows.append(row)
        made.append(Table(f"Cost, context {context}", columns, rows, []))
    made[-1].lines.extend(_lines(cost))
    return made


def _lines(cost: Cost) -> list[str]:
    lines = []
    for who, price in cost["prices"].items():
        cached, least = price["cached_input"], price["cache_minimum"]
        held = "no cached price" if cached is None else f"${cached:g} cached"
        held += f" from {least} shared tokens on" if least else ""
        lines.append(
            f"{who}: {price['model']}, per million tokens ${price['input']:g} input, {held},"
            f" ${price['output']:g} output ({price['source']})"
        )
    for name, once in cost["once"].items():
        if once["training"] is None:
            lines.append(
                f"once, for {name}: the seconds of training were not recorded (an earlier version"
                " trained it, or it was killed)"
            )
            continue
        plain, cached = (dollars(once["collecting"][way]) for way in _WAYS)
        needs = f", rounds {', '.join(once['rounds'])}" if len(once["rounds"]) > 1 else ""
        lines.append(
            f"once, for {name}: {plain} collecting ({cached} with caching),"
            f" {dollars(once['training'])} training ({once['seconds_of_training']:.0f} s at"
            f" ${cost['dollars_per_hour']:g} an hour{needs})"
        )
    lines.append(
        "with caching: the prefix that all prompts of a system share is taken to be in the"
        " provider's cache in every call"
    )
    return lines


def _calls(count: int | str | None) -> str:
    return "-" if count is None else f"{count:,}" if isinstance(count, int) else count


SECTION = Section(numbers, tables)
