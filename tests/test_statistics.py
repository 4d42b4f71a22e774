"""Intervals against exact ones, sums over all outcomes, and known distributions."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from unprompt.metrics import statistics
from unprompt.metrics.statistics import (
    FEWEST,
    SHARE,
    gap_closed,
    interval,
    kept,
    needed,
    over_tasks,
    paired_difference,
)

SCRIPT = Path(__file__).parent.parent / "benchmarks/intervals.py"


@pytest.fixture(scope="module")
def script() -> Any:
    """The script whose tables stand in docs/reliability.md, with fewer draws."""
    spec = importlib.util.spec_from_file_location("intervals", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "_MOST_DRAWS", 20_000)
        yield module


def ends(values: Sequence[float], bounds: tuple[float, float] | None = SHARE) -> Any:
    return interval(values, bounds)[1:]


# -- how often ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [60, 100, 240, 1000])
@pytest.mark.parametrize(("lost", "won"), [(0.05, 0.0), (0.06, 0.01), (0.1, 0.05), (0.2, 0.15)])
def test_a_student_worse_by_the_margin_seldom_ships(
    script: Any, count: int, lost: float, won: float
) -> None:
    assert (lost, won) in script.DISCORDANT
    assert count in script.COUNTS
    assert script.false_ship(script.ours, count, lost, won) <= 0.03


def test_the_percentile_bootstrap_would_let_it_ship(script: Any) -> None:
    """What this is about; the sum over outcomes can tell."""
    assert script.false_ship(script.bootstrap, 60, 0.05, 0.0) > 0.15


@pytest.mark.parametrize("p", [0.001, 0.02, 0.1, 0.5])
def test_the_interval_of_an_accuracy_covers(script: Any, p: float) -> None:
    for count in (24, 60):
        assert script.coverage_of_a_share(count, p) >= 0.945


@pytest.mark.parametrize(("lost", "won"), [(0.02, 0.0), (0.2, 0.0), (0.1, 0.05), (0.3, 0.1)])
def test_the_interval_of_a_paired_difference_covers(script: Any, lost: float, won: float) -> None:
    for count in (24, 40):
        assert script.coverage_of_pairs(script.ours, count, lost, won) >= 0.945


@pytest.mark.parametrize("count", [24, 60])
@pytest.mark.parametrize(
    "name",
    [
        "Rouge-L (beta 2, 3)",
        "shares: half 0, a fifth 1",
        "shares: 97 % are 1, 3 % are 0",
        "differences: 8 % are losses",
        "ratings 1 to 5, 93 % are 5",
        "normal",
        "exponential",
        "nats (lognormal 0.7)",
    ],
)
def test_the_interval_of_a_mean_covers(script: Any, name: str, count: int) -> None:
    """300 samples: of 93 % three standard errors are 4.4 %; a fixed seed."""
    assert script.coverage(*script.VALUES[name], count, 300) >= 0.93 - 0.02


@pytest.mark.parametrize("name", ["gap closed", "quality kept"])
def test_the_interval_of_a_quotient_covers(script: Any, name: str) -> None:
    assert script.coverage_of_quotients(name, 24, 300) >= 0.93 - 0.02


# -- what they are --------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "count"), [(0, 24), (3, 24), (217, 240), (60, 60)])
def test_of_zeros_and_ones_it_is_clopper_pearsons(right: int, count: int) -> None:
    exact = stats.binomtest(right, count).proportion_ci(method="exact")
    found = ends([1.0] * right + [0.0] * (count - right))
    assert found == pytest.approx((exact.low, exact.high), abs=0.002)


def test_of_a_rating_scale_it_is_the_same_stretched() -> None:
    values = np.random.default_rng(0).choice([0.0, 0.5, 1.0], 40).tolist()
    low, high = ends(values)
    assert ends([1 + 4 * v for v in values], (1, 5)) == pytest.approx((1 + 4 * low, 1 + 4 * high))


def test_pairs_that_never_differ_leave_room_for_a_few() -> None:
    """Nobody lost in 100: by hand, the share that did may be up to 1 - 0.025 ** (1 / 100)."""
    found = paired_difference([1.0] * 100, [1.0] * 100, SHARE)
    most = 1 - 0.025 ** (1 / 100)
    assert found == pytest.approx((0.0, -most, most), abs=1e-3)


def test_values_without_bounds_are_never_taken_for_shares() -> None:
    """All 0 and 1, but of a density: wider than Clopper & Pearson's, and not within 0 and 1."""
    values = [0.0, 1.0] * 12
    low, high = ends(values, None)
    student = stats.t.interval(0.95, 23, 0.5, stats.sem(values))
    assert low <= student[0] + 1e-9
    assert high >= student[1] - 1e-9
    assert ends([1.0] * 20 + [0.0] * 10, None) != ends([1.0] * 20 + [0.0] * 10, SHARE)


def test_what_does_not_spread_without_bounds_has_no_interval() -> None:
    assert interval([0.0] * 300, None) == (0.0, None, None)
    assert interval([0.0] * 299 + [1.0], None)[1:] == (None, None), "nor what hangs on one value"


def test_fewer_than_24_have_no_interval() -> None:
    few, enough = [0.0, 0.3, 1.0] * 7 + [0.5] * 2, [0.0, 0.3, 1.0] * 8
    assert len(few) == FEWEST - 1
    for bounds in (SHARE, None):
        assert interval(few, bounds) == (pytest.approx(np.mean(few)), None, None)
        assert None not in interval(enough, bounds)
    assert paired_difference(few, few, SHARE) == (0.0, None, None)
    assert gap_closed([2.0] * 23, [1.0] * 23) == (0.5, None, None)
    assert kept([1.0] * 23, [1.0] * 23) == (1.0, None, None)


def test_the_same_values_have_the_same_interval() -> None:
    values = np.random.default_rng(3).random(50).tolist()
    assert interval(values, SHARE) == interval(values, SHARE)
    assert interval(values, None) == interval(values, None)


# -- quotients ------------------------------------------------------------------------------------


def test_gap_closed_by_hand() -> None:
    assert gap_closed([0.0] * 30, [0.0] * 30) == (0.0, None, None), "there was no gap"
    value, low, high = gap_closed([1.0, 3.0] * 20, [0.2, 0.2] * 20)
    assert value == pytest.approx(1 - 0.2 / 2)
    assert low is not None
    assert high is not None
    assert 0.85 < low < 0.9 < high < 0.95


def test_kept_by_hand() -> None:
    assert kept([1.0] * 30, [0.0] * 30) is None, "a teacher that gets nothing right"
    found = kept([1.0] * 30 + [0.0] * 30, [1.0] * 40 + [0.0] * 20)
    assert found
    value, low, high = found
    assert value == pytest.approx(0.75)
    assert low is not None
    assert high is not None
    assert 0.5 < low < 0.7 < high < 0.95


# -- examples needed ------------------------------------------------------------------------------


def test_examples_needed() -> None:
    same = [1.0] * 100
    # as many as bring 1 - 0.025 ** (1 / n) down to the margin; two terms come near
    exact = math.ceil(math.log(0.025) / math.log(0.95))
    for count in (60, 100, 10_000):
        each = [1.0] * count
        assert needed(each, each, SHARE, 0.05) == pytest.approx(exact, abs=3)
    assert needed([1.0] * 5, [1.0] * 5, SHARE, 0.05) == 60, "of few examples it is said, too"
    better = [1.0] * 100, [0.0] * 100
    assert needed(*better, SHARE, 0.05) == 60, "never fewer than the rule of three"
    assert needed(*better, SHARE, 0.9) == FEWEST
    worse = [0.0] * 5 + [1.0] * 95
    assert needed(worse, same, SHARE, 0.05) is None, "on average at the margin"


@pytest.mark.parametrize("count", [60, 100, 170, 240, 1000])
def test_as_many_as_needed_are_enough(count: int) -> None:
    """Enough is said exactly where the interval's lower end is at or over the margin."""
    for lost in (0, 1, 3, count // 20 - 1):
        for won in (0, 2, count // 20):
            teacher = [1.0] * lost + [0.0] * (count - lost)
            student = [0.0] * lost + [1.0] * won + [0.0] * (count - lost - won)
            _, low, _ = paired_difference(student, teacher, SHARE)
            wanted = needed(student, teacher, SHARE, 0.05)
            assert low is not None
            assert (wanted is not None and count >= wanted) == (low >= -0.05)


# -- tasks ----------------------------------------------------------------------------------------


def test_a_mean_over_tasks_of_one_size_is_pooled() -> None:
    tasks = [[1.0] * 20 + [0.0] * 10, [0.0] * 30]
    assert over_tasks(tasks, SHARE) == pytest.approx(interval(tasks[0] + tasks[1], SHARE))


def test_a_small_task_counts_as_much_as_a_large_one() -> None:
    mean, low, high = over_tasks([[1.0] * 90, [0.0] * 10], SHARE)
    assert mean == pytest.approx(0.5)
    assert low is not None
    assert high is not None
    wider = interval([1.0] * 90 + [0.0] * 10, SHARE)
    assert wider[1] is not None
    assert wider[2] is not None
    assert high - low > wider[2] - wider[1]
