"""A run, from the recipe to the report, in the order it happens. Read this file first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import evaluate, inputs, models, rundir
from unprompt.progress import bar, say
from unprompt.recipe import Labels, Recipe, Sampling
from unprompt.records import Completion, Grade, Lesson

if TYPE_CHECKING:
    from unprompt.check import Checked, Side
    from unprompt.engines.hf import HFEngine
    from unprompt.lessons import Drops

FORMAT = 1
"""Version of the files in a run folder; part of every fingerprint."""
_EVALUATION_LABELS = Labels(kind="sampled", draws=100)
"""Labels that KL on held-out inputs is estimated from, whatever the lessons are made of."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where everything is.
        report: What `report.json` holds.
        unchanged: Nothing had to be done.
    """

    folder: Path
    report: dict[str, Any]
    unchanged: bool = False

    @property
    def grades(self) -> list[Grade]:
        """Every system's answer to every held-out example."""
        return rundir.read_grades(self.folder / "grades.parquet")

    @property
    def lessons(self) -> list[Lesson]:
        """The transfer set."""
        return rundir.read_lessons(self.folder / "lessons.parquet")


def run(recipe: Recipe, folder: str | Path | None = None) -> Run:
    """Put the recipe's prompt into the student's weights, and prove it.

    Args:
        recipe: From `load`, or built in Python.
        folder: The run's folder; `runs/<name>` unless given. What is there from the same settings is used again.

    Raises:
        UserError: Something the user can mend; what was finished until then is kept.
    """
    files = rundir.RunDir(folder or Path("runs") / recipe.name)
    with files.locked():
        everything = rundir.fingerprint(FORMAT, recipe.model_dump(mode="json"), _sources(recipe), str(files.folder))
        if files.finished("report", everything):
            return Run(files.folder, files.report(), unchanged=True)
        files.write_text("recipe.yaml", recipe.to_yaml())

        from unprompt import check

        checked = check.check(recipe)
        for line in checked.lines:
            say(line)
        work = _Work(recipe, files, checked)
        taught = {name: work.teach(name) for name in recipe.contexts}
        held = {name: work.answer_held_out(name, "teacher", "before") for name in recipe.contexts} if recipe.evaluate else {}
        lessons = [lesson for found, _ in taught.values() for lesson in found]
        training = work.train(lessons)
        for name in held:
            held[name] |= work.answer_held_out(name, "after", "after_teacher_prompt")
        grades = [grade for name, answers in held.items() for grade in work.grade(name, answers)]
        kl = {name: work.kl(name, answers["teacher"]) for name, answers in held.items()}
        report = work.report(taught, training, grades, kl)
        files.finish("report", everything)
        return Run(files.folder, report)


class _Work:
    """One run's stages. Each takes records and gives records; the weights are loaded once, when first needed."""

    def __init__(self, recipe: Recipe, files: rundir.RunDir, checked: Checked) -> None:
        self.recipe, self.files, self.checked = recipe, files, checked
        self._student: Any = None
        self._trained_from = ""
        self._engines: dict[str, HFEngine] = {}
        self._stores: dict[tuple[str, str], Path] = {}

    # -- weights ------------------------------------------------------------------------------------------------------

    @cached_property
    def _base(self) -> Any:
        say("loading the model")
        return models.load_weights(self.recipe.model, "model")

    def _engine(self, whose: str) -> HFEngine:
        """`teacher`, `base` or `student`, made when first asked for."""
        from unprompt.engines.hf import HFEngine

        if whose == "teacher" and not self.recipe.teacher_model:
            whose = "base"
        if whose not in self._engines:
            if whose == "teacher":
                assert self.recipe.teacher_model
                say("loading the teacher")
                tokenizer = models.load_tokenizer(self.recipe.teacher_model, "teacher_model")
                self._engines[whose] = HFEngine(models.load_weights(self.recipe.teacher_model, "teacher_model"), tokenizer)
            elif whose == "student":
                self._engines[whose] = HFEngine(self._load_student(), self.checked.tokenizer)
            else:
                shared = self._student if self._student is not None and self.recipe.train.adapter else self._base
                self._engines[whose] = HFEngine(shared, self.checked.tokenizer, adapter=False)
        return self._engines[whose]

    def _load_student(self) -> Any:
        if self._student is None:
            if self.recipe.train.adapter:
                from peft import PeftModel

                self._student = PeftModel.from_pretrained(self._base, str(self.files.student)).eval()
                self._engines.pop("base", None)  # its model now has an adapter to switch off
            else:
                trained = self.recipe.model.model_copy(update={"name": str(self.files.student.resolve()), "gguf": None, "revision": None})
                self._student = models.load_weights(trained, "student")
        return self._student

    def _weights(self, whose: str) -> list[str]:
        """What fixes these weights, for fingerprints."""
        model, key = self.recipe.model, "model"
        if whose == "teacher" and self.recipe.teacher_model:
            model, key = self.recipe.teacher_model, "teacher_model"
        found = [models.identity(model, key), str(models.dtype(model)), models.device(model).type]
        return [*found, self._trained_from] if whose == "student" else found

    # -- stages -------------------------------------------------------------------------------------------------------

    def _collect(self, title: str, whose: str, side: Side, sampling: Sampling, labels: Labels | None) -> tuple[list[Completion], Path]:
        from unprompt.collect import collect

        recipe = self.recipe
        key = rundir.fingerprint(FORMAT, title, self._weights(whose), sampling.model_dump(), _kept(labels), recipe.seed)
        store = self.files.completions / key
        with bar(title, len(side.prompts)) as progress:
            found = collect(
                lambda: self._engine(whose), side.prompts, side.lengths, store, sampling, labels,
                seed=recipe.seed, batch_size=recipe.batch_size, prefix_tokens=side.prefix, progress=progress,
            )  # fmt: skip
        return found, store

    def teach(self, name: str) -> tuple[list[Lesson], Drops]:
        """The teacher answers all inputs of a context; its answers become lessons."""
        from unprompt import lessons

        recipe, side = self.recipe, self.checked.teacher[name]
        completions, _ = self._collect(f"{name}: teacher answers", "teacher", side, recipe.sampling, recipe.labels)
        found, drops = lessons.build(
            self.checked.student[name].prompts, completions, self.checked.tokenizer, recipe.contexts[name].extract,
            end_token=recipe.lessons.end_token, where=f"contexts.{name}.extract", modules=recipe.modules,
        )  # fmt: skip
        lessons.refuse_too_many_failures(drops, len(completions), recipe.lessons.max_failed, name, completions)
        return found, drops

    def answer_held_out(self, name: str, *systems: str) -> dict[str, list[Completion]]:
        """The systems' answers to the held-out examples; the teacher's with labels, for KL."""
        found = {}
        for system in systems:
            whose, prompt = evaluate.SYSTEMS[system]
            side = (self.checked.held_teacher if prompt == "teacher" else self.checked.held_student)[name]
            if system == "after_teacher_prompt":
                over = self.checked.over_teachers_prompt[name]
                if over is None:
                    continue
                side = over
            labels = _EVALUATION_LABELS if system == "teacher" else None
            found[system], store = self._collect(f"{name}: {system} on held-out", whose, side, evaluate.sampling_of(self.recipe), labels)
            self._stores[name, system] = store
        return found

    def train(self, lessons: Sequence[Lesson]) -> dict[str, Any]:
        """Train the student on the lessons, unless just that was done before."""
        recipe, files = self.recipe, self.files
        rundir.write_lessons(files.folder / "lessons.parquet", lessons)
        digest = rundir.file_digest(files.folder / "lessons.parquet")
        self._trained_from = rundir.fingerprint(FORMAT, digest, recipe.train.model_dump(), recipe.seed, self._weights("base"))
        if not files.finished("train", self._trained_from):
            from unprompt import train

            base, self._student = self._base, None
            self._engines.clear()  # the teacher is not needed any more
            fresh = base if recipe.train.adapter else models.load_weights(recipe.model, "model")
            student = train.attach_adapter(fresh, recipe.train, recipe.seed)
            train.train(student, self.checked.tokenizer, lessons, recipe.train, files, seed=recipe.seed, made_from=self._trained_from)
            self._student = student
            files.finish("train", self._trained_from)
        log = json.loads((files.folder / "train_log.json").read_text())
        return {
            "lessons": len(lessons),
            "weighted_tokens": int(sum((lesson.weights != 0).sum() for lesson in lessons)),
            "steps": log["steps"],
            "first_loss": log["losses"][0]["loss"],
            "last_loss": log["losses"][-1]["loss"],
            "log": log["losses"],
        }

    def grade(self, name: str, answers: dict[str, list[Completion]]) -> list[Grade]:
        """What each system's answers are worth."""
        recipe, context = self.recipe, self.recipe.contexts[name]
        assert recipe.evaluate
        return [
            grade
            for system, completions in answers.items()
            for grade in evaluate.grade(system, name, context, self.checked.held_out, completions, recipe.evaluate, recipe.modules)
        ]

    def kl(self, name: str, completions: Sequence[Completion]) -> dict[str, list[float]]:
        """KL(teacher || before) and KL(teacher || after) of each held-out input, on what the teacher answered there."""
        from unprompt import lessons, train

        recipe = self.recipe
        found, _ = lessons.build(
            self.checked.held_student[name].prompts, completions, self.checked.tokenizer, recipe.contexts[name].extract,
            end_token=False, where=f"contexts.{name}.extract", modules=recipe.modules,
        )  # fmt: skip
        values: dict[str, list[float]] = {}
        for system, whose in (("before", "base"), ("after", "student")) if found else ():
            engine = self._engine(whose)
            with bar(f"{name}: KL of {system}", len(found)) as progress, engine.ready():
                values[system] = train.mean_kl(engine.model, self.checked.tokenizer, found, recipe.batch_size, progress)
        return values

    def report(
        self,
        taught: dict[str, tuple[list[Lesson], Drops]],
        training: dict[str, Any],
        grades: list[Grade],
        kl: dict[str, dict[str, list[float]]],
    ) -> dict[str, Any]:
        """Write report.json, report.md and the records behind them."""
        from unprompt import report
        from unprompt.collect import seconds_a_call

        checked, files = self.checked, self.files
        contexts = {
            name: {
                "inputs": len(checked.inputs[name]),
                "lessons": len(lessons),
                "failed_extractions": {"reasons": drops.reasons(), "examples": sorted(drops.failed)},
                "cut_at_limit": len(drops.cut_at_limit),
                "overlap": checked.overlap[name],
            }
            for name, (lessons, drops) in taught.items()
        }
        seconds = {name: {s: seconds_a_call(store) for (n, s), store in self._stores.items() if n == name} for name in contexts}
        found = report.numbers(
            self.recipe, contexts, grades, {name: values for name, values in kl.items() if values}, seconds, training, str(files.folder),
            encoder_decoder=checked.encoder_decoder,
        )  # fmt: skip
        if grades:
            rundir.write_grades(files.folder / "grades.parquet", grades)
        files.write_text("report.md", report.markdown(found))
        files.write_text("report.json", json.dumps(found, indent=1, ensure_ascii=False))
        return found


def _kept(labels: Labels | None) -> Any:
    """The label settings that matter for what is written."""
    if labels is None:
        return None
    return {"sampled": ["sampled", labels.draws], "top_k": ["top_k", labels.k], "hard": ["hard"]}[labels.kind]


def _sources(recipe: Recipe) -> list[str]:
    """Digests of everything outside the recipe that a run depends on: data files, models, user functions. No torch, no weights read."""
    found = [models.identity(recipe.model, "model")]
    if recipe.teacher_model:
        found.append(models.identity(recipe.teacher_model, "teacher_model"))
    named = [*(recipe.evaluate.metrics if recipe.evaluate else ()), *(context.extract.keep for context in recipe.contexts.values())]
    data = [(f"contexts.{name}.inputs", c.inputs) for name, c in recipe.contexts.items()]
    data += [(f"contexts.{name}.examples", c.examples) for name, c in recipe.contexts.items() if c.examples]
    data += [("evaluate.data", recipe.evaluate.data)] if recipe.evaluate else []
    for where, source in data:
        if source.file:
            path = inputs.local_path(source.file, where)
            found.append(rundir.file_digest(path) if path.is_file() else "missing")
        if source.rule:
            named.append(source.rule)
            paths = (Path(recipe.modules, value) for value in source.args.values() if isinstance(value, str) and value)
            found += [rundir.path_digest(path) for path in paths]
    found += [rundir.module_digest(name, recipe.modules) for name in named if ":" in name]
    return found
