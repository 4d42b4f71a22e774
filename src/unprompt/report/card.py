"""The model card: README.md in a student's folder, with the metadata that Hugging Face reads.
Pure.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from unprompt.report.table import is_share


def model_card(report: dict[str, Any], student: str, *, merged: bool = False) -> str:
    """README.md of a round's student, from the report; `merged`: its adapter is in the weights."""
    recipe = report["recipe"]
    base, adapter = recipe["model"]["name"] or recipe["model"]["gguf"], recipe["train"]["adapter"]
    if recipe["rounds"]:
        adapter = recipe["rounds"][student]["train"]["adapter"]
    adapter = None if merged else adapter
    own = [each for each in report["students"] if each["student"] == student]
    metadata: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": (
            "text2text-generation" if "ForSeq2SeqLM" in report["use"][0] else "text-generation"
        ),
        "tags": ["context-distillation", "unprompt", *(["lora"] if adapter else [])],
    }
    if re.fullmatch(
        r"[\w.-]+/[\w.-]+", base or ""
    ):  # a name on the hub; paths and files are nobody else's
        metadata["base_model"] = base
    results = [_result(each) for each in own if each["metric"]]
    if results:
        metadata["model-index"] = [{"name": report["name"], "results": results}]
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {_plain(report['name'])}",
        "",
        (
            f"A student of {_code(base)} that answers without the long prompt it was distilled"
            f" from, made by Unprompt {report['versions']['unprompt']} (round {_code(student)})."
        ),
        "",
    ]
    if own:
        lines += [
            "## Measured on held-out examples",
            "",
            (
                "| context | metric | teacher | student | to teacher [95 %] | gap closed | prompt"
                " tokens | verdict |"
            ),
        ]
        lines += [
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *(_row(each) for each in own),
            "",
        ]
        lines += [
            f"- {_plain(each['context'])}: {reason['text']}"
            for each in own
            for reason in each["reasons"]
        ]
        lines.append("")
    for context in report["rounds"][student]["contexts"]:
        written = report["contexts"][context].get("distilled", {}).get("student")
        lines += [
            f"## Prompt it expects: {_plain(context)}",
            "",
            *_fenced(
                written if isinstance(written, str) else yaml.safe_dump(written, allow_unicode=True)
            ),
            "",
        ]
    training = report["rounds"][student]
    lines += [
        "## Training",
        "",
        (
            f"{training['steps']} steps on {training['lessons']} lessons; loss"
            f" {training['first_loss']:.4f} -> {training['last_loss']:.4f} nats per weighted token."
            " The resolved recipe is `recipe.yaml` of the run, every number `report.json`."
        ),
        "",
    ]
    return "\n".join(lines)


def _result(each: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        "dataset": {"name": f"held-out examples of {each['context']}", "type": each["context"]},
        "metrics": [
            {
                "type": each["metric"],
                "value": each["quality"]["mean"],
                "name": f"{each['metric']} ({each['examples']} examples)",
            }
        ],
    }


def _row(each: dict[str, Any]) -> str:
    cells = [
        _plain(each["context"]),
        "-",
        "-",
        "-",
        "-",
        "-",
        f"{each['prompt_tokens']['teacher']:.1f} -> {each['prompt_tokens']['student']:.1f}",
    ]
    if each["metric"]:
        share, change = is_share(each["metric"], each["quality"]), each["quality"]["to_teacher"]
        cells[1] = _code(each["metric"])
        cells[2], cells[3] = (
            f"{m['mean']:.1%}" if share else f"{m['mean']:.3f}"
            for m in (each["teacher_quality"], each["quality"])
        )
        a, b, c = (
            (f"{100 * change[k]:+.1f}" if share else f"{change[k]:+.3f}")
            for k in ("mean", "low", "high")
        )
        cells[4] = f"{a} [{b}, {c}]"
    if each["gap_closed"]:
        cells[5] = f"{each['gap_closed']['value']:.1%}"
    return "| " + " | ".join([*cells, each["verdict"]]) + " |"


def _plain(text: str) -> str:
    """Text of the user's on one line, with nothing in it that Markdown or HTML would act on."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]|#!<>&~" else c for c in line)


def _code(text: object) -> str:
    return "`" + " ".join(str(text).replace("`", "'").replace("|", "\\|").split()) + "`"


def _fenced(text: str) -> list[str]:
    fence = "`" * max(3, 1 + max((len(run) for run in _runs(text)), default=0))
    return [fence, text.rstrip("\n"), fence]


def _runs(text: str) -> list[str]:
    found, run = [], ""
    for c in text + " ":
        if c == "`":
            run += c
        elif run:
            found.append(run)
            run = ""
    return found
