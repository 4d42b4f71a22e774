"""How numbers are written: in the tables of Markdown, terminal and model cards, and on the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unprompt.metrics import METRICS

TOO_FEW = "(too few)"
"""In place of an interval."""

KINDS: dict[str, Callable[[float], str]] = {
    "percent": lambda v: f"{100 * v:.1f}\u00a0%",
    "points": lambda v: difference(v, share=True),
    "hundredths": lambda v: f"{100 * v:g}",
    "value": lambda v: f"{v:.3f}",
    "change": lambda v: difference(v, share=False),
    "nats": lambda v: f"{v:.3f}",
    "tokens": lambda v: f"{v:,.0f}" if v >= 100 else f"{v:.1f}",
    "seconds": lambda v: f"{v:.3f}",
    "count": lambda v: f"{v:,}",
    "times": lambda v: f"{v:.1f}",
    "dollars": lambda v: f"${v:,.2f}" if abs(v) >= 0.1 or v == 0 else f"${v:.2g}",
}
"""On the page."""


def on_page(kind: str, number: float) -> str:
    """A number as one of `KINDS`; there is no negative nought."""
    text = KINDS[kind](number)
    return text if any("1" <= c <= "9" for c in text) else text.replace("-", "")


def is_share(metric: str, figures: Mapping[str, Any]) -> bool:
    """Whether a metric's values are shares of 1, to be shown in percent.

    Args:
        figures: The report's, of this metric. Those of a report from before they said so themselves
            are told by the metric's name.
    """
    known = METRICS.get(metric.removesuffix("_lenient"))
    return bool(figures.get("is_share", known is None or known.is_share))


def value(number: float, share: bool) -> str:
    """In percent, or as it is."""
    return f"{number:.1%}" if share else f"{number:.3f}"


def difference(number: float, share: bool) -> str:
    """In points of a hundred, or as it is."""
    return f"{100 * number:+.1f}" if share else f"{number:+.3f}"


def ends(m: Any, write: Callable[[float], str]) -> str:
    """The ends of an interval, or that there are too few examples to give one."""
    return TOO_FEW if m["low"] is None else f"[{write(m['low'])}, {write(m['high'])}]"


def spanned(m: Any, write: Callable[[float], str], first: str = "mean") -> str:
    """A mean (or `value`) with the ends of its interval."""
    return f"{write(m[first])} {ends(m, write)}"


def mean(m: Any, share: bool) -> str:
    """A metric's mean with its interval."""
    return spanned(m, lambda v: value(v, share))


def change(m: Any, share: bool) -> str:
    """A difference of means with its interval."""
    return spanned(m, lambda v: difference(v, share))


def dollars(amount: float | None) -> str:
    """To the cent; more digits where that would show nothing."""
    if amount is None:
        return "-"
    if amount >= 0.1 or amount == 0:
        return f"{amount:,.2f}"
    return f"{amount:.2g}" if amount >= 1e-4 else f"{amount:.1e}"


def counts(of: Mapping[str, int], between: str = ", ") -> str:
    """`3 dropped, 2 cut`."""
    return between.join(f"{count} {what}" for what, count in of.items())
