"""How models write their thoughts down: what opens one, what closes it, where the answer begins.
Pure.

Known are `<think>`, `<thinking>`, `<thought>`, `<reasoning>` (a name ahead of it, too, as
`<seed:think>`), `[THINK]` (Magistral), `◁think▷` (Kimi-VL), `<|START_THINKING|>` (Command),
`<|channel|>analysis` up to `<|channel|>final` (gpt-oss) and `<|channel>thought` (Gemma 4).
"""

from __future__ import annotations

import re

_NAME = r"(?:\w+:)?(?:think|thinking|thought|reasoning)"
_OPENS = re.compile(
    rf"<{_NAME}>|\[{_NAME}\]|◁{_NAME}▷|<\|START_THINKING\|>|<\|channel>thought"
    r"|<\|channel\|>(?!final)\w+",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    rf"</{_NAME}>|\[/{_NAME}\]|◁/{_NAME}▷|<\|END_THINKING\|>|<channel\|>", re.IGNORECASE
)
_FINAL = re.compile(r"<\|channel\|>final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
"""Ahead of a gpt-oss model's answer, behind its thoughts or without any."""


def left_open(prompt: str) -> str:
    r"""What a rendered prompt opens at its end and leaves open; empty if nothing.

    >>> left_open("<|user|>Why?<|assistant|><think>\n")
    '<think>'
    >>> left_open("<|user|>Why?<|assistant|><think>\n\n</think>\n\n")
    ''
    """
    found = list(_OPENS.finditer(prompt))
    if not found or prompt[found[-1].end() :].strip():
        return ""
    return found[-1].group()


def behind(text: str, opened: str) -> int | None:
    """Where the answer begins, behind the thoughts ahead of it; None if one is not finished.

    >>> behind("<think>Hm.</think> Yes.", "")
    18
    >>> behind("Hm.</think> Yes.", "<think>")
    11
    >>> behind("Hm.", "<think>")

    Args:
        text: A completion.
        opened: The thought that its prompt opened. A text that closes one which nobody opened
            counts as one whose prompt did.
    """
    at = 0
    while True:
        again = _OPENS.match(text, _blanks(text, at))
        if again:
            opened, at = again.group(), again.end()
        if not opened:
            lone = None if at else _CLOSES.search(text)
            if lone is None or _OPENS.search(text, 0, lone.start()):
                break
            at = lone.end()
            continue
        end = _closer(opened).search(text, at)
        if end is None:
            return None
        at, opened = end.end(), ""
    final = _FINAL.match(text, _blanks(text, at))
    return final.end() if final else at


def inside(text: str, start: int, *, cut: bool) -> bool:
    """Whether a thought stands behind the place where the answer begins.

    Args:
        cut: The text ended at `max_new_tokens`, so that a thought may be open.
    """
    found = _OPENS.search(text, start)
    return bool(found and (cut or _closer(found.group()).search(text, found.end())))


def _blanks(text: str, at: int) -> int:
    """The place behind blanks."""
    return len(text) - len(text[at:].lstrip())


def _closer(opener: str) -> re.Pattern[str]:
    if opener.startswith("<|channel|>"):
        return _FINAL
    if opener.startswith("<|channel>"):
        return re.compile(r"<channel\|>")
    if opener.startswith("<|"):
        return re.compile(r"<\|END_THINKING\|>")
    return re.compile(re.escape(f"{opener[0]}/{opener[1:]}"), re.IGNORECASE)
