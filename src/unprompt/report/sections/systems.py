"""A context's systems on its held-out examples, and what the context was taught with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from unprompt.metrics.match import normalise, same
from unprompt.metrics.statistics import (
    SHARE,
    Bounds,
    by_group,
    interval,
    kept,
    needed,
    paired_difference,
)
from unprompt.records import Grade
from unprompt.report import svg
from unprompt.report.evidence import Evidence
from unprompt.report.format import change, counts, is_share, mean
from unprompt.report.sections import (
    Picture,
    Section,
    Table,
    bar,
    colour,
    kl,
    named,
    of_context,
    ratio,
    title_of,
)

if TYPE_CHECKING:
    from unprompt.report.schema import Confusion, Context, Figures, Report, System

_MOST_LABELS = 40
"""More gold answers than that make no table."""


class _Measures(NamedTuple):
    """What is known of a context's metrics, whatever came out: which are shares, between which
    bounds values lie, and the margin that a student is held to.
    """

    shares: Mapping[str, bool]
    bounds: Mapping[str, Bounds | None]
    margin: float


def numbers(evidence: Evidence, report: Report) -> None:
    """Every system's figures, the teacher's and those before training first."""
    for name, entry in report["contexts"].items():
        grades = evidence.of(name)
        if not grades:
            continue
        measures = _Measures(
            evidence.shares(name), evidence.bounds(name), evidence.recipe.report.margin
        )
        teacher = {grade.example_id: grade for grade in grades.get("teacher", ())}
        seconds = evidence.seconds.get(name, {})
        entry["systems"] = {
            system: _system(grades[system], teacher, seconds.get(system), measures)
            for system in sorted(grades, key=lambda s: (s != "teacher", s != "before"))
        }
        if teacher:
            long, short = (entry["systems"][s]["prompt_tokens"] for s in ("teacher", "before"))
            entry["prompt_tokens_saved"] = long - short
            entry["times_fewer_prompt_tokens"] = long / short
    if evidence.recipe.systems:
        report["systems"] = {
            name: {
                "model": system.model,
                "prompt": system.prompt if isinstance(system.prompt, str) else "own",
            }
            for name, system in evidence.recipe.systems.items()
        }


def _system(
    grades: Sequence[Grade],
    teacher: Mapping[str, Grade],
    seconds: float | None,
    measures: _Measures,
) -> System:
    groups = [g.group for g in grades]
    reference = [teacher[g.example_id] for g in grades] if teacher else []
    metrics = {
        metric: _figures(
            metric,
            by_group([g.metrics[metric] for g in grades], groups),
            by_group([g.metrics[metric] for g in reference], groups) if teacher else None,
            measures,
        )
        for metric in grades[0].metrics
    }
    figures: System = {
        "examples": len(grades),
        "groups": len(set(groups)) if groups[0] is not None else None,
        "metrics": metrics,
        "prompt_tokens": fmean(g.prompt_tokens for g in grades),
        "completion_tokens": fmean(g.completion_tokens for g in grades),
        "seconds_per_call": seconds,
        "extraction_failures": sum(g.failure is not None for g in grades),
        "cut_at_limit": sum(g.cut for g in grades),
        "confusion": confusion(grades),
    }
    if teacher and grades[0].system != "teacher":
        agrees = [same(*pair) for pair in zip(grades, reference, strict=True)]
        figures["agreement"] = named(interval(by_group([float(a) for a in agrees], groups), SHARE))
        first = next(iter(metrics), None)
        pairs = zip(grades, reference, strict=True)
        gains = [g.metrics[first] - t.metrics[first] for g, t in pairs] if first else []
        figures["outcomes"] = {
            "lost": sum(gain < 0 for gain in gains),
            "won": sum(gain > 0 for gain in gains),
            "changed": len(agrees) - sum(agrees),
            "failed": figures["extraction_failures"],
        }
    if failures := Counter(g.failure for g in grades if g.failure is not None):
        figures["failures"] = dict(failures.most_common())
    if any(metric.endswith("_lenient") for metric in metrics):
        figures["lenient_failures"] = sum(g.lenient_answer is None for g in grades)
    return figures


def _figures(
    metric: str, values: list[float], teacher: list[float] | None, measures: _Measures
) -> Figures:
    share, bounds = measures.shares.get(metric, True), measures.bounds[metric]
    figures: Figures = {**named(interval(values, bounds)), "is_share": share}
    if teacher is not None:
        figures["to_teacher"] = named(paired_difference(values, teacher, bounds))
        quotient = kept(values, teacher) if bounds == SHARE else None
        figures["kept"] = ratio(quotient) if quotient else None
        if share and bounds:
            figures["needed"] = needed(values, teacher, bounds, measures.margin)
    return figures


def confusion(grades: Sequence[Grade]) -> Confusion | None:
    """Gold answer against answer, in examples, where the gold answers are labels; None where they
    are not.
    """
    if not all(isinstance(g.target, str) for g in grades):
        return None
    golds = Counter(normalise(g.target) for g in grades)
    if not 2 <= len(golds) <= min(_MOST_LABELS, len(grades) // 3):
        return None
    labels = sorted(golds)
    other, failed = len(labels), len(labels) + 1
    place = {label: n for n, label in enumerate(labels)}
    table = [[0] * (len(labels) + 2) for _ in labels]
    for g in grades:
        column = failed if g.answer is None else place.get(normalise(g.answer), other)
        table[place[normalise(g.target)]][column] += 1
    return {"labels": labels, "counts": table}


# -- table and picture -----------------------------------------------------------------------------


def tables(report: Report) -> list[Table]:
    """One for each context."""
    return [
        Table(f"Context {name}", *_rows(report, entry.get("systems", {})), _lines(entry))
        for name, entry in report["contexts"].items()
    ]


def _rows(report: Report, systems: Mapping[str, System]) -> tuple[list[str], list[list[str]]]:
    if not systems:
        return [], []
    metrics = list(next(iter(systems.values()))["metrics"])
    taught = "teacher" in systems
    several = sum("gap_closed" in figures for figures in systems.values()) > 1
    columns = ["system"]
    for metric in metrics:
        columns += [f"{metric} [95 %]", *(["to teacher [95 %]"] if taught else [])]
    columns += ["gap closed"] if several else []
    columns += ["prompt tokens", "completion tokens", "seconds/call"]
    rows = []
    for system, figures in systems.items():
        row = [title_of(report, system)]
        for metric in metrics:
            m = figures["metrics"][metric]
            share = is_share(metric, m)
            row.append(mean(m, share))
            if taught and "to_teacher" in m:
                row.append("-" if system == "teacher" else change(m["to_teacher"], share))
        if several:
            row.append(f"{figures['gap_closed']['value']:.1%}" if "gap_closed" in figures else "-")
        seconds = figures["seconds_per_call"]
        row += [f"{figures['prompt_tokens']:.1f}", f"{figures['completion_tokens']:.1f}"]
        rows.append([*row, "-" if seconds is None else f"{seconds:.3f}"])
    return columns, rows


def _lines(entry: Context) -> list[str]:
    systems = entry.get("systems", {})
    lines = [_taught(entry), *kl.lines(entry)]
    if "prompt_tokens_saved" in entry and "times_fewer_prompt_tokens" in entry:
        long, short = (f"{systems[s]['prompt_tokens']:.1f}" for s in ("teacher", "before"))
        lines.append(
            f"prompt tokens per call: {long} -> {short}, {entry['prompt_tokens_saved']:.1f} saved"
            f" ({entry['times_fewer_prompt_tokens']:.1f} times fewer)"
        )
    lines += [
        f"{figures['extraction_failures']} of {figures['examples']} answers of '{system}' could"
        f" not be extracted and count as wrong ({counts(figures['failures'])})"
        for system, figures in systems.items()
        if "failures" in figures
    ]
    for count, said in (
        ("lenient_failures", "could not be extracted leniently either"),
        ("cut_at_limit", "were cut at max_new_tokens"),
    ):
        lines += [
            f"{figures[count]} of {figures['examples']} answers of '{system}' {said}"
            for system, figures in systems.items()
            if figures.get(count)
        ]
    groups = next((figures["groups"] for figures in systems.values()), None)
    if groups:
        lines.append(f"intervals over {groups} groups of examples")
    if (bars := entry.get("instructions")) and "left_out" in bars:
        lines.append(
            f"instructions: {len(bars['bars'])} of {bars.get('items')} measured, the longest first;"
            f" {bars['left_out']}"
        )
    return lines + _lessons(entry)


def _taught(entry: Context) -> str:
    written = {key: _short(value) for key, value in entry["distilled"].items()}
    if entry["distilled"]["gold"] is not None:
        return f"taught: gold answers {written['gold']} to {written['student']}"
    if "lessons" not in entry:
        return f"only evaluated: {written['student']}"
    return (
        f"distilled: {written['teacher']} into {written['student']}, keeping"
        f" {written['extract']} of the answer"
    )


def _short(written: Any) -> str:
    """A template or rule as it is written, on one line; the middle of a long one left out (the
    whole stands in the recipe below).
    """
    text = " ".join(str(written).split())
    return f"`{text}`" if len(text) <= 100 else f"`{text[:60]} ... {text[-30:]}`"


def _lessons(entry: Any) -> list[str]:
    """What became of the inputs and of the answers to them."""
    if "lessons" not in entry:
        return []
    failed = entry["failed_extractions"]
    reasons, ids = failed["reasons"], failed["examples"]
    several = f" of {len(entry['taught_by'])} teachers" if len(entry["taught_by"]) > 1 else ""
    lines = [f"sampled for {where}: {counts(of)}" for where, of in entry["drawn"].items()]
    lines += [f"filtered answers of {who}: {counts(of)}" for who, of in entry["filtered"].items()]
    lines.append(
        f"inputs: {entry['inputs']}; lessons: {entry['lessons']}{several}; dropped:"
        f" {sum(reasons.values())} ({counts(reasons) or 'none'})"
    )
    if gain := entry.get("training_gain"):
        lines.append(
            f"inputs left out: {gain['left_out']} (context gain under {gain['min_gain']:g} nats per"
            " token)"
        )
    if ids:
        more = ", ..." if len(ids) > 20 else ""
        lines.append(f"dropped inputs: {', '.join(ids[:20])}{more}")
    if entry["cut_at_limit"]:
        cut = entry["cut_at_limit"]
        lines.append(f"answers cut at max_new_tokens: {cut} (taught without an end token)")
    lines.append(f"overlap: {counts(entry['overlap'], '; ')}")
    return lines


def pictures(report: Report) -> list[Picture]:
    """Quality against prompt length, of each context whose first metric is a share."""
    drawn = []
    for name, entry in report["contexts"].items():
        systems = entry.get("systems", {})
        metric = next((m for figures in systems.values() for m in figures["metrics"]), None)
        first = {s: figures["metrics"][metric] for s, figures in systems.items()} if metric else {}
        if not metric or not all(is_share(metric, m) for m in first.values()):
            continue
        points = [
            svg.Point(
                system,
                systems[system]["prompt_tokens"],
                m["mean"],
                along=bar(m),
                colour=colour(report, system),
            )
            for system, m in first.items()
        ]
        axis = "prompt tokens per call (logarithmic)"
        drawn.append(
            Picture(
                f"Quality against prompt length{of_context(report, name)}",
                svg.dots(points, axis, metric, log_x=True),
                "Up and to the left is better. Bars are 95 % intervals.",
            )
        )
    return drawn


SECTION = Section(numbers, tables, pictures)
