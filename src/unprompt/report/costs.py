"""The report's tables of dollars."""

from __future__ import annotations

from typing import Any

from unprompt.report.cost import WAYS
from unprompt.report.table import Table


def tables(report: dict[str, Any]) -> list[Table]:
    """One for each context: dollars per 1,000 calls of each system, and from how many calls on a
    student has paid for itself.
    """
    found = report.get("cost")
    if not found:
        return []
    wanted = found["calls"]
    columns = [
        "system",
        "priced as",
        "$ per 1,000 calls",
        "with caching",
        "one-time $",
        "with caching",
        "break-even calls",
        "with caching",
    ]
    columns += [f"$ for {wanted:,} calls", "with caching"] if wanted else []
    made = []
    for context, systems in found["contexts"].items():
        rows = []
        for system, entry in systems.items():
            row = [
                system,
                entry["model"],
                *(_dollars(entry["per_1000_calls"][way]) for way in WAYS),
            ]
            once = found["once"].get(system)
            row += [_dollars(once["total"][way]) if once else "-" for way in WAYS]
            row += [
                _calls(entry["break_even_calls"][way]) if "break_even_calls" in entry else "-"
                for way in WAYS
            ]
            row += [_dollars(entry["total"][way]) for way in WAYS] if wanted else []
            rows.append(row)
        made.append((f"Cost, context {context}", columns, rows, list[str]()))
    made[-1][3].extend(_lines(found))
    return made


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for who, price in found["prices"].items():
        cached = (
            "no cached price"
            if price["cached_input"] is None
            else f"${price['cached_input']:g} cached"
        )
        least = f" from {price['cache_minimum']} shared tokens on" if price["cache_minimum"] else ""
        lines.append(
            f"{who}: {price['model']}, per million tokens ${price['input']:g} input,"
            f" {cached}{least}, ${price['output']:g} output ({price['source']})"
        )
    for name, once in found["once"].items():
        if once["training"] is None:
            lines.append(
                f"once, for {name}: the seconds of training were not recorded (an earlier version"
                " trained it, or it was killed)"
            )
            continue
        collecting = (
            f"{_dollars(once['collecting']['plain'])} collecting"
            f" ({_dollars(once['collecting']['cached'])} with caching)"
        )
        needs = f", rounds {', '.join(once['rounds'])}" if len(once["rounds"]) > 1 else ""
        lines.append(
            f"once, for {name}: {collecting}, {_dollars(once['training'])} training"
            f" ({once['seconds_of_training']:.0f} s at ${found['dollars_per_hour']:g} an"
            f" hour{needs})"
        )
    lines.append(
        "with caching: the prefix that all prompts of a system share is taken to be in the"
        " provider's cache in every call"
    )
    return lines


def _dollars(amount: float | None) -> str:
    """To the cent; more digits where that would show nothing."""
    if amount is None:
        return "-"
    return (
        f"{amount:,.2f}"
        if amount >= 0.1 or amount == 0
        else f"{amount:.2g}"
        if amount >= 1e-4
        else f"{amount:.1e}"
    )


def _calls(count: int | str | None) -> str:
    return "-" if count is None else count if isinstance(count, str) else f"{count:,}"
