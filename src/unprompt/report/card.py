"""The model card: README.md in a student's folder, with the metadata that Hugging Face reads.
Pure.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

from unprompt.report import templates
from unprompt.report.format import change, is_share, value

if TYPE_CHECKING:
    from unprompt.report.schema import Report, Student


def model_card(report: Report, student: str, *, merged: bool = False, digest: str = "") -> str:
    """README.md of a round's student, from the report.

    Args:
        merged: Its adapter is in the weights.
        digest: SHA-256 of the base's file.
    """
    recipe, training = report["recipe"], report["rounds"][student]
    base = recipe["model"]["name"] or recipe["model"]["gguf"] or recipe["model"]["rule"]
    if recipe["model"]["gguf"] and not base.startswith("pkg:"):
        base = base.rpartition("/")[2]  # where it lies here is nobody else's
    trained = recipe["rounds"][student]["train"] if recipe["rounds"] else recipe["train"]
    measured = [each for each in report["students"] if each["student"] == student]
    metadata = _metadata(report, base, measured, adapted=bool(trained["adapter"]) and not merged)
    return templates.markdown(
        "card.md",
        r=report,
        t=training,
        base=base,
        digest=digest,
        student=student,
        measured=measured,
        metadata=yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).rstrip(),
        prompts=[
            (name, _prompt(report, name), _variables(report, name)) for name in training["contexts"]
        ],
        row=_row,
        plain=_plain,
        code=_code,
    )


def _metadata(
    report: Report, base: str | None, measured: list[Student], *, adapted: bool
) -> dict[str, Any]:
    seq2seq = "ForSeq2SeqLM" in report["use"][0]
    metadata: dict[str, Any] = {
        "library_name": "peft" if adapted else "transformers",
        "pipeline_tag": "text2text-generation" if seq2seq else "text-generation",
        "tags": ["context-distillation", "unprompt", *(["lora"] if adapted else [])],
    }
    # a name on the hub; paths and files are nobody else's
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base or ""):
        metadata["base_model"] = base
    results = [
        {
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
        for each in measured
        if each["metric"] and each["quality"]
    ]
    if results:
        metadata["model-index"] = [{"name": report["name"], "results": results}]
    return metadata


def _row(each: Student) -> str:
    tokens, quality, teacher = each["prompt_tokens"], each["quality"], each["teacher_quality"]
    metric = ["-", "-", "-", "-"]
    if each["metric"] and quality and teacher:
        share = is_share(each["metric"], quality)
        means = (value(m["mean"], share) for m in (teacher, quality))
        metric = [_code(each["metric"]), *means, change(quality.get("to_teacher"), share)]
    elif like := each["likeness"]:
        means = (value(m["mean"], True) for m in (like["ceiling"], like))
        metric = [f"likeness ({like['kind']})", *means, change(like["to_ceiling"], True)]
    cells = [
        _plain(each["context"]),
        *metric,
        f"{each['gap_closed']['value']:.1%}" if each["gap_closed"] else "-",
        f"{tokens['teacher']:.1f} -> {tokens['student']:.1f}",
        each["verdict"],
    ]
    return "| " + " | ".join(cells) + " |"


def _prompt(report: Report, context: str) -> str:
    """A fence that no run of backticks in the prompt can end."""
    written = report["contexts"][context].get("distilled", {}).get("student")
    if not isinstance(written, str):
        written = yaml.safe_dump(written, allow_unicode=True)
    longest = max(map(len, re.findall("`+", written)), default=0)
    fence = "`" * max(3, 1 + longest)
    text = written.rstrip("\n")
    return f"{fence}\n{text}\n{fence}"


def _variables(report: Report, context: str) -> str:
    """What the chat template has to be given there, as JSON; empty: nothing."""
    recipe = report["recipe"]
    written = recipe["contexts"][context]["student"]
    more = written.get("chat_template", {}) if isinstance(written, dict) else {}
    given = (recipe["model"].get("chat_template") or {}) | more
    return json.dumps(given) if given and not isinstance(written, str) else ""


def _plain(text: str) -> str:
    """Text of the user's on one line, with nothing in it that Markdown or HTML would act on."""
    line = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_[]|#!<>&~" else c for c in line)


def _code(text: object) -> str:
    return "`" + " ".join(str(text).replace("`", "'").replace("|", "\\|").split()) + "`"
