"""The prompt library: for each task a plain prompt, an elaborate one, what of the elaborate answer
is kept, how an answer is graded.

One YAML file a task, in our own words. A recipe names one (`contexts.NAME.library: nli`); `merged`
writes its parts into the recipe's plain data, and what the recipe says itself wins. So a resolved
recipe needs no library. Pure, but for reading the files of this folder.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, field_validator

FOLDER = Path(__file__).parent


class Task(BaseModel):
    """A file of the library."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    about: str
    source: str
    """Whose idea it is; the words are Unprompt's own."""
    fields: dict[str, str]
    """Fields of a row that the prompts read, and what they hold."""
    example: dict[str, Any]
    """A row."""
    plain: Prompt
    """The student's prompt."""
    elaborate: Prompt
    """The teacher's prompt."""
    extract: dict[str, str] | str
    """f: what of the answer to the elaborate prompt the student learns: what the plain prompt asks
    for."""
    evaluate: dict[str, Any]
    """Defaults of `evaluate`: metrics, how an answer to either prompt is read."""
    sampling: dict[str, Any]
    """Hints for `sampling`; `stop` for the form `text` only."""


class Prompt(BaseModel):
    """One prompt in both its forms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat: list[dict[str, str]]
    """Messages, for instruct models."""
    text: str
    """Plain text up to where the answer begins, for models without a chat template."""

    @field_validator("text")
    @classmethod
    def _no_blank_at_the_end(cls, text: str) -> str:
        return text.rstrip()


Task.model_rebuild()


def names() -> list[str]:
    """All tasks."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def check_name(name: str) -> None:
    """Refuse a task that there is not.

    Raises:
        ValueError: With the nearest name.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        fix = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names())}"
        raise ValueError(f"the library has no task '{name}' -> {fix}")


@functools.cache
def task(name: str) -> Task:
    """A task by name.

    Raises:
        ValueError: There is none of this name.
    """
    check_name(name)
    return Task.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text("utf-8")))


def written(name: str) -> str:
    """A task's file as it stands."""
    check_name(name)
    return (FOLDER / f"{name}.yaml").read_text("utf-8")


def listed() -> list[str]:
    """A line for each task."""
    return [
        f"{name:{max(map(len, names()))}}  {task(name).title} ({', '.join(task(name).fields)})"
        for name in names()
    ]


def parts(
    name: str,
    form: str = "chat",
    fields: Mapping[str, str] | None = None,
    teacher: str = "elaborate",
) -> dict[str, Any]:
    """What a task puts into a recipe: a context's `teacher`, `student`, `extract` and `evaluate`,
    and hints for `sampling`.

    Args:
        name: The task.
        form: `chat` or `text`.
        fields: The task's field -> the row's field, or a Jinja2 expression of its fields.
        teacher: `elaborate`, or `plain`: the teacher gets the student's prompt, and its answers are
            read as those to a plain prompt.

    Raises:
        ValueError: No such task, or no such field of it.
    """
    found, fields = task(name), fields or {}
    unknown = next((field for field in fields if field not in found.fields), None)
    if unknown:
        raise ValueError(
            f"the library's task '{name}' has no field '{unknown}' -> it has:"
            f" {', '.join(found.fields)}"
        )

    def template(prompt: Prompt) -> Any:
        if form == "text":
            return _mapped(prompt.text, fields)
        return [
            {key: _mapped(text, fields, turns=key == "turns") for key, text in message.items()}
            for message in prompt.chat
        ]

    evaluate = dict(found.evaluate)
    if "source" in evaluate:
        evaluate["source"] = _mapped(evaluate["source"], fields, turns=True)
    sampling = {
        key: value for key, value in found.sampling.items() if key != "stop" or form == "text"
    }
    return {
        "teacher": template(found.elaborate if teacher == "elaborate" else found.plain),
        "student": template(found.plain),
        "extract": found.extract if teacher == "elaborate" else evaluate.get("extract", "whole"),
        "evaluate": evaluate,
        "sampling": sampling,
    }


def _mapped(source: str, fields: Mapping[str, str], *, turns: bool = False) -> str:
    """A template whose fields are the recipe's expressions; of `turns` (and `source`) the whole
    text is one field.
    """
    if turns:
        return fields.get(source, source)
    used = [
        name
        for name in fields
        if re.search(
            rf"\b{re.escape(name)}\b", "".join(re.findall(r"\{[{%].*?[}%]\}", source, re.DOTALL))
        )
    ]
    if not used:
        return source
    # all at once, so that fields may change places
    return (
        f"{{% set {', '.join(used)} = {', '.join(f'({fields[name]})' for name in used)} %}}{source}"
    )


def merged(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain data with every context's library task written out.

    A context's own keys win, and inside `evaluate` so do the recipe's. `sampling.max_new_tokens`
    becomes the longest that the tasks hint at, unless the recipe gives it; `sampling.stop` what all
    contexts' tasks agree on.

    Raises:
        ValueError: An unknown task or field.
    """
    contexts = recipe.get("contexts")
    if not isinstance(contexts, dict) or not any(
        isinstance(c, dict) and c.get("library") for c in contexts.values()
    ):
        return recipe
    common, filled = recipe.get("evaluate"), {}
    hints: list[dict[str, Any]] = []
    for name, context in contexts.items():
        if not (isinstance(context, dict) and context.get("library")):
            hints.append({})
            filled[name] = context
            continue
        said: dict[str, Any] = (
            {"task": context["library"]}
            if isinstance(context["library"], str)
            else context["library"]
        )
        if not _well_formed(said):
            hints.append({})
            filled[name] = context  # the schema says what is wrong with it
            continue
        try:
            found = parts(
                said["task"],
                said.get("form", "chat"),
                said.get("fields"),
                said.get("teacher", "elaborate"),
            )
        except ValueError as error:
            raise ValueError(f"contexts.{name}.library: {error}") from None
        own = {key: value for key, value in context.items() if key != "library"}
        hints.append(found.pop("sampling"))
        evaluate = found.pop("evaluate")
        how = own.get("evaluate", True)
        if how is True and isinstance(common, dict):
            how = common
        if isinstance(how, dict):
            own["evaluate"] = how if "choices" in how else {**evaluate, **how}
        filled[name] = {**found, **own}
    sampling = recipe.get("sampling")
    if sampling is None or isinstance(sampling, dict):
        longest = max(
            (hint["max_new_tokens"] for hint in hints if "max_new_tokens" in hint), default=None
        )
        stops = [hint.get("stop") for hint in hints]
        same = {"stop": stops[0]} if stops[0] and all(stop == stops[0] for stop in stops) else {}
        sampling = {**({"max_new_tokens": longest} if longest else {}), **same, **(sampling or {})}
    return {**recipe, "contexts": filled, "sampling": sampling}


def _well_formed(said: Any) -> bool:
    fields = said.get("fields") or {} if isinstance(said, dict) else None
    return (
        isinstance(fields, dict)
        and all(isinstance(text, str) for pair in fields.items() for text in pair)
        and set(said) <= {"task", "form", "fields", "teacher"}
        and isinstance(said.get("task"), str)
        and said.get("teacher", "elaborate") in ("elaborate", "plain")
        and said.get("form", "chat") in ("chat", "text")
    )
