"""Everything a report says, as one plain dictionary (`report.json`). Pure."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from unprompt.metrics import find_all
from unprompt.metrics.association import Association
from unprompt.metrics.margins import correlation, margin
from unprompt.metrics.statistics import by_group, gap_closed, interval, paired_difference
from unprompt.recipe import Recipe
from unprompt.records import Grade, TokenKL
from unprompt.report import quality, shots

SCHEMA = 2
"""Version of `report.json` (docs/report.md). It rises when a key goes or changes its meaning; new
keys may come without."""
_PACKAGES = ("unprompt", "torch", "transformers", "peft", "accelerate", "tokenizers")


def numbers(
    recipe: Recipe,
    contexts: dict[str, dict[str, Any]],
    grades: Sequence[Grade],
    kl: Mapping[str, Mapping[str, TokenKL]],
    seconds: Mapping[str, Mapping[str, float | None]],
    rounds: dict[str, dict[str, Any]],
    folder: str,
    *,
    associations: Mapping[str, Association] | None = None,
    drift: Mapping[str, Sequence[float]] | None = None,
    encoder_decoder: bool = False,
) -> dict[str, Any]:
    """The report.

    Args:
        contexts: For each context what collecting and extraction gave: counts, drops, overlap;
            empty for one that is only evaluated.
        grades: Of all systems.
        kl: Context -> `before` and rounds -> KL(teacher || system) on each held-out example's
            answer.
        seconds: Context -> system -> measured seconds a call.
        rounds: Round -> what it was taught, steps, first and last loss.
        folder: Where the last round's student lies, as the printed commands name it.
        associations: System -> its association matrix.
        drift: Round -> KL(base || student) of each unrelated input, nats per token.
    """
    found: dict[str, Any] = {"schema": SCHEMA, "name": recipe.name, "contexts": {}}
    for name, facts in contexts.items():
        entry: dict[str, Any] = dict(facts)
        written = recipe.contexts[name].model_dump(mode="json", by_alias=True)
        entry["distilled"] = {
            key: written[key] for key in ("teacher", "gold", "student", "extract")
        }
        shares = _shares(recipe, name)
        mine = [grade for grade in grades if grade.context == name and grade.shots is None]
        if mine:
            systems = list(dict.fromkeys(g.system for g in mine))
            systems.sort(key=lambda s: (s != "teacher", s != "before"))
            entry["systems"] = {
                s: _system(
                    [g for g in mine if g.system == s],
                    mine,
                    seconds.get(name, {}).get(s),
                    shares,
                )
                for s in systems
            }
            if "teacher" in entry["systems"]:
                before, after = (
                    entry["systems"]["teacher"]["prompt_tokens"],
                    entry["systems"]["before"]["prompt_tokens"],
                )
                entry["prompt_tokens_saved"] = before - after
                entry["times_fewer_prompt_tokens"] = before / after
        behind = shots.figures(
            [g for g in grades if g.context == name and g.shots is not None], shares
        )
        if behind:
            entry["shots"] = behind
        if kl.get(name):
            entry["kl_by_position"] = quality.positions(
                {system: found.nats for system, found in kl[name].items()}
            )
        for system, values in (
            (system, found.means()) for system, found in kl.get(name, {}).items()
        ):
            known = entry["systems"][system]
            known["kl_nats_per_token"] = {
                "mean": sum(values) / len(values),
                "examples": len(values),
            }
            if system != "before":
                closed, low, high = gap_closed(kl[name]["before"].means(), values)
                known["gap_closed"] = {"value": closed, "low": low, "high": high}
        found["contexts"][name] = entry
    found["rounds"] = rounds
    for (
        student,
        training,
    ) in rounds.items():  # KL while it trained, as gap closed on the same inputs
        for name, watched in training.pop("watch", {}).items():
            before, after = (
                np.mean(kl[name][system].means()[: watched["inputs"]])
                for system in ("before", student)
            )
            steps = {
                **{int(step): value for step, value in watched["steps"].items()},
                training["steps"]: after,
            }
            points = [
                {"step": step, "gap_closed": float(1 - value / before)}
                for step, value in steps.items()
            ]
            training.setdefault("held_out", {})[name] = {
                "inputs": watched["inputs"],
                "points": points,
            }
    if recipe.systems:
        found["systems"] = recipe.described_systems()
    if drift:
        found["drift"] = {
            name: {**_mean(interval(values)), "inputs": len(values)}
            for name, values in drift.items()
        }
    if associations:
        names = list(recipe.association or ())
        found["association"] = {
            "contexts": names,
            "is_share": all(_first_is_share(recipe, name) for name in names),
            "systems": {
                s: {"matrix": a.matrix, "correct": _mean(a.correct), "wrong": _mean(a.wrong)}
                for s, a in associations.items()
            },
        }
    if recipe.margins:
        found["margins"] = _margins(recipe, grades)
    found["recipe"] = recipe.model_dump(mode="json", by_alias=True)
    found["versions"] = {
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }
    found["machine"] = {"system": platform.platform(), "processor": platform.machine()}
    found["use"] = usage(recipe, folder, encoder_decoder)
    return found


def _mean(values: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("mean", "low", "high"), values, strict=True))


def _shares(recipe: Recipe, context: str) -> dict[str, bool]:
    """Metric -> whether it is a share. What is not named here is: the figures of `choices`."""
    evaluation = recipe.evaluation(context)
    if evaluation is None or evaluation.choices:
        return {}
    found = find_all(evaluation.metrics, "evaluate.metrics", recipe.modules)
    return {
        key: metric.is_share for name, metric in found.items() for key in (name, f"{name}_lenient")
    }


def _first_is_share(recipe: Recipe, context: str) -> bool:
    """Whether the metric that a context's figures are taken of is a share."""
    return next(iter(_shares(recipe, context).values()), True)


def _system(
    own: list[Grade], all_: list[Grade], seconds: float | None, shares: Mapping[str, bool]
) -> dict[str, Any]:
    teacher = {g.example_id: g for g in all_ if g.system == "teacher"}
    groups = [g.group for g in own]
    metrics = {}
    for metric in own[0].metrics:
        values = [g.metrics[metric] for g in own]
        share = shares.get(metric, True)
        metrics[metric] = {**_mean(interval(by_group(values, groups))), "is_share": share}
        if teacher:
            reference = [teacher[g.example_id].metrics[metric] for g in own]
            metrics[metric]["to_teacher"] = _mean(
                paired_difference(by_group(values, groups), by_group(reference, groups))
            )
            metrics[metric]["kept"] = (
                quality.kept(by_group(values, groups), by_group(reference, groups))
                if share
                else None
            )
    return {
        "examples": len(own),
        "groups": len(set(groups)) if groups[0] is not None else None,
        "metrics": metrics,
        "prompt_tokens": sum(g.prompt_tokens for g in own) / len(own),
        "completion_tokens": sum(g.completion_tokens for g in own) / len(own),
        "seconds_per_call": seconds,
        "extraction_failures": sum(g.failure is not None for g in own),
        **(
            {"agreement": quality.agreement(own, teacher)}
            if teacher and own[0].system != "teacher"
            else {}
        ),
        **(
            {"outcomes": quality.outcomes(own, teacher)}
            if teacher and own[0].system != "teacher"
            else {}
        ),
        "confusion": quality.confusion(own),
        **(
            {"lenient_failures": sum(g.lenient_answer is None for g in own)}
            if any(m.endswith("_lenient") for m in metrics)
            else {}
        ),
    }


def _margins(recipe: Recipe, grades: Sequence[Grade]) -> dict[str, Any]:
    """What the one context has ahead of the other, for the teacher and for the students that were
    taught them, task by task.
    """

    def values(context: str, system: str) -> list[float]:
        own = [g for g in grades if g.context == context and g.system == system]
        return by_group([next(iter(g.metrics.values())) for g in own], [g.group for g in own])

    found = []
    for task, (with_, without) in (recipe.margins or {}).items():
        student = {
            name: next(r for r, round_ in recipe.plan.items() if name in round_.contexts)
            for name in (with_, without)
        }
        found.append(
            margin(
                task,
                values(with_, "teacher"),
                values(without, "teacher"),
                values(with_, student[with_]),
                values(without, student[without]),
            )
        )
    try:
        together: dict[str, Any] = asdict(correlation(found))
    except ValueError as error:
        together = {"undefined": str(error)}
    tasks = [
        {
            "task": m.task,
            "in_context": _mean(m.in_context),
            "distilled": _mean(m.distilled),
            "is_share": all(
                _first_is_share(recipe, context) for context in (recipe.margins or {})[m.task]
            ),
        }
        for m in found
    ]
    return {"tasks": tasks, "correlation": together}


def usage(recipe: Recipe, folder: str, encoder_decoder: bool) -> list[str]:
    """The three lines that load the last round's student with plain libraries."""
    if list(recipe.plan.values())[-1].train.adapter is not None:
        load = "from peft import AutoPeftModel{kind} as Model"
    else:
        load = "from transformers import AutoModel{kind} as Model"
    kind = "ForSeq2SeqLM" if encoder_decoder else "ForCausalLM"
    return [
        f"from transformers import AutoTokenizer; {load.format(kind=kind)}",
        f'model = Model.from_pretrained("{folder}/student")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}/student")',
    ]
