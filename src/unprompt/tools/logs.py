"""`unprompt init --logs`: a recipe that takes the system prompt out of logged conversations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.recipe.reference import SCHEMA
from unprompt.stages.inputs import files, logs
from unprompt.store.files import replacing

FEWEST = 20
"""Conversations of a system prompt that is worth a context, and `SHARE` of all of them."""
SHARE = 0.1
_MOST = 5
_SURE = 0.95
"""Share of the logged answers that the longest answer is to hold."""

_RECIPE = """\
# yaml-language-server: $schema={schema}
# Written by `unprompt init --logs`. Next: unprompt check {out}, then unprompt run {out}
model: {model}
contexts:
{contexts}
sampling: {{temperature: 1.0, max_new_tokens: {tokens}}}  # for {sure:.0%} of the logged answers
labels: {{kind: sampled, draws: 100}}
train: {{adapter: {{rank: 16}}, epochs: 2, batch_size: 16, learning_rate: 5.0e-4}}
# the logged answers are no gold answers, so there is no metric: the verdict is held to likeness
evaluate: {{hold_out: 0.2, group: conversation, metrics: []}}
"""
_CONTEXT = """\
  {name}:
    inputs: {{file: {file}, format: {kind}, turns: all, system: {system}}}
    teacher:{teacher}
    student:{student}
    extract: whole"""


def write(log: Path, out: Path, model: str) -> list[str]:
    """Write the recipe, and each system prompt into a file beside it: the teacher is asked as
    logged, the student without the system prompt.

    Args:
        log: JSONL, JSON, CSV or Parquet; the first two may be packed by gzip.
        model: As the recipe is to have it, a name or `{gguf: ...}`.

    Returns:
        Lines that say what was found, and what to do next.

    Raises:
        UserError: The log can't be read, holds no system prompt, or a file is there already.
    """
    where = "--logs"
    kind, counts = _kind(log, where), Counter[str]()
    try:
        rows = list(logs.logged(files.raw(str(log), where), kind, counts))
    except logs.Unknown as error:
        place = f"{where} ({log}, row {error.number})"
        raise UserError(f"not {kind}: {error.what}", where=place, fix=error.fix) from None
    if not rows:
        what = f"no conversation is in it: {logs.said(counts) or 'it is empty'}"
        raise UserError(what, where=f"{where} ({log})", fix="give a log with answered calls")
    prompts = Counter(logs.system_of(row) for row in rows)
    chosen = _chosen(prompts, len(rows), log)
    lines = [
        f"{log}: {len(rows):,} conversations ({kind})"
        + (f"; left out: {left}" if (left := logs.said(counts)) else "")
    ]
    written: dict[Path, str] = {}
    contexts, tools = [], any(row.tools for row in rows)
    for number, prompt in enumerate(chosen, 1):
        name = "main" if number == 1 else f"main_{number}"
        file = out.with_name("system.md" if number == 1 else f"system_{number}.md")
        written[file] = f"{prompt}\n"
        share = prompts[prompt] / len(rows)
        lines.append(
            f"{file}: the system prompt of {share:.0%} of them ({prompts[prompt]:,}),"
            f" {len(prompt.split()):,} words"
        )
        contexts.append(_context(name, log, out, kind, file, tools=tools))
    if others := len(rows) - sum(prompts[prompt] for prompt in chosen):
        many = len(prompts) - len(chosen)
        lines.append(f"{others:,} with {many:,} other system prompts, or none, are left out")
    tokens = _longest(rows)
    written[out] = _RECIPE.format(
        schema=SCHEMA.as_uri(),
        out=out,
        model=model,
        contexts="\n".join(contexts),
        tokens=tokens,
        sure=_SURE,
    )
    _write(written)
    return [*lines, f"wrote {out}", f"next: unprompt check {out}, then unprompt run {out}"]


def _kind(log: Path, where: str) -> logs.Format:
    """Which form the log has, by its first row."""
    row: Any = next(iter(files.raw(str(log), where)), {})
    if isinstance(row, dict):
        if "run_type" in row or "inputs" in row:
            return "langsmith"
        if "observations" in row or ("input" in row and "output" in row):
            return "langfuse"
    return "openai"


def _chosen(prompts: Counter[str], count: int, log: Path) -> list[str]:
    """The system prompts that are worth a context each, the most common first."""
    common = [prompt for prompt, _ in prompts.most_common() if prompt]
    if not common:
        raise UserError(
            f"none of its {count:,} conversations has a system prompt: there is nothing to take"
            " away",
            where=f"--logs ({log})",
            fix="write the prompt into a file, and give it: unprompt init PROMPT.md",
        )
    enough = [p for p in common if prompts[p] >= max(FEWEST, SHARE * count)]
    return enough[:_MOST] or common[:1]


def _context(name: str, log: Path, out: Path, kind: str, system: Path, *, tools: bool) -> str:
    """A context of the recipe: as logged, and the same without the system prompt."""
    turns = "{turns: history}"
    long = f'[{{role: system, content: "{{{{ system }}}}"}}, {turns}]'
    short = f"[{turns}]"
    if tools:
        long, short = (f"{{messages: {messages}, tools: tools}}" for messages in (long, short))
    return _CONTEXT.format(
        name=name,
        file=_quoted(os.path.relpath(log, out.parent)),
        kind=kind,
        system=_quoted(system.name),
        teacher=f" {long}",
        student=f" {short}",
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _longest(rows: Sequence[logs.Logged]) -> int:
    """Tokens that hold all but the longest of the logged answers, three letters a token, in steps
    of 16.
    """
    lengths = sorted(
        len(str(message.get("content") or "")) + len(str(message.get("tool_calls") or ""))
        for row in rows
        for message in row.messages
        if message["role"] == "assistant"
    )
    letters = lengths[min(int(_SURE * len(lengths)), len(lengths) - 1)] if lengths else 0
    return min(max(16 * (letters // 3 // 16 + 1), 32), 2048)


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        if path.exists() and path.read_text("utf-8", "replace") != text:
            raise UserError(
                "the file is there already, and holds something else",
                where=str(path),
                fix="choose another folder or name with --out",
            )
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, "utf-8")
