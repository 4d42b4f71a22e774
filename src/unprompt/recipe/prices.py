"""What models cost: our examples (prices.yaml), and the user's own table over them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.recipe import read_yaml

OURS = Path(__file__).with_name("prices.yaml")
_KEYS = ("input", "cached_input", "output", "cache_minimum")


@dataclass(frozen=True, slots=True)
class Price:
    """A model's prices in dollars per million tokens.

    Attributes:
        input: Of prompt tokens.
        output: Of completion tokens.
        cached_input: Of prompt tokens that the provider has in its cache; None if it has none.
        cache_minimum: The shortest shared prefix, in tokens, that the provider caches.
        source: The table's file name and, where it says one, its date.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_minimum: int = 0
    source: str = ""


def load(own: str | None) -> dict[str, Price]:
    """Our examples, and a user's table over them.

    Args:
        own: Path of the user's table.

    Raises:
        UserError: It can't be read, or a price is missing, negative, no number, or has an unknown
            name.
    """
    return _read(OURS) | (_read(Path(own)) if own else {})


def price(table: Mapping[str, Price], model: str, where: str) -> Price:
    """A model's prices.

    Raises:
        UserError: The table does not have it.
    """
    if model not in table:
        near = difflib.get_close_matches(model, table, 1)
        fix = (
            f"did you mean '{near[0]}'?"
            if near
            else f"add it to a table of your own (there are: {', '.join(table)})"
        )
        raise UserError(f"no price of '{model}' in the table", where=where, fix=fix)
    return table[model]


def _read(path: Path) -> dict[str, Price]:
    data = read_yaml(path, "price table")
    if not isinstance(data, dict) or not isinstance(data.get("prices"), dict) or not data["prices"]:
        raise UserError(
            "a price table is a mapping with a key `prices`",
            where=str(path),
            fix="lay it out as in docs/cost.md",
        )
    _known(data, ("date", "prices"), str(path))
    source = f"{path.name} of {data['date']}" if data.get("date") else path.name
    return {
        str(name): _price(values, f"{path}, prices.{name}", source)
        for name, values in data["prices"].items()
    }


def _price(values: Any, where: str, source: str) -> Price:
    if not isinstance(values, dict):
        raise UserError(
            "not a mapping of prices",
            where=where,
            fix="write {input: ..., output: ...}, in dollars per million tokens",
        )
    _known(values, _KEYS, where)
    for key in ("input", "output"):
        if values.get(key) is None:
            raise UserError(
                f"'{key}' is missing", where=where, fix="add it, in dollars per million tokens"
            )
    cached, minimum = values.get("cached_input"), values.get("cache_minimum", 0)
    if not isinstance(minimum, int) or isinstance(minimum, bool) or minimum < 0:
        raise UserError(
            f"cache_minimum is {minimum!r}", where=where, fix="write a whole number of tokens"
        )
    return Price(
        _dollars(values["input"], "input", where),
        _dollars(values["output"], "output", where),
        None if cached is None else _dollars(cached, "cached_input", where),
        minimum,
        source,
    )


def _known(found: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    for key in found:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, 1, 0.5)
            raise UserError(
                f"unknown key '{key}'",
                where=where,
                fix=f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(keys)}",
            )


def _dollars(value: Any, key: str, where: str) -> Decimal:
    """YAML's number as it is written: the shortest decimal of a float is what stood there."""
    try:
        found = None if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        found = None
    if found is None or not found.is_finite() or found < 0:
        raise UserError(
            f"{key} is {value!r}",
            where=where,
            fix="write dollars per million tokens, 0 or more, as 2.50",
        )
    return found
