"""Means, differences and quotients with their 95 % intervals.

Two methods, chosen by what is measured and never by how its values came out:

- Values between known bounds (shares, ratings on a scale): Learned-Miller & Thomas 2019, "A New
  Confidence Interval for the Mean of a Bounded Random Variable". The values get random weights that
  sum to 1, and so does one more value, the worst that there could be. Of zeros and ones this is
  Clopper & Pearson's exact interval; of their paired differences it is, unlike a bootstrap, wide
  where few answers differ.
- Values without bounds (nats, densities): the studentised bootstrap (Efron & Tibshirani 1993,
  chapter 12), each end with the farthest value on its side once more: few values seldom hold one as
  far out as there are.

How often each covers is measured by `benchmarks/intervals.py` (docs/reliability.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

Values = Sequence[float] | np.ndarray
Bounds = tuple[float, float]
"""Between which values lie."""
SHARE: Bounds = (0.0, 1.0)
Spanned = tuple[float, float | None, float | None]
"""A mean (or quotient) and the ends of its 95 % interval; None: too few to give one."""

FEWEST = 24
"""Fewer values than that have no interval."""
_DRAWS = 4000
_MOST_DRAWS, _WEIGHTS = 100_000, 2_000_000
"""Values of which few differ are cheap to weigh: so many draws, or as many as so many weights buy.
"""
_AT_ONCE = 200_000
"""Weights drawn at a time, which keeps them in the cache."""
_TAILS = (0.025, 0.975)


def interval(values: Values, bounds: Bounds | None) -> Spanned:
    """Mean and its 95 % interval.

    Args:
        values: Shape (N,), independent of each other (of groups that belong together their means).
        bounds: Between which every value lies, whatever came out; None: it has no bounds.
    """
    array = np.asarray(values, float)
    mean = float(array.mean())
    if len(array) < FEWEST:
        return mean, None, None
    if bounds is None:
        return mean, *_studentised(array, np.ones(len(array)))
    return mean, *_bounded(array, bounds)


def paired_difference(values: Values, reference: Values, bounds: Bounds | None) -> Spanned:
    """Mean of `values - reference`, example by example, and its 95 % interval.

    Args:
        bounds: Of the values and of the reference.
    """
    differences = _differences(values, reference)
    return interval(differences, _of_differences(bounds) if bounds else None)


def needed(values: Values, reference: Values, bounds: Bounds, margin: float) -> int | None:
    """How many values it takes to say that `values - reference` is on average no less than
    `-margin`, if mean and deviation stay as they are; None: no number of them would.

    The interval's lower end lies `a / sqrt(n) + b / n` under the mean: the first for the deviation,
    the second for the worst that was not seen. It has to come up to `-margin`. And never fewer than
    `3 / margin`: had none of so few gone wrong, more than the margin of all still might (the rule
    of three).
    """
    differences = _differences(values, reference)
    wanted = _enough(differences, _of_differences(bounds), -margin)
    return None if wanted is None else max(math.ceil(round(3 / margin, 6)), wanted)


def enough(values: Values, bounds: Bounds) -> int | None:
    """How many values it takes to say that they are on average over 0, if mean and deviation stay
    as they are; None: no number of them would.

    Args:
        bounds: Of the values.
    """
    return _enough(np.asarray(values, float), bounds, 0.0)


def kept(values: Values, reference: Values) -> Spanned | None:
    """`mean(values) / mean(reference)` of shares of the same examples and its 95 % interval; None
    where the reference's mean is not over 0.

    The worst that there could be is an example that only one of the two gets right.
    """
    pairs = np.column_stack([np.asarray(values, float), np.asarray(reference, float)])
    above, below = pairs.mean(0)
    if below <= 0:
        return None
    if len(pairs) < FEWEST:
        return float(above / below), None, None
    ends = ([], [])
    for means, worst in _weighted(pairs):
        ends[0].append(means[:, 0] / (means[:, 1] + worst))
        ends[1].append((means[:, 0] + worst) / means[:, 1])
    low, high = (np.quantile(np.concatenate(e), q) for e, q in zip(ends, _TAILS, strict=True))
    return float(above / below), float(low), float(high)


def gap_closed(before: Values, after: Values) -> Spanned:
    """`1 - KL(teacher || after) / KL(teacher || before)` over held-out examples, with its 95 %
    interval; 0 where there was no gap.
    """
    b, a = np.asarray(before, float), np.asarray(after, float)
    if b.mean() <= 0:
        return 0.0, None, None
    value = float(1 - a.mean() / b.mean())
    if len(b) < FEWEST:
        return value, None, None
    low, high = _studentised(a, b)
    return value, None if high is None else 1 - high, None if low is None else 1 - low


def over_tasks(tasks: Sequence[Sequence[float]], bounds: Bounds | None) -> Spanned:
    """Mean of the tasks' means, and its 95 % interval over the values of all tasks.

    A value counts as much as its task is small, so that their plain mean is that of the tasks.
    """
    count = sum(map(len, tasks))
    weights = [count / (len(tasks) * len(task)) for task in tasks]
    values = [value * weight for task, weight in zip(tasks, weights, strict=True) for value in task]
    if bounds is None:
        return interval(values, None)
    ends = [end * weight for end in bounds for weight in weights]
    return interval(values, (min(ends), max(ends)))


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


# -- the two methods -------------------------------------------------------------------------------


def _enough(array: np.ndarray, bounds: Bounds, floor: float) -> int | None:
    """How many values bring the lower end of the interval of their mean up to the floor."""
    count, mean = len(array), float(array.mean())
    room = mean - floor
    if room <= 0:
        return None
    low, _ = _bounded(array, bounds)
    a = NormalDist().inv_cdf(_TAILS[1]) * float(array.std())
    b = count * (mean - low) - a * math.sqrt(count)
    root = (a + math.sqrt(max(a * a + 4 * b * room, 0.0))) / (2 * room)
    return max(FEWEST, math.ceil(round(root * root, 6)))


def _differences(values: Values, reference: Values) -> np.ndarray:
    return np.asarray(values, float) - np.asarray(reference, float)


def _of_differences(bounds: Bounds) -> Bounds:
    return bounds[0] - bounds[1], bounds[1] - bounds[0]


def _bounded(array: np.ndarray, bounds: Bounds) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean of values between bounds (Learned-Miller & Thomas)."""
    ends = ([], [])
    for means, worst in _weighted(array[:, None]):
        for end, bound in zip(ends, bounds, strict=True):
            end.append(means[:, 0] + worst * bound)
    low, high = (np.quantile(np.concatenate(e), q) for e, q in zip(ends, _TAILS, strict=True))
    return float(low), float(high)


def _weighted(rows_NK: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sums of the rows with random weights, shape (D, K), and the weight that is left for one more
    row, shape (D,): 4,000 draws or more in all from a fixed seed, D at a time.

    The weights of the N + 1 rows are those of a Dirichlet distribution whose parameters are all 1.
    """
    distinct_MK, counts_M = np.unique(rows_NK, axis=0, return_counts=True)
    shapes = np.append(counts_M, 1).astype(float)
    generator = np.random.default_rng(0)
    draws = max(_DRAWS, min(_MOST_DRAWS, _WEIGHTS // len(shapes)))
    at_once = max(1, _AT_ONCE // len(shapes))
    for start in range(0, draws, at_once):
        size = (min(at_once, draws - start), len(shapes))
        weights_DM = generator.standard_gamma(shapes, size)
        weights_DM /= weights_DM.sum(1, keepdims=True)
        yield weights_DM[:, :-1] @ distinct_MK, weights_DM[:, -1]


def _studentised(above: np.ndarray, below: np.ndarray) -> tuple[float | None, float | None]:
    """Ends of the 95 % interval of `mean(above) / mean(below)` over pairs: the studentised
    bootstrap with the delta method's standard errors, each end from the pairs and once more the one
    that is farthest out on its side (the seed is fixed). None where the values are too much alike
    to tell how far they spread.
    """
    rest = above - above.mean() / below.mean() * below
    low, high = (
        _end(np.append(above, above[n]), np.append(below, below[n]), tail)
        for n, tail in zip((rest.argmin(), rest.argmax()), _TAILS, strict=True)
    )
    return (None, None) if low is None or high is None else (low, high)


def _end(above: np.ndarray, below: np.ndarray, tail: float) -> float | None:
    """The end under which the quotient of the true means lies with this chance."""
    count = len(above)
    value = above.mean() / below.mean()
    rest = above - value * below
    error = math.sqrt((rest**2).sum() / (count * (count - 1))) / abs(below.mean())
    moments = np.column_stack([rest, below, rest * rest, rest * below, below * below])
    e, b, ee, eb, bb = _resampled(moments).T
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = e / b
        squares = np.maximum(ee - 2 * shift * eb + shift**2 * bb, 0)
        errors = np.sqrt(squares / (count - 1)) / np.abs(b)
        errors[errors < 1e-9 * error] = 0
        studentised = np.where(shift == 0, 0.0, shift / errors)
    far = np.quantile(studentised, 1 - tail, method="inverted_cdf")
    return float(value - far * error) if error and np.isfinite(far) else None


def _resampled(rows_NK: np.ndarray) -> np.ndarray:
    """Means of the rows in each of 4,000 resamples, shape (4000, K), from a fixed seed."""
    generator, count = np.random.default_rng(0), len(rows_NK)
    means, at_once = list[np.ndarray](), max(1, _AT_ONCE // count)
    for start in range(0, _DRAWS, at_once):
        size = min(at_once, _DRAWS - start)
        chosen = generator.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count)
        means.append(times @ rows_NK / count)
    return np.concatenate(means)
