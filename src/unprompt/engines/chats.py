"""A chat as a model's own chat template writes it.

Templates differ in what they take: arguments of a call as a dictionary (as transformers documents
it) or as JSON text, a call's content as null or as an empty text, a content in parts or only as one
text. Which of them a template takes is found by rendering a small chat, once for each template.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from unprompt.messages import UserError
from unprompt.records import Chat, Message, Messages, like, text_of
from unprompt.store.files import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK, _KEY, _WORD, _RESULT = (f"unprompt_{each}" for each in ("mark", "key", "word", "result"))
"""What is looked for in a small chat: names of a function and of its argument, and texts."""
_QUESTION: Message = {"role": "user", "content": "?"}
_ID = "unprompt1"
"""A call's id, of the nine letters and digits that Mistral's templates ask for."""


class _Takes(NamedTuple):
    """What a chat template takes.

    Attributes:
        tools: Whether it writes the tools down.
        calls: Whether it writes down what the assistant called.
        results: Whether it writes down what a tool answered.
        objects: Whether it takes a call's arguments as a dictionary; else as JSON text.
        null: Whether a message that only calls has the content null; else an empty text.
        parts: Whether it takes a content in parts.
    """

    tools: bool
    calls: bool
    results: bool
    objects: bool
    null: bool
    parts: bool


def written(
    tokenizer: PreTrainedTokenizerBase, content: Messages, where: str, *, answered: bool = False
) -> str:
    """The text of a chat, with the template's generation prompt; a last message in the role
    `assistant` is continued instead.

    Args:
        answered: The last message is whole: nothing is to be written behind it.

    Raises:
        UserError: There is no chat template, it refuses the chat, or it would leave out tools,
            calls or what a tool answered.
    """
    if not tokenizer.chat_template:
        raise UserError(
            "this model has no chat template",
            where=where,
            fix="write the prompt as plain text, or use a chat model",
        )
    takes = _takes(tokenizer, json.dumps(tokenizer.chat_template))
    _refuse_left_out(takes, content, where)
    goes_on = content[-1]["role"] == "assistant" and not answered
    tools = _tools(content)
    variables: dict[str, Any] = {"tools": copy.deepcopy(list(tools))} if tools else {}
    variables |= variables_of(content)
    messages = [_as_taken(message, takes) for message in content]
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=not goes_on and not answered,
            continue_final_message=goes_on,
            **variables,
        )
    except Exception as error:  # whatever a model's template does to the roles
        made = functools.partial(_small, tokenizer, **variables)
        refused = next(n for n in range(len(messages), 0, -1) if n == 1 or made(messages[: n - 1]))
        roles = [message["role"] for message in messages[:refused]]
        raise UserError(
            f"the model's chat template refuses message {refused} ('{roles[-1]}'):"
            f" {first_line(error)}",
            where=where,
            fix=_mended(roles),
        ) from None
    assert isinstance(text, str)
    return text


def _mended(roles: list[str]) -> str:
    """What to do where the last of these roles is refused."""
    if roles[-1] in ("system", "developer"):
        return f"write the {roles[-1]} message's text into the first user message"
    if roles[-2:] == [roles[-1]] * 2:
        return f"write messages {len(roles) - 1} and {len(roles)} as one: roles have to alternate"
    if len(roles) == 1 or roles[:-1] == ["system"]:
        return "begin with a user message"
    return "use the roles it knows, in the order in which it takes them"


def _tools(content: Messages) -> tuple[dict[str, Any], ...]:
    return content.tools if isinstance(content, Chat) else ()


def variables_of(content: str | Messages) -> dict[str, Any]:
    """What a prompt sets of its chat template."""
    return content.variables if isinstance(content, Chat) else {}


def _refuse_left_out(takes: _Takes, content: Messages, where: str) -> None:
    lacks = ""
    if _tools(content) and not takes.tools:
        lacks = "knows no tools"
    elif any(m.get("tool_calls") for m in content) and not takes.calls:
        lacks = "leaves out what the assistant calls"
    elif any(m["role"] == "tool" for m in content) and not takes.results:
        lacks = "leaves out what a tool answers"
    if lacks:
        raise UserError(
            f"the model's chat template {lacks}",
            where=where,
            fix="use a model whose template shows it, or write it into the messages as text",
        )


def _as_taken(message: Message, takes: _Takes) -> Message:
    """A message in the form that a template takes."""
    made = copy.deepcopy(message) if len(message) > 2 else {**message}  # templates may change it
    if isinstance(made["content"], list) and not takes.parts:
        made["content"] = text_of(made["content"])
    if calls := message.get("tool_calls"):
        if not made["content"]:
            made["content"] = None if takes.null else ""
        if not takes.objects:
            made["tool_calls"] = [as_text(call) for call in calls]
    return made


def as_text(call: dict[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON text, as servers and some templates take it."""
    inner = call["function"]
    arguments = json.dumps(inner["arguments"], ensure_ascii=False)
    return {**call, "function": {**inner, "arguments": arguments}}


def sent(content: Messages) -> dict[str, Any]:
    """A chat as endpoints and files of chats have it: a call's arguments as JSON text."""
    messages = [
        message | {"tool_calls": [as_text(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in content
    ]
    tools = _tools(content)
    return {"messages": messages} | ({"tools": list(tools)} if tools else {})


# -- what a template takes -------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _takes(tokenizer: PreTrainedTokenizerBase, template: str) -> _Takes:
    """Of the template that the tokenizer has now, whose text is given."""
    made = functools.partial(_small, tokenizer)
    parameters = {"type": "object", "properties": {_KEY: {"type": "string"}}}
    function = {"name": _MARK, "description": "?", "parameters": parameters}
    tools = made([_QUESTION], tools=[{"type": "function", "function": function}])
    forms = [(objects, null) for objects in (True, False) for null in (True, False)]
    found = [(form, made(_calling(*form))) for form in forms]
    shown = [form for form, text in found if _shows_call(text, form)]
    objects, null = (shown or [(True, False)])[0]
    behind = [*_calling(objects, null), {"role": "tool", "tool_call_id": _ID, "content": _RESULT}]
    behind[-1]["name"] = _MARK
    parts = made([{"role": "user", "content": [{"type": "text", "text": _WORD}]}])
    result = made(behind)
    return _Takes(
        tools=tools is None or _MARK in tools,
        calls=bool(shown) or all(text is None for _, text in found),
        results=result is None or _RESULT in result,
        objects=objects,
        null=null,
        parts=parts is not None and _WORD in parts and not _has_keys(parts),
    )


def _small(tokenizer: PreTrainedTokenizerBase, chat: list[Message], **more: Any) -> str | None:
    """A small chat as the template writes it; None: it refuses this one."""
    try:
        text = tokenizer.apply_chat_template(copy.deepcopy(chat), tokenize=False, **more)
    except Exception:  # a template may refuse this chat, and is then not judged by it
        return None
    return str(text)


def _calling(objects: bool, null: bool) -> list[Message]:
    function = {"name": _MARK, "arguments": {_KEY: _WORD}}
    call = {"id": _ID, "type": "function", "function": function}
    calls = [call if objects else as_text(call)]
    return [_QUESTION, {"role": "assistant", "content": None if null else "", "tool_calls": calls}]


def _shows_call(text: str | None, form: tuple[bool, bool]) -> bool:
    """Whether a call stands in the text as the model would write it: all of it, not as Python
    prints it, no JSON within JSON, and no null that became a word.
    """
    if text is None or not all(each in text for each in (_MARK, _KEY, _WORD)):
        return False
    return f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text and not (form[1] and "None" in text)


def _has_keys(text: str) -> bool:
    """Whether a part of a content stands in the text as Python or JSON prints it."""
    return "'type'" in text or '"type"' in text


# -- an answer that calls --------------------------------------------------------------------------


def answer(
    tokenizer: PreTrainedTokenizerBase, content: Messages, message: Message, where: str
) -> str:
    """The text that the model writes where its answer is this message, calls in its own syntax.

    Args:
        content: The prompt, which does not end with the assistant's message.

    Raises:
        UserError: The template can't write it, or writes it otherwise than behind its generation
            prompt.
    """
    chat = like((*content, message), content)
    begin = written(tokenizer, content, where)
    whole = written(tokenizer, chat, where, answered=True)
    if not whole.startswith(begin):
        raise UserError(
            "the chat template writes an answer otherwise than behind its generation prompt, so"
            " that a message can't be put into the model's own words",
            where=where,
            fix="write the answer as text",
        )
    text = whole[len(begin) :].rstrip()
    for end in ends(tokenizer):
        text = text.removesuffix(end).rstrip()
    return text


def ends(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What may stand behind an answer: what the template writes there, and the end token."""
    text = _small(tokenizer, [_QUESTION, {"role": "assistant", "content": _WORD}])
    if text and (behind := text.rpartition(_WORD)[2].strip()):
        yield behind
    yield str(tokenizer.eos_token)
