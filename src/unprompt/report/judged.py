"""The report's tables of the judge."""

from __future__ import annotations

from typing import Any

from unprompt.report.table import Table


def tables(report: dict[str, Any]) -> list[Table]:
    """One for each context's answers, and one of the inputs' difficulty."""
    found = report.get("judge")
    if not found:
        return []
    made: list[Table] = []
    for context, entry in found["contexts"].items():
        names = list(entry["agreement"])
        rows, lines = [], [_agreement(entry["agreement"], found["repeats"])]
        for system, values in entry["systems"].items():
            rows.append(
                [
                    system,
                    *(_value(values["criteria"][name]) for name in names),
                    _value(values["overall"]),
                    *_counts(values),
                ]
            )
            lines += _reasons(f"{system}: ", values)
        low, high = found["scale"]
        columns = [
            "system",
            *(f"{name} [95 %]" for name in names),
            "all [95 %]",
            "unparsable",
            "unjudged",
        ]
        made.append((f"Judge, context {context} ({low} to {high})", columns, rows, lines))
    if found["difficulty"]:
        names = list(next(iter(found["difficulty"].values()))["criteria"])
        rows, lines = [], []
        for context, values in found["difficulty"].items():
            rows.append(
                [
                    context,
                    *(_value(values["criteria"][name]) for name in names),
                    _value(values["overall"]),
                    *_counts(values),
                ]
            )
            lines += [
                f"{context}: {_agreement(values['agreement'], found['repeats'])}",
                *_reasons(f"{context}: ", values),
            ]
        low, high = found["difficulty_scale"]
        columns = [
            "context",
            *(f"{name} [95 %]" for name in names),
            "all [95 %]",
            "unparsable",
            "unjudged",
        ]
        made.append((f"Difficulty ({low} to {high})", columns, rows, lines))
    return made


def _value(m: dict[str, float] | None) -> str:
    return "-" if m is None else f"{m['mean']:.2f} [{m['low']:.2f}, {m['high']:.2f}]"


def _counts(values: dict[str, Any]) -> list[str]:
    asked = values["verdicts"]
    return [
        f"{values['unparsable']} of {asked}",
        f"{values['unjudged']} of {asked + values['unjudged']}",
    ]


def _reasons(who: str, values: dict[str, Any]) -> list[str]:
    return [
        f"{who}{count} not judged ({reason})" for reason, count in values["why_unjudged"].items()
    ]


def _agreement(alphas: dict[str, float | None], repeats: int) -> str:
    if repeats < 2:
        return "judged once: nothing is known of how far the judge agrees with itself"
    said = ", ".join(
        f"{name} {'not defined' if alpha is None else f'{alpha:.2f}'}"
        for name, alpha in alphas.items()
    )
    return (
        f"agreement of {repeats} repeats, criteria in other orders (Krippendorff's alpha,"
        f" interval): {said}"
    )
