"""What a model wrote, made safe to look at: nothing in it acts, and nothing in it hides. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Controls but tab and line feed, directional marks, invisible characters, lone surrogates, tags.
The joiners stay: scripts and emoji need them."""


def visible(text: str) -> str:
    """The text with every character that can't be seen, or that moves others, written out: a
    control picture, or its code point.
    """
    return _UNSEEN.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return (
        chr(0x2400 + code)
        if code < 0x20
        else "\u2421"
        if code == 0x7F
        else f"\u27e8U+{code:04X}\u27e9"
    )


def embedded(data: Any) -> str:
    """JSON for a `<script type="application/json">`: no text in it can end the script, or open a
    comment.
    """
    return (
        json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        .replace("<", "\\u003c")
        .replace("&", "\\u0026")
    )
