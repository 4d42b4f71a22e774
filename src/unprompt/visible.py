"""Text of models, servers and files, made safe to look at: nothing in it acts, and nothing in it
hides. Pure.
"""

from __future__ import annotations

import json
from typing import Any

import regex

_TEXT = regex.compile(
    r"""
    (?P<needed>
        (?<=\p{Emoji}) [\ufe0e\ufe0f]
      | (?<=[[\p{L}\p{Emoji}]--[\x00-\x7f]] [\p{M}\p{Emoji_Modifier}]{0,8})
        [\u200c\u200d]
        (?=[[\p{L}\p{M}\p{Emoji}]--[\x00-\x7f]])
    )
    | (?P<unseen> [[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}\u2800]--[\ \t\n]] )
    """,
    regex.V1 | regex.VERBOSE,
)
"""What can't be seen, by Unicode's own properties: controls, marks of direction, blanks that are no
space, lone halves of characters, code points that nobody was given, whatever a screen may leave out
(and the one blank that only looks like a letter: Braille's). What scripts and emoji need stays: one
joiner between two letters or pictures, one sign of how a picture is drawn."""


def visible(text: str) -> str:
    r"""The text with every character that can't be seen, or that moves others, written out: a
    control picture, or its code point. Of what it returns nothing is written out again.

    >>> visible("a\x1b[31mb\u202ec")
    'a␛[31mb⟨U+202E⟩c'
    """
    if text.isascii() and text.isprintable():
        return text
    return _TEXT.sub(_picture, text)


def _picture(match: regex.Match[str]) -> str:
    if match["needed"]:
        return match[0]
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u27e8U+{code:04X}\u27e9"


def embedded(data: Any) -> str:
    """JSON for a `<script type="application/json">`: no text in it can end the script, or open a
    comment.
    """
    return (
        json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace("&", "\\u0026")
    )
