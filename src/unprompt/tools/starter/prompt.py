"""A prompt that the user has, as the two sides of a context."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

from unprompt.messages import UserError

_ONE = ("text", "input", "question", "message", "query")
"""Names of a prompt's only place that all mean the input."""
_MARKS = ("{{", "{%", "{#")


@dataclass(frozen=True)
class Sides:
    """Both templates, as YAML that stands behind `teacher:` and `student:`.

    Attributes:
        fields: Of the input, which the templates name.
        where: Says where the input stands.
    """

    teacher: str
    student: str
    fields: list[str]
    where: str


def sides(prompt: Path, out: Path, field: str | None, *, chat: bool) -> Sides:
    """The teacher's prompt around the user's, and the student's without it.

    Args:
        prompt: Text, or a `.json` list of messages. Where the input stands in it, it says
            `{{ text }}`, or `{text}` as in a text that Python formats, or `<input>`; several names
            are several fields. Without any the input is the user's message behind it.
        out: The recipe's file: the prompt is named as seen from its folder.
        field: Of the inputs, which an input without a name is.
        chat: Whether the model reads messages.

    Raises:
        UserError: The prompt can't be read, or takes messages where the model takes none.
    """
    text = _read(prompt)
    if prompt.suffix.lower() == ".json":
        return _of_messages(text, prompt, field, chat=chat)
    pieces, places = _places(text)
    names = _names(places, field)
    fields = list(dict.fromkeys(names)) or [field or "text"]
    user = "\n".join(map(_place, fields))
    filled = _filled(pieces, names)
    where = _where(places)
    file = f"{{file: {quoted(os.path.relpath(prompt, out.parent))}}}"
    as_it_is = not any(mark in text for mark in _MARKS) if not places else filled == text
    if not chat:
        pieces, names = (pieces, names) if places else ([f"{text}\n\n", ""], fields)
        student = _block(user + _literal(pieces[-1]), 6)
        teacher = file if places and as_it_is else _block(_filled(pieces, names), 6)
        where = where or "the input stands at the prompt's end"
        return Sides(teacher, student, fields, _mendable(where))
    content = file if as_it_is else _block(filled, 10)
    if places:
        teacher = _messages([("user", content)])
    else:
        teacher = _messages([("system", content), ("user", _block(user, 10))])
    where = where or "the prompt is the system message, and the input the user's"
    return Sides(teacher, _messages([("user", _block(user, 10))]), fields, _mendable(where))


def _of_messages(text: str, prompt: Path, field: str | None, *, chat: bool) -> Sides:
    messages = _listed(text, prompt)
    if not chat:
        raise UserError(
            "the prompt is a list of messages, but the model has no chat template",
            where=str(prompt),
            fix="name an instruct model with --model, or give a prompt of plain text",
        )
    split = [_places(message["content"]) for message in messages]
    places = [name for _, names in split for name in names]
    names = iter(_names(places, field))
    contents = [_filled(pieces, [next(names) for _ in own]) for pieces, own in split]
    fields = list(dict.fromkeys(_names(places, field))) or [field or "text"]
    user = _block("\n".join(map(_place, fields)), 10)
    written = [
        (message["role"], _block(content, 10))
        for message, content in zip(messages, contents, strict=True)
    ]
    if not places:
        if messages[-1]["role"] == "user":
            raise UserError(
                "the last message is the user's, and nothing in it says where the input stands",
                where=str(prompt),
                fix="write {{ text }} there, or leave that message out",
            )
        written.append(("user", user))
    where = _where(places) or "the input is the user's message behind the prompt's messages"
    return Sides(_messages(written), _messages([("user", user)]), fields, _mendable(where))


def _listed(text: str, prompt: Path) -> list[dict[str, Any]]:
    try:
        messages = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(
            f"not JSON: {str(error)[:100]}", where=str(prompt), fix="mend the file"
        ) from None
    listed = messages if isinstance(messages, list) else []
    if not listed or not all(
        isinstance(each, dict)
        and each.keys() == {"role", "content"}
        and all(isinstance(value, str) for value in each.values())
        for each in listed
    ):
        raise UserError(
            "no list of messages with a text each",
            where=str(prompt),
            fix='write [{"role": "system", "content": "..."}, ...]',
        )
    return listed


def _names(places: Sequence[str], field: str | None) -> list[str]:
    """Fields at a prompt's places: one that stands for the input is the inputs' own."""
    if len(set(places)) == 1 and (places[0] in _ONE or field):
        return [field or "text"] * len(places)
    return list(places)


def _where(places: Sequence[str]) -> str:
    counted = ", ".join(f"{name} {_times(n)}" for name, n in Counter(places).items())
    return f"places of the prompt that are filled: {counted}" if places else ""


def _mendable(where: str) -> str:
    filled = where.startswith("places")
    return where if filled else f"{where} (write {{{{ text }}}} where it is to stand)"


def _messages(messages: Sequence[tuple[str, str]]) -> str:
    """Messages as YAML, behind a key that is indented by four."""
    return "".join(f"\n      - role: {role}\n        content: {text}" for role, text in messages)


def _place(name: str) -> str:
    return f"{{{{ {name} }}}}"


def _filled(pieces: Sequence[str], names: Sequence[str]) -> str:
    filled = [*map(_place, names), ""]
    return "".join(_literal(piece) + place for piece, place in zip(pieces, filled, strict=True))


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


def _block(text: str, indent: int) -> str:
    """A block that people can read and edit; one line in quotes, where YAML has no block for a text
    (it begins with blanks, or holds control characters), or none is needed.
    """
    if "\n" not in text:
        return quoted(text)
    block = "|\n" + "\n".join(" " * indent + line if line else "" for line in text.split("\n"))
    with contextlib.suppress(yaml.YAMLError):
        if yaml.safe_load(f"teacher: {block}\n")["teacher"].rstrip("\n") == text:
            return block
    return quoted(text)


def quoted(text: str) -> str:
    """A text in quotes, as YAML reads it on one line."""
    return yaml.safe_dump(text, default_style='"', width=10**9, allow_unicode=True).strip()


def _literal(text: str) -> str:
    """Text that Jinja2 gives back as it is."""
    if any(mark in text for mark in ("{{", "{%", "{#")):
        return "{% raw %}" + text + "{% endraw %}"
    return text
