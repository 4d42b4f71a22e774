"""Chats as JSONL: written, read and checked. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from unprompt.engines import chats as chats_
from unprompt.messages import UserError
from unprompt.records import Chat, Messages
from unprompt.stages.templates import turns

ROLES = ("system", "developer", "user", "assistant", "tool")
_AHEAD = {
    "system": {None},
    "developer": {None},
    "user": {None, "system", "developer", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
"""Role -> roles that may stand right ahead of it; None: nothing does."""


def to_lines(chats: Iterable[Messages]) -> str:
    """JSONL."""
    return "".join(json.dumps(chats_.sent(chat), ensure_ascii=False) + "\n" for chat in chats)


def validate(text: str, where: str) -> list[Messages]:
    """The chats of a JSONL text.

    Args:
        where: The file's name, for messages.

    Raises:
        UserError: The first line that is not a chat that ends with an answer, by number.
    """
    if not text.strip():
        raise UserError("there is no example in it", where=where, fix="give at least one")
    return [
        _chat(line, f"{where}:{number}")
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1)
    ]


def _chat(line: str, where: str) -> Messages:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", "nested too deeply, or a number of too many digits")
        raise UserError(
            f"not JSON: {said}", where=where, fix='write one {"messages": [...]} a line'
        ) from None
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("messages"), list)
        or not row["messages"]
    ):
        raise UserError(
            "there is no list 'messages'", where=where, fix='write one {"messages": [...]} a line'
        )
    strange = sorted(row.keys() - {"messages", "tools"})
    if strange:
        raise UserError(
            f"unknown key '{strange[0]}'",
            where=where,
            fix="leave only messages and tools: hosted services refuse other keys",
        )
    tools = turns.tools(row.get("tools"), "the chat", where)
    before: str | None = None
    for number, message in enumerate(row["messages"], 1):
        before = _message(message, before, f"message {number}", where)
    if before != "assistant":
        raise UserError(
            f"the last message is the {before}'s",
            where=where,
            fix="end with the assistant's answer",
        )
    said = tuple(
        turns.message(message, f"message {number}", where)
        for number, message in enumerate(row["messages"], 1)
    )
    return Chat(said, tools) if tools else said


def _message(message: Any, before: str | None, which: str, where: str) -> str:
    """The role of a message that is in order."""
    keys = set(message) - set(turns.MORE) if isinstance(message, dict) else set[str]()
    if keys != {"role", "content"}:
        raise UserError(
            f"{which} has not just role and content",
            where=where,
            fix='write {"role": ..., "content": ...}, with tool_calls, tool_call_id or name',
        )
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(
            f"{which} has the unknown role {role!r}",
            where=where,
            fix=f"use one of {', '.join(ROLES)}",
        )
    if content is None and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise UserError(
            f"the content of {which} is not text",
            where=where,
            fix="write it as one string; images and parts are not for text models",
        )
    if role != "tool" and not content.strip() and not message.get("tool_calls"):
        raise UserError(
            f"the content of {which} ({role}) is empty",
            where=where,
            fix="give it some text, or leave that example out",
        )
    try:
        content.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the content of {which} holds half a character",
            where=where,
            fix="mend the text: it was cut inside an emoji",
        ) from None
    if before not in _AHEAD[role]:
        ahead = f"behind {before}" if before else "first"
        raise UserError(
            f"{which} is the {role}'s and stands {ahead}",
            where=where,
            fix="begin with system (or none), then let user and assistant take turns",
        )
    return role
