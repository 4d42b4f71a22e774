"""T and f: what a model reads, and which part of its answer counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field, model_serializer

from unprompt.recipe.section import Section, nearest


class Message(Section):
    """One chat message of a template, or the turns of a conversation that the input holds."""

    role: str | None = None
    """`system`, `user`, `assistant`, or any role the model's chat template knows."""
    content: str | None = None
    """Jinja2 template of the message's text."""
    turns: str | None = None
    """Instead of both: the field of the row (or a Jinja2 expression, as `input.history`) that holds
    a list of {role, content}. Its turns stand here as they are; it may be empty."""

    def _wrong(self) -> Iterator[str]:
        if (self.role is None, self.content is None) != ((self.turns is not None),) * 2:
            yield (
                "a message has a role and a content, or stands for turns -> write {role, content}"
                " or {turns: field}"
            )

    @model_serializer
    def _as_written(self) -> dict[str, str]:
        if self.turns is not None:
            return {"turns": self.turns}
        return {"role": self.role or "", "content": self.content or ""}


class Template(Section):
    """T: a Jinja2 text (a bare string) or a list of chat messages, in any roles. Each field of the
    input is a variable; `examples` is the few-shot pool.
    """

    shorthand: ClassVar = {str: "text", list: "messages"}

    text: str | None = None
    """Jinja2 template of a plain-text prompt."""
    messages: tuple[Message, ...] | None = None
    """Chat messages, rendered with the model's own chat template."""

    def _wrong(self) -> Iterator[str]:
        if (self.text is None) == (not self.messages):
            yield "a template is a text or a list of {role, content} messages"

    @model_serializer
    def _as_written(self) -> Any:
        messages = self.messages or ()
        return [each.model_dump() for each in messages] if self.text is None else self.text


_KEPT = ("whole", "first_line", "last_line")


class Extract(Section):
    """f: which part of the teacher's completion the student learns. A bare string is `keep`."""

    shorthand: ClassVar = {str: "keep"}

    keep: str = "whole"
    """`whole`, `first_line`, `last_line`, or `package.module:function` (text -> the part to keep,
    or None)."""
    after: str | None = None
    """Keep what follows the last occurrence of this text."""
    regex: str | None = None
    """Keep the first group (or all) of the first match."""
    json_field: str | None = Field(default=None, alias="json")
    """Keep the value of this key of the first JSON object."""

    def _wrong(self) -> Iterator[str]:
        if sum(rule is not None for rule in (self.after, self.regex, self.json_field)) > 1:
            yield "give one of after, regex, json"
        if self.keep not in _KEPT and ":" not in self.keep:
            what = "not whole, first_line, last_line or package.module:function"
            fix = nearest(self.keep, _KEPT, "")
            yield f"{what} -> {fix}" if fix else what
        if self.regex is not None:
            import regex

            try:
                regex.compile(self.regex)
            except regex.error as error:
                yield f"not a regular expression: {error}"

    @model_serializer
    def _as_written(self) -> Any:
        rules = {"after": self.after, "regex": self.regex, "json": self.json_field}
        return {name: rule for name, rule in rules.items() if rule is not None} or self.keep
