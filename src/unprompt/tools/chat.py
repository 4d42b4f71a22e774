"""`unprompt chat RUN`: the run's systems in the terminal. Every line typed is a new input, as the
recipe's data has them; where those hold turns, it is the next turn of a conversation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from unprompt.messages import UserError
from unprompt.tools.live import Conversation, Live
from unprompt.visible import visible

_HALF = "\ufffd"
"""What an unfinished character is decoded to."""


def chat(
    folder: Path,
    system: str | None,
    context: str | None,
    out: TextIO | None = None,
    read: Callable[[str], str] = input,
) -> None:
    """Answer until the input ends.

    Args:
        system: Who answers first; the last round's student unless given.
        context: Whose prompts; the first context's unless given.
        out: Where answers go; the terminal unless given.

    Raises:
        UserError: No finished run, no such system or context. What is wrong with an input is only
            said.
    """
    out, live = out or sys.stdout, Live(folder)
    context = live.context(context)
    systems, fields = live.systems(context), live.fields(context)
    system = system or systems[-1]
    if system not in systems:
        raise UserError(
            f"there is no system '{system}'",
            where="--system",
            fix=f"there are: {', '.join(systems)}",
        )

    def say(line: str, end: str = "\n") -> None:
        print(visible(line), end=end, file=out, flush=True)

    names, talk = ", ".join(f"/{name}" for name in systems), live.conversation(context)
    lines = "each line is the next turn, /new begins another conversation; " if talk else ""
    say(
        f"{system} answers ({context}); {lines}{names} to ask another, /all for one after the"
        " other, /quit to leave"
    )
    asked, said, kept = [system], dict[str, list[dict[str, str]]](), dict[str, str]()
    label = "you" if talk else (fields[:1] or ["enter"])[0]
    others = [name for name in fields if not talk or name not in (talk.turns, talk.line)]
    while True:
        try:
            if talk and not kept:  # what does not change while they talk
                kept = {name: read(f"{name}> ") for name in others}
            first = read(f"{label}> ")
            command = first[1:].strip() if first.startswith("/") else None
            if command == "quit":
                return
            if command == "new" and talk:
                said, kept = {}, {}
                continue
            if command in (*systems, "all"):
                asked = systems if command == "all" else [command]
                continue
            one = {label: first} if fields and not talk else {}
            typed = one | (kept if talk else {name: read(f"{name}> ") for name in fields[1:]})
        except EOFError:
            return
        _ask(live, context, asked, typed, talk and (talk, first), said, say)


def _ask(
    live: Live,
    context: str,
    asked: list[str],
    typed: dict[str, str],
    talk: tuple[Conversation, str] | None,
    said: dict[str, list[dict[str, str]]],
    say: Callable[..., None],
) -> None:
    """Have systems answer an input, or a conversation's next line.

    Args:
        talk: How the conversation is held, and the line.
        said: System -> its turns so far; gets the line and the answer.
    """
    for name in asked:
        before, given = said.get(name, []), typed
        try:
            if talk:
                given = typed | talk[0].typed(before, talk[1])
            answer = _answer(live, context, name, given, say)
        except UserError as error:
            say(f"\n{error}")
            break
        if talk:
            turns = ("user", talk[1]), ("assistant", answer)
            said[name] = [*before, *({"role": role, "content": text} for role, text in turns)]


def _answer(
    live: Live, context: str, system: str, typed: dict[str, str], say: Callable[..., None]
) -> str:
    """The whole answer. Only what is sure is printed while it comes: neither half a character, nor
    what may be the beginning of a stop string.
    """
    say(f"{system}: ", end="")
    sampling = live.recipe.sampling_of(live.recipe.evaluation(context))
    written, longest = "", max(map(len, sampling.stop), default=1)
    for item in live.stream(context, system, typed):
        if isinstance(item, str):
            sure = item.rstrip(_HALF)
            sure = sure[: max(len(written), len(sure) - longest + 1)]
            if sure.startswith(written):
                say(sure[len(written) :], end="")
                written = sure
        else:
            rest = item.text[len(written) :] if item.text.startswith(written) else f"\n{item.text}"
            say(f"{rest}\n  [{item.figures}]")
            written = item.text
    return written
