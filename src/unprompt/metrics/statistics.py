"""Intervals around means, over the same examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 2000
_AT_ONCE = 10


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval: Wilson's for zeros and ones, else the percentile bootstrap
    (seeded).
    """
    array = np.asarray(values, float)
    mean = float(array.mean())
    if np.isin(array, (0.0, 1.0)).all():
        ends = stats.binomtest(int(array.sum()), len(array)).proportion_ci(method="wilson")
        return mean, float(ends.low), float(ends.high)
    return mean, *bootstrap(array)


def paired_difference(
    values: Sequence[float], reference: Sequence[float]
) -> tuple[float, float, float]:
    """Mean of `values - reference`, example by example, and its 95 % bootstrap interval."""
    array = np.asarray(values, float) - np.asarray(reference, float)
    return float(array.mean()), *bootstrap(array)


def bootstrap(array: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean, over 2,000 resamples with a fixed seed."""
    [means] = resampled_means(array)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def resampled_means(*arrays: np.ndarray) -> list[np.ndarray]:
    """The mean of each array in each of 2,000 resamples of their places, the same ones for all
    (seeded); a few at a time, which keeps them in the cache.
    """
    generator, count = np.random.default_rng(0), len(arrays[0])
    means = [np.empty(RESAMPLES) for _ in arrays]
    for start in range(0, RESAMPLES, _AT_ONCE):
        chosen = generator.integers(count, size=(_AT_ONCE, count))
        for part, array in zip(means, arrays, strict=True):
            part[start : start + _AT_ONCE] = array[chosen].mean(1)
    return means


def by_group(values: Sequence[float], groups: Sequence[str | None]) -> list[float]:
    """The mean of each group's values, in order of first appearance; a value whose group is None is
    alone.

    >>> by_group([1.0, 0.0, 3.0], ["a", None, "a"])
    [2.0, 0.0]
    """
    members: dict[object, list[float]] = {}
    for n, (value, group) in enumerate(zip(values, groups, strict=True)):
        members.setdefault(n if group is None else group, []).append(value)
    return [float(np.mean(each)) for each in members.values()]


def gap_closed(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """`1 - KL(teacher || after) / KL(teacher || before)` over held-out examples, with a 95 %
    bootstrap interval; 0 where there was no gap.
    """
    b, a = np.asarray(before, float), np.asarray(after, float)
    low, high = np.percentile(_closed(*resampled_means(b, a)), [2.5, 97.5])
    return float(_closed(b.mean(), a.mean())), float(low), float(high)


def _closed(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.where(before > 0, 1 - after / np.where(before > 0, before, 1), 0.0)
