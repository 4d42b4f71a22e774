"""Ship, look closer, or don't ship: of every student on every context, with the reasons. Pure;
reads nothing but the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.report.format import change as spanned_change, is_share

if TYPE_CHECKING:
    from unprompt.report.schema import Report, Student, System

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
    "  data: {file: heldout.jsonl, target: answer}  # other rows than your inputs, laid out alike",
    "  metrics: [accuracy]  # without gold answers: data: heldout.jsonl, and metrics: []",
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
    settings = report["recipe"]["report"]
    reasons = [
        _quality(student, settings["margin"]),
        *_prompt(student, systems["before"]),
        _answers(figures, settings["failures"]),
        *_cut(report, context, {"teacher": teacher, "student": figures}),
        *_lessons(report, name, context),
        _drift(report, name),
    ]
    student["reasons"] = [{"says": says, "text": text} for says, text in reasons]
    student["verdict"] = max((says for says, _ in reasons if says != "note"), key=ORDER.index)
    return student


def _quality(student: Student, margin: float) -> tuple[str, str]:
    metric, quality = student["metric"], student["quality"]
    if metric is None or quality is None or "to_teacher" not in quality:
        return "look closer", "quality is unknown: no metric is measured"
    if not is_share(metric, quality):
        why = f"{metric} has no scale from 0 to 1 that a margin could be measured on"
        return "look closer", f"quality is unknown: {why}"
    change, n, wanted = quality["to_teacher"], student["examples"], student["examples_needed"]
    low, high = change["low"], change["high"]
    measured = f"{metric} {spanned_change(change, share=True)} to the teacher"
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
