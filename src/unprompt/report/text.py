"""The report as Markdown, and its tables for the terminal."""

from __future__ import annotations

from typing import Any

import yaml

_TITLES = {
    "teacher": "teacher (base model, teacher prompt)",
    "before": "before (base model, student prompt)",
    "after": "after (student, student prompt)",
    "after_teacher_prompt": "student with the teacher prompt",
}


def tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]], list[str]]]:
    """For each context: title, column names, rows, and the lines that belong beneath."""
    return [(f"Context {name}", *_systems(entry), _facts(entry)) for name, entry in report["contexts"].items()]


def _systems(entry: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    if "systems" not in entry:
        return [], []
    names = list(entry["systems"]["teacher"]["metrics"])
    columns = ["system"]
    for metric in names:
        columns += [f"{metric} [95 %]", "to teacher [95 %]"]
    columns += ["prompt tokens", "completion tokens", "seconds/call"]
    rows = []
    for system, values in entry["systems"].items():
        row = [_TITLES[system]]
        for metric in names:
            m = values["metrics"][metric]
            d = m["to_teacher"]
            row.append(f"{m['mean']:.1%} [{m['low']:.1%}, {m['high']:.1%}]")
            row.append("-" if system == "teacher" else f"{100 * d['mean']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]")
        seconds = values["seconds_per_call"]
        row += [f"{values['prompt_tokens']:.1f}", f"{values['completion_tokens']:.1f}", "-" if seconds is None else f"{seconds:.3f}"]
        rows.append(row)
    return columns, rows


def _facts(entry: dict[str, Any]) -> list[str]:
    distilled = entry["distilled"]
    lines = [
        f"distilled: {_short(distilled['teacher'])} into {_short(distilled['student'])}, keeping {_short(distilled['extract'])} of the answer"
    ]
    if "gap_closed" in entry:
        gap, kl = entry["gap_closed"], entry["kl_nats_per_token"]
        lines.append(
            f"gap closed: {gap['value']:.1%} [{gap['low']:.1%}, {gap['high']:.1%}] of KL(teacher || student), {kl['before']:.3f} -> {kl['after']:.3f} nats per token, "
            f"on {entry['kl_examples']} held-out inputs"
        )
    if "systems" in entry:
        lines.append(
            f"prompt tokens per call: {entry['systems']['teacher']['prompt_tokens']:.1f} -> {entry['systems']['after']['prompt_tokens']:.1f}, "
            f"{entry['prompt_tokens_saved']:.1f} saved ({entry['times_fewer_prompt_tokens']:.1f} times fewer)"
        )
        lines += [
            f"{values['extraction_failures']} of {values['examples']} answers of '{system}' could not be extracted and count as wrong"
            for system, values in entry["systems"].items()
            if values["extraction_failures"]
        ]
    failed = entry["failed_extractions"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in failed["reasons"].items()) or "none"
    lines.append(f"inputs: {entry['inputs']}; lessons: {entry['lessons']}; dropped: {sum(failed['reasons'].values())} ({dropped})")
    if failed["examples"]:
        lines.append("dropped inputs: " + ", ".join(failed["examples"][:20]) + (", ..." if len(failed["examples"]) > 20 else ""))
    if entry["cut_at_limit"]:
        lines.append(f"answers cut at max_new_tokens: {entry['cut_at_limit']} (taught without an end token)")
    lines.append("overlap: " + "; ".join(f"{count} {what}" for what, count in entry["overlap"].items()))
    return lines


def _short(written: Any) -> str:
    """A template or rule as it is written, on one line; the middle of a long one left out (the whole stands in the recipe below)."""
    text = " ".join(str(written).split())
    return f"`{text}`" if len(text) <= 100 else f"`{text[:60]} ... {text[-30:]}`"


def markdown(report: dict[str, Any]) -> str:
    """`report.md`."""
    parts = [f"# {report['name']}", ""]
    for title, columns, rows, lines in tables(report):
        parts += [f"## {title}", ""]
        if rows:
            parts += [_row(columns), _row(["---"] * len(columns)), *(_row(row) for row in rows), ""]
        parts += [*(f"- {line}" for line in lines), ""]
    training = report["training"]
    parts += [
        "## Training", "",
        f"{training['steps']} steps on {training['lessons']} lessons; loss {training['first_loss']:.4f} -> {training['last_loss']:.4f} nats per weighted token.", "",
        "## Use the student", "", "```python", *report["use"], "```", "",
        "## Versions", "", ", ".join(f"{name} {number}" for name, number in report["versions"].items()) + f"; {report['machine']['system']}", "",
        "## Recipe", "", "```yaml", yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True, width=110).rstrip(), "```", "",
    ]  # fmt: skip
    return "\n".join(parts)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
