"""Which pictures a report has. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

from markupsafe import Markup

from unprompt.report import svg
from unprompt.report.table import is_share
from unprompt.report.visible import visible


class Picture(NamedTuple):
    """A drawing, what it shows in a few words, and how to read it."""

    title: str
    drawing: Markup
    caption: str


def all_(report: dict[str, Any]) -> list[Picture]:
    """Those that the report has numbers for."""
    found = [_quality(report, name) for name in report["contexts"]]
    found += [_positions(report, name) for name in report["contexts"]]
    found += [_training(report), _watched(report), _margins(report)]
    return [each for each in found if each and each.drawing]


def _of(report: dict[str, Any], name: str) -> str:
    return (
        f", {name}" if len([c for c in report["contexts"].values() if "systems" in c]) > 1 else ""
    )


def _colour(report: dict[str, Any], system: str) -> int:
    """0, the accent, is the student whose verdict this is; 1 the teacher, 2 before, 3 and on the
    others.
    """
    if system == report["verdict"]["student"]:
        return 0
    fixed = {"teacher": 1, "before": 2}
    others = [name for name in report["rounds"] if name != report["verdict"]["student"]]
    return (
        fixed[system]
        if system in fixed
        else 3 + others.index(system) % 3
        if system in others
        else 6
    )


def _quality(report: dict[str, Any], name: str) -> Picture | None:
    entry = report["contexts"][name]
    systems = entry.get("systems", {})
    metric = next((m for s in systems.values() for m in s["metrics"]), None)
    if metric is None or not all(is_share(metric, s["metrics"][metric]) for s in systems.values()):
        return None
    points = [
        svg.Point(
            visible(system),
            s["prompt_tokens"],
            s["metrics"][metric]["mean"],
            None,
            _ends(s["metrics"][metric]),
            _colour(report, system),
        )
        for system, s in systems.items()
    ]
    drawn = svg.dots(points, "prompt tokens per call (logarithmic)", visible(metric), log_x=True)
    return Picture(
        f"Quality against prompt length{_of(report, name)}",
        Markup(drawn),
        "Up and to the left is better. Bars are 95 % intervals.",
    )


def _positions(report: dict[str, Any], name: str) -> Picture | None:
    found = report["contexts"][name].get("kl_by_position")
    if not found or len(found["answers"]) < 2:
        return None
    series = [
        svg.Series(
            visible(system), [(n, v) for n, v in enumerate(means, 1)], _colour(report, system)
        )
        for system, means in found["systems"].items()
    ]
    answers = found["answers"]
    left = (
        f" {found['left_out']} further positions, which fewer than 3 answers reach, are left out."
        if found["left_out"]
        else ""
    )
    caption = (
        f"KL from teacher to system, mean over the answers that are as long: {answers[0]:,} at the"
        f" first token, {answers[-1]:,} at the last drawn.{left}"
    )
    drawn = svg.lines(series, "token of the teacher's answer", "KL, nats")
    return Picture(f"Where in the answer they differ{_of(report, name)}", Markup(drawn), caption)


def _training(report: dict[str, Any]) -> Picture | None:
    series = [
        svg.Series(
            visible(name),
            [(each["step"], each["loss"]) for each in training["log"]],
            _colour(report, name),
        )
        for name, training in report["rounds"].items()
    ]
    return Picture(
        "Training",
        Markup(svg.lines(series, "step", "loss, nats")),
        "Loss on the lessons as training went on, in nats per weighted token.",
    )


def _watched(report: dict[str, Any]) -> Picture | None:
    series, inputs = [], 0
    for name, training in report["rounds"].items():
        for context, found in training.get("held_out", {}).items():
            inputs = max(inputs, found["inputs"])
            begins = (
                [(0, 0.0)] if training["start"] == "base" else []
            )  # another round's student has closed some of it
            points = [*begins, *((p["step"], p["gap_closed"]) for p in found["points"])]
            said = f"{name}, {context}" if len(training["held_out"]) > 1 else name
            series.append(svg.Series(visible(said), points, _colour(report, name)))
    drawn = svg.lines(series, "step", "gap closed", percent=True)
    return Picture(
        "Gap closed on held-out inputs",
        Markup(drawn),
        f"While the student trained, on at most {inputs} held-out inputs.",
    )


def _margins(report: dict[str, Any]) -> Picture | None:
    tasks = report.get("margins", {}).get("tasks", [])
    if not all(m.get("is_share", True) for m in tasks):
        return None
    points = [
        svg.Point(
            visible(m["task"]),
            m["in_context"]["mean"],
            m["distilled"]["mean"],
            _ends(m["in_context"]),
            _ends(m["distilled"]),
        )
        for m in tasks
    ]
    drawn = svg.dots(
        points,
        "margin in context (teachers)",
        "margin distilled (students)",
        percent_x=True,
        diagonal=True,
    )
    return Picture(
        "In-context against distilled margin",
        Markup(drawn),
        "On the line, what a prompt brings to the teacher comes to the student whole.",
    )


def _ends(m: dict[str, float]) -> tuple[float, float]:
    return m["low"], m["high"]
