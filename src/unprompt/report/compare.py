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
        if _measured(each)
    ]
    contexts = dict.fromkeys(each["context"] for _, _, each in lines)
    return rendered(
        "compare.html",
        {"runs": dict(reports)},
        contexts={name: list(_sets(reports, lines, name)) for name in contexts},
        notes=not_compared(reports),
        differences=differences(reports),
    )


def _measured(student: Student) -> bool:
    return any(student[key] for key in ("metric", "gap_closed", "likeness"))


_Lines = Sequence[tuple[str, int, "Student"]]


def not_compared(reports: Mapping[str, Report]) -> list[str]:
    """What is not compared: runs that were not measured, and contexts that runs measured on other
    examples.
    """
    told = []
    for run, report in reports.items():
        if not any(map(_measured, report["students"])):
            told.append(f"{run} is in no table: its student was not measured against a teacher")
    for name in dict.fromkeys(name for report in reports.values() for name in report["contexts"]):
        sets: dict[str, list[str]] = {}
        for run, report in reports.items():
            if any(each["context"] == name for each in report["students"]):
                sets.setdefault(_held_out(run, report, name), []).append(run)
        if len(sets) > 1:
            apart = "; ".join(", ".join(runs) for runs in sets.values())
            told.append(
                f"{name}: measured on different held-out examples ({apart}), so these figures are"
                " not to be compared, and stand in tables of their own"
            )
        if unknown := [runs[0] for key, runs in sets.items() if not key.isalnum()]:
            told.append(
                f"{name}: which examples {', '.join(unknown)} was measured on is not known; run its"
                " recipe again: only the report is made anew"
            )
    return told


def _held_out(run: str, report: Report, context: str) -> str:
    """What tells the examples that a run measured a context on; of a report that does not say, a
    name that no other run has.
    """
    found = report["contexts"][context].get("held_out")
    return found["digest"] if found else f"unknown: {run}"


def _sets(
    reports: Mapping[str, Report], lines: _Lines, context: str
) -> Iterator[tuple[_Lines, Markup]]:
    """A context's lines that were measured on the same examples, and their picture."""
    sets: dict[str, list[tuple[str, int, Student]]] = {}
    for run, n, each in lines:
        if each["context"] == context:
            sets.setdefault(_held_out(run, reports[run], context), []).append((run, n, each))
    for alike in sets.values():
        yield alike, _picture(alike, context)


def _picture(lines: _Lines, context: str) -> Markup:
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
