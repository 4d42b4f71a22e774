"""Beginnings of reviews: a thing, and a neutral opening that fits its kind. All of it is made
up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "film": (
        (
            "Harbour Lights",
            "The Ninth Door",
            "Salt Road",
            "Monday's Child",
            "A Winter Garden",
            "The Clockmaker",
            "Paper Boats",
            "North of Nowhere",
            "The Last Tram",
            "Two Brothers",
            "Silver Creek",
            "The Visitor's Book",
        ),
        (
            "I saw it last night, and",
            "The story is",
            "The acting is",
            "My sister and I watched it, and",
            "The ending is",
            "The camera work is",
            "It runs for two hours, and",
            "The dialogue is",
        ),
    ),
    "restaurant": (
        (
            "Green Olive",
            "Chez Martine",
            "The Blue Door",
            "Noodle Corner",
            "Casa Pilar",
            "The Old Mill",
            "Spice Route",
            "Luigi's",
            "Table Nine",
            "The Fisherman",
            "Rice and Roots",
            "The Brick Oven",
        ),
        (
            "We went there on Saturday, and",
            "The food is",
            "The staff are",
            "I ordered the soup, and it was",
            "The room is",
            "For dessert we had cake, which was",
            "We waited for a table, and",
            "The menu is",
        ),
    ),
    "hotel": (
        (
            "Hotel Astra",
            "Lakeside Lodge",
            "The Station Inn",
            "Villa Rosa",
            "Pine Hill Hotel",
            "The Grand Pier",
            "City Rooms",
            "Hotel Meridian",
            "The Orchard House",
            "Bay View",
            "Hotel Corona",
            "The White Swan",
        ),
        (
            "We stayed for three nights, and",
            "Our room was",
            "The breakfast is",
            "The bed was",
            "The people at the desk were",
            "The view from the window is",
            "I stayed there for work, and",
            "The bathroom was",
        ),
    ),
    "book": (
        (
            "The Glass Orchard",
            "Letters Home",
            "A Short Walk",
            "The Salt Merchant",
            "Night Ferry",
            "The Quiet Year",
            "Maps of Rain",
            "The Third Key",
            "Under the Bridge",
            "A House in June",
            "The Tin Drummer",
            "Four Seasons in Oslo",
        ),
        (
            "I read it in a week, and",
            "The characters are",
            "The writing is",
            "The plot is",
            "My book club chose it, and",
            "The first chapter is",
            "The last pages are",
            "It has three hundred pages, and",
        ),
    ),
    "product": (
        (
            "the Kelvo kettle",
            "the Arlo headphones",
            "the Tanto vacuum cleaner",
            "the Mirra desk lamp",
            "the Bosk backpack",
            "the Quill printer",
            "the Nimbus umbrella",
            "the Ferro frying pan",
            "the Orbit alarm clock",
            "the Lumo torch",
            "the Pico camera",
            "the Strand office chair",
        ),
        (
            "I bought it in May, and",
            "The quality is",
            "It arrived on Tuesday, and",
            "The design is",
            "I use it every day, and",
            "The instructions are",
            "My husband gave it to me, and",
            "The price is",
        ),
    ),
}
"""Kind -> things of that kind, and openings that fit them."""

HELD_OUT = 3
"""Things of each kind that only held-out beginnings are about."""


def beginnings(part: str, count: int, seed: int = 0) -> Iterator[dict[str, str]]:
    """Beginnings in random order, each once: `thing` ("the film Harbour Lights") and `opening`.

    Args:
        part: `inputs`, or `held_out` about other things.
        count: How many. There are 360 inputs and 120 held-out ones.
        seed: Which ones, and their order.
    """
    found = [
        {"thing": thing if kind == "product" else f"the {kind} {thing}", "opening": opening}
        for kind, (things, openings) in KINDS.items()
        for thing in (things[:HELD_OUT] if part == "held_out" else things[HELD_OUT:])
        for opening in openings
    ]
    if count > len(found):
        raise ValueError(f"there are only {len(found)} beginnings for {part}, not {count}")
    random.Random(seed).shuffle(found)
    for number, row in enumerate(found[:count]):
        yield {"id": f"{part}-{number}", **row}
