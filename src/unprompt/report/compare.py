"""`unprompt compare`: several runs in one page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from unprompt.report import svg
from unprompt.report.format import is_share
from unprompt.report.page import rendered
from unprompt.report.sections import bar

if TYPE_CHECKING:
    from unprompt.report.schema import Figures, Report, Student


def compare(reports: Mapping[str, Report]) -> str:
    """One page: every run's students beside each other, the same contexts together, and what
    differs between the recipes.

    Args:
        reports: Label -> report of each run, as `conclude` left it.
    """
    lines = [
        (run, n, each)
        for run, report in reports.items()
        for n, each in enumerate(report["students"])
        if each["metric"] or each["gap_closed"]
    ]
    contexts = list(dict.fromkeys(each["context"] for _, _, each in lines))
    return rendered(
        "compare.html",
        {"runs": dict(reports)},
        lines=lines,
        contexts=contexts,
        pictures={name: _picture(lines, name) for name in contexts},
        differences=differences(reports),
    )


def _picture(lines: Sequence[tuple[str, int, Student]], context: str) -> Markup:
    students, teachers = list[svg.Point](), dict[str, svg.Point]()
    for run, _, each in lines:
        quality, teacher, tokens = each["quality"], each["teacher_quality"], each["prompt_tokens"]
        if each["context"] != context or not each["metric"] or not quality or not teacher:
            continue
        if is_share(each["metric"], quality):
            students.append(_point(f"{run}: {each['student']}", tokens["student"], quality, 0))
            teachers[run] = _point(f"{run}: teacher", tokens["teacher"], teacher, 1)
    points = [*students, *teachers.values()]
    return svg.dots(points, "prompt tokens per call (logarithmic)", "quality", log_x=True)


def _point(name: str, tokens: float, m: Figures, colour: int) -> svg.Point:
    return svg.Point(name, tokens, m["mean"], None, bar(m), colour)


def differences(reports: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The settings in which the runs' recipes differ: the key, and what each run has there (`-`
    where it has none).
    """
    flat = [dict(_flat("", report["recipe"])) for report in reports.values()]
    keys = dict.fromkeys(key for each in flat for key in each)
    beside = [(key, [each.get(key, "-") for each in flat]) for key in keys]
    return [(key, values) for key, values in beside if len(set(values)) > 1]


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), inner)
    elif value is not None:
        yield path, str(value)
