"""How far several raters agree: Krippendorff's alpha, from its definition.

The package `krippendorff` is under the GPL, so it can't be a dependency of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def krippendorff_alpha(
    units: Sequence[Sequence[float]], level: Literal["ordinal", "interval"] = "interval"
) -> float | None:
    """Krippendorff's alpha: 1 for full agreement, 0 for what chance gives, below 0 for less than
    that.

    `alpha = 1 - D_o / D_e`: the mean squared difference of two ratings of one unit, over that of
    any two ratings (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"). Of an ordinal
    scale, the difference of two values is the number of ratings that lie between them, the two
    values' own ratings counted half.

    Args:
        units: For each thing that was rated, the ratings it got, whoever gave them; a missing
            rating is left out. Units with fewer than two ratings say nothing and are not counted.
        level: What differences mean.

    Returns:
        Alpha; None where it is not defined: no unit has two ratings, or all ratings are the same
        value.
    """
    paired = [list(unit) for unit in units if len(unit) > 1]
    values = sorted({value for unit in paired for value in unit})
    if len(values) < 2:
        return None
    place, size = {value: n for n, value in enumerate(values)}, len(values)
    coincidences = np.zeros((size, size))
    for unit in paired:
        counts = np.bincount([place[value] for value in unit], minlength=size).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(1)
    middles = np.cumsum(totals) - totals / 2 if level == "ordinal" else np.asarray(values, float)
    differences = (middles[:, None] - middles[None, :]) ** 2
    observed = (coincidences * differences).sum()
    expected = (np.outer(totals, totals) * differences).sum() / (totals.sum() - 1)
    return float(1 - observed / expected)
