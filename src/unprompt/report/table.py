"""What a table of the report is, and which numbers in it are shown in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unprompt.metrics import METRICS

Table = tuple[str, list[str], list[list[str]], list[str]]
"""Title, column names, rows, and the lines that belong beneath."""


def is_share(metric: str, figures: Mapping[str, Any]) -> bool:
    """Whether a metric's values are shares of 1, to be shown in percent.

    Args:
        figures: The report's, of this metric. Those of a report from before they said so themselves
            are told by the metric's name.
    """
    known = METRICS.get(metric.removesuffix("_lenient"))
    return bool(figures.get("is_share", known is None or known.is_share))
