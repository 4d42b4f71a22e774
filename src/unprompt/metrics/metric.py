"""What a metric is: a function, and all that has to be known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from unprompt.metrics.statistics import SHARE, Bounds


@dataclass(frozen=True)
class Metric:
    """A number for each answer of a system.

    An answer that can't be extracted is worth 0, unless the metric reads the completion.
    """

    function: Callable[..., float]
    """Gives the number; `reads` says what it gets."""
    reads: Literal["answer", "source", "schema", "completion"] = "answer"
    """`answer`: (extracted answer, its `Example`). `source`: (extracted answer, the text that it is
    about), which `evaluate.source` names. `schema`: (extracted answer, `evaluate.schema`).
    `completion`: (the whole `Completion`,)."""
    needs_gold: bool = True
    """Whether every held-out example has to have a gold answer."""
    is_share: bool = True
    """Whether values go from 0 to 1, the best: shown in percent, differences in points, and held to
    `report.margin` by the verdict. Else they are shown as numbers, and the verdict knows no
    quality. It also decides how intervals are computed, whatever values came out."""
    needs_labels: bool = False
    """Whether a completion has to carry soft labels, drawn from the distribution it was written
    from: answers at temperature 1, of a model that is no server."""
    refuses_gold: bool = False
    """Whether the function raises ValueError for a gold answer that it can't use, and for no other
    reason. Such a metric is tried on the gold answers before anything is asked."""
    check: Callable[[str], None] | None = None
    """Called with the metric's place in the recipe before anything is asked; raises `UserError` if
    what the function needs is not installed."""

    @property
    def bounds(self) -> Bounds | None:
        """Between which values lie; None: it has no bounds."""
        return SHARE if self.is_share else None
