"""Conversations as production logged them: each assistant turn that is learned, with what stood
ahead of it.

What is read: OpenAI's chat format (`messages`; `request` with `response`; a stored completion with
its `messages`), exports of Langfuse (observations, traces) and of LangSmith (runs).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["openai", "langfuse", "langsmith"]
_ROLES = {"developer": "system", "human": "user", "ai": "assistant", "function": "tool"}
"""How others call our roles."""
_KEPT = ("tool_calls", "tool_call_id", "name")
"""Keys of a message beside its role and content."""
_IDS = ("conversation_id", "thread_id", "session_id", "sessionId", "conversation")
"""Where a row says which conversation it is of."""

FAILED = "of a call that failed"
NO_CALL = "of a step that is no model call"
NO_ANSWER = "with an answer that can't be read"
NO_TURN = "without a turn"
COPY = "a turn that an earlier row has, too"
OTHER_SYSTEM = "with another system prompt"


class Unknown(Exception):
    """A row that is not of the format, and how to mend it."""

    def __init__(self, number: int, what: str, fix: str) -> None:
        self.number, self.what, self.fix = number, what, fix


@dataclass(frozen=True)
class Logged:
    """One row of a log.

    Attributes:
        messages: The conversation, in OpenAI's form; the answer, where there was one, at its end.
        tools: JSON schemas of the tools that the model had.
        conversation: Which it is of, where the row says so.
        id: The row's, where it has one.
    """

    messages: list[dict[str, Any]]
    tools: list[Any]
    conversation: str | None
    id: str | None


def logged(rows: Iterable[Any], kind: Format, counts: Counter[str]) -> Iterator[Logged]:
    """The conversations of a log's rows. What is no answered call is left out, and counted.

    Raises:
        Unknown: A row that the format does not know.
    """
    for number, row in enumerate(_single(rows), 1):
        if not isinstance(row, dict):
            raise Unknown(number, f"is {type(row).__name__}, not an object", "mend that row")
        reason = _left_out(row, kind)
        if reason:
            counts[reason] += 1
            continue
        request, answer = _parts(row)
        messages = _messages(request)
        if messages is None:
            raise Unknown(
                number,
                f"no messages are found in it; it has: {', '.join(map(str, row)) or 'nothing'}",
                "give rows of the format, or write another (rows, openai, langfuse, langsmith)",
            )
        if answer is not None:
            message = _answer(answer)
            if message is None:  # no earlier answer stands in for one that can't be read
                counts[NO_ANSWER] += 1
                continue
            messages.append(message)
        yield Logged(messages, _tools(row, request), _conversation(row), _text_id(row))


def turns(
    rows: Iterable[Any],
    kind: Format,
    which: Literal["last", "all"],
    system: str | None,
    counts: Counter[str],
) -> Iterator[dict[str, Any]]:
    """One input for each assistant turn that is learned: `history`, the turns ahead of it without
    the system prompt; `system`, that prompt; `tools`; `conversation`, which it is of; `target`, the
    logged answer: its text, or the list of its calls. Behind a last turn that is not the
    assistant's its answer is learned, and there is no target.

    Args:
        which: `last`, the last assistant turn of a row; `all`, each.
        system: Only rows with this system prompt; None: all.
        counts: What is left out, by reason, is added.

    Raises:
        Unknown: A row that the format does not know.
    """
    seen: set[str] = set()
    for number, row in enumerate(logged(rows, kind, counts), 1):
        prompt, said = _apart(row.messages)
        if system is not None and prompt.strip() != system.strip():
            counts[OTHER_SYSTEM] += 1
            continue
        places = [n for n, message in enumerate(said) if message["role"] == "assistant"]
        if said and said[-1]["role"] != "assistant":
            places.append(len(said))  # what is to come
        if not places:
            counts[NO_TURN] += 1
        group = row.conversation or _fingerprint([prompt, said[:1]])
        for place in places[-1:] if which == "last" else places:
            history, answer = said[:place], said[place] if place < len(said) else None
            told = _fingerprint([prompt, row.tools, history])
            if told in seen:
                counts[COPY] += 1
                continue
            seen.add(told)
            name = row.id or f"row-{number:06d}"
            yield {
                "id": name if which == "last" else f"{name}.{places.index(place) + 1}",
                "system": prompt,
                "history": history,
                "tools": row.tools,
                "conversation": group,
            } | ({"target": answer.get("tool_calls") or answer["content"]} if answer else {})


def system_of(row: Logged) -> str:
    """A row's system prompt, without blanks at its ends; empty if it has none."""
    return _apart(row.messages)[0].strip()


def said(counts: Counter[str]) -> str:
    """What was left out, in words; empty if nothing was."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)


# -- a row -----------------------------------------------------------------------------------------


def _single(rows: Iterable[Any]) -> Iterator[Any]:
    """Rows; of a trace that holds its observations, those."""
    for row in rows:
        inner = row.get("observations") if isinstance(row, dict) else None
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            trace = row.get("trace")
            told = (trace if isinstance(trace, dict) else row).get("sessionId")
            session = {"sessionId": told} if told else {}
            yield from ({**session, **each} for each in inner)
        else:
            yield row


def _left_out(row: dict[str, Any], kind: Format) -> str:
    """Why a row is no call that was answered; empty if it may be one."""
    if kind == "langsmith":
        if row.get("run_type", "llm") != "llm":
            return NO_CALL
        return FAILED if row.get("error") else ""
    if kind == "langfuse":
        if str(row.get("type", "GENERATION")).upper() != "GENERATION":
            return NO_CALL
        return FAILED if row.get("level") == "ERROR" else ""
    response = row.get("response")
    if isinstance(response, dict):
        status = response.get("status_code", 200)
        return FAILED if status != 200 or response.get("error") or row.get("error") else ""
    return FAILED if row.get("error") else ""


def _parts(row: dict[str, Any]) -> tuple[Any, Any]:
    """What was asked, and what was answered, as the row has it; None where it has none."""
    for asked, answered in (
        ("request", "response"),
        ("body", "response"),
        ("input", "output"),
        ("inputs", "outputs"),
    ):
        if row.get(asked) is not None:
            return _opened(row[asked]), _opened(row.get(answered))
    return row, row if "choices" in row else None


def _opened(value: Any) -> Any:
    """A value that a table's cell holds as JSON text; a reply out of its envelope."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, dict) and isinstance(value.get("body"), dict):
        return value["body"]
    return value


def _messages(request: Any) -> list[dict[str, Any]] | None:
    if isinstance(request, dict):
        request = request.get("messages", request.get("input"))
    if isinstance(request, str):
        return [{"role": "user", "content": request}]
    if isinstance(request, list) and len(request) == 1 and isinstance(request[0], list):
        request = request[0]  # LangChain asks in batches; a run is a batch of one
    if not isinstance(request, list) or not request:
        return None
    found = [_message(each) for each in request]
    return None if None in found else [each for each in found if each]


def _answer(value: Any) -> dict[str, Any] | None:
    """The assistant's message in any of the forms in which answers are kept."""
    if isinstance(value, str):
        return {"role": "assistant", "content": value} if value else None
    if isinstance(value, list):
        return _answer(value[-1]) if value else None
    if not isinstance(value, dict):
        return None
    for key in ("choices", "generations", "message", "messages", "output"):
        if value.get(key):
            first = value[key][0] if key in ("choices", "generations") else value[key]
            return _answer(first)
    if found := _message({"role": "assistant", **value}):
        return found if found["role"] == "assistant" else None
    return _answer(value.get("text"))


def _message(raw: Any) -> dict[str, Any] | None:
    """A message of OpenAI's or of LangChain's, in OpenAI's form; None if it is neither."""
    if not isinstance(raw, dict):
        return None
    if raw.get("type") == "constructor" and isinstance(raw.get("kwargs"), dict):
        name = str((raw.get("id") or [""])[-1]).removesuffix("Chunk").removesuffix("Message")
        raw = {"role": name.lower(), **raw["kwargs"]}
    elif isinstance(raw.get("data"), dict) and "type" in raw:
        raw = {"role": raw["type"], **raw["data"]}
    role = raw.get("role") or raw.get("type")
    if not isinstance(role, str) or not {"content", "tool_calls", "function_call"} & raw.keys():
        return None
    calls = raw.get("tool_calls") or []
    if raw.get("function_call"):  # as calls were until the end of 2023
        calls = [{"type": "function", "function": raw["function_call"]}]
    message = {"role": _ROLES.get(role, role), "content": _content(raw.get("content"))}
    message |= {key: raw[key] for key in _KEPT if raw.get(key)}
    return message | ({"tool_calls": [_call(call) for call in calls]} if calls else {})


def _content(content: Any) -> Any:
    """Text; parts that are texts, put together."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.get("type") in ("text", "output_text") for part in content
    ):
        return "".join(str(part.get("text", "")) for part in content)
    return content


def _call(call: Any) -> Any:
    """A call of LangChain's (`name`, `args`) in OpenAI's form."""
    if not isinstance(call, dict) or "function" in call or "name" not in call:
        return call
    function = {"name": call["name"], "arguments": call.get("args", {})}
    return {
        **({"id": call["id"]} if call.get("id") else {}),
        "type": "function",
        "function": function,
    }


def _tools(row: dict[str, Any], request: Any) -> list[Any]:
    extra = row.get("extra")
    settings = extra.get("invocation_params") if isinstance(extra, dict) else None
    for place in (request, settings, row):
        tools = place.get("tools") if isinstance(place, dict) else None
        if isinstance(tools, list) and tools:
            return tools
    return []


def _conversation(row: dict[str, Any]) -> str | None:
    extra = row.get("extra") if isinstance(row.get("extra"), dict) else {}
    request = row.get("request") if isinstance(row.get("request"), dict) else {}
    told = [row.get("metadata"), extra.get("metadata") if extra else None]
    told += [request.get("metadata") if request else None]
    # LangSmith's session_id is the project
    places = [*told, *([] if "run_type" in row else [row])]
    for place in places:
        for key in _IDS if isinstance(place, dict) else ():
            if isinstance(place.get(key), str | int) and place[key] != "":
                return str(place[key])
    return None


def _text_id(row: dict[str, Any]) -> str | None:
    found = row.get("id", row.get("custom_id"))
    return None if found is None else str(found)


def _apart(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt at the beginning, and the turns behind it."""
    count = 0
    while count < len(messages) and messages[count]["role"] == "system":
        count += 1
    prompt = "\n\n".join(str(message["content"] or "") for message in messages[:count])
    return prompt, messages[count:]


def _fingerprint(value: Any) -> str:
    told = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]
