"""f: the part of a completion that the student learns, as a span of characters.

A span begins where the kept text begins, leading blanks included: they belong to the tokens that
follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import regex

from unprompt.engines import thoughts
from unprompt.messages import UserError
from unprompt.recipe import Extract
from unprompt.recipe.names import function

REGEX_SECONDS = 1.0


class Span(NamedTuple):
    """Characters `start` to `end` (exclusive) of a completion's text."""

    start: int
    end: int


def extract(
    rule: Extract,
    text: str,
    stop: str,
    where: str = "extract",
    modules: str | None = None,
    *,
    opened: str = "",
) -> Span | str:
    """f(y).

    Args:
        rule: The recipe's section.
        text: The completion.
        stop: Why the completion ended; a line that `length` cut off is not a line.
        modules: Folder searched last for a user's function.
        opened: The thought that the completion's prompt opened (`Completion.opened`).

    Returns:
        The span, or the reason why there is none.
    """
    start = _behind_thoughts(text, stop, opened) if rule.keep == "answer" else 0
    if isinstance(start, str):
        return start
    span = _find(rule, text[start:], stop, where, modules)
    if isinstance(span, str):
        return span
    span = Span(start + span.start, start + span.end)
    if not text[span.start : span.end].strip():
        return "nothing within max_new_tokens" if stop == "length" else "nothing there"
    return span


def _behind_thoughts(text: str, stop: str, opened: str) -> int | str:
    """Where the answer's first letter stands, or why there is no answer."""
    start, cut = thoughts.behind(text, opened), stop == "length"
    if start is None:
        return "thought not finished within max_new_tokens" if cut else "thought never closed"
    if thoughts.inside(text, start, cut=cut):
        return "a thought inside the answer"
    # the blank lines behind a thought are its own, and no part of an answer without one
    return len(text) - len(text[start:].lstrip()) if start else 0


def _find(rule: Extract, text: str, stop: str, where: str, modules: str | None) -> Span | str:
    if rule.after is not None:
        at = text.rfind(rule.after)
        return Span(at + len(rule.after), len(text)) if at >= 0 else f"no '{rule.after}'"
    if rule.regex is not None:
        return _regex(rule.regex, text)
    if rule.json_field is not None:
        return _json(rule.json_field, text)
    if rule.keep in ("whole", "answer"):
        return Span(0, len(text))
    if rule.keep == "first_line":
        end = text.find("\n")
        if end < 0 and stop == "length":
            return "line not finished within max_new_tokens"
        return Span(0, end if end >= 0 else len(text))
    if rule.keep == "last_line":
        if stop == "length":
            return "line not finished within max_new_tokens"
        end = len(text.rstrip())
        return Span(text.rfind("\n", 0, end) + 1, end)
    return _function(function(rule.keep, where, modules), rule.keep, text, where)


def _regex(pattern: str, text: str) -> Span | str:
    try:
        match = regex.search(pattern, text, timeout=REGEX_SECONDS)
    except TimeoutError:
        return f"regex took over {REGEX_SECONDS:g} s"
    if match is None:
        return "no match"
    group = 1 if match.re.groups and match.start(1) >= 0 else 0
    return Span(match.start(group), match.end(group))


def _json(key: str, text: str) -> Span | str:
    decoder = json.JSONDecoder(parse_int=float)  # int() refuses more than 4,300 digits
    start = text.find("{")
    if start < 0:
        return "no JSON object"
    try:
        decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return "broken JSON"
    # walk over the object's own keys; of one that stands twice the last counts, as to any parser
    spans: dict[str, Span] = {}
    at = _skip(text, start + 1, "")
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = _skip(text, at, ":")
        value, end = decoder.raw_decode(text, begin)
        quotes = 1 if isinstance(value, str) else 0
        spans[name] = Span(begin + quotes, end - quotes)
        at = _skip(text, end, ",")
    return spans.get(key, f"no key '{key}'")


def _skip(text: str, at: int, sign: str) -> int:
    """The place behind blanks, `sign` if it stands there, and blanks."""
    while text[at].isspace() or text[at] == sign:
        at += 1
    return at


def _function(keep: Callable[[str], Any], name: str, text: str, where: str) -> Span | str:
    try:
        kept = keep(text)
    except Exception as error:
        raise UserError(
            f"'{name}' failed: {type(error).__name__}: {error}",
            where=where,
            fix="mend the function",
        ) from error
    if kept is None:
        return "function found nothing"
    if not isinstance(kept, str):
        raise UserError(
            f"'{name}' returned {type(kept).__name__}",
            where=where,
            fix="return a part of the text, or None",
        )
    at = text.rfind(kept)
    return Span(at, at + len(kept)) if at >= 0 else "function's text is not part of the completion"
