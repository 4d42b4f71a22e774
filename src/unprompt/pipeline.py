"""A run, from the recipe to the report, in the order it happens. Read this file first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.engines import models
from unprompt.engines.tokens import writes_date
from unprompt.messages import UserError, say, stoppable
from unprompt.recipe import Recipe
from unprompt.recipe.names import join
from unprompt.records import BASE, TEACHER, Grade, Lesson, student
from unprompt.stages import processes, sources
from unprompt.stages.questions import of_an_older_version
from unprompt.stages.weights import Weights
from unprompt.store.files import FORMAT, fingerprint
from unprompt.store.folder import RunDir
from unprompt.store.tables import read_grades, read_lessons, read_rows

if TYPE_CHECKING:
    from unprompt.report import Examples
    from unprompt.stages import drawn
    from unprompt.stages.asks import Ask
    from unprompt.stages.check import Checked
    from unprompt.stages.cluster import Workers
    from unprompt.stages.evaluate.bars import Bars
    from unprompt.store.answers import Answers
    from unprompt.store.places import Place


@dataclass(frozen=True)
class Run:
    """A finished run; in a notebook it shows its verdict.

    Attributes:
        folder: Where everything is.
        report: What `report.json` holds.
        unchanged: Nothing had to be done.
    """

    folder: Path
    report: Any
    unchanged: bool = False

    @property
    def grades(self) -> list[Grade]:
        """Every system's answer to every held-out example."""
        path = RunDir(self.folder).proven("grades.parquet")
        return read_grades(path) if path.is_file() else []

    @property
    def examples(self) -> Examples:
        """The held-out examples with every system's answer; `.to_pandas()` gives a table."""
        from unprompt.report import Examples, HeldOut

        rows = read_rows(RunDir(self.folder).proven("examples.parquet"))
        return Examples([HeldOut.from_row(row) for row in rows], self.grades)

    @staticmethod
    def open(folder: str | Path) -> Run:
        """A finished run, from its folder.

        Raises:
            UserError: There is none.
        """
        return Run(Path(folder), RunDir(folder).report(), unchanged=True)

    def _repr_html_(self) -> str:
        from unprompt import report

        return report.summary(self.report)

    def __repr__(self) -> str:
        return f"Run('{self.folder}', verdict: {self.report['verdict']['verdict']})"

    def lessons(self, round_: str = "after") -> list[Lesson]:
        """The transfer set of a round."""
        return read_lessons(RunDir(self.folder).round(round_).proven("lessons.parquet"))


@stoppable()
def run(recipe: Recipe, folder: str | Path | None = None) -> Run:
    """Put the recipe's prompt into the student's weights, and prove it.

    Of several processes (`torchrun`, `accelerate launch`) the first does everything, and the others
    join it in each training; all see the same files.

    Args:
        recipe: From `load`, or built in Python.
        folder: The run's folder; as `RunDir.of` says unless given. What is there from the same
            settings is used again.

    Raises:
        UserError: Something the user can mend; what was finished until then is kept.
    """
    files = RunDir.of(recipe, folder)
    trainer = recipe.train.trainer
    processes.meet(trainer.get("ddp_timeout", 1800), trainer.get("ddp_backend"))
    if processes.number():
        return _join(recipe, files)
    with processes.leading(), files.locked():
        join(recipe.modules, recipe.functions)
        everything = fingerprint(
            FORMAT, recipe.model_dump(mode="json"), sources.digests(recipe), str(files.folder)
        )
        folders = {files.round(name).folder: files.round(name) for name in recipe.plan}
        folders[files.folder] = files
        broken = [name for each in folders.values() for name in each.notes.mended()]
        done = files.finished("report", everything) and not broken
        done = done and all("train" in files.round(name).notes.read() for name in recipe.plan)
        if not done:
            files.finish(everything, _distil(recipe, files))
        _refuse_drift(recipe, files.report())
        return Run(files.folder, files.report(), unchanged=done)


def _distil(recipe: Recipe, files: RunDir) -> Iterable[Place]:
    """All stages of a run, one behind the other; what is there of one is not done again. Gives
    where the answers are.
    """
    from unprompt.report.write import write
    from unprompt.stages.evaluate import closeness, measured
    from unprompt.stages.evaluate.bars import Bars
    from unprompt.stages.lessons import transfer_set
    from unprompt.stages.train import student as training

    recipe, checked, weights, draws = _begun(recipe, files)
    prompts, plan = checked.prompts, checked.plan
    answers: dict[Ask, Answers] = {}

    def ask(asks: Iterable[Ask]) -> None:
        for each in asks:
            if each.question:
                answers[each] = weights.collect(each.title, each.question)

    read = partial(closeness.token_kl, weights, BASE)

    def lessons(round_: str) -> transfer_set.TransferSet:  # equation 2
        return transfer_set.of_round(recipe, prompts, files, round_, weights.collect, read)

    # what untrained weights teach comes ahead of all training: what can't be extracted is known
    # before time is spent
    at_once = [name for name in recipe.plan if not any(w.round for w in recipe.teachers_in(name))]
    ready = {name: lessons(name) for name in at_once}
    for name in recipe.plan:
        if name not in ready and recipe.teacher_of(name) == TEACHER:  # it replays a student
            transfer_set.taught(recipe, prompts, name, weights.collect, read)
    for who in (TEACHER, BASE):
        ask(plan.measured(who))
    transfers: dict[str, transfer_set.TransferSet] = {}
    trained: dict[str, dict[str, Any]] = {}
    for round_ in recipe.plan:  # equation 3
        transfer = transfers[round_] = ready.get(round_) or lessons(round_)
        decided = training.made_from(weights, round_, transfer.epochs)
        watch = closeness.watch(weights, prompts, answers, round_, decided)
        training.trained(weights, round_, transfer, watch, decided)  # equation 1
        watched = closeness.watched(decided)
        trained[round_] = training.facts(weights, round_, transfer, watched)
        ask(plan.measured(student(round_)))
    results = measured.measure(weights, prompts, answers)
    told = recipe, files, checked, draws, transfers, trained, answers

    def report(bars: dict[str, dict[str, Any]]) -> None:
        write(*told, replace(results, instructions=bars), weights.asked())

    _with_bars(files, Bars(weights, prompts, answers, results.kl), report)
    weights.forget_engines()
    return weights.stores


def _with_bars(files: RunDir, bars: Bars, report: Callable[[dict[str, Any]], None]) -> None:
    """Write the report, and once more with the instruction bars that are measured now."""
    report(bars.figures())
    if missing := bars.missing:
        say(
            f"the report is written, with its verdict: {files.folder}/report.html",
            f"now the bars of {len(missing)} instructions (report.instructions). To stop loses"
            " none that is measured",
        )
        try:
            bars.measure()
        finally:  # however that ended
            report(bars.figures())


def _begun(
    recipe: Recipe, files: RunDir, *, goes_on: bool = True
) -> tuple[Recipe, Checked, Weights, dict[str, drawn.Drawn]]:
    """The check ahead of a run, told to the terminal; and D, where a model writes it.

    Args:
        goes_on: There is more to come than D: what it costs is told, and which instructions D
            exercises is measured.
    """
    from unprompt.stages import check, coverage, drawn
    from unprompt.stages.prompts import rendered

    checked = check.check(recipe, estimate=goes_on)
    files.notes.write(report=None, pages=None)  # they are not of what is to come
    files.keep("recipe.yaml", recipe.to_yaml())
    if any(map(writes_date, checked.prompts.readers.tokenizers)):
        recipe = recipe.dated(files.first_day())
        files.keep("recipe.yaml", recipe.to_yaml())
        checked = check.check(recipe, estimate=goes_on)
    if goes_on:
        say(*checked.lines)
    say(*of_an_older_version(files.stores(recipe.store)))
    weights = Weights(recipe, files, checked.prompts.readers.student.tokenizer)
    recipe, draws = drawn.draw_inputs(weights, checked.prompts)
    if draws and goes_on:
        first, prompts = checked.prompts, rendered(recipe)
        recipe, draws = coverage.cover(weights, first, recipe, prompts, draws)
    return recipe, check.check(recipe, estimate=goes_on) if draws else checked, weights, draws


@stoppable()
def collect(
    recipe: Recipe, folder: str | Path | None = None, workers: Workers | None = None
) -> list[str]:
    """Ask the recipe's teacher all that its rounds learn from it, and stop there; `run` in the same
    folder goes on. Gives lines with counts. The answers need not fit into memory.

    Args:
        recipe: From `load`, or built in Python.
        folder: The run's folder; as `RunDir.of` says unless given.
        workers: Who asks, instead of this process.

    Raises:
        UserError: Something the user can mend; what was answered until then is kept.
    """
    files = RunDir.of(recipe, folder)
    if workers and recipe.teacher_model and recipe.teacher_model.server:
        raise UserError(
            "the teacher is a server, which one process asks as fast as it answers",
            where="--ray",
            fix="leave --ray out and raise teacher_model.server.concurrency",
        )
    with files.locked(), workers.joined() if workers else contextlib.nullcontext():
        join(recipe.modules, recipe.functions)

        from unprompt.stages.lessons import transfer_set

        recipe, checked, weights, _ = _begun(recipe, files)
        if workers:
            gpu = models.device(recipe.teacher_model or recipe.model).type == "cuda"
            weights.spread = lambda engine: workers.ask(engine, gpu=gpu)
        lines = []
        for ask in checked.plan.of("lessons", who=TEACHER):
            name = ask.context
            if recipe.contexts[name].filter:  # what is asked with the hint depends on the answers
                counts = transfer_set.kept(
                    recipe, checked.prompts, name, TEACHER, weights.collect, []
                )[2]
                named = ", ".join(f"{count} {what}" for what, count in counts.items())
                lines.append(f"{name}: {named}")
            elif ask.question:
                answers = weights.collect(ask.title, ask.question)
                lines.append(
                    f"{name}: {len(answers)} answers in {answers.store}, {answers.asked} of them"
                    " asked now"
                )
        return lines


@stoppable()
def inputs(recipe: Recipe, folder: str | Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Have the inputs written that the recipe wants of a model, and stop there; `run` in the same
    folder goes on. Gives each source's rows, by its place in the recipe.

    Args:
        recipe: From `load`, or built in Python.
        folder: The run's folder; as `RunDir.of` says unless given.

    Raises:
        UserError: Something the user can mend; what was written until then is kept.
    """
    files = RunDir.of(recipe, folder)
    with files.locked():
        join(recipe.modules, recipe.functions)
        draws = _begun(recipe, files, goes_on=False)[3]
        return {where: files.read(each.file) for where, each in draws.items()}


def _join(recipe: Recipe, files: RunDir) -> Run:
    """A run as every process but the first sees it."""
    join(recipe.modules, recipe.functions)
    weights = None
    for job in processes.jobs():
        from unprompt.stages.train import student as training

        weights = weights or Weights(recipe, files, models.load_tokenizer(recipe.model, "model"))
        training.together(weights, job["round"], job["made_from"], job["epochs"])
    return Run(files.folder, files.report(), unchanged=weights is None)


def _refuse_drift(recipe: Recipe, report: dict[str, Any]) -> None:
    """Fail the run if its last student drifted too far; everything is written by then.

    Raises:
        UserError: It did.
    """
    limit = recipe.drift.limit if recipe.drift else None
    if limit is None:
        return
    name, values = list(report["drift"].items())[-1]
    if values["mean"] > limit:
        raise UserError(
            f"the student of round '{name}' drifted by {values['mean']:.4f} nats per token on"
            f" unrelated inputs, over the limit of {limit:g}",
            where="drift.limit",
            fix="mix in replay, train less, or raise the limit; the student and the report are"
            " kept",
        )
