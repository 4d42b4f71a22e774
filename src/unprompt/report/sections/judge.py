"""What the judge says of the answers, and of how difficult the inputs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from unprompt.metrics.agreement import krippendorff_alpha
from unprompt.metrics.statistics import Bounds, by_group, interval
from unprompt.report.evidence import Evidence
from unprompt.report.format import spanned
from unprompt.report.sections import Section, Table, named
from unprompt.stages.evaluate.judge import DIFFICULTY, Rubric, Verdict, rubric

if TYPE_CHECKING:
    from unprompt.report.figures import Counted, Judge, Judged
    from unprompt.report.schema import Report


def numbers(evidence: Evidence, report: Report) -> None:
    """An example's score is the mean of what its repeats say; means and 95 % intervals are
    over examples (or groups). `agreement` is Krippendorff's alpha (interval) between repeats,
    over all systems' answers; None where it is not defined.
    """
    settings = evidence.recipe.judge
    if not settings:
        return
    answers, difficulty = rubric(settings, "answers"), rubric(settings, "difficulty")
    judge: Judge = {
        "repeats": settings.repeats,
        "contexts": {},
        "difficulty": {},
        "scale": [answers.low, answers.high],
        "difficulty_scale": [difficulty.low, difficulty.high],
    }
    for context in evidence.recipe.judged:
        verdicts = [v for v in evidence.verdicts if v.context == context]
        on_answers = [v for v in verdicts if v.system != DIFFICULTY]
        on_inputs = [v for v in verdicts if v.system == DIFFICULTY]
        if on_answers:
            judge["contexts"][context] = {
                "systems": {
                    name: _judged([v for v in on_answers if v.system == name], answers)
                    for name in dict.fromkeys(v.system for v in on_answers)
                },
                "agreement": _agreement(on_answers, answers),
            }
        if on_inputs:
            judge["difficulty"][context] = {
                **_judged(on_inputs, difficulty),
                "agreement": _agreement(on_inputs, difficulty),
            }
    report["judge"] = judge


def _repeats(verdicts: Sequence[Verdict]) -> list[list[Verdict]]:
    """The repeats on each answer."""
    repeats: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        repeats.setdefault((verdict.system, verdict.example_id), []).append(verdict)
    return list(repeats.values())


def _agreement(verdicts: Sequence[Verdict], rule: Rubric) -> dict[str, float | None]:
    scores = [[v.scores for v in thing] for thing in _repeats(verdicts)]
    return {
        name: krippendorff_alpha(
            [[score for each in thing if (score := each[name]) is not None] for thing in scores]
        )
        for name in rule.criteria
    }


def _judged(verdicts: Sequence[Verdict], rule: Rubric) -> Judged:
    things = _repeats(verdicts)
    scores = [
        {name: _mean([v.scores[name] for v in thing]) for name in rule.criteria} for thing in things
    ]
    groups = [thing[0].group for thing in things]
    every = [None if None in row.values() else _mean(list(row.values())) for row in scores]
    reasons = Counter(v.unjudged for v in verdicts if v.unjudged)
    return {
        "judged": len(things),
        "criteria": {
            name: _interval([row[name] for row in scores], groups, (rule.low, rule.high))
            for name in rule.criteria
        },
        "overall": _interval(every, groups, (rule.low, rule.high)),
        "verdicts": sum(v.unjudged is None for v in verdicts),
        "unparsable": sum(v.unjudged is None and None in v.scores.values() for v in verdicts),
        "unjudged": sum(reasons.values()),
        "why_unjudged": dict(reasons),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _interval(
    values: Sequence[float | None], groups: Sequence[str | None], scale: Bounds
) -> Counted | None:
    """Mean and interval over the examples that have a value; how many those are."""
    pairs = zip(values, groups, strict=True)
    known = [(value, group) for value, group in pairs if value is not None]
    if not known:
        return None
    means = by_group([value for value, _ in known], [group for _, group in known])
    return {**named(interval(means, scale)), "examples": len(known)}


# -- tables ----------------------------------------------------------------------------------------


def tables(report: Report) -> list[Table]:
    """One for each context's answers, and one of the inputs' difficulty."""
    if "judge" not in report:
        return []
    judge, made = report["judge"], list[Table]()
    for context, entry in judge["contexts"].items():
        low, high = judge["scale"]
        title = f"Judge, context {context} ({low} to {high})"
        agreement = _agreed(entry["agreement"], judge["repeats"])
        made.append(_table(title, "system", entry["systems"], {"": agreement}))
    if judge["difficulty"]:
        low, high = judge["difficulty_scale"]
        agreement = {
            context: f"{context}: {_agreed(entry['agreement'], judge['repeats'])}"
            for context, entry in judge["difficulty"].items()
        }
        made.append(
            _table(f"Difficulty ({low} to {high})", "context", judge["difficulty"], agreement)
        )
    return made


def _table(title: str, what: str, judged: Mapping[str, Judged], agreement: dict[str, str]) -> Table:
    """Args:
    agreement: The lines beneath, each ahead of what is said of its row.
    """
    criteria = list(next(iter(judged.values()))["criteria"])
    columns = [what, *(f"{name} [95 %]" for name in [*criteria, "all"]), "unparsable", "unjudged"]
    rows, lines = [], [agreement[""]] if "" in agreement else []
    for name, of in judged.items():
        asked, unjudged = of["verdicts"], of["unjudged"]
        means = [*(of["criteria"][each] for each in criteria), of["overall"]]
        rows.append(
            [
                name,
                *("-" if m is None else spanned(m, "{:.2f}".format) for m in means),
                f"{of['unparsable']} of {asked}",
                f"{unjudged} of {asked + unjudged}",
            ]
        )
        lines += [agreement[name]] if name in agreement else []
        lines += [f"{name}: {n} not judged ({why})" for why, n in of["why_unjudged"].items()]
    return Table(title, columns, rows, lines)


def _agreed(alphas: Mapping[str, float | None], repeats: int) -> str:
    if repeats < 2:
        return "judged once: nothing is known of how far the judge agrees with itself"
    each = ", ".join(
        f"{name} {'not defined' if alpha is None else f'{alpha:.2f}'}"
        for name, alpha in alphas.items()
    )
    return (
        f"agreement of {repeats} repeats, criteria in other orders (Krippendorff's alpha,"
        f" interval): {each}"
    )


SECTION = Section(numbers, tables)
