"""How the students were trained: loss, and gap closed meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.report import svg
from unprompt.report.evidence import Evidence
from unprompt.report.sections import Picture, Section, colour

if TYPE_CHECKING:
    from unprompt.report.schema import Report, Round


def numbers(evidence: Evidence, report: Report) -> None:
    """As the run noted it; KL while a student trained becomes the gap that it closed, on the same
    inputs.
    """
    for student, noted in evidence.rounds.items():
        training: Any = dict(noted)
        report["rounds"][student] = training
        for name, watched in training.pop("watch", {}).items():
            before, after = (
                np.mean(evidence.kl[name][system].means()[: watched["inputs"]])
                for system in ("before", student)
            )
            steps = {int(step): value for step, value in watched["steps"].items()}
            steps[training["steps"]] = after
            points = [
                {"step": step, "gap_closed": float(1 - value / before)}
                for step, value in steps.items()
            ]
            held_out = training.setdefault("held_out", {})
            held_out[name] = {"inputs": watched["inputs"], "points": points}


def lines(report: Report) -> list[str]:
    """What each student was taught, and its loss."""
    said = []
    for name, training in report["rounds"].items():
        replayed = f" ({training['replayed']} of them replayed)" if training["replayed"] else ""
        said.append(
            f"{name}: {', '.join(training['contexts'])}, taught by {training['teacher']}, starting"
            f" from {training['start']}: {training['steps']} steps on"
            f" {training['lessons']} lessons{replayed}; loss {training['first_loss']:.4f} ->"
            f" {training['last_loss']:.4f} {_unit(training)}.{_dropped(training)}"
        )
    return said


def _unit(training: Round) -> str:
    """What its loss is a mean over; of older runs always the same."""
    return f"nats per {training.get('loss_per', 'weighted token')}"


def _dropped(training: Round) -> str:
    """What the window took from a round's lessons."""
    shots = training.get("shots")
    if not shots or not shots["dropped"]:
        return ""
    return (
        f" {shots['dropped']} shots were dropped from the front of {shots['short']} of"
        f" {shots['sequences']} sequences, which were over the window."
    )


def pictures(report: Report) -> list[Picture]:
    """Loss, and gap closed on held-out inputs, along the steps."""
    losses, watched, inputs = list[svg.Series](), list[svg.Series](), 0
    units = sorted({_unit(training) for training in report["rounds"].values()})
    for name, training in report["rounds"].items():
        shade = colour(report, name)
        steps = [(each["step"], each["loss"]) for each in training["log"]]
        losses.append(svg.Series(name, steps, shade))
        held_out = training.get("held_out", {})
        for context, of in held_out.items():
            inputs = max(inputs, of["inputs"])
            # another round's student has closed some of the gap before its first step
            begin = [(0, 0.0)] if training["start"] == "base" else []
            points = [*begin, *((p["step"], p["gap_closed"]) for p in of["points"])]
            title = f"{name}, {context}" if len(held_out) > 1 else name
            watched.append(svg.Series(title, points, shade))
    return [
        Picture(
            "Training",
            svg.lines(losses, "step", "loss, nats"),
            f"Loss on the lessons as training went on, in {' or '.join(units)}.",
        ),
        Picture(
            "Gap closed on held-out inputs",
            svg.lines(watched, "step", "gap closed", percent=True),
            f"While the student trained, on at most {inputs} held-out inputs.",
        ),
    ]


SECTION = Section(numbers, pictures=pictures)
