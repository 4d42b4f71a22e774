"""How far several raters agree: Krippendorff's alpha, from its definition.

The package `krippendorff` is under the GPL, so it can't be a dependency of ours.
"""

from __future__ import annotations

import itertools
from collections import Counter
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
    # of n values, the squared differences of all pairs sum to 2 n times those from their mean: no
    # pair is looked at, whatever the number of ratings and of different ones
    totals = np.array([*map(Counter(itertools.chain(*paired)).get, values)], float)
    middles = np.cumsum(totals) - totals / 2 if level == "ordinal" else np.asarray(values, float)
    at = dict(zip(values, middles.tolist(), strict=True))
    observed = 0.0
    for unit in paired:
        places = [at[value] for value in unit]
        mean = sum(places) / len(places)
        observed += 2 * len(unit) / (len(unit) - 1) * sum((each - mean) ** 2 for each in places)
    count, mean = totals.sum(), (totals * middles).sum() / totals.sum()
    expected = 2 * count / (count - 1) * (totals * (middles - mean) ** 2).sum()
    return float(1 - observed / expected)
