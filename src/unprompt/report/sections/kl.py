"""KL(teacher || system) on the teacher's answers: gap closed, and where in the answer it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.metrics.statistics import by_group, gap_closed
from unprompt.records import TokenKL
from unprompt.report import svg
from unprompt.report.evidence import Evidence
from unprompt.report.format import spanned
from unprompt.report.sections import Picture, Section, colour, of_context, ratio

if TYPE_CHECKING:
    from unprompt.report.schema import Closeness, Context, Positions, Report

_FEWEST_ANSWERS = 3
"""A mean over fewer answers is not drawn."""


def numbers(evidence: Evidence, report: Report) -> None:
    """KL and gap closed of each system, of groups of examples their means; and KL at each place of
    the answers.
    """
    for name, kl in evidence.kl.items():
        entry = report["contexts"][name]
        if not kl:
            continue
        assert "systems" in entry
        entry["kl_by_position"] = positions(kl)
        group_of = evidence.groups(name)
        for system, figures in closeness(kl, group_of).items():
            entry["systems"][system].update(figures)  # type: ignore[typeddict-item]
        for system, figures in closeness(evidence.kl_sampled.get(name, {}), group_of).items():
            entry["systems"][system]["sampled"] = figures


def closeness(
    kl: Mapping[str, TokenKL], group_of: Mapping[str, str | None]
) -> dict[str, Closeness]:
    """System -> how close it is to the teacher on some answers, by answer and by token."""
    found: dict[str, Closeness] = {}
    means, sums = dict[str, list[float]](), dict[str, list[float]]()
    for system, tokens in kl.items():
        groups = [group_of[id_] for id_ in tokens.example_ids]
        means[system] = by_group(tokens.means(), groups)
        sums[system] = _totals(tokens.sums(), groups)
        figures: Closeness = {
            "kl_nats_per_token": {
                "mean": fmean(means[system]),
                "by_token": sum(sums[system]) / sum(map(len, tokens.nats)),
                "examples": len(tokens.example_ids),
            }
        }
        if system != "before":
            figures["gap_closed"] = ratio(gap_closed(means["before"], means[system]))
            figures["gap_closed_by_token"] = ratio(gap_closed(sums["before"], sums[system]))
        found[system] = figures
    return found


def _totals(values: Sequence[float], groups: Sequence[str | None]) -> list[float]:
    """The sum of each group's values."""
    totals: dict[object, float] = {}
    for n, (value, group) in enumerate(zip(values, groups, strict=True)):
        key = n if group is None else group
        totals[key] = totals.get(key, 0.0) + value
    return list(totals.values())


def positions(kl: Mapping[str, TokenKL]) -> Positions:
    """KL at each place of the teacher's answers, the mean over the answers that are as long; places
    that fewer than 3 answers reach are counted and left out.
    """
    lengths = [len(nats) for nats in next(iter(kl.values())).nats]
    reach = [sum(length > n for length in lengths) for n in range(max(lengths, default=0))]
    shown = sum(count >= min(_FEWEST_ANSWERS, len(lengths)) for count in reach)
    means = {
        system: [
            float(np.mean([nats[n] for nats in tokens.nats if len(nats) > n])) for n in range(shown)
        ]
        for system, tokens in kl.items()
    }
    return {"answers": reach[:shown], "systems": means, "left_out": len(reach) - shown}


FORM = (
    "gap closed goes by every token of the teacher's answers, most of which are form: it can be"
    " high where answers are wrong, and low where they are right"
)
"""What gap closed does not show."""


def lines(entry: Context) -> list[str]:
    """Gap closed by each student, or why there is none; they stand beneath the systems."""
    systems: Any = entry.get("systems", {})
    said = []
    for system, figures in systems.items():
        if "gap_closed" not in figures:
            continue
        before, after = (each["kl_nats_per_token"] for each in (systems["before"], figures))
        said.append(
            f"gap closed{'' if system == 'after' else ' by ' + system}:"
            f" {spanned(figures['gap_closed'], '{:.1%}'.format, 'value')} of KL(teacher ||"
            f" student), {before['mean']:.3f} -> {after['mean']:.3f} nats per token, the"
            f" mean over the answers to {after['examples']} held-out inputs; the mean over their"
            f" tokens: {spanned(figures['gap_closed_by_token'], '{:.1%}'.format, 'value')}"
        )
        if sampled := figures.get("sampled"):
            by_answer, by_token = (
                spanned(sampled[key], "{:.1%}".format, "value")
                for key in ("gap_closed", "gap_closed_by_token")
            )
            said.append(
                f"  on what the teacher samples ({sampled['kl_nats_per_token']['examples']}"
                f" inputs): {by_answer} over answers, {by_token} over tokens"
            )
    if said:
        said.append(FORM)
    if "kl_left_out" in entry:
        said.append(f"no KL(teacher || student) and no gap closed: {entry['kl_left_out']}")
    return said


def pictures(report: Report) -> list[Picture]:
    """KL along the answer, of each context."""
    drawn = []
    for name, entry in report["contexts"].items():
        if "kl_by_position" not in entry or len(entry["kl_by_position"]["answers"]) < 2:
            continue
        found = entry["kl_by_position"]
        answers, rest = found["answers"], found["left_out"]
        series = [
            svg.Series(system, list(enumerate(means, 1)), colour(report, system))
            for system, means in found["systems"].items()
        ]
        left = (
            f" {rest} further positions, which fewer than 3 answers reach, are left out."
            if rest
            else ""
        )
        drawn.append(
            Picture(
                f"Where in the answer they differ{of_context(report, name)}",
                svg.lines(series, "token of the teacher's answer", "KL, nats"),
                "KL from teacher to system, mean over the answers that are as long:"
                f" {answers[0]:,} at the first token, {answers[-1]:,} at the last drawn.{left}",
            )
        )
    return drawn


SECTION = Section(numbers, pictures=pictures)
