"""Jinja2's sandbox with limits: a template reaches no attribute of Python's and no file, and can't
run for ever or fill the memory.

A value stands in a prompt as a person would write it: text as it is, numbers in digits, what JSON
calls an object or a list as JSON. What can't stand there (a null, bytes, a method) is refused.

Loops and macros count their turns, products and powers are measured ahead, the text is measured
while it is written, and (on Linux) the process may take only so much more address space while a
template is rendered. A limit that is hit raises `SecurityError`.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import functools
import json
import math
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
import numpy as np
import psutil
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

TURNS = 200_000
"""Of all loops and macros of one template."""
SECONDS = 10.0
LETTERS = 2**24
"""Of a rendered text, and of a product."""
_BITS = 2**20
"""Of a whole number."""
_ROOM = 2**30
"""Bytes of address space that rendering may take."""


class NoText(ValueError):
    """A value that can't stand in a prompt."""


class Null(NoText):
    """A null, for which a template may give another word."""


def shown(value: Any) -> str:
    """A value as it stands in a prompt.

    Raises:
        NoText: It is null, no number, or no data at all.
        jinja2.UndefinedError: There is no such value.
    """
    if isinstance(value, str | jinja2.Undefined):
        return str(value)
    if isinstance(value, np.generic):
        return shown(_number(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | decimal.Decimal):
        exact = isinstance(value, decimal.Decimal)
        if not (value.is_finite() if exact else math.isfinite(value)):
            raise NoText(f"{value} is no number")
        return f"{value:f}" if exact else repr(value)
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | uuid.UUID):
        if value != value:  # pandas' NaT
            raise NoText(f"{value} is no time")
        return str(value)
    if isinstance(value, dict | list | tuple):
        return as_json(value)
    if value is None:
        raise Null("a null")
    raise NoText(f"a value of type {type(value).__name__}")


def as_json(value: Any, indent: int | None = None) -> str:
    """JSON with every letter as it is, and keys in the order of the data.

    Raises:
        NoText: It holds what JSON can't.
    """
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, indent=indent, default=_in_json
        )
    except (TypeError, ValueError) as error:
        raise NoText(f"what JSON can't hold ({error})") from None


def _in_json(value: Any) -> Any:
    """What JSON has no word for: a number stays one where JSON can hold it, the rest is text."""
    if isinstance(value, np.generic):
        return _number(value)
    if isinstance(value, decimal.Decimal) and value.is_finite() and value.adjusted() < 4300:
        number = int(value) if value == value.to_integral_value() else float(value)
        return number if decimal.Decimal(str(number)) == value else shown(value)
    return shown(value)


def _number(value: np.generic) -> Any:
    """A value of NumPy's as Python's; of 32 bits, the digits that tell it."""
    return float(str(value)) if isinstance(value, np.floating) else value.item()


_OF_TEXT = (
    *("capitalize", "center", "escape", "e", "forceescape", "indent", "lower"),
    *("replace", "string", "striptags", "title", "trim", "truncate", "upper", "urlize"),
    *("wordcount", "wordwrap"),
)
"""Filters that make text of whatever they get."""


def _of_text(filter_: Any) -> Any:
    """A filter that gets the text of a value, and refuses what has none."""

    @functools.wraps(filter_)
    def checked(*args: Any, **more: Any) -> Any:
        place = 0 if not hasattr(filter_, "jinja_pass_arg") else 1
        return filter_(*args[:place], shown(args[place]), *map(_text, args[place + 1 :]), **more)

    return checked


def _text(value: Any) -> Any:
    """An argument of such a filter: text, or a setting."""
    return shown(value) if value is None else value


def _put_in(value: Any) -> Any:
    """What `%` and `format` put into a text: numbers, which they may round, and text."""
    written = shown(value)
    plain = isinstance(value, int | float | decimal.Decimal) and not isinstance(value, bool)
    return value if plain else written


def _formatting(method: Any) -> Any:
    """A text's `format` or `format_map`, which writes values as everywhere."""

    @functools.wraps(method)
    def checked(*args: Any, **more: Any) -> Any:
        if method.__name__ == "format_map":
            return method(*map(_each_put_in, args))
        return method(*map(_put_in, args), **_each_put_in(more))

    return checked


def _each_put_in(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _put_in(each) for name, each in values.items()}


def _format(value: Any, *args: Any, **more: Any) -> str:
    """The filter `format`."""
    if args and more:
        raise ValueError("format takes values by place or by name, not both")
    return shown(value) % (_each_put_in(more) or tuple(map(_put_in, args)))


def _join(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    """The filter `join`."""
    parts = value if attribute is None else [part[attribute] for part in value]
    return d.join(map(shown, parts))


class Sandbox(ImmutableSandboxedEnvironment):
    """Where templates are compiled."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False, finalize=shown)
        self.filters |= {name: _of_text(self.filters[name]) for name in _OF_TEXT}
        self.filters |= {"tojson": as_json, "join": _join, "format": _format}
        del self.globals["lipsum"]  # a loop that counts no turns, as the filter slice is
        del self.filters["slice"]
        self._here = threading.local()

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Concat):  # `~` makes text of whatever it gets
            node.nodes = [
                nodes.Call(nodes.EnvironmentAttribute("shown"), [part], [], None, None)
                for part in node.nodes
            ]
        for node in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            node.body.insert(
                0,
                nodes.ExprStmt(
                    nodes.Call(nodes.EnvironmentAttribute("turn"), [], [], None, None),
                    lineno=node.lineno,
                ),
            )
        tree.set_environment(self)
        return tree

    shown = staticmethod(shown)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of the data, whatever else is called so; then what the sandbox lets out."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        found = super().getattr(obj, attribute)
        makes_text = isinstance(obj, str) and attribute in ("format", "format_map")
        return _formatting(found) if makes_text else found

    def turn(self) -> None:
        """Called by each turn of a loop."""
        self._here.turns += 1
        if self._here.turns > TURNS:
            raise SecurityError(f"over {TURNS:,} turns of loops")
        self._on_time()

    def _on_time(self) -> None:
        if time.monotonic() > self._here.end:
            raise SecurityError(f"it took over {SECONDS:g} s")

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """A product or a power, unless it would be huge; `%` that writes values as everywhere."""
        if operator == "%" and isinstance(left, str):
            if isinstance(right, tuple):
                right = tuple(map(_put_in, right))
            elif isinstance(right, dict) and "%(" in left:
                right = _each_put_in(right)
            else:
                right = _put_in(right)
        for one, other in ((left, right), (right, left)):
            if (
                operator == "*"
                and isinstance(one, str | bytes | list | tuple)
                and isinstance(other, int)
                and len(one) * other > LETTERS
            ):
                raise SecurityError(f"a product of over {LETTERS:,} letters")
        if isinstance(left, int) and isinstance(right, int):
            bits = (
                left.bit_length() + right.bit_length()
                if operator == "*"
                else left.bit_length() * max(0, right)
            )
            if bits > _BITS:
                raise SecurityError(f"a number of over {_BITS:,} bits")
        return super().call_binop(context, operator, left, right)

    @contextlib.contextmanager
    def limited(self) -> Iterator[None]:
        """What is compiled, rendered or evaluated in here counts as one."""
        self._here.turns, self._here.end = 0, time.monotonic() + SECONDS
        with room():
            yield

    def text(self, compiled: Callable[[], jinja2.Template], variables: Mapping[str, Any]) -> str:
        """The text of a template, which is compiled in here, too: that computes what is constant in
        it.

        Raises:
            SecurityError: It reached for what it may not have, or hit a limit.
        """
        pieces, letters = [], 0
        with self.limited():
            for piece in compiled().generate(variables):
                pieces.append(piece)
                letters += len(piece)
                if letters > LETTERS:
                    raise SecurityError(f"over {LETTERS:,} letters")
                self._on_time()
            return "".join(pieces)


@contextlib.contextmanager
def room() -> Iterator[None]:
    """Little more address space than the process has now. Not elsewhere than in the main thread,
    since others may be at work beside it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if (
        soft != resource.RLIM_INFINITY or threading.current_thread() is not threading.main_thread()
    ):  # limited already, by us or by others
        yield
        return
    with contextlib.suppress(ValueError, OSError):  # a system without it
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
