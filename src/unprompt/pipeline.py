"""A run, from the recipe to the report, in the order it happens. Read this file first."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import metrics
from unprompt.engines import models
from unprompt.engines.tokens import common_prefix
from unprompt.messages import UserError, bar, say
from unprompt.recipe import Labels, Lessons, Recipe, Sampling, prices
from unprompt.recipe.names import local_path, search
from unprompt.records import Completion, Grade, Lesson, Prompt, TokenKL
from unprompt.stages import evaluate, inputs, processes
from unprompt.stages.prompts import Side, sample_ids, several
from unprompt.stages.questions import Question, of_an_older_version
from unprompt.stages.weights import Weights
from unprompt.store.answers import Answers
from unprompt.store.files import (
    FORMAT,
    file_digest,
    fingerprint,
    module_digest,
    path_digest,
    read_json,
    replacing,
)
from unprompt.store.folder import RunDir
from unprompt.store.tables import (
    read_grades,
    read_lessons,
    read_rows,
    write_grades,
    write_lessons,
    write_rows,
)

if TYPE_CHECKING:
    from unprompt.engines.vocabulary import Pair
    from unprompt.metrics.association import Association
    from unprompt.report import Examples
    from unprompt.report.cost import Spending, Usage
    from unprompt.report.schema import Report
    from unprompt.stages.check import Checked
    from unprompt.stages.cluster import Workers
    from unprompt.stages.evaluate.judge import Verdict
    from unprompt.stages.lessons.build import Drops
    from unprompt.stages.lessons.shots import Packed

_SYSTEMS = {"teacher": "teacher", "base": "before"}
"""Whose weights -> the built-in system that has them."""
_WATCHED = 32
"""Held-out inputs that are looked at while a student trains."""
_EVALUATION_LABELS = Labels(kind="sampled", draws=100)
"""Labels that KL on held-out inputs is estimated from, whatever the lessons are made of."""


@dataclass(frozen=True)
class Run:
    """A finished run; in a notebook it shows its verdict.

    Attributes:
        folder: Where everything is.
        report: What `report.json` holds (`unprompt.report.schema.Report`).
        unchanged: Nothing had to be done.
    """

    folder: Path
    report: Any
    unchanged: bool = False

    @property
    def grades(self) -> list[Grade]:
        """Every system's answer to every held-out example."""
        path = self.folder / "grades.parquet"
        return read_grades(path) if path.is_file() else []

    @property
    def examples(self) -> Examples:
        """The held-out examples with every system's answer; `.to_pandas()` gives a table."""
        from unprompt.report import Examples, HeldOut

        rows = read_rows(self.folder / "examples.parquet")
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

    def lessons(self, round_: str = "after") -> list[Lesson]:
        """The transfer set of a round."""
        return read_lessons(RunDir(self.folder).round(round_).folder / "lessons.parquet")


def run(recipe: Recipe, folder: str | Path | None = None) -> Run:
    """Put the recipe's prompt into the student's weights, and prove it.

    Of several processes (`torchrun`, `accelerate launch`) the first does everything, and the others
    join it in each training; all see the same files.

    Args:
        recipe: From `load`, or built in Python.
        folder: The run's folder; `runs/<name>` unless given. What is there from the same settings
            is used again.

    Raises:
        UserError: Something the user can mend; what was finished until then is kept.
    """
    files = RunDir(folder or Path("runs") / recipe.name)
    trainer = recipe.train.trainer
    processes.meet(trainer.get("ddp_timeout", 1800), trainer.get("ddp_backend"))
    if processes.number():
        return _join(recipe, files)
    with processes.leading(), files.locked():
        search(recipe.modules)
        everything = fingerprint(
            FORMAT, recipe.model_dump(mode="json"), _sources(recipe), str(files.folder)
        )
        if (
            files.finished("report", everything)
            and read_json(files.folder / "report.json")
            and all(files.round(name).student.exists() for name in recipe.plan)
        ):
            _refuse_drift(recipe, files.report())
            return Run(files.folder, files.report(), unchanged=True)
        files.write_text("recipe.yaml", recipe.to_yaml())

        from unprompt.stages import check

        checked = check.check(recipe)
        for line in [*checked.lines, *of_an_older_version(files.stores(recipe.store))]:
            say(line)
        work = _Work(recipe, files, checked)
        drawn = work.draw_inputs()
        work.ask_teachers()
        work.answer("teacher")
        work.answer("before")
        for name in recipe.plan:
            work.train(name)
            work.answer(name)
        work.answer_teachers_prompts()
        grades = work.grades()
        report = work.report(
            grades, work.kl(), work.association(), work.drift(), drawn, work.judge(grades)
        )
        work.weights.forget_engines()
        files.finish("report", everything)
        _refuse_drift(recipe, report)
        return Run(files.folder, report)


def collect(
    recipe: Recipe, folder: str | Path | None = None, workers: Workers | None = None
) -> list[str]:
    """Ask the recipe's teacher all that its rounds learn from it, and stop there; `run` in the same
    folder goes on. Gives lines with counts.

    Args:
        recipe: From `load`, or built in Python.
        folder: The run's folder; `runs/<name>` unless given.
        workers: Who asks, instead of this process.

    Raises:
        UserError: Something the user can mend; what was answered until then is kept.
    """
    files = RunDir(folder or Path("runs") / recipe.name)
    if workers and recipe.teacher_model and recipe.teacher_model.server:
        raise UserError(
            "the teacher is a server, which one process asks as fast as it answers",
            where="--ray",
            fix="leave --ray out and raise teacher_model.server.concurrency",
        )
    with files.locked(), workers.joined() if workers else contextlib.nullcontext():
        search(recipe.modules)
        files.write_text("recipe.yaml", recipe.to_yaml())

        from unprompt.stages import check

        checked = check.check(recipe)
        for line in [*checked.lines, *of_an_older_version(files.stores(recipe.store))]:
            say(line)
        work = _Work(recipe, files, checked)
        work.draw_inputs()
        return work.collect(workers)


def _join(recipe: Recipe, files: RunDir) -> Run:
    """A run as every process but the first sees it."""
    search(recipe.modules)
    weights = None
    for job in processes.jobs():
        weights = weights or Weights(recipe, files, models.load_tokenizer(recipe.model, "model"))
        _train(weights, job["round"], job["made_from"], job["variants"], None)
    return Run(files.folder, files.report(), unchanged=weights is None)


def _train(weights: Weights, round_: str, made_from: str, variants: int, watch: Any) -> None:
    """What all processes of a run do together: a round's student, from the lessons on disk."""
    from unprompt.stages import train
    from unprompt.store.stored import StoredLessons

    files, plan = weights.files.round(round_), weights.recipe.plan[round_]
    source = files.folder / "lessons.parquet"
    lessons = processes.from_first(lambda: StoredLessons.copied(source))
    if not lessons.path.is_file():
        fix = "put the run's folder (--out) on a disk that all machines share"
        raise UserError(
            "what the first process wrote is not here", where=str(lessons.path.resolve()), fix=fix
        )
    student = weights.to_train(round_)
    try:
        train.train(
            student,
            weights.tokenizer,
            lessons,
            plan.train,
            files,
            seed=weights.recipe.seed,
            made_from=made_from,
            variants=variants,
            watch=watch,
        )
    finally:
        if not processes.number():
            lessons.path.unlink(missing_ok=True)
    weights.take_off()  # what is graded is what was saved
    if processes.count() > 1:
        weights.forget()  # what was sharded can't be used by one process


def compare(folders: Sequence[Path], out: Path) -> Path:
    """Write one page of several finished runs.

    Raises:
        UserError: One is no finished run, or an older version made it.
    """
    from unprompt import report

    reports: dict[str, Any] = {}
    for folder in folders:
        found = Run.open(folder).report
        if found["schema"] != report.SCHEMA:
            raise UserError(
                f"report.json has schema {found['schema']}, this version writes {report.SCHEMA}",
                where=str(folder),
                fix="run its recipe again: only the report is made anew",
            )
        name = folder.resolve().name
        reports[name if name not in reports else str(folder)] = found
    if len(reports) < 2:
        raise UserError(
            "there is nothing to compare",
            where="unprompt compare",
            fix="give the folders of two runs or more",
        )
    with replacing(out) as partial:
        partial.write_text(report.compare(reports), "utf-8")
    return out


class _Work:
    """One run's stages. Each takes records and gives records."""

    def __init__(self, recipe: Recipe, files: RunDir, checked: Checked) -> None:
        self.recipe, self.files, self.checked = recipe, files, checked
        self.weights = Weights(recipe, files, checked.tokenizer)
        self._answers: dict[tuple[str, str], Answers] = {}
        self._behind_shots: dict[tuple[str, str, int, int], Answers] = {}
        self._scores: dict[tuple[str, str], dict[str, Sequence[Completion]]] = {}
        self._taught: dict[tuple[str, str, bool, float], tuple[int, Drops]] = {}
        """(context, whose answers, settings) -> how many lessons they made, and what was dropped.
        """
        self._built: dict[tuple[str, str, bool, float], list[Lesson]] = {}
        """The lessons, until a student trains."""
        self._packed: dict[str, dict[str, int]] = {}
        self._trained: dict[str, dict[str, Any]] = {}
        self._kl_left_out: dict[str, str] = {}
        self._called: dict[tuple[str, str], tuple[str, int]] = {}
        """(context, system) -> whose weights answer, and the prefix that its prompts share: for
        `cost`."""
        self._spent: dict[str, dict[str, list[Usage]]] = {}
        """Context -> whose answers -> the calls that collected them: for `cost`."""

    # -- asking ------------------------------------------------------------------------------------

    @property
    def _served(self) -> bool:
        """Whether the recipe's teacher is behind a server."""
        return bool(self.recipe.teacher_model and self.recipe.teacher_model.server)

    def _pair(self, whose: str) -> Pair | None:
        """How this teacher's tokens come to the student, if it is another model."""
        return self.checked.pair if whose == "teacher" else None

    def _spend(
        self,
        context: str,
        whose: str,
        side: Side,
        completions: Sequence[Completion],
        *,
        inputs: bool = False,
    ) -> None:
        """Note what collecting took, for `cost`."""
        from unprompt.report.cost import Usage

        sizes = [(c.prompt_tokens, len(c.token_ids)) for c in completions]
        usage = Usage(
            whose,
            len(sizes),
            sum(asked for asked, _ in sizes),
            sum(said for _, said in sizes),
            sum(side.prefix),
        )
        self._spent.setdefault(context, {}).setdefault("inputs" if inputs else whose, []).append(
            usage
        )

    def draw_inputs(self) -> dict[str, dict[str, int]]:
        """Sample the inputs that the recipe wants from the model; from here on they are read from
        files. Gives the counts of each source.
        """
        from unprompt.stages import check
        from unprompt.stages.inputs import draw

        recipe, files, counts = self.recipe, {}, {}
        for where, sample in draw.sources(recipe).items():
            context, seeds = (
                where.split(".")[1],
                inputs.load(sample.seeds, f"{where}.sample.seeds", recipe.modules),
            )
            held = [
                example for examples in self.checked.held_out.values() for example in examples
            ]  # other contexts may be proven on them
            sampling = Sampling(
                temperature=sample.temperature,
                top_p=sample.top_p,
                max_new_tokens=sample.max_new_tokens,
                stop=sample.stop,
            )
            parts = [
                FORMAT,
                where,
                self.weights.identity("teacher"),
                sample.model_dump(mode="json"),
                recipe.seed,
                [s.fields for s in seeds],
                [h.fields for h in held],
            ]
            target = self.files.folder / "inputs" / f"{fingerprint(*parts)}.json"
            counted = target.with_suffix(".counts.json")
            if (
                read_json(target) is None or read_json(counted) is None or recipe.cost
            ):  # what was drawn is in its store: for its cost it is only counted again

                def answer(
                    asked: list[Prompt],
                    title: str = f"{where}: draws",
                    sampling: Sampling = sampling,
                    context: str = context,
                ) -> Sequence[Completion]:
                    side = Side(asked, [len(str(p.content)) for p in asked], (0,))
                    found = self.weights.collect(title, Question("teacher", side, sampling))
                    self._spend(context, "teacher", side, found, inputs=True)
                    return found

                say(f"{where}: sampling {sample.count} inputs")
                rows, found = draw.draw(
                    sample, seeds, held, answer, recipe.batch_size or 32, recipe.seed, where
                )
                with replacing(counted) as partial:
                    partial.write_text(json.dumps(found))
                with replacing(target) as partial:
                    partial.write_text(json.dumps(rows, ensure_ascii=False, indent=0), "utf-8")
            files[where] = str(target.resolve())
            counts[where] = json.loads(counted.read_text())
            say(
                f"{where}: " + ", ".join(f"{count} {what}" for what, count in counts[where].items())
            )
        if not files:
            (self.files.folder / "resolved.yaml").unlink(missing_ok=True)
        else:
            self.recipe = draw.resolved(recipe, files)
            self.files.write_text("resolved.yaml", self.recipe.to_yaml())
            self.checked = check.check(self.recipe)
        return counts

    def collect(self, workers: Workers | None) -> list[str]:
        """All that `ask_teachers` asks, without reading the answers: they need not fit into
        memory.
        """
        recipe, found = self.recipe, []
        if workers:
            gpu = models.device(recipe.teacher_model or recipe.model).type == "cuda"
            self.weights.spread = lambda engine: workers.ask(engine, gpu=gpu)
        taught = [
            name
            for round_, plan in recipe.plan.items()
            if recipe.teacher_of(round_) is None
            for name in plan.contexts
        ]
        for name in (name for name in dict.fromkeys(taught) if name not in self.checked.gold):
            if recipe.contexts[
                name
            ].filter:  # what is asked with the hint depends on the answers without it
                told = self._ask(name, "teacher")[2]
                found.append(
                    f"{name}: " + ", ".join(f"{count} {what}" for what, count in told.items())
                )
                continue
            title, side = self._questions(name, "teacher")
            question = Question("teacher", side, recipe.sampling, recipe.labels)
            answers = self.weights.collect(title, question)
            found.append(
                f"{name}: {len(answers)} answers in {answers.store}, {answers.asked} of them asked"
                " now"
            )
        return found

    def ask_teachers(self) -> None:
        """Every round's lessons from the recipe's own teacher, ahead of all training: what can't be
        extracted is known before time is spent.
        """
        from unprompt.stages.lessons import shots

        for name, plan in self.recipe.plan.items():
            for context in plan.contexts if self.recipe.teacher_of(name) is None else ():
                found = self._teach(context, "teacher", plan.lessons)
                if plan.lessons.kind == "shots":
                    shots.refuse_too_few(
                        len({self._input_of(context)[x.example_id] for x in found}),
                        plan.lessons.n,
                        context,
                    )

    def lessons(self, round_: str) -> list[list[Lesson]]:
        """What a round's student is taught, of each epoch (one list, if all are the same): its
        contexts' lessons, and those replayed against forgetting.
        """
        from unprompt.stages import lessons

        plan = self.recipe.plan[round_]
        teacher = self.recipe.teacher_of(round_) or "teacher"
        found = [
            lesson for name in plan.contexts for lesson in self._teach(name, teacher, plan.lessons)
        ]
        epochs = [found]
        if plan.lessons.kind == "shots":
            packed = [
                self._pack(name, [lesson for lesson in found if lesson.context == name], round_)
                for name in plan.contexts
            ]
            epochs = [
                [lesson for part in parts for lesson in part]
                for parts in zip(*(p.epochs for p in packed), strict=True)
            ]
            told = {
                key: sum(getattr(p, key) for p in packed)
                for key in ("sequences", "short", "dropped")
            }
            self._packed[round_] = told
            if told["dropped"]:
                say(
                    f"round {round_}: {told['dropped']} shots dropped from the front of"
                    f" {told['short']} of {told['sequences']} sequences, which were over the window"
                    f" of {self.checked.window}"
                )
        if plan.replay:
            start = self.recipe.start_of(round_) or "base"
            others = [
                lesson
                for name in plan.replay.contexts
                for lesson in self._teach(name, start, plan.lessons)
            ]
            wanted = lessons.replay_size(len(found), plan.replay.share)
            if wanted > len(others):
                say(
                    f"round {round_}: {len(others)} lessons are replayed instead of {wanted};"
                    " extraction failed for the rest"
                )
            replayed = lessons.replayed(others, wanted, self.recipe.seed)
            epochs = [[*epoch, *replayed] for epoch in epochs]
        return epochs

    def _teach(self, name: str, whose: str, settings: Lessons) -> list[Lesson]:
        """A teacher answers all inputs of a context (or the gold answers are there); the answers
        become lessons, one each.
        """
        key = (name, whose, settings.end_token, settings.max_failed)
        if key in self._built:
            return self._built[key]
        from unprompt.recipe import Extract
        from unprompt.stages import lessons

        recipe, checked, context, told, pair = (
            self.recipe,
            self.checked,
            self.recipe.contexts[name],
            {},
            None,
        )
        if name in checked.gold:
            asked, rule = checked.student[name].prompts, Extract()
            completions = lessons.gold_completions(asked, checked.gold[name], checked.tokenizer)
        else:
            asked, completions, told = self._ask(name, whose)
            rule, pair = context.extract, self._pair(whose)
        found, drops = lessons.build(
            asked,
            pair.carried(completions) if pair else completions,
            checked.tokenizer,
            rule,
            end_token=settings.end_token,
            where=f"contexts.{name}.extract",
            modules=recipe.modules,
            **pair.anew() if pair else {},
        )
        lessons.refuse_too_many_failures(
            drops, len(completions), settings.max_failed, name, completions
        )
        if told:
            with_lesson = {self._input_of(name)[x.example_id] for x in found}
            drops.filtered = {
                **told,
                "inputs without a lesson": len(checked.inputs[name]) - len(with_lesson),
            }
            if key not in self._taught:
                say(
                    f"{name}: filtered answers of {whose}: "
                    + ", ".join(f"{count} {what}" for what, count in drops.filtered.items())
                )
        found = found if context.weight == 1 else lessons.weighted(found, context.weight)
        self._taught[key], self._built[key] = (len(found), drops), found
        return found

    def _ask(
        self, name: str, whose: str
    ) -> tuple[list[Prompt], Sequence[Completion], dict[str, int]]:
        """A teacher answers a context's inputs. Of the answers that its filter keeps: the student's
        prompts, the completions; and what was filtered. Inputs of which nothing is kept are asked
        again with the context's hint.
        """
        from unprompt.stages.lessons import rationales

        recipe, checked, context, count = (
            self.recipe,
            self.checked,
            self.recipe.contexts[name],
            self.recipe.sampling.per_input,
        )
        asked, rows = several(checked.student[name].prompts, count), checked.inputs[name]
        (title, side), first_time = (
            self._questions(name, whose),
            whose not in self._spent.get(name, {}),
        )
        completions: Sequence[Completion] = self.weights.collect(
            title, Question(whose, side, recipe.sampling, recipe.labels)
        )
        if first_time:
            self._spend(name, whose, side, completions)
        if context.filter is None:
            return asked, completions, {}
        completions = list(completions)
        first = rationales.judge(
            context.filter, context.extract, rows, completions, count, name, recipe.modules
        )
        final, hinted = list(first), None
        if context.hint:
            left = rationales.unkept(first, count)
            side = checked.hint[name].only(left, count)
            again = self.weights.collect(
                f"{title}, with the hint", Question(whose, side, recipe.sampling, recipe.labels)
            )
            if first_time:
                self._spend(name, whose, side, again)
            hinted = rationales.judge(
                context.filter,
                context.extract,
                [rows[n] for n in left],
                again,
                count,
                name,
                recipe.modules,
            )
            places = [n * count + k for n in left for k in range(count)]
            for place, completion, verdict in zip(places, again, hinted, strict=True):
                completions[place], final[place] = completion, verdict
        told = rationales.counts(context.filter, first, hinted)
        kept = [n for n, verdict in enumerate(final) if verdict == rationales.KEPT]
        rationales.refuse_nothing(len(kept), told, name)
        return [asked[n] for n in kept], [completions[n] for n in kept], told

    def _questions(self, name: str, whose: str) -> tuple[str, Side]:
        """What a teacher is asked of a context, and what that is called."""
        title = f"{name}: teacher answers" if whose == "teacher" else f"{name}: {whose} answers"
        return title, self.checked.teacher[name].only(
            range(len(self.checked.inputs[name])), self.recipe.sampling.per_input
        )

    def _input_of(self, name: str) -> dict[str, str]:
        """A lesson's id -> its input's; they differ where an input has several completions."""
        count = self.recipe.per_input(name)
        return {
            id_: row.id for row in self.checked.inputs[name] for id_ in sample_ids(row.id, count)
        }

    def _pack(self, name: str, found: Sequence[Lesson], round_: str) -> Packed:
        """A context's lessons, each behind others of them."""
        from unprompt.stages.lessons import shots

        checked, plan = self.checked, self.recipe.plan[round_]
        asked = several(checked.student[name].prompts, self.recipe.per_input(name))
        return shots.pack(
            found,
            {p.example_id: str(p.content) for p in asked},
            self._input_of(name),
            checked.tokenizer,
            plan.lessons,
            window=checked.window,
            epochs=math.ceil(plan.train.epochs),
            seed=self.recipe.seed,
        )

    def train(self, round_: str) -> None:
        """Train a round's student on its lessons, unless just that was done before."""
        recipe, files, plan = self.recipe, self.files.round(round_), self.recipe.plan[round_]
        start, facts = recipe.start_of(round_), self._write_lessons(round_)
        # while a student trains, its lessons are on disk; a further round builds its own from the
        # answers
        self._built.clear()
        variants = facts.pop("variants")
        digest = file_digest(files.folder / "lessons.parquet")
        several = [variants] if variants > 1 else []
        made_from = fingerprint(
            FORMAT,
            digest,
            plan.train.model_dump(),
            recipe.seed,
            self.weights.identity(start or "base"),
            *several,
        )
        self.weights.made_from[round_] = made_from
        if not files.trained(made_from):
            if round_ != "after":
                say(f"round {round_}: {facts['lessons']} lessons, from {start or 'the model'}")
            processes.say_to_others({"round": round_, "made_from": made_from, "variants": variants})
            _train(
                self.weights,
                round_,
                made_from,
                variants,
                self._watch(self._watched(made_from), plan.contexts),
            )
            files.finish("train", made_from)
        log = json.loads((files.folder / "train_log.json").read_text())
        self._trained[round_] = {
            "contexts": list(plan.contexts),
            "start": start or "base",
            "teacher": recipe.teacher_of(round_) or "base",
            **facts,
            "steps": log["steps"],
            "first_loss": log["losses"][0]["loss"],
            "last_loss": log["losses"][-1]["loss"],
            "log": log["losses"],
            **({"watch": watched} if (watched := read_json(self._watched(made_from))) else {}),
            **({"shots": self._packed[round_]} if round_ in self._packed else {}),
        }

    def _write_lessons(self, round_: str) -> dict[str, int]:
        """Write a round's lessons down; gives their counts, and of how many epochs they are."""
        epochs, contexts = self.lessons(round_), self.recipe.plan[round_].contexts
        write_lessons(
            self.files.round(round_).folder / "lessons.parquet",
            itertools.chain.from_iterable(epochs),
        )
        return {
            "variants": len(epochs),
            "lessons": len(epochs[0]),
            "replayed": sum(lesson.context not in contexts for lesson in epochs[0]),
            "weighted_tokens": round(
                sum((lesson.weights != 0).sum() for epoch in epochs for lesson in epoch)
                / len(epochs)
            ),
        }

    def _watched(self, made_from: str) -> Path:
        return self.files.folder / "kl" / f"{fingerprint('watch', made_from, _WATCHED)}.json"

    def _watch(self, path: Path, contexts: Sequence[str]) -> Any:
        """Looks at the held-out inputs of a round's contexts while it trains, as far as their
        teacher has answered by now.
        """
        from unprompt.stages.train.watch import Watch

        held = {
            name: self._held(name)[:_WATCHED]
            for name in contexts
            if (name, "teacher") in self._answers and self.recipe.report.watch
        }
        held = {name: lessons for name, lessons in held.items() if lessons}
        return (
            Watch(
                path,
                self.checked.tokenizer,
                held,
                self.recipe.report.watch,
                self.recipe.batch_size or 32,
            )
            if held
            else None
        )

    # -- proving -----------------------------------------------------------------------------------

    def answer(self, *systems: str) -> None:
        """The systems' answers to every evaluated context's held-out examples; a teacher that is a
        round's student answers once it is trained.
        """
        further = {
            name: system
            for name, system in self.recipe.systems.items()
            if _SYSTEMS.get(system.model, system.model) in systems
        }
        for name in self.checked.held_out:
            teacher = self.recipe.taught_by(name)[0] or "teacher"
            for extra in (extra for extra in further if (extra, name) in self.checked.systems):
                self._answer(name, extra, further[extra].model, self.checked.systems[extra, name])
            for system in systems:
                if system == "teacher":
                    if name in self.checked.held_teacher and teacher == "teacher":
                        self._answer(name, "teacher", teacher, self.checked.held_teacher[name])
                else:
                    self._answer(
                        name,
                        system,
                        "base" if system == "before" else system,
                        self.checked.held_student[name],
                    )
                    self._answer_behind_shots(
                        name, system, "base" if system == "before" else system
                    )
                    if system == teacher and name in self.checked.held_teacher:
                        self._answer(name, "teacher", teacher, self.checked.held_teacher[name])

    def answer_teachers_prompts(self) -> None:
        """The last student is asked with the long prompts it was to make needless."""
        last = list(self.recipe.plan)[-1]
        for name, side in self.checked.over_teachers_prompt.items():
            if side is not None and name in self.recipe.plan[last].contexts:
                self._answer(name, f"{last}_teacher_prompt", last, side)

    def _answer(self, name: str, system: str, whose: str, side: Side) -> None:
        evaluation = self.recipe.evaluation(name)
        assert evaluation
        self._called[name, system] = whose, sum(side.prefix)
        sampling = evaluate.sampling_of(self.recipe, evaluation)
        title = f"{name}: {system} on held-out"
        if evaluation.choices:
            self._scores[name, system] = {
                which: self.weights.collect(
                    f"{title}, {which}", Question(whose, side, sampling, given=given)
                )
                for which, given in (
                    self.checked.teacher_choices if whose == "teacher" else self.checked.choices
                )[name].items()
            }
            return
        pair = self._pair(whose)
        served = whose == "teacher" and self._served
        counted = (
            system == "teacher" and not (pair and pair.by == "text") and not served
        ) or metrics.need_labels(evaluation.metrics, "evaluate.metrics", self.recipe.modules)
        self._answers[name, system] = self.weights.collect(
            title, Question(whose, side, sampling, _EVALUATION_LABELS if counted else None)
        )

    def _answer_behind_shots(self, name: str, system: str, whose: str) -> None:
        """A student answers a context's held-out examples behind 0 to n shots; an answer ends where
        the next question would begin.
        """
        evaluation = self.recipe.evaluation(name)
        assert evaluation
        for (count, draw), side in self.checked.shots.get(name, {}).items():
            assert evaluation.shots
            sampling = evaluate.sampling_of(self.recipe, evaluation)
            sampling = sampling.model_copy(
                update={"stop": tuple(dict.fromkeys((*sampling.stop, evaluation.shots.separator)))}
            )
            counted = metrics.need_labels(
                evaluation.metrics, "evaluate.metrics", self.recipe.modules
            )
            labels = _EVALUATION_LABELS if counted else None
            self._behind_shots[name, system, count, draw] = self.weights.collect(
                f"{name}: {system}@{count}/{draw} on held-out",
                Question(whose, side, sampling, labels),
            )

    def grades(self) -> list[Grade]:
        """What each system's answers are worth."""
        recipe, checked, found = self.recipe, self.checked, []
        for name, rows in checked.held_out.items():
            evaluation = recipe.evaluation(name)
            assert evaluation
            behind: dict[tuple[str, str, int | None, int | None], Answers] = {
                (*key, None, None): answers for key, answers in self._answers.items()
            }
            behind |= self._behind_shots
            for (context, system, count, draw), completions in behind.items():
                if context == name:
                    found += evaluate.grade(
                        system,
                        name,
                        recipe.contexts[name].extract,
                        rows,
                        completions,
                        evaluation,
                        recipe.modules,
                        shots=count,
                        draw=draw,
                    )
            for (context, system), both in self._scores.items():
                if context == name:
                    found += evaluate.grade_choices(
                        system, name, rows, both["right"], both["wrong"], evaluation
                    )
        return found

    def kl(self) -> dict[str, dict[str, TokenKL]]:
        """Context -> `before` and each round -> KL(teacher || system) on what the teacher answered
        to each held-out input, token by token.
        """
        from unprompt.stages.train import kl

        checked, recipe = self.checked, self.recipe
        held = {
            name: self._held(name)
            for name in checked.held_out
            if (name, "teacher") in self._answers
        }
        values: dict[str, dict[str, TokenKL]] = {name: {} for name, found in held.items() if found}
        written = {
            name: [kl.pieces(checked.tokenizer, lesson) for lesson in held[name]] for name in values
        }
        for system, whose in (("before", "base"), *((name, name) for name in recipe.plan)):
            for name in values:
                nats = self._kl(f"{name}: KL of {system}", whose, held[name])
                values[name][system] = TokenKL(
                    [lesson.example_id for lesson in held[name]], written[name], nats
                )
        return values

    def _held(self, name: str) -> list[Lesson]:
        """What the teacher answered to a context's held-out inputs, behind the student's prompts;
        nothing, where its tokens are not the student's.
        """
        from unprompt.stages import lessons

        recipe, checked = self.recipe, self.checked
        pair = self._pair(recipe.taught_by(name)[0] or "teacher")
        if pair and self._served:
            self._kl_left_out[name] = "the teacher's server does not tell its whole distribution"
            return []
        if pair and pair.by == "text":
            self._kl_left_out[name] = (
                "teacher and student have different tokenizers, and tokens are counted in each"
                " one's own"
            )
            return []
        try:
            answers = (
                pair.carried(self._answers[name, "teacher"])
                if pair
                else self._answers[name, "teacher"]
            )
        except UserError as error:
            self._kl_left_out[name] = error.what
            return []
        return lessons.build(
            checked.held_student[name].prompts,
            answers,
            checked.tokenizer,
            recipe.contexts[name].extract,
            end_token=False,
            where=f"contexts.{name}.extract",
            modules=recipe.modules,
        )[0]

    def _kl(self, title: str, whose: str, lessons: Sequence[Lesson]) -> list[list[float]]:
        """KL from the lessons' labels to these weights, in nats, of each token of each lesson; kept
        in the run's folder.
        """
        from unprompt.stages.train import kl

        key = fingerprint(
            FORMAT,
            self.weights.identity(whose),
            [[x.input_ids, x.labels.ids.tolist(), x.labels.probs.tolist()] for x in lessons],
        )
        path = self.files.folder / "kl" / f"{key}.tokens.json"
        if (known := read_json(path)) is None:
            engine = self.weights.here(whose)
            with bar(title, len(lessons)) as progress, engine.ready():
                found = kl.token_kl(
                    engine.model, engine.tokenizer, lessons, self.recipe.batch_size or 32, progress
                )
            with replacing(path) as partial:
                partial.write_text(json.dumps(found))
            return found
        return known

    def instructions(self, kl: dict[str, dict[str, TokenKL]]) -> dict[str, dict[str, Any]]:
        """Context -> how much each instruction of the teacher's prompt matters to it, and how much
        of that the students have taken in.
        """
        from unprompt.stages import lessons
        from unprompt.stages.evaluate import instructions

        recipe, checked, found = self.recipe, self.checked, {}
        for name, systems in kl.items():
            items = (
                instructions.find(checked.held_teacher[name].prompts)
                if recipe.report.instructions
                else []
            )
            if not items:
                continue
            whose = recipe.taught_by(name)[0] or "teacher"
            bigger = recipe.teacher_model if whose == "teacher" else None
            tokenizer = (
                models.load_tokenizer(bigger, "teacher_model") if bigger else checked.tokenizer
            )
            place = {
                id_: n
                for n, id_ in enumerate(systems["before"].example_ids[: recipe.report.instructions])
            }
            asked = [
                n
                for n, prompt in enumerate(checked.held_teacher[name].prompts)
                if prompt.example_id in place
            ]
            answers = [self._answers[name, "teacher"][n] for n in asked]
            bars = []
            for number, item in enumerate(items, 1):
                built, _ = lessons.build(
                    [item.without[n] for n in asked],
                    answers,
                    tokenizer,
                    recipe.contexts[name].extract,
                    end_token=False,
                    where=f"contexts.{name}.extract",
                    modules=recipe.modules,
                )
                removed = self._kl(f"{name}: teacher without instruction {number}", whose, built)
                at = [place[lesson.example_id] for lesson in built]
                own = {system: [values.nats[n] for n in at] for system, values in systems.items()}
                bars.append(instructions.bar(item.text, removed, own.pop("before"), own))
            found[name] = {
                "examples": len(asked),
                "bars": sorted(bars, key=lambda each: -each["matters"]["mean"]),
            }
        return found

    def self_agreement(self) -> dict[str, dict[str, float]]:
        """Context -> how often two answers of the teacher to one held-out input, written as
        `sampling` says, are the same.
        """
        from unprompt.metrics.match import same
        from unprompt.metrics.statistics import interval

        recipe, checked, found = self.recipe, self.checked, {}
        for name, side in checked.held_teacher.items():
            rows, evaluation = (
                checked.held_out[name][: recipe.report.self_agreement],
                recipe.evaluation(name),
            )
            if not rows or (name, "teacher") not in self._answers:
                continue
            assert evaluation
            whose = recipe.taught_by(name)[0] or "teacher"
            answers = self.weights.collect(
                f"{name}: teacher against itself",
                Question(whose, side.only(range(len(rows)), 2), recipe.sampling),
            )
            rule = recipe.contexts[name].extract
            plain = evaluation.model_copy(update={"metrics": ()})
            first, second = (
                evaluate.grade("teacher", name, rule, rows, answers[k::2], plain, recipe.modules)
                for k in (0, 1)
            )
            values = [float(same(a, b)) for a, b in zip(first, second, strict=True)]
            found[name] = {
                **dict(zip(("mean", "low", "high"), interval(values), strict=True)),
                "examples": len(values),
            }
        return found

    def association(self) -> dict[str, Association]:
        """Every context's student prompt on every other's held-out examples, before and after each
        round (only of contexts named there).
        """
        from unprompt.metrics.association import association

        recipe, checked = self.recipe, self.checked
        chosen, found = recipe.association or (), {}
        for system in ("before", *recipe.plan) if chosen else ():
            values: dict[tuple[str, str], list[float]] = {}
            for asking in chosen:
                for given in chosen:
                    evaluation, rule = recipe.evaluation(given), recipe.contexts[asking].extract
                    assert evaluation
                    if asking == given:
                        answers = self._answers[given, system]
                    else:
                        whose = "base" if system == "before" else system
                        title = f"{asking}: {system} on examples of {given}"
                        side, sampling = (
                            checked.crossed[asking, given],
                            evaluate.sampling_of(recipe, evaluation),
                        )
                        answers = self.weights.collect(title, Question(whose, side, sampling))
                    graded = evaluate.grade(
                        system,
                        given,
                        rule,
                        checked.held_out[given],
                        answers,
                        evaluation,
                        recipe.modules,
                    )
                    values[asking, given] = [
                        grade.metrics[evaluation.metrics[0]] for grade in graded
                    ]
            found[system] = association(values, chosen)
        return found

    def drift(self) -> dict[str, list[float]]:
        """Each round -> KL(base || student) of each unrelated input, in nats per token of the base
        model's answer.
        """
        from unprompt.recipe import Extract
        from unprompt.stages import lessons

        settings, side = self.recipe.drift, self.checked.drift
        if settings is None or side is None:
            return {}
        sampling = Sampling(max_new_tokens=settings.max_new_tokens)
        answers = self.weights.collect(
            "drift: base answers", Question("base", side, sampling, _EVALUATION_LABELS)
        )
        found, drops = lessons.build(
            side.prompts, answers, self.checked.tokenizer, Extract(), end_token=True, where="drift"
        )
        if drops.failed:
            reasons = ", ".join(f"{count} {reason}" for reason, count in drops.reasons().items())
            say(f"drift: measured on {len(found)} of {len(answers)} inputs ({reasons})")
        if not found:
            raise UserError(
                "the base model answers none of these inputs",
                where="drift.inputs",
                fix="give other inputs, or another template",
            )
        return {
            name: [sum(own) / len(own) for own in self._kl(f"drift: KL of {name}", name, found)]
            for name in self.recipe.plan
        }

    def judge(self, grades: list[Grade]) -> list[Verdict]:
        """The judge's verdicts on the graded answers, and on how difficult the held-out examples
        are.
        """
        settings, reader = self.recipe.judge, self.checked.judge
        if settings is None or reader is None:
            return []
        from unprompt.stages.evaluate import judge

        if settings.model:
            self.weights.forget_engines()  # who answered is not needed now

        def ask(asked: list[Prompt], ids: list[list[int]]) -> Sequence[Completion]:
            prefix = 0 if reader.encoder_decoder else common_prefix(ids)
            side = Side(asked, [len(each) for each in ids], (prefix,))
            sampling = Sampling(temperature=0, max_new_tokens=settings.max_new_tokens)
            return self.weights.collect("judge", Question("judge", side, sampling))

        asked = {name: side.prompts for name, side in self.checked.held_student.items()}
        verdicts = judge.judge(self.recipe, self.checked.held_out, asked, grades, reader, ask)
        lines = [json.dumps(asdict(verdict), ensure_ascii=False) for verdict in verdicts]
        self.files.write_text("verdicts.jsonl", "".join(f"{line}\n" for line in lines))
        return verdicts

    def _spending(self, grades: list[Grade]) -> Spending | None:
        """What the report's section `cost` is made of."""
        from unprompt.report import cost

        if self.recipe.cost is None:
            return None
        seconds: dict[str, float | None] = {}
        for name in self.recipe.plan:
            path = self.files.round(name).folder / "train_seconds.json"
            seconds[name] = json.loads(path.read_text()) if path.is_file() else None
        called: dict[tuple[str, str], Usage] = {}
        for (context, system), (whose, shared) in self._called.items():
            own = [grade for grade in grades if (grade.context, grade.system) == (context, system)]
            prompt_tokens, completion_tokens = (
                sum(g.prompt_tokens for g in own),
                sum(g.completion_tokens for g in own),
            )
            called[context, system] = cost.Usage(
                whose, len(own), prompt_tokens, completion_tokens, shared
            )
        return cost.Spending(self.checked.prices, called, self._spent, seconds)

    def report(
        self,
        grades: list[Grade],
        kl: dict[str, dict[str, TokenKL]],
        associations: dict[str, Association],
        drift: dict[str, list[float]],
        drawn: dict[str, dict[str, int]],
        verdicts: list[Verdict],
    ) -> Report:
        """Write report.html, report.json, report.md, the model cards, and the records behind
        them.
        """
        from unprompt import report

        checked, files = self.checked, self.files
        contexts: dict[str, dict[str, Any]] = {}
        for name in self.recipe.contexts:
            contexts[name] = {}
            taught: dict[str, tuple[int, Drops]] = {}
            for (
                key,
                known,
            ) in (
                self._taught.items()
            ):  # rounds that build their lessons otherwise were taught by the same answers
                if key[0] == name:
                    taught.setdefault(key[1], known)
            if taught:
                drops = [drops for _, drops in taught.values()]
                contexts[name] = {
                    "inputs": len(checked.inputs[name]),
                    "taught_by": list(taught),
                    "lessons": sum(count for count, _ in taught.values()),
                    "failed_extractions": {
                        "reasons": dict(sum((Counter(d.reasons()) for d in drops), Counter[str]())),
                        "examples": sorted({id_ for d in drops for id_ in d.failed}),
                    },
                    "cut_at_limit": sum(len(d.cut_at_limit) for d in drops),
                    "filtered": {
                        whose: d.filtered for whose, (_, d) in taught.items() if d.filtered
                    },
                    "overlap": checked.overlap[name],
                    "drawn": {
                        where: found
                        for where, found in drawn.items()
                        if where.split(".")[1] == name
                    },
                }
        for name, reason in self._kl_left_out.items():
            contexts[name]["kl_left_out"] = reason
        seconds = {
            name: {s: each.seconds_a_call for (n, s), each in self._answers.items() if n == name}
            for name in contexts
        }
        found = report.numbers(
            report.Evidence(
                self.recipe,
                contexts,
                grades,
                kl,
                seconds,
                self._trained,
                str(files.round(list(self.recipe.plan)[-1]).folder),
                associations=associations,
                drift=drift,
                verdicts=verdicts,
                spending=self._spending(grades),
                servers=self.weights.asked(),
                instructions=self.instructions(kl),
                self_agreement=self.self_agreement(),
                encoder_decoder=checked.encoder_decoder,
            )
        )
        shown = [
            each
            for name, rows in checked.held_out.items()
            for each in report.held_out(
                name,
                rows,
                checked.held_student[name],
                checked.held_teacher.get(name),
                kl.get(name, {}),
            )
        ]
        write_rows(files.folder / "examples.parquet", [each.row() for each in shown])
        if grades:
            write_grades(files.folder / "grades.parquet", grades)
        files.write_text("report.json", json.dumps(found, indent=1, ensure_ascii=False))
        for name in self.recipe.plan:
            RunDir(files.round(name).student).write_text(
                "README.md", report.model_card(found, name)
            )
        files.write_text("report.md", report.markdown(found))
        files.write_text("report.html", report.page(found, shown, grades))
        return found


def _refuse_drift(recipe: Recipe, report: Any) -> None:
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
            fix=(
                "mix in replay, train less, or raise the limit; the student and the report are kept"
            ),
        )


def _sources(recipe: Recipe) -> list[str]:
    """Digests of everything outside the recipe that a run depends on: data files, models, user
    functions. No torch, no weights read.
    """
    found = [models.identity(recipe.model, "model")]
    if recipe.teacher_model:
        found.append(models.identity(recipe.teacher_model, "teacher_model"))
    if recipe.judge and recipe.judge.model:
        found.append(models.identity(recipe.judge.model, "judge.model"))
    if recipe.judge:
        from unprompt.stages.evaluate import judge

        found.append(file_digest(judge.OURS))
    if recipe.cost:
        tables = [
            prices.OURS,
            *([Path(recipe.cost.prices)] if recipe.cost.prices else []),
        ]
        found += [file_digest(path) if path.is_file() else "missing" for path in tables]
    evaluations = [
        evaluation for name in recipe.contexts if (evaluation := recipe.evaluation(name))
    ]
    named = [
        *(metric for evaluation in evaluations for metric in evaluation.metrics),
        *(
            rule.keep
            for evaluation in evaluations
            for rule in (evaluation.extract, evaluation.lenient)
            if rule
        ),
        *(context.extract.keep for context in recipe.contexts.values()),
        *(context.filter.metric for context in recipe.contexts.values() if context.filter),
        *(
            context.filter.extract.keep
            for context in recipe.contexts.values()
            if context.filter and context.filter.extract
        ),
    ]
    data = [
        source
        for context in recipe.contexts.values()
        for source in (context.inputs, context.examples and context.examples.pool)
        if source
    ]
    data += [
        source
        for evaluation in evaluations
        for source in (evaluation.data, evaluation.shots and evaluation.shots.pool)
        if source
    ]
    data += [recipe.drift.inputs] if recipe.drift else []
    while data:
        source = data.pop()
        data += [part.data for part in source.mix or ()] + (
            [source.sample.seeds] if source.sample else []
        )
        if source.file:
            path = local_path(source.file, "inputs")
            found.append(file_digest(path) if path.is_file() else "missing")
        if source.rule:
            named.append(source.rule)
            paths = (
                Path(recipe.modules, value)
                for value in source.args.values()
                if isinstance(value, str) and value
            )
            found += [path_digest(path) for path in paths]
    found += [module_digest(name, recipe.modules) for name in named if ":" in name]
    return found
