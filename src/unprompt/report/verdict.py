"""Ship, look closer, or don't ship: of every student on every context, with the reasons. Pure;
reads nothing but the report.
"""

from __future__ import annotations

import math
from typing import Any

from unprompt.report.table import is_share

ORDER = ("ship", "look closer", "don't ship")
"""Best first; reasons of the kind `note` decide nothing."""


def conclude(report: dict[str, Any]) -> None:
    """Add `students` (the figures of each student on each context where a teacher was measured) and
    `verdict` (the last student's) to a report.
    """
    found = [
        _student(report, name, context)
        for name in report["rounds"]
        for context, entry in report["contexts"].items()
        if "teacher" in entry.get("systems", {})
        and name in entry["systems"]
        and _concerned(report, name, context)
    ]
    report["students"] = found
    last = list(report["rounds"])[-1]
    own = [each["verdict"] for each in found if each["student"] == last]
    report["verdict"] = {"student": last, "verdict": max(own, key=ORDER.index) if own else None}


def _concerned(report: dict[str, Any], name: str, context: str) -> bool:
    """Whether a student was taught a context, by its round or one it started from; one that was
    taught none of those measured is measured on all.
    """
    taught: set[str] = set()
    at = name
    while at in report["rounds"]:
        taught |= set(report["rounds"][at]["contexts"])
        at = report["rounds"][at]["start"]
    measured = {
        c for c, entry in report["contexts"].items() if "teacher" in entry.get("systems", {})
    }
    return context in taught or not taught & measured


def needed(examples: int, mean: float, low: float, margin: float) -> int | None:
    """Held-out examples that it takes to say that a student is no worse than the teacher by more
    than the margin; None: no number of them would.

    The interval's lower end is `mean - c / sqrt(examples)`; it has to come up to `-margin`. And
    never fewer than `3 / margin`: had none of so few gone wrong, more than the margin of all still
    might (the rule of three).
    """
    least = math.ceil(round(3 / margin, 6))
    if mean + margin <= 0:
        return None
    return max(least, math.ceil(round(examples * ((mean - low) / (mean + margin)) ** 2, 6)))


def _student(report: dict[str, Any], name: str, context: str) -> dict[str, Any]:
    entry, settings = report["contexts"][context], report["recipe"]["report"]
    teacher, own = entry["systems"]["teacher"], entry["systems"][name]
    metric = next(iter(own["metrics"]), None)
    found: dict[str, Any] = {
        "student": name,
        "context": context,
        "metric": metric,
        "examples": own["groups"] or own["examples"],
        "examples_needed": None,
        "quality": own["metrics"][metric] if metric else None,
        "teacher_quality": teacher["metrics"][metric] if metric else None,
        "gap_closed": own.get("gap_closed"),
        "agreement": own.get("agreement"),
        "prompt_tokens": {"teacher": teacher["prompt_tokens"], "student": own["prompt_tokens"]},
        "saving_per_1000_calls": None,
        "break_even_calls": None,
    }
    money = report.get("cost", {}).get("contexts", {}).get(context, {})
    if "teacher" in money and name in money:
        there, here = money["teacher"]["per_1000_calls"], money[name]["per_1000_calls"]
        found["saving_per_1000_calls"] = {way: there[way] - here[way] for way in here}
        found["break_even_calls"] = money[name].get("break_even_calls")
    reasons = [
        *_quality(found, settings),
        *_answers(own, settings),
        *_lessons(report, name, context),
        *_drift(report, name),
    ]
    found["reasons"] = [{"says": says, "text": text} for says, text in reasons]
    found["verdict"] = max((says for says, _ in reasons if says != "note"), key=ORDER.index)
    return found


def _quality(found: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, str]]:
    metric, margin = found["metric"], settings["margin"]
    if metric is None or not is_share(metric, found["quality"]):
        why = (
            "no metric is measured"
            if metric is None
            else f"{metric} has no scale from 0 to 1 that a margin could be measured on"
        )
        return [("look closer", f"quality is unknown: {why}")]
    change, n = found["quality"]["to_teacher"], found["examples"]
    found["examples_needed"] = wanted = needed(n, change["mean"], change["low"], margin)
    measured = (
        f"{metric} {_points(change['mean'])} to the teacher [{_points(change['low'])},"
        f" {_points(change['high'])}]"
    )
    limit = f"the margin of {100 * margin:g} points"
    if change["high"] < -margin:
        return [("don't ship", f"{measured}: worse by more than {limit}")]
    if wanted is None:
        return [
            (
                "look closer",
                (
                    f"{measured}: on average at or below {limit}; more held-out examples would not"
                    " mend it"
                ),
            )
        ]
    if n < wanted:
        return [
            (
                "look closer",
                (
                    f"{measured}: {n} held-out examples are too few for {limit}; about {wanted:,}"
                    " are needed"
                ),
            )
        ]
    return [
        (
            "ship",
            (
                f"{measured}: no worse than {limit} allows, on {n:,} held-out examples ({wanted:,}"
                " needed)"
            ),
        )
    ]


def _answers(own: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, str]]:
    share = own["extraction_failures"] / own["examples"]
    text = (
        f"{own['extraction_failures']} of the student's {own['examples']:,} answers could not be"
        f" extracted ({share:.1%})"
    )
    return [
        (
            "look closer" if share > settings["failures"] else "ship",
            f"{text}; {settings['failures']:.1%} are allowed",
        )
    ]


def _lessons(report: dict[str, Any], name: str, context: str) -> list[tuple[str, str]]:
    """What the student was taught with: cut answers, and held-out examples that were seen."""
    limit, found, at, seen = report["recipe"]["report"]["failures"], [], name, set()
    while at in report["rounds"]:
        seen |= set(report["rounds"][at]["contexts"])
        at = report["rounds"][at]["start"]
    for taught in sorted(seen):
        entry = report["contexts"][taught]
        if not entry.get("lessons"):
            continue
        share = entry["cut_at_limit"] / entry["lessons"]
        if entry["cut_at_limit"]:
            text = (
                f"{entry['cut_at_limit']} of {entry['lessons']:,} answers that {taught} taught were"
                f" cut at max_new_tokens ({share:.1%})"
            )
            found.append(("look closer" if share > limit else "note", text))
        found += [
            ("look closer", f"{count} {what} ({taught}): what is measured there may be remembered")
            for what, count in entry["overlap"].items()
            if count and what.startswith("held-out")
        ]
    if context not in seen:
        found.append(
            (
                "note",
                (
                    f"whether the examples held out in {context} were among what"
                    f" {', '.join(sorted(seen))} taught was not counted"
                ),
            )
        )
    elif not any(says == "look closer" for says, _ in found):
        found.append(
            ("ship", "no held-out input stands among the training inputs or in the prompt")
        )
    return found


def _drift(report: dict[str, Any], name: str) -> list[tuple[str, str]]:
    if name not in report.get("drift", {}):
        return [("note", "drift on unrelated inputs was not measured (drift: in the recipe)")]
    value, limit = report["drift"][name]["mean"], report["recipe"]["drift"]["limit"]
    text = f"drift on unrelated inputs {value:.4f} nats per token"
    if limit is None:
        return [("note", f"{text}, without a limit to hold it to (drift.limit in the recipe)")]
    return (
        [("don't ship", f"{text}, over the limit of {limit:g}")]
        if value > limit
        else [("ship", f"{text}, within the limit of {limit:g}")]
    )


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"
