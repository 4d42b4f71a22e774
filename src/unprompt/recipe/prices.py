"""What models cost: our examples (prices.yaml), and the user's own table over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from unprompt.messages import UserError
from unprompt.recipe import read_yaml
from unprompt.recipe.section import nearest

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
        fix = f"add it to a table of your own (there are: {', '.join(table)})"
        fix = nearest(model, table, fix)
        raise UserError(f"no price of '{model}' in the table", where=where, fix=fix)
    return table[model]


def _read(path: Path) -> dict[str, Price]:
    data = read_yaml(path, "price table")
    table = data.get("prices") if isinstance(data, dict) else None
    if not isinstance(table, dict) or not table:
        what = "a price table is a mapping with a key `prices`"
        raise UserError(what, where=str(path), fix="lay it out as in docs/cost.md")
    _known(data, ("date", "prices"), str(path))
    source = f"{path.name} of {data['date']}" if data.get("date") else path.name
    return {
        str(name): _price(values, f"{path}, prices.{name}", source)
        for name, values in table.items()
    }


def _price(values: Any, where: str, source: str) -> Price:
    if not isinstance(values, dict):
        fix = "write {input: ..., output: ...}, in dollars per million tokens"
        raise UserError("not a mapping of prices", where=where, fix=fix)
    _known(values, _KEYS, where)
    for key in ("input", "output"):
        if values.get(key) is None:
            fix = "add it, in dollars per million tokens"
            raise UserError(f"'{key}' is missing", where=where, fix=fix)
    minimum = values.get("cache_minimum", 0)
    if not isinstance(minimum, int) or isinstance(minimum, bool) or minimum < 0:
        fix = "write a whole number of tokens"
        raise UserError(f"cache_minimum is {minimum!r}", where=where, fix=fix)
    dollars = {
        key: _dollars(value, key, where)
        for key, value in values.items()
        if key != "cache_minimum" and value is not None
    }
    return Price(**dollars, cache_minimum=minimum, source=source)


def _known(values: Mapping[Any, Any], keys: tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in keys:
            fix = nearest(str(key), keys, f"valid keys: {', '.join(keys)}", 0.5)
            raise UserError(f"unknown key '{key}'", where=where, fix=fix)


def _dollars(value: Any, key: str, where: str) -> Decimal:
    """YAML's number as it is written: the shortest decimal of a float is what stood there."""
    try:
        dollars = Decimal(str(value))
    except InvalidOperation:
        dollars = Decimal(-1)
    if isinstance(value, bool) or not dollars.is_finite() or dollars < 0:
        fix = "write dollars per million tokens, 0 or more, as 2.50"
        raise UserError(f"{key} is {value!r}", where=where, fix=fix)
    return dollars
