"""A run's report, written: every number once, then the pages. Asks nobody."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from unprompt.recipe import Recipe
from unprompt.records import TEACHER, Grade, Who
from unprompt.report import cost
from unprompt.report.card import model_card
from unprompt.report.evidence import Evidence
from unprompt.report.examples import HeldOut, held_out
from unprompt.report.markdown import markdown
from unprompt.report.numbers import numbers
from unprompt.report.page import page
from unprompt.report.schema import Report
from unprompt.stages.asks import Ask
from unprompt.stages.check import Checked
from unprompt.stages.drawn import Drawn
from unprompt.stages.evaluate.measured import Measured
from unprompt.stages.lessons.transfer_set import Taught, TransferSet
from unprompt.stages.prompts import Prompts
from unprompt.store.answers import Answers
from unprompt.store.files import fingerprint
from unprompt.store.folder import RunDir
from unprompt.store.tables import write_grades, write_rows


def write(
    recipe: Recipe,
    files: RunDir,
    checked: Checked,
    drawn: Mapping[str, Drawn],
    transfers: Mapping[str, TransferSet],
    trained: dict[str, dict[str, Any]],
    answers: Mapping[Ask, Answers],
    measured: Measured,
    servers: dict[str, dict[str, Any]],
) -> None:
    """Write report.html, report.json, report.md, the model cards, and the records behind them.

    Args:
        drawn: Source of sampled inputs -> what became of the draws.
        transfers: Round -> its lessons.
        trained: Round -> what is said of its training.
        servers: What each server was asked.
    """
    prompts, contexts = checked.prompts, dict[str, dict[str, Any]]()
    for name in recipe.contexts:
        contexts[name] = _taught(name, transfers, checked, drawn)
        if rows := prompts.inputs.held_out.get(name):
            told = [[row.id, row.fields, row.target] for row in rows]
            contexts[name]["held_out"] = {"examples": len(rows), "digest": fingerprint(told)}
        if reason := measured.kl_left_out.get(name):
            contexts[name]["kl_left_out"] = reason
    spending = None
    if recipe.cost:
        spending = _spending(recipe, files, checked, drawn, transfers, answers, measured.grades)
    report = numbers(
        Evidence(
            recipe,
            contexts,
            measured.grades,
            measured.kl,
            measured.seconds,
            trained,
            str(files.round(list(recipe.plan)[-1]).folder),
            kl_sampled=measured.kl_sampled,
            associations=measured.associations,
            drift=measured.drift,
            verdicts=measured.verdicts,
            spending=spending,
            servers=servers,
            instructions=measured.instructions,
            likeness=measured.likeness,
            gains={name: _gains(transfers, name) for name in recipe.contexts},
            encoder_decoder=prompts.readers.student.encoder_decoder,
        )
    )
    shown = _shown(prompts, measured)
    _write_files(recipe, files, report, shown, measured.grades)


def _write_files(
    recipe: Recipe,
    files: RunDir,
    report: Report,
    shown: Sequence[HeldOut],
    grades: Sequence[Grade],
) -> None:
    if shown:
        write_rows(files.folder / "examples.parquet", [each.row() for each in shown])
        files.notes.add("examples.parquet")
    if grades:
        write_grades(files.folder / "grades.parquet", grades)
        files.notes.add("grades.parquet")
    files.keep("report.json", json.dumps(report, indent=1, ensure_ascii=False))
    for name in recipe.plan:
        files.round(name).keep("student/README.md", model_card(report, name))
    files.keep("report.md", markdown(report))
    files.keep("report.html", page(report, shown, grades))
    files.notes.write(pages=True)


def _shown(prompts: Prompts, measured: Measured) -> list[HeldOut]:
    """The held-out examples of all contexts."""
    return [
        each
        for name, rows in prompts.inputs.held_out.items()
        for each in held_out(
            name,
            rows,
            prompts.held_student[name],
            prompts.held_teacher.get(name),
            measured.kl.get(name, {}),
        )
    ]


def _by_teacher(transfers: Mapping[str, TransferSet], context: str) -> list[tuple[Taught, int]]:
    """What each teacher taught in a context, the recipe's own first; rounds that build their
    lessons otherwise were taught by the same answers.
    """
    by_teacher: dict[Who, tuple[Taught, int]] = {}
    for transfer in transfers.values():
        for taught, count in transfer.taught:
            if taught.context == context:
                by_teacher.setdefault(taught.who, (taught, count))
    return sorted(by_teacher.values(), key=lambda each: each[0].who != TEACHER)


def _coverage(name: str, drawn: Mapping[str, Drawn]) -> dict[str, Any]:
    """Which instructions the inputs of a context exercise, where that is measured."""
    found = (each.coverage for where, each in drawn.items() if where.split(".")[1] == name)
    return next(({"coverage": each} for each in found if each), {})


def _gains(transfers: Mapping[str, TransferSet], context: str) -> dict[str, float]:
    """Context gain of a context's training inputs, by the answers of its first teacher."""
    by_teacher = _by_teacher(transfers, context)
    return next((taught.gains for taught, _ in by_teacher if taught.gains), {})


def _taught(
    name: str,
    transfers: Mapping[str, TransferSet],
    checked: Checked,
    drawn: Mapping[str, Drawn],
) -> dict[str, Any]:
    """Counts of a context's lessons, and what became of the other answers; nothing of one that is
    only evaluated.
    """
    taught = _by_teacher(transfers, name)
    if not taught:
        return {}
    drops = [each.drops for each, _ in taught]
    reasons = sum((Counter(each.reasons()) for each in drops), Counter[str]())
    return {
        "inputs": len(checked.prompts.inputs.taught[name]),
        "taught_by": [str(each.who) for each, _ in taught],
        "lessons": sum(count for _, count in taught),
        "failed_extractions": {
            "reasons": dict(reasons),
            "examples": sorted({id_ for each in drops for id_ in each.failed}),
        },
        "cut_at_limit": sum(len(each.cut_at_limit) for each in drops),
        "filtered": {
            str(each.who): each.drops.filtered for each, _ in taught if each.drops.filtered
        },
        "overlap": checked.overlap[name],
        **_coverage(name, drawn),
        "drawn": {
            where: each.counts for where, each in drawn.items() if where.split(".")[1] == name
        },
    }


def _spending(
    recipe: Recipe,
    files: RunDir,
    checked: Checked,
    drawn: Mapping[str, Drawn],
    transfers: Mapping[str, TransferSet],
    answers: Mapping[Ask, Answers],
    grades: Sequence[Grade],
) -> cost.Spending:
    seconds: dict[str, float | None] = {}
    for name in recipe.plan:
        path = files.round(name).folder / "train_seconds.json"
        seconds[name] = json.loads(path.read_text()) if path.is_file() else None
    called: dict[tuple[str, str], cost.Usage] = {}
    for ask in answers:
        if ask.purpose == "held-out" and ask.question and ask.system and ask.system.shots is None:
            key = ask.context, ask.system.name
            rows = [g for g in grades if (g.context, g.row) == key]
            called[key] = cost.Usage(
                ask.who.role,
                len(rows),
                sum(g.prompt_tokens for g in rows),
                sum(g.completion_tokens for g in rows),
                sum(ask.question.side.prefix),
            )
    spent: dict[str, dict[str, list[cost.Usage]]] = {}
    for name in recipe.contexts:
        spent[name] = {
            str(taught.who): [cost.usage(*each) for each in taught.answers]
            for taught, _ in _by_teacher(transfers, name)
        }
    for where, each in drawn.items():
        of_context = spent[where.split(".")[1]].setdefault("inputs", [])
        of_context += [cost.usage(*asked) for asked in each.answers]
    return cost.Spending(checked.prices, called, spent, seconds)
