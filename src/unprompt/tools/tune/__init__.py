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
from unprompt.recipe import Evaluate, Recipe, Sampling
from unprompt.recipe.measuring import Tune
from unprompt.records import BASE, TEACHER, Who
from unprompt.report.format import spanned
from unprompt.stages import evaluate
from unprompt.stages.questions import Question
from unprompt.store.files import fingerprint, module_digest, writing
from unprompt.store.folder import RunDir
from unprompt.tools.tune.search import (
    Combination,
    Search,
    in_section,
    search_of,
    settings,
    with_variant,
)

if TYPE_CHECKING:
    import optuna

SCHEMA = 2
"""Version of `tune.json` and of the trials kept."""
_STARTUP = 5
"""Trials at random before the TPE sampler models what it saw."""
_REPEATS = 10
"""Times in a row that the sampler may pick what was tried; then one that was not is drawn."""


@dataclass(frozen=True)
class Tuned:
    """A finished search."""

    folder: Path
    """Where `chosen.yaml` and `tune.json` lie."""
    report: dict[str, Any]
    """What `tune.json` holds."""


def tune(recipe: Recipe, folder: str | Path | None = None) -> Tuned:
    """Try combinations on the evaluation split, and write the recipe with the best one.

    Args:
        recipe: With a `tune` section.
        folder: The run's folder; `runs/<name>` unless given.

    Raises:
        UserError: Something the user can mend; trials that are finished are kept.
    """
    files = RunDir(RunDir.of(recipe, folder).folder / "tune")
    search = search_of(recipe, files)
    optuna = _optuna()
    with files.locked():
        how = "all of them" if search.grid else "picked by TPE"
        say(
            f"tune: {search.trials} of {len(search.combinations)} combinations, each on"
            f" {len(search.rows)} examples ({how}), by {search.wanted.metric}"
        )
        study = _study(optuna, search, files.folder / "trials.log")
        report = _report(search, _try(optuna, study, search))
        files.write_text(
            "chosen.yaml",
            f"# Chosen by `unprompt tune` on {report['examples']} examples; see tune.json.\n"
            + _chosen(recipe, search.wanted, report["chosen"]).to_yaml(),
        )
        files.write_text("tune.json", json.dumps(report, indent=1, ensure_ascii=False))
    return Tuned(files.folder, report)


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


def _identity(search: Search) -> str:
    """Changes when a trial's result may: weights, prompts, gold answers, metric, settings; not how
    many trials there are.
    """
    recipe, wanted, evaluation = search.recipe, search.wanted, search.evaluation
    extract = recipe.contexts[wanted.context].extract
    dotted = (wanted.metric, (evaluation.extract or extract).keep)
    return fingerprint(
        SCHEMA,
        search.weights.identity(_who(wanted)),
        {
            name: [(prompt.example_id, prompt.content, prompt.others) for prompt in side.prompts]
            for name, side in search.sides.items()
        },
        [module_digest(name, recipe.modules) for name in dotted if ":" in name],
        search.space,
        [sampling.model_dump() for sampling in search.combinations.values()],
        [[row.target, row.fields] for row in search.rows],
        [extract.model_dump(), evaluation.model_dump(mode="json", exclude={"data"})],
        recipe.seed,
        wanted.who,
    )


def _who(wanted: Tune) -> Who:
    return TEACHER if wanted.who == "teacher" else BASE


def _study(optuna: Any, search: Search, journal: Path) -> optuna.Study:
    """The trials of just this search, from Optuna's journal. One that was cut short is given up:
    its answers are kept all the same.
    """
    with writing(journal):
        # after a kill in the middle of a write: Optuna's own lock, and half a line at the journal's
        # end; our lock says that nobody else is at work
        Path(f"{journal}.lock").unlink(missing_ok=True)
        if journal.is_file():
            with journal.open("rb+") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        backend = optuna.storages.journal.JournalFileBackend(str(journal))
        study = optuna.create_study(
            study_name=_identity(search),
            storage=optuna.storages.JournalStorage(backend),
            direction="maximize",
            load_if_exists=True,
        )
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _try(optuna: Any, study: optuna.Study, search: Search) -> dict[Combination, dict[str, Any]]:
    """Try combinations until there are enough, and give what each came to, in the order in which
    they were tried. What comes next hangs on the finished trials and the recipe's seed alone, so a
    restart changes nothing.
    """
    choice = optuna.distributions.CategoricalDistribution
    distributions = {key: choice(values) for key, values in search.space.items()}
    while True:
        done = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
        finished = [tuple(trial.params[key] for key in search.space) for trial in done]
        tried: dict[Combination, dict[str, Any]] = {}
        for combination, trial in zip(finished, done, strict=True):
            tried.setdefault(combination, trial.user_attrs)
        if len(tried) >= search.trials:
            return dict(itertools.islice(tried.items(), search.trials))
        left = [combination for combination in search.combinations if combination not in tried]
        seed = search.recipe.seed + len(finished)
        nothing_new = finished and set(finished[:-_REPEATS]) == set(finished)
        if search.grid or nothing_new:
            combination = left[0] if search.grid else random.Random(seed).choice(left)
            values = answer(search, combination)
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(zip(search.space, combination, strict=True)),
                    distributions=distributions,
                    value=values["mean"],
                    user_attrs=values,
                )
            )
            continue
        study.sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=_STARTUP)
        trial = study.ask(distributions)
        combination = tuple(trial.params[key] for key in search.space)
        values = tried.get(combination) or answer(search, combination)
        for key, value in values.items():
            trial.set_user_attr(key, value)
        study.tell(trial, values["mean"])


def answer(search: Search, combination: Combination) -> dict[str, Any]:
    """Ask and grade one combination: the metric's mean and interval, tokens, failures."""
    recipe, wanted, name = search.recipe, search.wanted, search.wanted.context
    side, sampling = search.sides[combination[0]], search.combinations[combination]
    question = Question(_who(wanted), side, sampling)
    grades = evaluate.grade(
        wanted.who,
        name,
        recipe.contexts[name].extract,
        search.rows,
        search.weights.collect(f"tune {name}", question),
        search.evaluation,
        recipe.modules,
    )
    values = [grade.metrics[wanted.metric] for grade in grades]
    mean, low, high = interval(
        by_group(values, [grade.group for grade in grades]),
        metrics.find(wanted.metric, "tune.metric", recipe.modules).bounds,
    )
    tried = [f"{key} {value!r}" for key, value in settings(wanted, combination).items()]
    say(f"{', '.join([combination[0], *tried])}: {wanted.metric} {mean:.4f}")
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "prompt_tokens": sum(grade.prompt_tokens for grade in grades) / len(grades),
        "completion_tokens": sum(grade.completion_tokens for grade in grades) / len(grades),
        "failures": sum(grade.failure is not None for grade in grades),
    }


# -- what came of it -------------------------------------------------------------------------------


def _report(search: Search, tried: dict[Combination, dict[str, Any]]) -> dict[str, Any]:
    """`tune.json`."""
    wanted = search.wanted
    rows = [
        {"variant": combination[0], "settings": settings(wanted, combination), **tried[combination]}
        for combination in search.combinations
        if combination in tried
    ]
    rows.sort(key=lambda row: (-row["mean"], row["prompt_tokens"]))
    return {
        "schema": SCHEMA,
        "context": wanted.context,
        "who": wanted.who,
        "metric": wanted.metric,
        "examples": len(search.rows),
        "combinations": len(search.combinations),
        "search": "all" if search.grid else "TPE",
        "chosen": rows[0],
        "trials": rows,
    }


def _chosen(recipe: Recipe, wanted: Tune, trial: dict[str, Any]) -> Recipe:
    """The recipe with a combination written in, and without `tune`."""
    context, fields = with_variant(recipe, wanted, trial["variant"]), in_section(trial["settings"])
    update: dict[str, Any] = {"tune": None}
    if wanted.who == "teacher":
        update["sampling"] = Sampling.model_validate({**recipe.sampling.model_dump(), **fields})
    elif isinstance(context.evaluate, Evaluate):
        evaluation = context.evaluate.model_copy(update=fields)
        context = context.model_copy(update={"evaluate": evaluation})
    elif fields:
        assert recipe.evaluate
        update["evaluate"] = recipe.evaluate.model_copy(update=fields)
    update["contexts"] = {**recipe.contexts, wanted.context: context}
    return recipe.model_copy(update=update)


def table(report: dict[str, Any]) -> tuple[str, list[str], list[list[str]], list[str]]:
    """For the terminal: title, column names, rows (the best first) and lines beneath."""
    names, trials = list(report["chosen"]["settings"]), report["trials"]
    rows = [
        [
            trial["variant"],
            *(json.dumps(trial["settings"][name]) for name in names),
            spanned(trial, "{:.4f}".format),
            f"{trial['prompt_tokens']:.1f}",
            f"{trial['completion_tokens']:.1f}",
            str(trial["failures"]),
        ]
        for trial in trials
    ]
    rows[0][0] += " (chosen)"
    tokens = ["prompt tokens", "completion tokens", "not extracted"]
    columns = ["variant", *names, f"{report['metric']} [95 %]", *tokens]
    of = f" of {report['combinations']}" if report["search"] == "TPE" else ""
    lines = [f"{len(rows)}{of} combinations, each on {report['examples']} examples"]
    equal = sum(trial["mean"] == report["chosen"]["mean"] for trial in trials)
    if equal > 1:
        lines.append(
            f"{equal} share the highest value: the one with the fewest prompt tokens is taken, then"
            " the first"
        )
    return f"Tuning the {report['who']} in context {report['context']}", columns, rows, lines
