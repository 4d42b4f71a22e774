"""Ship, look closer, or don't ship: of every student on every context, with the reasons. Pure;
reads nothing but the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.report.format import change as spanned_change, is_share

if TYPE_CHECKING:
    from unprompt.report.figures import Interval
    from unprompt.report.schema import Context, LikeStudent, Report, Student, System

ORDER = ("ship", "look closer", "don't ship")
"""Best first; reasons of the kind `note` decide nothing."""

_MOSTLY = 0.5

Reasons = list[tuple[str, str]]
"""What each says, and its text."""


def conclude(report: Report) -> None:
    """Add `students` (the figures of each student on each context where a teacher was measured) and
    `verdict` (the last student's) to a report.
    """
    measured = {
        name: entry["systems"]
        for name, entry in report["contexts"].items()
        if "systems" in entry and "teacher" in entry["systems"]
    }
    report["students"] = [
        _student(report, name, context, systems)
        for name in report["rounds"]
        for context, systems in measured.items()
        if name in systems and _concerned(report, name, context, set(measured))
    ]
    last = list(report["rounds"])[-1]
    verdicts = [each["verdict"] for each in report["students"] if each["student"] == last]
    worst = max(verdicts, key=ORDER.index) if verdicts else None
    report["verdict"] = {"student": last, "verdict": worst}


EVALUATE = (
    "evaluate:",
    "  hold_out: 0.2  # a share of your inputs; or data: {file: heldout.jsonl, target: answer}",
    "  metrics: [accuracy]  # without gold answers: metrics: []",
)
"""What a recipe lacks of which nothing is evaluated."""


def evaluated(report: Report) -> bool:
    """Whether anything was."""
    return any("systems" in entry for entry in report["contexts"].values())


def conclusion(report: Report) -> list[str]:
    """The last student's verdict and what speaks against it, in lines; or why there is none."""
    last, verdict = report["verdict"]["student"], report["verdict"]["verdict"]
    if not evaluated(report):
        return [
            "nothing was evaluated, so nothing says what this student is worth; add to the recipe,"
            " and run it again (nothing is trained anew):",
            *(f"  {line}" for line in EVALUATE),
        ]
    if verdict is None:
        return ["no verdict: the student was not measured against a teacher"]
    several = sum(each["student"] == last for each in report["students"]) > 1
    return [
        f"verdict on '{last}': {verdict}",
        *(
            f"  {reason['says']}: " + (f"{each['context']}: " if several else "") + reason["text"]
            for each in report["students"]
            for reason in each["reasons"]
            if each["student"] == last and reason["says"] not in ("ship", "note")
        ),
    ]


def _taught(report: Report, name: str) -> set[str]:
    """The contexts of a student's round, and of those it started from."""
    contexts: set[str] = set()
    while name in report["rounds"]:
        contexts |= set(report["rounds"][name]["contexts"])
        name = report["rounds"][name]["start"]
    return contexts


def _concerned(report: Report, name: str, context: str, measured: set[str]) -> bool:
    """Whether a student was taught a context; one that was taught none of those measured is
    measured on all.
    """
    taught = _taught(report, name)
    return context in taught or not taught & measured


def _student(report: Report, name: str, context: str, systems: dict[str, System]) -> Student:
    teacher, figures = systems["teacher"], systems[name]
    metric = next(iter(figures["metrics"]), None)
    student: Student = {
        "student": name,
        "context": context,
        "metric": metric,
        "examples": figures["groups"] or figures["examples"],
        "examples_needed": figures["metrics"][metric].get("needed") if metric else None,
        "likeness": _like(report, name, context),
        "quality": figures["metrics"][metric] if metric else None,
        "teacher_quality": teacher["metrics"][metric] if metric else None,
        "gap_closed": figures.get("gap_closed"),
        "agreement": figures.get("agreement"),
        "prompt_tokens": {"teacher": teacher["prompt_tokens"], "student": figures["prompt_tokens"]},
        "saving_per_1000_calls": None,
        "break_even_calls": None,
        "reasons": [],
        "verdict": "",
    }
    money = report["cost"]["contexts"].get(context, {}) if "cost" in report else {}
    if "teacher" in money and name in money:
        there, here = money["teacher"]["per_1000_calls"], money[name]["per_1000_calls"]
        student["saving_per_1000_calls"] = {way: there[way] - here[way] for way in here}
        student["break_even_calls"] = money[name].get("break_even_calls")
    settings, like = report["recipe"]["report"], student["likeness"]
    if metric is None and like:
        student["examples_needed"] = like["needed"]
    reasons = [
        *_quality(student, systems["before"], settings["margin"]),
        *_likeness(like, report["contexts"][context], settings["margin"]),
        _answers(figures, settings["failures"]),
        *_cut(report, context, {"teacher": teacher, "student": figures}),
        *_lessons(report, name, context),
        _drift(report, name),
    ]
    student["reasons"] = [{"says": says, "text": text} for says, text in reasons]
    student["verdict"] = max((says for says, _ in reasons if says != "note"), key=ORDER.index)
    return student


def _like(report: Report, name: str, context: str) -> LikeStudent | None:
    """A student's likeness to the teacher, where it was measured."""
    entry = report["contexts"][context].get("likeness")
    if entry is None or name not in entry["systems"]:
        return None
    return {
        **entry["systems"][name],
        "kind": entry["kind"],
        "decides": entry["decides"],
        "examples": entry["groups"] or entry["examples"],
        "ceiling": entry["ceiling"],
    }


def _quality(student: Student, before: System, margin: float) -> Reasons:
    """The first metric, and whether the prompt helps there. What knows no gold answers says nothing
    where likeness decides, unless it is a share.
    """
    metric, quality, like = student["metric"], student["quality"], student["likeness"]
    by_likeness = like is not None and like["decides"]
    if metric is None or quality is None or "to_teacher" not in quality:
        why = "no metric is measured"
    elif not is_share(metric, quality):
        why = f"{metric} has no scale from 0 to 1 that a margin could be measured on"
    else:
        held = student["examples"], student["examples_needed"]
        reason = _held(f"{metric} {{}} to the teacher", quality["to_teacher"], *held, margin)
        return [reason, *([] if by_likeness else _prompt(student, before))]
    return [] if by_likeness else [("look closer", f"quality is unknown: {why}")]


def _held(
    measured: str, change: Interval, n: int, wanted: int | None, margin: float
) -> tuple[str, str]:
    """Whether a difference is no worse than the margin allows.

    Args:
        measured: What it is of, with `{}` where it is to stand.
        n: Examples, or groups; `wanted`, how many it takes.
    """
    low, high = change["low"], change["high"]
    measured = measured.format(spanned_change(change, share=True))
    limit = f"the margin of {100 * margin:g} points"
    if low is None or high is None:
        more = f"; about {wanted:,} are needed" if wanted else ""
        return "look closer", f"{measured}: {n} held-out examples are too few to tell{more}"
    if high < -margin:
        return "don't ship", f"{measured}: worse by more than {limit}"
    if wanted is None:
        more = "more held-out examples would not mend it"
        return "look closer", f"{measured}: on average at or below {limit}; {more}"
    if n < wanted:
        few = f"{n} held-out examples are too few for {limit}"
        return "look closer", f"{measured}: {few}; about {wanted:,} are needed"
    enough = f"on {n:,} held-out examples ({wanted:,} needed)"
    return "ship", f"{measured}: no worse than {limit} allows, {enough}"


def _likeness(like: LikeStudent | None, entry: Context, margin: float) -> Reasons:
    """A student's likeness to the teacher, against how like the teacher's answers are to each
    other. Where answers differ much anyway the margin alone is soon kept, so the student has to
    have come past the half of the way from `before`, too.
    """
    if like is None or "likeness" not in entry:
        return []
    n, kind, there = like["examples"], like["kind"], like["ceiling"]["mean"]
    measured = (
        f"likeness to the teacher ({kind}) {like['mean']:.1%}, {{}} to the teacher's own of"
        f" {there:.1%}"
    )
    held = _held(measured, like["to_ceiling"], n, like["needed"], margin)
    if not like["decides"]:
        return [("note", held[1])]
    before = entry["likeness"]["systems"]["before"]
    reasons, of = [held], before["to_ceiling"]
    if of["low"] is None or of["high"] is None or "past_half" not in like:
        return reasons
    measured = f"before has likeness {before['mean']:.1%}, {spanned_change(of, share=True)}"
    if of["high"] >= 0:
        learned = "as like the teacher as the teacher itself, so there was nothing to learn"
        return [*reasons, ("look closer", f"{measured} to the teacher's own: {learned}")]
    reasons.append(("ship", f"the prompt changes what this model says: {measured}"))
    past, wanted = like["past_half"], like.get("half_needed")
    measured = f"the student is {spanned_change(past, share=True)} past half the way from before"
    if past["high"] is not None and past["high"] < 0:
        return [*reasons, ("don't ship", f"{measured}: nearer to before than to the teacher")]
    if past["low"] is not None and past["low"] > 0:
        return [*reasons, ("ship", f"{measured} to the teacher")]
    more = "more held-out examples would not mend it"
    if wanted:
        more = f"{n} held-out examples are too few to tell; about {wanted:,} are needed"
    return [*reasons, ("look closer", f"{measured} to the teacher: {more}")]


def _prompt(student: Student, before: System) -> Reasons:
    """Whether there was anything to distil: a teacher that is better than `before` by more than the
    noise.
    """
    metric = student["metric"]
    if metric is None or not is_share(metric, before["metrics"][metric]):
        return []
    of = before["metrics"][metric].get("to_teacher")
    if of is None or of["high"] is None:
        return []
    measured = f"before has {metric} {spanned_change(of, share=True)} to the teacher"
    if of["high"] < 0:
        return [("ship", f"the prompt helps this model: {measured}")]
    return [("look closer", f"the prompt does not help this model: {measured}")]


def _answers(figures: System, limit: float) -> tuple[str, str]:
    failed = figures["extraction_failures"]
    share = failed / figures["examples"]
    return (
        "look closer" if share > limit else "ship",
        f"{failed} of the student's {figures['examples']:,} answers could not be extracted"
        f" ({share:.1%}); {limit:.1%} are allowed",
    )


def _cut(report: Report, context: str, systems: dict[str, System]) -> Reasons:
    """Held-out answers that were cut: what is graded is not what the model would have said."""
    recipe, reasons = report["recipe"], Reasons()
    for who, figures in systems.items():
        cut, of = figures.get("cut_at_limit", 0), figures["examples"]
        if cut:
            own = recipe["contexts"][context]["evaluate"]
            how = own if isinstance(own, dict) else recipe["evaluate"] or {}
            key = "sampling" if how.get("max_new_tokens") is None else "evaluate"
            text = (
                f"{cut} of the {who}'s {of:,} held-out answers were cut at max_new_tokens"
                f" ({cut / of:.1%}): raise {key}.max_new_tokens"
            )
            over = cut / of > recipe["report"]["failures"]
            reasons.append(("look closer" if over else "note", text))
    return reasons


def _lessons(report: Report, name: str, context: str) -> Reasons:
    """What the student was taught with: cut answers, and held-out examples that were seen."""
    limit, reasons = report["recipe"]["report"]["failures"], Reasons()
    taught = _taught(report, name)
    for each in sorted(taught):
        entry = report["contexts"][each]
        lessons, cut = entry.get("lessons", 0), entry.get("cut_at_limit", 0)
        if not lessons:
            continue
        if cut:
            text = (
                f"{cut} of {lessons:,} answers that {each} taught were cut at max_new_tokens"
                f" ({cut / lessons:.1%})"
            )
            reasons.append(("look closer" if cut / lessons > limit else "note", text))
        failed = entry.get("failed_extractions")
        dropped = sum(failed["reasons"].values()) if failed else 0
        if cut + dropped > _MOSTLY * (lessons + dropped):
            text = (
                f"{cut + dropped} of {lessons + dropped:,} answers to {each}'s inputs were cut or"
                " dropped: most of what the teacher says was not learned"
            )
            reasons.append(("look closer", text))
        reasons += [
            ("look closer", f"{count} {what} ({each}): what is measured there may be remembered")
            for what, count in entry.get("overlap", {}).items()
            if count and what.startswith("held-out")
        ]
    if context not in taught:
        text = (
            f"whether the examples held out in {context} were among what"
            f" {', '.join(sorted(taught))} taught was not counted"
        )
        reasons.append(("note", text))
    elif all(says != "look closer" for says, _ in reasons):
        text = "no held-out input stands among the training inputs or in the prompt"
        reasons.append(("ship", text))
    return reasons


def _drift(report: Report, name: str) -> tuple[str, str]:
    drift = report.get("drift", {})
    if name not in drift:
        return "note", "drift on unrelated inputs was not measured (drift: in the recipe)"
    value, limit = drift[name]["mean"], report["recipe"]["drift"]["limit"]
    text = f"drift on unrelated inputs {value:.4f} nats per token"
    if limit is None:
        return "note", f"{text}, without a limit to hold it to (drift.limit in the recipe)"
    if value > limit:
        return "don't ship", f"{text}, over the limit of {limit:g}"
    return "ship", f"{text}, within the limit of {limit:g}"
