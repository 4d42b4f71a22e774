"""T and f: what a model reads, and which part of its answer counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from unprompt.recipe import prompt_files
from unprompt.recipe.section import FromFile, Section, nearest

_OURS = ("messages", "tools", "add_generation_prompt", "strftime_now")
"""Variables of a chat template that the prompt decides."""


def _settable(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if not name.isidentifier() or name in _OURS:
            raise ValueError(
                f"'{name}' is no variable that can be set -> leave it out; messages, tools and date"
                " have settings of their own"
            )
    return given


Variables = Annotated[
    dict[str, str | bool | int | float | None],
    AfterValidator(_settable),
]
"""Values of a chat template's variables."""


def _or_a_file(shape: dict[str, Any]) -> None:
    named = {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]}
    shape["anyOf"].append(named | {"additionalProperties": False})


class Message(Section):
    """One chat message of a template, or the turns of a conversation that the input holds."""

    role: str | None = None
    """`system`, `user`, `assistant`, `tool`, or any role the model's chat template knows."""
    content: str | tuple[dict[str, str], ...] | None = Field(
        default=None, json_schema_extra=_or_a_file
    )
    """Jinja2 template of the message's text; `{file: system.md}` reads it from a file. Or a list of
    `{type: text, text: ...}`, each text such a template. An assistant's message with `tool_calls`
    may have none."""
    tool_calls: tuple[dict[str, Any], ...] | None = None
    """What the assistant calls: a list of `{name, arguments}`, or in OpenAI's form. Taken as
    written, no template."""
    tool_call_id: str | None = None
    """Of a message in the role `tool`: the id of the call that it answers."""
    name: str | None = None
    """Who speaks, or which tool answers, for chat templates that show it."""
    turns: str | None = None
    """Instead of all these: the field of the row (or a Jinja2 expression, as `input.history`) that
    holds a list of {role, content}, with tool_calls, tool_call_id and name where there are some.
    Its turns stand here as they are; it may be empty."""

    _file: str | None = PrivateAttr(None)

    @property
    def file(self) -> str | None:
        """Where the content was read, for messages; what decides is the text."""
        return self._file

    @model_validator(mode="wrap")
    @classmethod
    def _read(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        content, path = data.get("content") if isinstance(data, dict) else None, None
        if isinstance(content, dict) and content.keys() == {"file"}:
            path, text = prompt_files.read(content["file"], info)
            if not isinstance(text, str):
                raise ValueError(
                    f"a content is text ({path}) -> write {{file: ...}} as the template"
                )
            data = {**data, "content": text}
        message = handler(data)
        message._file = path or message._file
        return message

    def _wrong(self) -> Iterator[str]:
        said = self.role is not None and (self.content is not None or bool(self.tool_calls))
        none = all(value is None for name, value in self if name != "turns")
        if not (said if self.turns is None else none):
            yield (
                "a message has a role and a content, or stands for turns -> write {role, content}"
                " or {turns: field}"
            )
        for part in () if isinstance(self.content, str) else self.content or ():
            if part.keys() != {"type", "text"} or part["type"] != "text":
                yield "a part of a content is {type: text, text: ...} -> write a text"

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {name: value for name, value in self if value is not None}


class Template(Section):
    """T: a Jinja2 text (a bare string) or a list of chat messages, in any roles. Each field of the
    input is a variable; `examples` is the few-shot pool.
    """

    shorthand: ClassVar = {str: "text", list: "messages"}

    text: str | None = None
    """Jinja2 template of a plain-text prompt."""
    messages: tuple[Message, ...] | None = None
    """Chat messages, rendered with the model's own chat template."""
    tools: Annotated[
        str | Annotated[tuple[dict[str, Any], ...], Field(min_length=1)] | None, FromFile
    ] = Field(default=None, json_schema_extra=_or_a_file)
    """What the model may call, for its chat template: a list of JSON schemas (in OpenAI's form),
    `{file: tools.json}` with such a list, or the field of the row (or a Jinja2 expression, as
    `input.tools`) that holds one."""

    chat_template: Variables = Field(default_factory=dict)
    """Variables of the chat template for these prompts, as `enable_thinking: true`, over the
    model's own."""

    file: str | None = None
    """Instead of both: where the text stands, or in a `.json` file the list of messages. What
    decides is what stands there: a resolved recipe has it written out."""

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any, info: ValidationInfo) -> Any:
        if not (isinstance(data, dict) and data.get("file") is not None):
            return data
        if data.get("text") is not None or data.get("messages"):
            raise ValueError("give one of text, messages and file")
        path, found = prompt_files.read(data["file"], info)
        return {**data, "text" if isinstance(found, str) else "messages": found, "file": path}

    def _wrong(self) -> Iterator[str]:
        if (self.text is None) == (not self.messages):
            yield "a template is a text or a list of {role, content} messages"
        if self.text is not None and self.tools is not None:
            yield "tools are for a chat template, and this is a text -> write messages"
        if self.text is not None and self.chat_template:
            yield "a text passes no chat template -> leave chat_template out, or write messages"

    @model_serializer
    def _as_written(self) -> Any:
        messages = [each.model_dump() for each in self.messages or ()]
        more = {"tools": self.tools, "chat_template": self.chat_template}
        if more := {name: value for name, value in more.items() if value}:
            return {"messages": messages} | more
        return messages if self.text is None else self.text


_KEPT = ("whole", "answer", "first_line", "last_line")


class Extract(Section):
    """f: which part of the teacher's completion the student learns. A bare string is `keep`."""

    shorthand: ClassVar = {str: "keep"}

    keep: str = "whole"
    """`whole`, `answer`, `first_line`, `last_line`, or `package.module:function` (text -> the part
    to keep, or None). `answer`: what stands behind the thoughts (`<think>...</think>` and its kin);
    an unfinished thought is a failed extraction. With after, regex or json they look there."""
    after: str | None = None
    """Keep what follows the last occurrence of this text."""
    regex: str | None = None
    """Keep the first group (or all) of the first match."""
    json_field: str | None = Field(default=None, alias="json")
    """Keep the value of this key of the first JSON object."""

    def _wrong(self) -> Iterator[str]:
        if sum(rule is not None for rule in (self.after, self.regex, self.json_field)) > 1:
            yield "give one of after, regex, json"
        elif self._rules and self.keep not in ("whole", "answer"):
            yield f"{next(iter(self._rules))} is beside keep: {self.keep} -> leave one of them out"
        if self.keep not in _KEPT and ":" not in self.keep:
            what = "not whole, first_line, last_line, answer or package.module:function"
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
        behind = {"keep": self.keep} if self.keep == "answer" else {}
        return behind | self._rules if self._rules else self.keep

    @property
    def _rules(self) -> dict[str, str]:
        rules = {"after": self.after, "regex": self.regex, "json": self.json_field}
        return {name: rule for name, rule in rules.items() if rule is not None}
