"""`unprompt tune RECIPE`: which sampling settings and which variant of a prompt answer an
evaluation split best.

Shirgaonkar et al. 2024: the choice of settings (equation 3) and of the prompt (equation 5). A
combination's score is the mean of one metric; of equal ones the one with fewer prompt tokens is
chosen, then the one that stands first. What was answered is kept (`collect.py`), and so is every
trial (Optuna's journal): a search that was killed goes on where it was and ends with the same
choice. Everything lies in `tune/` of the run's folder.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import metrics
from unprompt.messages import UserError, say
from unprompt.metrics.statistics import by_group, interval
from unprompt.recipe import Context, Data, Evaluate, Lessons, Recipe, Sampling, Template, Writing
from unprompt.recipe.names import search
from unprompt.records import BASE, TEACHER, Example, Who
from unprompt.stages import evaluate, inputs
from unprompt.stages.prompts import Prompts, Side, plain, rendered
from unprompt.stages.questions import Question
from unprompt.stages.templates.render import render
from unprompt.stages.weights import Weights
from unprompt.store.files import fingerprint, module_digest, writing
from unprompt.store.folder import RunDir

if TYPE_CHECKING:
    import optuna

SCHEMA = 1
"""Version of `tune.json` and of the trials kept."""
_STARTUP = 5
"""Trials at random before the TPE sampler models what it saw."""
_REPEATS = 10
"""Times in a row that the sampler may pick what was tried; then one that was not is drawn."""

Combination = tuple[str, ...]
"""The variant's name, then each setting's value as JSON, in the recipe's order."""


@dataclass(frozen=True)
class Tuned:
    """A finished search.

    Attributes:
        folder: Where `chosen.yaml` and `tune.json` lie.
        report: What `tune.json` holds.
    """

    folder: Path
    report: dict[str, Any]


def tune(recipe: Recipe, folder: str | Path | None = None) -> Tuned:
    """Try combinations on the evaluation split, and write the recipe with the best one.

    Args:
        recipe: With a `tune` section.
        folder: The run's folder; `runs/<name>` unless given.

    Raises:
        UserError: Something the user can mend; trials that are finished are kept.
    """
    search = _Search(recipe, RunDir(Path(folder or Path("runs") / recipe.name) / "tune"))
    optuna = _optuna()
    with search.files.locked():
        for line in search.lines:
            say(line)
        study = _study(optuna, search)
        _run(optuna, study, search)
        tried = list(_tried(study, search).items())
        report = search.report(tried if search.grid else tried[: search.trials])
        best = report["chosen"]
        chosen = search.chosen((best["variant"], *map(json.dumps, best["settings"].values())))
        search.files.write_text(
            "chosen.yaml",
            f"# Chosen by `unprompt tune` on {report['examples']} examples; see"
            f" tune.json.\n{chosen.to_yaml()}",
        )
        search.files.write_text("tune.json", json.dumps(report, indent=1, ensure_ascii=False))
    return Tuned(search.files.folder, report)


class _Search:
    """What is searched, checked before anything is asked."""

    def __init__(self, recipe: Recipe, files: RunDir) -> None:
        if recipe.tune is None:
            raise UserError(
                "the recipe does not say what to tune",
                where="tune",
                fix="add tune: {context: ..., data: ..., settings: {...}}",
            )
        self.recipe, self.files, self.wanted = recipe, files, recipe.tune
        self.context = recipe.contexts[self.wanted.context]
        self.variants: dict[str, Template | None] = self.wanted.variants or {"own": None}
        self.space = {"variant": list(self.variants)}
        self.space |= {
            key: [json.dumps(value) for value in values]
            for key, values in self.wanted.settings.items()
        }
        self.combinations: list[Combination] = list(itertools.product(*self.space.values()))
        self.trials = min(self.wanted.trials or len(self.combinations), len(self.combinations))
        self.rows = self._split()
        self.evaluation = self._evaluation()
        evaluate.check(self.evaluation, self.rows, "tune", recipe.modules)
        self.prompts = {name: self._rendered(name) for name in self.variants}
        first = next(iter(self.prompts.values()))
        self._weights = Weights(recipe, files, first.readers.student.tokenizer)
        self.lines = [
            f"tune: {self.trials} of {len(self.combinations)} combinations, each on"
            f" {len(self.rows)} examples ({'all of them' if self.grid else 'picked by TPE'}), by"
            f" {self.wanted.metric}"
        ]

    @property
    def grid(self) -> bool:
        """Whether every combination is tried."""
        return self.trials == len(self.combinations)

    def _split(self) -> list[Example]:
        """The evaluation split: with gold answers, and not what the recipe holds out."""
        recipe, wanted = self.recipe, self.wanted
        search(recipe.modules)
        if any(source.sample for source in _sources(wanted.data)):
            raise UserError(
                "inputs that a model writes have no gold answers",
                where="tune.data",
                fix="give data with gold answers",
            )
        metric = metrics.find(wanted.metric, "tune.metric", recipe.modules)
        if metric.needs_labels:
            raise UserError(
                f"'{wanted.metric}' does not say how good an answer is",
                where="tune.metric",
                fix="choose another metric",
            )
        rows = inputs.load(wanted.data, "tune.data", recipe.modules)
        lacking = next((row for row in rows if row.target is None), None)
        if lacking is not None and metric.needs_gold:
            raise UserError(
                f"example '{lacking.id}' has no gold answer in field '{wanted.data.target}'",
                where="tune.data.target",
                fix=f"name the field that holds it (the data has: {', '.join(lacking.fields)})",
            )
        own = {self._shown(row): row.id for row in rows}
        for name in recipe.contexts:
            evaluation = recipe.evaluation(name)
            if evaluation is None:
                continue
            files = {source.file for source in _sources(wanted.data)} & {
                source.file for source in _sources(evaluation.data)
            } - {None}
            held = {
                self._shown(row)
                for row in inputs.load(
                    evaluation.data, f"evaluate.data of context {name}", recipe.modules
                )
            } - {None}
            both = [id_ for shown, id_ in own.items() if shown in held]
            if files or both:
                what = (
                    f"the file {files.pop()} is"
                    if files
                    else f"{len(both)} of its examples (as '{both[0]}') are"
                )
                raise UserError(
                    f"{what} what context '{name}' is proven on: settings chosen on the test split"
                    " flatter the result",
                    where="tune.data",
                    fix="tune on another split",
                )
        return rows

    def _shown(self, row: Example) -> str | None:
        """A row as the student's prompt shows it, letter case and blanks aside; None if it lacks
        the fields, and so can't be one of ours.
        """
        pool = [{}] if self.context.examples else None
        try:
            return plain(render(self.context.student, "", row, pool, ""))
        except UserError:
            return None

    def _evaluation(self) -> Evaluate:
        """As the context is evaluated, but on the evaluation split, by the one metric."""
        known = self.recipe.evaluation(self.wanted.context)
        own: dict[str, Any] = {"data": self.wanted.data, "metrics": (self.wanted.metric,)}
        own |= dict.fromkeys(("choices", "lenient", "shots"))
        return (
            known.model_copy(update=own)
            if known
            else Evaluate(data=self.wanted.data, metrics=(self.wanted.metric,))
        )

    def _rendered(self, variant: str) -> Prompts:
        """A variant's prompts, against the model's window at the longest answer tried."""
        sampled = [self.sampling(combination) for combination in self.combinations]
        longest = max(sampling.max_new_tokens for sampling in sampled)
        context = self._with(variant).model_copy(
            update={
                "inputs": None,
                "filter": None,
                "hint": None,
                "evaluate": self.evaluation.model_copy(update={"max_new_tokens": longest}),
            }
        )
        others: dict[str, Any] = {"rounds": {}, "systems": {}, "lessons": Lessons()}
        others |= dict.fromkeys(
            ("association", "margins", "drift", "judge", "cost", "tune", "evaluate")
        )
        found = self.recipe.model_copy(
            update={**others, "contexts": {self.wanted.context: context}}
        )
        return rendered(found)

    def _with(self, variant: str) -> Context:
        template = self.variants[variant]
        return (
            self.context
            if template is None
            else self.context.model_copy(update={self.wanted.who: template})
        )

    def settings(self, combination: Combination) -> dict[str, Any]:
        """Setting -> value."""
        return {
            key: json.loads(value)
            for key, value in zip(self.wanted.settings, combination[1:], strict=True)
        }

    def sampling(self, combination: Combination) -> Sampling:
        """How the answers of a combination are written."""
        said = {key.partition(".")[2]: value for key, value in self.settings(combination).items()}
        known = self.recipe.sampling_of(self.evaluation if self.wanted.who == "student" else None)
        found = Sampling.model_validate({**known.settings, **said})
        return (
            found if found.temperature else found.model_copy(update={"top_p": 1.0})
        )  # greedy is greedy: not asked twice

    def identity(self) -> str:
        """Changes when a trial's result may: weights, prompts, gold answers, metric, settings; not
        how many trials there are.
        """
        sides = {name: self._side(prompts) for name, prompts in self.prompts.items()}
        shown = {
            name: [(p.example_id, p.content, p.others) for p in side.prompts]
            for name, side in sides.items()
        }
        functions = [
            module_digest(name, self.recipe.modules)
            for name in (self.wanted.metric, _keep(self))
            if ":" in name
        ]
        sampled = [self.sampling(combination).model_dump() for combination in self.combinations]
        gold = [[row.target, row.fields] for row in self.rows]
        reading = [
            self.context.extract.model_dump(),
            self.evaluation.model_dump(mode="json", exclude={"data"}),
        ]
        return fingerprint(
            SCHEMA,
            self._weights.identity(self._who),
            shown,
            functions,
            self.space,
            sampled,
            gold,
            reading,
            self.recipe.seed,
            self.wanted.who,
        )

    @property
    def _who(self) -> Who:
        return TEACHER if self.wanted.who == "teacher" else BASE

    def _side(self, prompts: Prompts) -> Side:
        side = prompts.side(self.wanted.context, self.wanted.who, held_out=True)
        assert side
        return side

    def answer(self, combination: Combination) -> dict[str, Any]:
        """Ask and grade one combination."""
        side, name, wanted = (
            self._side(self.prompts[combination[0]]),
            self.wanted.context,
            self.wanted,
        )
        completions = self._weights.collect(
            f"tune {name}", Question(self._who, side, self.sampling(combination))
        )
        graded = evaluate.grade(
            wanted.who,
            name,
            self.context.extract,
            self.rows,
            completions,
            self.evaluation,
            self.recipe.modules,
        )
        values = [grade.metrics[wanted.metric] for grade in graded]
        mean, low, high = interval(by_group(values, [grade.group for grade in graded]))
        said = "".join(f", {key} {value!r}" for key, value in self.settings(combination).items())
        say(f"{combination[0]}{said}: {wanted.metric} {mean:.4f}")
        return {
            "mean": mean,
            "low": low,
            "high": high,
            "prompt_tokens": sum(grade.prompt_tokens for grade in graded) / len(graded),
            "completion_tokens": sum(grade.completion_tokens for grade in graded) / len(graded),
            "failures": sum(grade.failure is not None for grade in graded),
        }

    def report(self, tried: list[tuple[Combination, dict[str, Any]]]) -> dict[str, Any]:
        """`tune.json`."""
        place = {combination: n for n, combination in enumerate(self.combinations)}
        rows = [
            {"variant": combination[0], "settings": self.settings(combination), **values}
            for combination, values in sorted(
                tried, key=lambda pair: (-pair[1]["mean"], pair[1]["prompt_tokens"], place[pair[0]])
            )
        ]
        return {
            "schema": SCHEMA,
            "context": self.wanted.context,
            "who": self.wanted.who,
            "metric": self.wanted.metric,
            "examples": len(self.rows),
            "combinations": len(self.combinations),
            "search": "all" if self.grid else "TPE",
            "chosen": rows[0],
            "trials": rows,
        }

    def chosen(self, combination: Combination) -> Recipe:
        """The recipe with a combination written in, and without `tune`."""
        recipe, name = self.recipe, self.wanted.context
        context = self._with(combination[0])
        said = {key.partition(".")[2]: value for key, value in self.settings(combination).items()}
        update: dict[str, Any] = {"tune": None}
        if self.wanted.who == "teacher":
            update["sampling"] = Sampling.model_validate({**recipe.sampling.model_dump(), **said})
        elif said:
            written = Writing.model_validate(said)
            said = {key: getattr(written, key) for key in said}
            if isinstance(context.evaluate, Evaluate):
                context = context.model_copy(
                    update={"evaluate": context.evaluate.model_copy(update=said)}
                )
            else:
                assert recipe.evaluate
                update["evaluate"] = recipe.evaluate.model_copy(update=said)
        return recipe.model_copy(update={**update, "contexts": {**recipe.contexts, name: context}})


def _keep(search: _Search) -> str:
    return (search.evaluation.extract or search.context.extract).keep


def _sources(data: Data) -> list[Data]:
    """A data set, and those that it is mixed from."""
    return [data, *(source for part in data.mix or () for source in _sources(part.data))]


# -- the search ------------------------------------------------------------------------------------


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(
            "tuning needs the package optuna",
            where="unprompt tune",
            fix="pip install 'unprompt[tune]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, search: _Search) -> optuna.Study:
    """The trials of just this search, from Optuna's journal. One that was cut short is given up:
    its answers are kept all the same.
    """
    journal = search.files.folder / "trials.log"
    with writing(journal):
        _mend(journal)
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        study = optuna.create_study(
            study_name=search.identity(),
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
        )
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _mend(journal: Path) -> None:
    """After a kill in the middle of a write: half a line at the end of the journal, and Optuna's
    own lock. Ours says that nobody else is at work.
    """
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.is_file():
        with journal.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _tried(study: optuna.Study, search: _Search) -> dict[Combination, dict[str, Any]]:
    """Combinations and what they gave, in the order in which they were tried."""
    found: dict[Combination, dict[str, Any]] = {}
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            found.setdefault(tuple(trial.params[key] for key in search.space), trial.user_attrs)
    return found


def _run(optuna: Any, study: optuna.Study, search: _Search) -> None:
    """Try combinations until there are enough. What comes next hangs on the finished trials and the
    recipe's seed alone, so a restart changes nothing.
    """
    distributions = {
        key: optuna.distributions.CategoricalDistribution(values)
        for key, values in search.space.items()
    }
    if search.grid:
        for combination in search.combinations:
            if combination not in _tried(study, search):
                _add(optuna, study, search, distributions, combination)
        return
    while len(tried := _tried(study, search)) < search.trials:
        finished = [
            tuple(trial.params[key] for key in search.space)
            for trial in study.trials
            if trial.state.name == "COMPLETE"
        ]
        seed = search.recipe.seed + len(finished)
        last = finished[-_REPEATS:]
        if len(last) == _REPEATS and all(
            c in finished[: len(finished) - _REPEATS + n] for n, c in enumerate(last)
        ):
            _add(
                optuna,
                study,
                search,
                distributions,
                random.Random(seed).choice([c for c in search.combinations if c not in tried]),
            )
            continue
        study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=_STARTUP)
        trial = study.ask(distributions)
        combination = tuple(trial.params[key] for key in search.space)
        values = tried.get(combination) or search.answer(combination)
        for key, value in values.items():
            trial.set_user_attr(key, value)
        study.tell(trial, values["mean"])


def _add(
    optuna: Any, study: optuna.Study, search: _Search, distributions: Any, combination: Combination
) -> None:
    values = search.answer(combination)
    params = dict(zip(search.space, combination, strict=True))
    study.add_trial(
        optuna.trial.create_trial(
            params=params, distributions=distributions, value=values["mean"], user_attrs=values
        )
    )


def table(report: dict[str, Any]) -> tuple[str, list[str], list[list[str]], list[str]]:
    """For the terminal: title, column names, rows (the best first) and lines beneath."""
    names = list(report["chosen"]["settings"])
    rows = []
    for n, trial in enumerate(report["trials"]):
        value = f"{trial['mean']:.4f} [{trial['low']:.4f}, {trial['high']:.4f}]"
        settings = [json.dumps(trial["settings"][name]) for name in names]
        rows.append(
            [
                f"{trial['variant']}{' (chosen)' if n == 0 else ''}",
                *settings,
                value,
                f"{trial['prompt_tokens']:.1f}",
                f"{trial['completion_tokens']:.1f}",
                str(trial["failures"]),
            ]
        )
    columns = [
        "variant",
        *names,
        f"{report['metric']} [95 %]",
        "prompt tokens",
        "completion tokens",
        "not extracted",
    ]
    count = (
        f"{len(rows)} of {report['combinations']} combinations"
        if report["search"] == "TPE"
        else f"{len(rows)} combinations"
    )
    equal = sum(trial["mean"] == report["chosen"]["mean"] for trial in report["trials"])
    lines = [f"{count}, each on {report['examples']} examples"]
    lines += (
        [
            f"{equal} share the highest value: the one with the fewest prompt tokens is taken, then"
            " the first"
        ]
        if equal > 1
        else []
    )
    return f"Tuning the {report['who']} in context {report['context']}", columns, rows, lines
