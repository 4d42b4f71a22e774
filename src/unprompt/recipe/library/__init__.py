"""The prompt library: for each task a plain prompt, an elaborate one, what of the elaborate answer
is kept, how an answer is graded.

One YAML file a task, in our own words. A recipe names one (`contexts.NAME.library: nli`); `merged`
writes its parts into the recipe's plain data, and what the recipe says itself wins. So a resolved
recipe needs no library. Pure, but for reading the files of this folder.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError, field_validator

from unprompt.recipe.contexts import Library
from unprompt.recipe.section import nearest

FOLDER = Path(__file__).parent


class Task(BaseModel, extra="forbid", frozen=True):
    """A file of the library."""

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


class Prompt(BaseModel, extra="forbid", frozen=True):
    """One prompt in both its forms."""

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
        fix = nearest(name, names(), f"there are: {', '.join(names())}")
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
    width = max(map(len, names()))
    return [
        f"{name:{width}}  {task(name).title} ({', '.join(task(name).fields)})" for name in names()
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
    whole, fields = task(name), fields or {}
    for field in fields:
        if field not in whole.fields:
            raise ValueError(
                f"the library's task '{name}' has no field '{field}' -> it has:"
                f" {', '.join(whole.fields)}"
            )

    def template(prompt: Prompt) -> Any:
        if form == "text":
            return _mapped(prompt.text, fields)
        return [
            {key: _mapped(text, fields, turns=key == "turns") for key, text in message.items()}
            for message in prompt.chat
        ]

    evaluate, sampling, elaborate = dict(whole.evaluate), dict(whole.sampling), teacher != "plain"
    if "source" in evaluate:
        evaluate["source"] = _mapped(evaluate["source"], fields, turns=True)
    if form == "chat":
        sampling.pop("stop", None)
    return {
        "teacher": template(whole.elaborate if elaborate else whole.plain),
        "student": template(whole.plain),
        "extract": whole.extract if elaborate else evaluate.get("extract", "whole"),
        "evaluate": evaluate,
        "sampling": sampling,
    }


def _mapped(source: str, fields: Mapping[str, str], *, turns: bool = False) -> str:
    """A template whose fields are the recipe's expressions; of `turns` (and `source`) the whole
    text is one field.
    """
    if turns:
        return fields.get(source, source)
    code = "".join(re.findall(r"\{[{%].*?[}%]\}", source, re.DOTALL))
    used = [name for name in fields if re.search(rf"\b{re.escape(name)}\b", code)]
    if not used:
        return source
    # all at once, so that fields may change places
    values = ", ".join(f"({fields[name]})" for name in used)
    return f"{{% set {', '.join(used)} = {values} %}}{source}"


def merged(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain data with every context's library task written out.

    A context's own keys win, and inside `evaluate` so do the recipe's. `sampling.max_new_tokens`
    becomes the longest that the tasks hint at, unless the recipe gives it; `sampling.stop` what all
    contexts' tasks agree on.

    Raises:
        ValueError: An unknown task or field.
    """
    contexts = recipe.get("contexts")
    if not isinstance(contexts, dict):
        return recipe
    filled, common = dict(contexts), recipe.get("evaluate")
    hints: dict[str, dict[str, Any]] = {}
    for name, context in contexts.items():
        try:
            asked = Library.model_validate(context["library"])
        except (TypeError, KeyError, ValidationError):
            continue  # no task; or what the schema says more of
        try:
            written_out = parts(asked.task, asked.form, asked.fields, asked.teacher)
        except ValueError as error:
            raise ValueError(f"contexts.{name}.library: {error}") from None
        hints[name], evaluate = written_out.pop("sampling"), written_out.pop("evaluate")
        filled[name] = {**written_out, **context}
        del filled[name]["library"]
        how = context.get("evaluate", True)
        if how is True and isinstance(common, dict):
            how = common
        if isinstance(how, dict):
            filled[name]["evaluate"] = how if "choices" in how else {**evaluate, **how}
    sampling = recipe.get("sampling")
    if sampling is None or isinstance(sampling, dict):
        longest = [hint["max_new_tokens"] for hint in hints.values() if "max_new_tokens" in hint]
        stops = [hints.get(name, {}).get("stop") for name in contexts]
        hint = {"max_new_tokens": max(longest)} if longest else {}
        if stops and stops[0] and all(stop == stops[0] for stop in stops):
            hint["stop"] = stops[0]
        sampling = {**hint, **(sampling or {})}
    return {**recipe, "contexts": filled, "sampling": sampling} if hints else recipe
