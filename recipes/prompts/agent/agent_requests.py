"""Requests to the agent of this folder, and the calls that they want. All of it is made up here.

One request in twelve wants no call. The inputs share no request with the first 240 of `test`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

PEOPLE = (
    *("Ada", "Bo", "Carla", "Dmitri", "Eva", "Farid", "Greta", "Hugo"),
    *("Irma", "Jonas", "Kemi", "Lars", "Mona", "Nils", "Olga", "Pia"),
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
TITLES = [
    "the budget review",
    "lunch with the auditors",
    "the site visit",
    "the sales call",
    "the team breakfast",
    "the contract talk",
    "the fire drill",
    "the release meeting",
]
ERRANDS = ["water the plants", "pay the rent", "call the bank", "order paper", "book the hall"]
NEWS = ["I am running late", "the parts have come", "the meeting is off", "please call me back"]
THINGS = ["paper", "toner", "coffee", "chairs", "envelopes", "light bulbs"]
CHAT = [
    "Thank you, {person}!",
    "Good morning, this is {person}.",
    "Who wrote your rules, {person}?",
    "{person} says hello.",
    "Never mind, {person} has done it.",
    "That was quick. Greetings from {person}.",
    "What can you do for {person}?",
    "Sorry, wrong window. {person}",
    "Have a nice evening, {person} is leaving.",
    "{person} thinks you are great.",
]

Made = tuple[str, list[dict[str, Any]]]
_TRIES = 10_000
"""Draws until a request is a new one."""


def _call(name: str, **arguments: Any) -> list[dict[str, Any]]:
    return [{"name": name, "arguments": arguments}]


def _event(draw: random.Random) -> Made:
    title, day, hour = draw.choice(TITLES), draw.choice(DAYS), draw.randrange(8, 18)
    forms = ["Put {0} on {1} at {2}:00.", "{0} is on {1}, {2}:00. Note it.", "New: {0}, {1} {2}:00"]
    text = draw.choice(forms).format(title, day, hour)
    return text, _call("create_event", title=title, day=day, time=f"{hour:02}:00")


def _listed(draw: random.Random) -> Made:
    day, person = draw.choice(DAYS), draw.choice(PEOPLE)
    forms = ["What is on {0}? {1} asks.", "{1} wants to know what we have on {0}."]
    return draw.choice(forms).format(day, person), _call("list_events", day=day)


def _cancelled(draw: random.Random) -> Made:
    title, day = draw.choice(TITLES), draw.choice(DAYS)
    forms = ["Cancel {0} on {1}.", "{0} on {1} is off, take it out.", "Drop {0} from {1}."]
    return draw.choice(forms).format(title, day), _call("cancel_event", title=title, day=day)


def _reminder(draw: random.Random) -> Made:
    errand, minutes = draw.choice(ERRANDS), draw.randrange(5, 60, 5)
    forms = ["In {1} minutes, remind me to {0}.", "Remind me to {0} in {1} minutes."]
    return draw.choice(forms).format(errand, minutes), _call(
        "set_reminder", text=errand, minutes=minutes
    )


def _message(draw: random.Random) -> Made:
    person, news = draw.choice(PEOPLE), draw.choice(NEWS)
    forms = ["Tell {0} that {1}.", "Write to {0}: {1}", "Let {0} know: {1}"]
    return draw.choice(forms).format(person, news), _call("send_message", to=person, text=news)


def _order(draw: random.Random) -> Made:
    thing, count = draw.choice(THINGS), draw.randrange(2, 30)
    forms = ["We need {1} more {0}.", "Order {1} {0}.", "Get {1} of these: {0}"]
    return draw.choice(forms).format(thing, count), _call("order_supplies", item=thing, count=count)


def _chat(draw: random.Random) -> Made:
    return draw.choice(CHAT).format(person=draw.choice(PEOPLE)), []


KINDS: list[Callable[[random.Random], Made]] = [
    _event,
    _listed,
    _cancelled,
    _reminder,
    _message,
    _order,
    _chat,
]


def rows(part: str, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Requests with the calls that they want.

    Args:
        part: `test`, or `inputs`, of which none is among the first 240 of `test`.
    """
    held = (
        {row["text"] for row in _rows("test", 240, seed, set())} if part != "test" else set[str]()
    )
    return _rows(part, count, seed, held)


def _rows(part: str, count: int, seed: int, taken: set[str]) -> Iterator[dict[str, Any]]:
    draw, seen = random.Random(f"{part} {seed}"), set(taken)
    for number in range(count):
        kind = KINDS[-1] if number % 12 == 11 else KINDS[draw.randrange(len(KINDS) - 1)]
        new = (made for made in (kind(draw) for _ in range(_TRIES)) if made[0] not in seen)
        text, calls = next(new)
        seen.add(text)
        yield {"id": f"{part}{number}", "text": text, "target": calls}
