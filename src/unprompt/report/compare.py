"""`unprompt compare`: several runs in one page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from unprompt.report import svg
from unprompt.report.page import rendered
from unprompt.report.table import is_share
from unprompt.report.visible import visible


def compare(reports: Mapping[str, dict[str, Any]]) -> str:
    """One page: every run's students beside each other, the same contexts together, and what
    differs between the recipes.

    Args:
        reports: Label -> report of each run, as `conclude` left it.
    """
    together: dict[str, Any] = {"runs": dict(reports)}
    lines = [
        (run, n, each)
        for run, report in reports.items()
        for n, each in enumerate(report["students"])
        if each["metric"] or each["gap_closed"]
    ]
    contexts = list(dict.fromkeys(each["context"] for _, _, each in lines))
    return rendered(
        "compare.html",
        together,
        lines=lines,
        contexts=contexts,
        pictures={name: _picture(lines, name) for name in contexts},
        differences=differences(reports),
    )


def _picture(lines: list[tuple[str, int, dict[str, Any]]], context: str) -> Markup:
    shown = [
        (run, each)
        for run, _, each in lines
        if each["context"] == context
        and each["metric"]
        and is_share(each["metric"], each["quality"])
    ]
    points = [
        svg.Point(
            visible(f"{run}: {each['student']}"),
            each["prompt_tokens"]["student"],
            each["quality"]["mean"],
            None,
            (each["quality"]["low"], each["quality"]["high"]),
        )
        for run, each in shown
    ]
    points += [
        svg.Point(
            visible(f"{run}: teacher"),
            each["prompt_tokens"]["teacher"],
            each["teacher_quality"]["mean"],
            None,
            (each["teacher_quality"]["low"], each["teacher_quality"]["high"]),
            1,
        )
        for run, each in {run: (run, each) for run, each in shown}.values()
    ]
    return Markup(svg.dots(points, "prompt tokens per call (logarithmic)", "quality", log_x=True))


def differences(reports: Mapping[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """The settings in which the runs' recipes differ: the key, and what each run has there (`-`
    where it has none).
    """
    flat = [dict(_flat("", report["recipe"])) for report in reports.values()]
    keys = dict.fromkeys(key for each in flat for key in each)
    return [
        (key, [each.get(key, "-") for each in flat])
        for key in keys
        if len({each.get(key, "-") for each in flat}) > 1
    ]


def _flat(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [
            pair
            for key, inner in value.items()
            for pair in _flat(f"{path}.{key}" if path else str(key), inner)
        ]
    return [] if value is None else [(path, str(value))]
