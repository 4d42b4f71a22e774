"""What a table of the report is, and which numbers in it are no shares."""

from __future__ import annotations

Table = tuple[str, list[str], list[list[str]], list[str]]
"""Title, column names, rows, and the lines that belong beneath."""

_NO_SHARES = frozenset({"entropy", "entity_density"})


def is_share(metric: str) -> bool:
    """Whether a metric's values are shares of 1, to be shown in percent."""
    return metric.removesuffix("_lenient") not in _NO_SHARES
