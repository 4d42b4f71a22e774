"""The bulleted or numbered items of a text. Pure."""

from __future__ import annotations

import regex

_ITEM = regex.compile(r"^([ \t]*)(?:[-*•‣–]|\(?\d{1,3}[.)]|\(?[a-z][.)])[ \t]+\S.*$", regex.M)
FEWEST = 2
"""Items that make a list."""


def items(text: str) -> list[str]:
    """Each item with its line's end, and the lines beneath, indented deeper than its sign."""
    items: list[str] = []
    indent = None
    for line in text.splitlines(keepends=True):
        if match := _ITEM.match(line.rstrip("\r\n")):
            items.append(line)
            indent = len(match[1])
        elif indent is not None and line.strip() and _indent(line) > indent:
            items[-1] += line
        else:
            indent = None
    return items


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))
