"""Everything a report says, as one plain dictionary (`report.json`). Pure."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from unprompt.recipe import Recipe
from unprompt.report.evidence import Evidence
from unprompt.report.schema import SCHEMA, SECTIONS
from unprompt.report.verdict import conclude

if TYPE_CHECKING:
    from unprompt.report.schema import Context, Report

_PACKAGES = ("unprompt", "torch", "transformers", "peft", "accelerate", "tokenizers")


def numbers(evidence: Evidence) -> Report:
    """The report: what stands in every one, then each section's figures, then the verdict."""
    recipe = evidence.recipe
    report: Report = {
        "schema": SCHEMA,
        "name": recipe.name,
        "contexts": {name: _context(evidence, name) for name in evidence.contexts},
        "rounds": {},
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in _PACKAGES},
        },
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        "use": usage(recipe, evidence.folder, evidence.encoder_decoder),
        "students": [],
        "verdict": {"student": "", "verdict": None},
    }
    for section in SECTIONS:
        section.numbers(evidence, report)
    conclude(report)
    return report


def _context(evidence: Evidence, name: str) -> Context:
    written = evidence.recipe.contexts[name].model_dump(mode="json", by_alias=True)
    keys = ("teacher", "gold", "student", "extract")
    entry: Any = {**evidence.contexts[name], "distilled": {key: written[key] for key in keys}}
    if name in evidence.instructions:
        entry["instructions"] = evidence.instructions[name]
    return entry


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
