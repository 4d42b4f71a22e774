"""Turns and tools as rows and recipes hold them, in one form. Pure.

OpenAI's form is read, and what others write in its place: arguments as JSON text or as a
dictionary, a call or a tool with or without `{type: function, function: ...}` around it. Behind
this, arguments are dictionaries, and calls and tools have that around them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unprompt.messages import UserError
from unprompt.records import Message

MORE = ("tool_calls", "tool_call_id", "name")
"""What a turn may have beside role and content."""
_CALL = 'write {"name": ..., "arguments": {...}}, or OpenAI\'s form'


def read(found: Any, expression: str, id_: str, where: str) -> list[Message]:
    """The turns that a field holds.

    Args:
        found: What the field holds.
        expression: How the recipe names it.
        id_: The input's.
        where: Its key in the recipe.

    Raises:
        UserError: It is no list of turns, or one has something that no prompt can hold.
    """
    listed: Sequence[Any] = found if isinstance(found, list | tuple) else ()
    wrong = "" if found == listed else f"it is {type(found).__name__}"
    said = []
    for number, turn in enumerate(listed, 1):
        fields = turn if isinstance(turn, dict) else {}
        given = fields.get("content")
        content = isinstance(given, str | list) or (given is None and fields.get("tool_calls"))
        if not isinstance(fields.get("role"), str) or not content:
            wrong = wrong or f"turn {number} is {str(turn)[:40]!r}"
        elif not wrong:
            said.append(message(fields, f"turn {number} of input '{id_}'", where))
    if wrong:
        raise UserError(
            f"'{expression}' of input '{id_}' is no list of turns: {wrong}",
            where=where,
            fix='write [{"role": "user", "content": "..."}, ...], or [] where there are none',
        )
    return said


def message(fields: Mapping[str, Any], which: str, where: str) -> Message:
    """A turn in our form; what is empty in it beside role and content is left out.

    Args:
        which: What messages call it.

    Raises:
        UserError: It has something that no prompt can hold, or calls that are none.
    """
    if more := [key for key in fields if key not in ("role", "content", *MORE) and fields[key]]:
        raise UserError(
            f"{which} has {', '.join(map(str, more))}, and of a turn only role, content,"
            f" {', '.join(MORE)} come into the prompt",
            where=where,
            fix="take that out of the data, or write it into the content",
        )
    made: Message = {"role": fields["role"], "content": fields["content"]}
    if isinstance(made["content"], list):
        made["content"] = _parts(made["content"], which, where)
    for key in ("tool_call_id", "name"):
        if (named := fields.get(key)) is not None:
            if not isinstance(named, str):
                what = f"the {key} of {which} is {str(named)[:40]!r}, no text"
                raise UserError(what, where=where, fix="write it as text")
            made |= {key: named} if named else {}
    if written := fields.get("tool_calls"):
        if made["role"] != "assistant":
            what = f"{which} has tool_calls, and is the {made['role']}'s"
            raise UserError(what, where=where, fix="only the assistant calls")
        made["tool_calls"] = calls(written, which, where)
    return made


def _parts(parts: Sequence[Any], which: str, where: str) -> list[dict[str, str]]:
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise UserError(
                f"the content of {which} has a part that is no text ({str(kind)[:40]})",
                where=where,
                fix="leave that input out: images and sounds are not for text models",
            )
        texts.append({"type": "text", "text": part["text"]})
    return texts


def calls(found: Any, which: str, where: str) -> list[dict[str, Any]]:
    """Calls in our form.

    Raises:
        UserError: They are none.
    """
    made = []
    for call in found if isinstance(found, list | tuple) else [found]:
        fields = call if isinstance(call, dict) else {}
        function = fields.get("function", fields)
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            what = f"a call of {which} names no function: {str(call)[:60]!r}"
            raise UserError(what, where=where, fix=_CALL)
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                what = f"the arguments of {name} in {which} are no JSON: {arguments[:60]!r}"
                raise UserError(what, where=where, fix="mend or leave out that input") from None
        if not isinstance(arguments, dict | None):
            what = f"the arguments of {name} in {which} are no object: {str(arguments)[:60]!r}"
            raise UserError(what, where=where, fix=_CALL)
        id_ = {"id": str(fields["id"])} if fields.get("id") else {}
        inner = {"name": name, "arguments": arguments or {}}
        made.append({**id_, "type": "function", "function": inner})
    return made


def tools(found: Any, which: str, where: str) -> tuple[dict[str, Any], ...]:
    """Schemas of tools in our form; none of null.

    Raises:
        UserError: They are no list of schemas.
    """
    made = []
    if not isinstance(found, list | tuple | None):
        what = f"the tools of {which} are no list: {str(found)[:40]!r}"
        raise UserError(what, where=where, fix="write a list of JSON schemas")
    for number, tool in enumerate(found or (), 1):
        fields = tool if isinstance(tool, dict) else {}
        function = fields.get("function", fields)
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if not named or "input_schema" in function:
            raise UserError(
                f"tool {number} of {which} is no schema: {str(tool)[:60]!r}",
                where=where,
                fix='write {"type": "function", "function": {"name": ..., "parameters": {...}}}',
            )
        kept = {key: value for key, value in function.items() if key != "type"}
        made.append({"type": "function", "function": function if "function" in fields else kept})
    return tuple(made)
