"""The whole recipe, and what follows from it."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, field_validator, model_validator

from unprompt.recipe import library, rules
from unprompt.recipe.contexts import Context
from unprompt.recipe.measuring import Cost, Drift, Evaluate, Judge, Report, System, Tune
from unprompt.recipe.models import Model
from unprompt.recipe.section import PathText, Section, sections
from unprompt.recipe.sources import Data, FromPrompt, Sample
from unprompt.recipe.training import Labels, Lessons, Round, Sampling, Train
from unprompt.records import BASE, TEACHER, Who, student


class Recipe(Section):
    """All a run needs to know."""

    name: str = "run"
    """Name of the run; names its folder. That of the recipe's file unless given; a recipe made in
    Python without one gets a folder by its models and contexts (`runs/run-1a2b3c4d`)."""
    model: Model
    """The student's weights, and the teacher's unless `teacher_model` is given."""
    teacher_model: Model | None = None
    """A bigger teacher: of the student's family, or of any other with `labels.kind: hard`."""
    contexts: Annotated[dict[str, Context], Field(min_length=1)]
    """What is distilled, by name."""
    sampling: Sampling = Sampling()
    """How the teacher writes."""
    labels: Labels = Labels()
    """How soft labels are kept. Unless given, 100 draws; of a teacher behind a server, which sends
    neither draws nor all probabilities, its 20 most probable tokens (`top_k`) if `server.tokenizer`
    is named, else `hard`."""
    lessons: Lessons = Lessons()
    """How completions become lessons."""
    train: Train = Train()
    """How the student is trained."""
    rounds: dict[str, Round] = Field(default_factory=dict)
    """Trainings in order, by name; unless given there is one, named `after`, of every context that
    has something to teach."""
    evaluate: Evaluate | None = None
    """How it is proven; without it there is no table."""
    systems: dict[str, System] = Field(default_factory=dict)
    """Further systems in the tables, by name."""
    drift: Drift | None = None
    """What must not change."""
    association: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Contexts whose student prompts are asked with each other's held-out examples (Snell et al.
    2022, hypothesis 3): on its own examples a prompt should be right (correct association), on
    another context's it should not do that context's task (wrong association)."""
    margins: Annotated[dict[str, tuple[str, str]], Field(min_length=4)] | None = None
    """Task -> two contexts, with and without something in the teacher's prompt: does what it brings
    to the teacher come to the student (hypothesis 2)?"""
    tune: Tune | None = None
    """What `unprompt tune` chooses; a run pays no heed to it."""
    judge: Judge | None = None
    """A language model that rates the graded answers."""
    cost: Cost | None = None
    """Dollars a call, and the break-even."""
    report: Report = Report()
    """The verdict's margin, and what is measured for the report alone."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Prompts answered at once. Unless given, as many as fit into memory, up to where more are no
    faster."""
    store: PathText | None = None
    """Where completions are kept: a folder, or an address that fsspec reads (`s3://bucket/folder`,
    `gs://...`), which many machines and runs may share; `completions` in the run's folder unless
    given. Keys of its own a store finds in the environment."""
    modules: Annotated[PathText, Field(validate_default=True)] = "."
    """Folder searched for `package.module:function` names, after the installed modules; the
    recipe's own folder unless given."""

    @field_validator("name")
    @classmethod
    def _in_its_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[^\W_][^/\\\x00-\x1f]{0,99}", name):
            raise ValueError(
                f"'{name[:40]}' can't name a folder -> begin with a letter or a number, at most 100"
                " of them, without slashes"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _rounds_differ(cls, data: Any) -> Any:
        """A round's `train` and `lessons` say only what differs."""
        if not (isinstance(data, dict) and isinstance(data.get("rounds"), dict)):
            return data
        rounds = dict(data["rounds"])
        for key in ("train", "lessons"):
            common = data.get(key) or {}
            for name, round_ in rounds.items() if isinstance(common, dict) else ():
                if isinstance(round_, dict) and isinstance(round_.get(key) or {}, dict):
                    rounds[name] = {**round_, key: {**common, **(round_.get(key) or {})}}
        return {**data, "rounds": rounds}

    @model_validator(mode="before")
    @classmethod
    def _library(cls, data: Any) -> Any:
        """What contexts take from the prompt library, written out."""
        return library.merged(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        for rule in rules.RULES:
            rule(self)
        return self

    @model_validator(mode="after")
    def _labels_of_a_server(self) -> Self:
        server = self.teacher_model and self.teacher_model.server
        given = {"kind", "draws", "tail"} & self.labels.model_fields_set
        if server and self.asks_teacher and not given:
            most = {"kind": "top_k", "k": self.labels.k or 20}
            known = most if server.tokenizer else {"kind": "hard"}
            object.__setattr__(self, "labels", self.labels.model_copy(update=known))
        return self

    @property
    def models(self) -> dict[str, Model]:
        """The models it names, by their keys."""
        named = {
            "model": self.model,
            "teacher_model": self.teacher_model,
            "judge.model": self.judge.model if self.judge else None,
            **dict([self.writer] if self.writer else []),
        }
        return {where: model for where, model in named.items() if model}

    @property
    def drawn(self) -> dict[str, Sample | FromPrompt]:
        """Every source of the contexts' inputs that a model writes, by its key; those inside
        mixtures, too.
        """
        return {
            where: data.written
            for name, context in self.contexts.items()
            if context.inputs
            for where, data in context.inputs.parts(f"contexts.{name}.inputs")
            if data.written
        }

    @property
    def covered(self) -> dict[str, FromPrompt]:
        """Sources whose inputs are measured for coverage, by their keys; one of each context."""
        found: dict[str, tuple[str, FromPrompt]] = {}
        for where, source in self.drawn.items():
            if isinstance(source, FromPrompt) and source.covered:
                found.setdefault(where.split(".")[1], (where, source))
        return dict(found.values())

    @property
    def writer(self) -> tuple[str, Model] | None:
        """Who writes inputs from prompts, with the key that names it; None: the teacher."""
        for where, source in self.drawn.items():
            if isinstance(source, FromPrompt) and source.writer:
                return f"{where}.from_prompt.writer", source.writer
        return None

    @property
    def functions(self) -> list[str]:
        """Every `package.module:function` it names: metrics, extractions, rules."""
        named: list[Any] = []
        for each in sections(self):
            fields = dict(each)
            named += [fields.get(key) for key in ("metric", "keep", "rule")]
            named += fields.get("metrics") or ()
        return sorted({name for name in named if name and ":" in name})

    def dated(self, day: date) -> Self:
        """The same, with `day` for today in the chat templates of all models that name no date."""
        update: dict[str, Any] = {"model": self.model.dated(day)}
        if self.teacher_model:
            update["teacher_model"] = self.teacher_model.dated(day)
        if self.judge and self.judge.model:
            judged = {"model": self.judge.model.dated(day)}
            update["judge"] = self.judge.model_copy(update=judged)
        if self.writer:
            update["contexts"] = {
                name: context.model_copy(update={"inputs": context.inputs.dated(day)})
                if context.inputs
                else context
                for name, context in self.contexts.items()
            }
        return self.model_copy(update=update)

    @property
    def asks_teacher(self) -> bool:
        """Whether the recipe's teacher, not only rounds' students, gives the answers to some
        context's prompts.
        """
        return any(
            context.teacher and TEACHER in self.taught_by(name)
            for name, context in self.contexts.items()
        )

    @property
    def plan(self) -> dict[str, Round]:
        """The rounds, in order."""
        taught = tuple(name for name, context in self.contexts.items() if context.teaches)
        only = Round.model_construct(contexts=taught, train=self.train, lessons=self.lessons)
        return self.rounds or {"after": only}

    def served(self, context: str) -> dict[str, Any]:
        """Variables of the chat template in the student's prompts of a context."""
        student = self.contexts[context].student
        return {**self.model.chat_template, **student.chat_template} if student.messages else {}

    def served_with(self, round_: str) -> list[dict[str, Any]]:
        """The same of all contexts that a round learns; one, where they don't differ."""
        found: list[dict[str, Any]] = []
        for context in self.plan[round_].learned:
            if (given := self.served(context)) not in found:
                found.append(given)
        return found

    @property
    def used(self) -> set[str]:
        """Contexts whose lessons some round learns."""
        return {name for round_ in self.plan.values() for name in round_.learned}

    def per_input(self, context: str) -> int:
        """Lessons that an input of a context can give: one of a gold answer, else one of each
        completion.
        """
        return 1 if self.contexts[context].gold is not None else self.sampling.per_input

    def start_of(self, name: str) -> Who:
        """Whose weights a round's student starts from: `BASE`, or an earlier round's."""
        return self._earlier(name, self.plan[name].start, BASE)

    def teacher_of(self, name: str) -> Who:
        """Who teaches in a round: `TEACHER`, or an earlier round's student."""
        return self._earlier(name, self.plan[name].teacher, TEACHER)

    def teachers_in(self, name: str) -> list[Who]:
        """Whose answers a round's student learns: its teacher's, and those replayed, of the weights
        that it starts from.
        """
        replayed = [self.start_of(name)] if self.plan[name].replay else []
        return [self.teacher_of(name), *replayed]

    def taught_by(self, context: str) -> list[Who]:
        """Whose answers a context's teacher prompts get, the first teacher first."""
        rounds = [name for name, round_ in self.plan.items() if context in round_.contexts]
        return list(dict.fromkeys(map(self.teacher_of, rounds))) or [TEACHER]

    def replayed_by(self, context: str) -> list[Who]:
        """Whose answers stand for a context where it is replayed."""
        return [
            self.start_of(name)
            for name, round_ in self.plan.items()
            if round_.replay and context in round_.replay.contexts
        ]

    def _earlier(self, name: str, said: str, first: Who) -> Who:
        names = list(self.plan)
        before = names[: names.index(name)]
        if said == "previous":
            return student(before[-1]) if before else first
        return first if said == "base" else student(said)

    @property
    def judged(self) -> tuple[str, ...]:
        """Contexts whose answers the judge rates."""
        if self.judge is None:
            return ()
        evaluations = {name: self.evaluation(name) for name in self.contexts}
        written = (name for name, how in evaluations.items() if how and not how.choices)
        return self.judge.contexts or tuple(written)

    def evaluation(self, context: str) -> Evaluate | None:
        """How a context is evaluated; None: not at all."""
        how = self.contexts[context].evaluate
        return how if isinstance(how, Evaluate) else self.evaluate if how else None

    def sampling_of(self, evaluation: Evaluate | None) -> Sampling:
        """How graded answers are written; what the evaluation leaves open is as in `sampling`."""
        settings = evaluation.settings if evaluation else {}
        return self.sampling.model_copy(update={**settings, "per_input": 1})

    def held_out_from(self, context: str) -> tuple[Data, str] | None:
        """Where a context's held-out examples come from, and its key in the recipe; None if it is
        not evaluated. With `hold_out` they are a share of its inputs.
        """
        evaluation = self.evaluation(context)
        if evaluation is None:
            return None
        if evaluation.data:
            return evaluation.data, f"{self.evaluated_at(context)}.data"
        inputs = self.contexts[context].inputs
        assert inputs  # `held_out_inputs_are_there` sees to it
        return inputs, f"contexts.{context}.inputs"

    def evaluated_at(self, context: str) -> str:
        """Key of the section that says how a context is evaluated, for messages."""
        own = isinstance(self.contexts[context].evaluate, Evaluate)
        return f"contexts.{context}.evaluate" if own else "evaluate"

    def system_who(self, name: str) -> Who:
        """Whose weights one of `systems` has."""
        model = self.systems[name].model
        return {"teacher": TEACHER, "base": BASE}.get(model) or student(model)

    def systems_contexts(self, name: str) -> list[str]:
        """Where one of `systems` is measured."""
        return [
            each for each in self.systems[name].contexts or self.contexts if self.evaluation(each)
        ]

    def to_yaml(self) -> str:
        """The resolved recipe, every field written out; `load` reads it back."""
        words = self.model_dump(mode="json", by_alias=True)
        return as_yaml(words)


def as_yaml(words: Any) -> str:
    """Plain values as YAML, keys in their order; by libyaml where PyYAML has it, which is four
    times as fast and writes the same.
    """
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(words, Dumper=dumper, sort_keys=False, allow_unicode=True, width=110)
