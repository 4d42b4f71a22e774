"""Everything a report says, as one plain dictionary (`report.json`). Pure."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from unprompt.evaluate import SYSTEMS
from unprompt.metrics.statistics import gap_closed, interval, paired_difference
from unprompt.recipe import Recipe
from unprompt.records import Grade

SCHEMA = 1
"""Version of `report.json`."""
_PACKAGES = ("unprompt", "torch", "transformers", "peft", "accelerate", "tokenizers")


def numbers(
    recipe: Recipe,
    contexts: dict[str, dict[str, Any]],
    grades: Sequence[Grade],
    kl: dict[str, dict[str, list[float]]],
    seconds: dict[str, dict[str, float | None]],
    training: dict[str, Any],
    folder: str,
    *,
    encoder_decoder: bool = False,
) -> dict[str, Any]:
    """The report.

    Args:
        contexts: For each context what collecting and extraction gave: counts, drops, overlap, prompt lengths.
        grades: Of all systems.
        kl: Context -> `before` and `after` -> KL(teacher || system) of each held-out example, nats per token.
        seconds: Context -> system -> measured seconds a call.
        training: Steps, first and last loss.
        folder: The run's folder, as the printed commands name it.
    """
    found: dict[str, Any] = {"schema": SCHEMA, "name": recipe.name, "contexts": {}}
    for name, facts in contexts.items():
        entry: dict[str, Any] = dict(facts)
        written = recipe.contexts[name].model_dump(mode="json", by_alias=True)
        entry["distilled"] = {key: written[key] for key in ("teacher", "student", "extract")}
        mine = [grade for grade in grades if grade.context == name]
        if mine:
            entry["systems"] = {
                s: _system([g for g in mine if g.system == s], mine, seconds[name].get(s))
                for s in SYSTEMS
                if any(g.system == s for g in mine)
            }
            before, after = entry["systems"]["teacher"]["prompt_tokens"], entry["systems"]["after"]["prompt_tokens"]
            entry["prompt_tokens_saved"] = before - after
            entry["times_fewer_prompt_tokens"] = before / after
        if name in kl:
            closed, low, high = gap_closed(kl[name]["before"], kl[name]["after"])
            entry["gap_closed"] = {"value": closed, "low": low, "high": high}
            entry["kl_nats_per_token"] = {s: sum(v) / len(v) for s, v in kl[name].items()}
            entry["kl_examples"] = len(kl[name]["before"])
        found["contexts"][name] = entry
    found["training"] = training
    found["recipe"] = recipe.model_dump(mode="json", by_alias=True)
    found["versions"] = {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}
    found["machine"] = {"system": platform.platform(), "processor": platform.machine()}
    found["use"] = usage(recipe, folder, encoder_decoder)
    return found


def _system(own: list[Grade], all_: list[Grade], seconds: float | None) -> dict[str, Any]:
    teacher = {g.example_id: g for g in all_ if g.system == "teacher"}
    metrics = {}
    for metric in own[0].metrics:
        values = [g.metrics[metric] for g in own]
        mean, low, high = interval(values)
        change, worst, best = paired_difference(values, [teacher[g.example_id].metrics[metric] for g in own])
        metrics[metric] = {"mean": mean, "low": low, "high": high, "to_teacher": {"mean": change, "low": worst, "high": best}}
    return {
        "examples": len(own),
        "metrics": metrics,
        "prompt_tokens": sum(g.prompt_tokens for g in own) / len(own),
        "completion_tokens": sum(g.completion_tokens for g in own) / len(own),
        "seconds_per_call": seconds,
        "extraction_failures": sum(g.failure is not None for g in own),
    }


def usage(recipe: Recipe, folder: str, encoder_decoder: bool) -> list[str]:
    """The three lines that load the student with plain libraries."""
    if recipe.train.adapter is not None:
        load = "from peft import AutoPeftModel{kind} as Model"
    else:
        load = "from transformers import AutoModel{kind} as Model"
    kind = "ForSeq2SeqLM" if encoder_decoder else "ForCausalLM"
    return [
        f"from transformers import AutoTokenizer; {load.format(kind=kind)}",
        f'model = Model.from_pretrained("{folder}/student")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}/student")',
    ]
