"""Jinja2's sandbox with limits: a template reaches no attribute of Python's and no file, and can't
run for ever or fill the memory.

Loops and macros count their turns, products and powers are measured ahead, the text is measured
while it is written, and (on Linux) the process may take only so much more address space while a
template is rendered. A limit that is hit raises `SecurityError`.
"""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
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


class Sandbox(ImmutableSandboxedEnvironment):
    """Where templates are compiled."""

    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False)
        del self.globals["lipsum"]  # a loop that counts no turns, as the filter slice is
        del self.filters["slice"]
        self._here = threading.local()

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
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
        """A product or a power, unless it would be huge."""
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
