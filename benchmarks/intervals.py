"""How often the report's 95 % intervals cover, and how often a student that is worse by the whole
margin passes: the tables of docs/reliability.md.

    python benchmarks/intervals.py [SIMULATIONS]
    python benchmarks/intervals.py share RIGHT OF      # of one accuracy, in percent
    python benchmarks/intervals.py likeness [SIMULATIONS]      # of a verdict without gold answers

Pairs of right and wrong answers are not simulated: the chance of every outcome is known, and is
summed. The other tables draw so many samples (2,000 unless given) of known distributions. The
percentile bootstrap is what the report had before; Tango's and Newcombe's intervals are here to
compare. Likeness is simulated from the answers on: a teacher that answers twice, and a student that
answers once.
"""

from __future__ import annotations

import bisect
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from unprompt.metrics import statistics
from unprompt.metrics.statistics import SHARE

MARGIN = 0.05
COUNTS = (60, 100, 240, 1000)
DISCORDANT = ((0.05, 0.0), (0.06, 0.01), (0.10, 0.05), (0.20, 0.15))
"""Shares of pairs: teacher right and student wrong; teacher wrong and student right."""
_Z = float(stats.norm.ppf(0.975))
_RARE = 1e-6
"""Outcomes rarer than that are left out."""

Ends = Callable[[int, int, int], tuple[float, float]]
"""(student alone is right, teacher alone is right, pairs) -> ends of the difference's interval."""


# -- intervals of the paired difference of shares --------------------------------------------------


def pairs(won: int, lost: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Student's and teacher's values, with so many of each outcome."""
    both = np.zeros(count)
    student, teacher = both.copy(), both.copy()
    student[:won] = 1
    teacher[won : won + lost] = 1
    return student, teacher


@cache
def ours(won: int, lost: int, count: int) -> tuple[float, float]:
    """As the report has it."""
    _, low, high = statistics.paired_difference(*pairs(won, lost, count), SHARE)
    assert low is not None
    assert high is not None
    return low, high


def bootstrap(won: int, lost: int, count: int) -> tuple[float, float]:
    """The percentile bootstrap: 2,000 resamples."""
    chances = np.array([won, lost, count - won - lost]) / count
    draws = np.random.default_rng(0).multinomial(count, chances, 2000)
    low, high = np.percentile((draws[:, 0] - draws[:, 1]) / count, [2.5, 97.5])
    return float(low), float(high)


def tango(won: int, lost: int, count: int) -> tuple[float, float]:
    """Tango 1998: ends at which the score statistic is 1.96."""

    def low(b: int, c: int) -> float:
        least, most = -1.0, (b - c) / count
        for _ in range(50):
            d = (least + most) / 2
            linear = -b - c + (2 * count - b + c) * d
            root = np.sqrt(max(linear**2 + 8 * count * c * d * (1 - d), 0.0))
            share = (root - linear) / (4 * count)
            variance = count * (2 * share + d * (1 - d))
            far = (b - c - count * d) ** 2 > _Z**2 * variance
            least, most = (d, most) if far else (least, d)
        return (least + most) / 2

    return low(won, lost), -low(lost, won)


def newcombe(won: int, lost: int, count: int) -> tuple[float, float]:
    """Newcombe 1998, method 10, where 15 % of the pairs (as far as there are so many) are wrong on
    both sides.
    """
    neither = min(round(0.15 * count), count - won - lost)
    both = count - won - lost - neither
    one, other = both + won, both + lost
    (l1, u1), (l2, u2) = (_wilson(k, count) for k in (one, other))
    difference = (won - lost) / count
    total = one * (count - one) * other * (count - other)
    across = both * neither - won * lost
    across = across - count / 2 if across > count / 2 else min(across, 0)
    phi = across / np.sqrt(total) if total else 0.0
    p1, p2 = one / count, other / count
    down, up = (
        np.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))
        for a, b in ((p1 - l1, u2 - p2), (u1 - p1, p2 - l2))
    )
    return difference - down, difference + up


def _wilson(k: int, count: int) -> tuple[float, float]:
    ends = stats.binomtest(k, count).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


METHODS: dict[str, Ends] = {
    "percentile bootstrap (before)": bootstrap,
    "ours": ours,
    "Tango": tango,
    "Newcombe": newcombe,
}


# -- sums over all outcomes ------------------------------------------------------------------------


def outcomes(count: int, lost: float, won: float) -> dict[tuple[int, int], float]:
    """(teacher alone is right, student alone is right) -> its chance; the rarest left out."""
    likely = [
        np.arange(stats.binom.ppf(_RARE, count, p), stats.binom.isf(_RARE, count, p) + 1)
        for p in (lost, won)
    ]
    t, w = (grid.ravel() for grid in np.meshgrid(*likely, indexing="ij"))
    table = np.column_stack([t, w, count - t - w])
    chances = stats.multinomial.pmf(table, count, [lost, won, 1 - lost - won])
    return {
        (int(a), int(b)): float(p)
        for (a, b, _), p in zip(table, chances, strict=True)
        if p > _RARE / 100
    }


def false_ship(ends: Ends, count: int, lost: float, won: float) -> float:
    """How often a student passes that is worse by the whole margin."""
    chances = outcomes(count, lost, won)
    total = 0.0
    for t in {t for t, _ in chances}:
        wins = sorted(w for t_, w in chances if t_ == t)
        # with more wins it passes all the more
        first = bisect.bisect_left(wins, True, key=lambda w: _passes(ends, w, t, count))
        total += sum(chances[t, w] for w in wins[first:])
    return total


def _passes(ends: Ends, won: int, lost: int, count: int) -> bool:
    if ends is ours:  # as the verdict does
        wanted = statistics.needed(*pairs(won, lost, count), SHARE, MARGIN)
        return wanted is not None and count >= wanted
    return ends(won, lost, count)[0] >= -MARGIN


def coverage_of_pairs(ends: Ends, count: int, lost: float, won: float) -> float:
    """How often the difference's interval holds the true one."""
    true = won - lost
    covered = 0.0
    for (t, w), p in outcomes(count, lost, won).items():
        low, high = ends(w, t, count)
        covered += p * (low - 1e-9 <= true <= high + 1e-9)
    return covered


def coverage_of_a_share(count: int, p: float) -> float:
    """How often the interval of one accuracy holds the true one."""
    covered = 0.0
    for k in range(count + 1):
        low, high = _share(k, count)
        covered += float(stats.binom.pmf(k, count, p)) * (low <= p <= high)
    return covered


@cache
def _share(k: int, count: int) -> tuple[float, float]:
    _, low, high = statistics.interval([1.0] * k + [0.0] * (count - k), SHARE)
    assert low is not None
    assert high is not None
    return low, high


# -- simulations -----------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, int], Any]


def mixed(*parts: tuple[float, Draw]) -> Draw:
    """One of the parts for each value, with these chances."""

    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        which = generator.choice(len(parts), count, p=[p for p, _ in parts])
        return np.choose(which, [part(generator, count) for _, part in parts])

    return draw


def always(value: float) -> Draw:
    return lambda _, count: np.full(count, value)


def uniform(low: float, high: float) -> Draw:
    return lambda generator, count: generator.uniform(low, high, count)


def rated(*shares: float) -> Draw:
    return lambda generator, count: generator.choice(len(shares), count, p=shares) + 1.0


def lognormal(sigma: float) -> Draw:
    return lambda generator, count: generator.lognormal(0, sigma, count)


VALUES: dict[str, tuple[Draw, statistics.Bounds | None]] = {
    "Rouge-L (beta 2, 3)": (lambda g, n: g.beta(2, 3, n), SHARE),
    "shares: half 0, a fifth 1": (
        mixed((0.5, always(0)), (0.2, always(1)), (0.3, uniform(0, 1))),
        SHARE,
    ),
    "shares: 97 % are 1, 3 % are 0": (mixed((0.97, always(1)), (0.03, always(0))), SHARE),
    "differences of Rouge-L, 40 % are 0": (
        mixed((0.4, always(0)), (0.6, lambda g, n: np.clip(g.normal(-0.05, 0.25, n), -1, 1))),
        (-1, 1),
    ),
    "differences: 8 % are losses": (mixed((0.92, always(0)), (0.08, uniform(-1, 0))), (-1, 1)),
    "groups of two answers, differences": (
        mixed(
            (0.45, always(0)),
            (0.2, always(-0.5)),
            (0.1, always(-1)),
            (0.15, always(0.5)),
            (0.1, always(1)),
        ),
        (-1, 1),
    ),
    "ratings 1 to 5": (rated(0.02, 0.03, 0.1, 0.25, 0.6), (1, 5)),
    "ratings 1 to 5, 93 % are 5": (rated(0.02, 0.01, 0.01, 0.03, 0.93), (1, 5)),
    "normal": (lambda g, n: g.normal(0, 1, n), None),
    "uniform, no bounds": (uniform(0, 1), None),
    "exponential": (lambda g, n: g.exponential(1, n), None),
    "nats (gamma 0.5)": (lambda g, n: g.gamma(0.5, 1, n), None),
    "nats (lognormal 0.7)": (lognormal(0.7), None),
    "nats (lognormal 1)": (lognormal(1), None),
    "nats (lognormal 1.3)": (lognormal(1.3), None),
}
"""What is drawn, and the bounds that the metric declares."""


def coverage(values: Draw, bounds: statistics.Bounds | None, count: int, rounds: int) -> float:
    """Of the intervals of the mean that are given, how many hold the true one."""
    true = float(np.mean(values(np.random.default_rng(1), 4_000_000)))
    generator = np.random.default_rng(2)
    found = (statistics.interval(values(generator, count), bounds) for _ in range(rounds))
    return _share_covered([(low, high) for _, low, high in found], true)


def coverage_of_quotients(name: str, count: int, rounds: int) -> float:
    """The same of gap closed, and of the share of the teacher's mean that is kept."""
    generator = np.random.default_rng(3)
    ends = []
    for _ in range(rounds):
        if name == "gap closed":
            before = generator.normal(7.7, 1.3, count)
            _, *span = statistics.gap_closed(before, generator.gamma(1, 0.05, count) * before)
        else:
            easy = generator.random(count)
            noise = generator.random((2, count))
            teacher, student = (noise < np.column_stack([easy**0.2, easy**0.25]).T).astype(float)
            found = statistics.kept(student, teacher)
            assert found
            _, *span = found
        ends.append(tuple(span))
    return _share_covered(ends, 0.95 if name == "gap closed" else (1 / 1.25) / (1 / 1.2))


def _share_covered(ends: list[tuple[Any, Any]], true: float) -> float:
    given = [(low, high) for low, high in ends if low is not None]
    return float(np.mean([low - 1e-9 <= true <= high + 1e-9 for low, high in given]))


# -- likeness to the teacher -----------------------------------------------------------------------

Likenesses = Callable[[np.random.Generator, int, float], tuple[np.ndarray, np.ndarray]]
"""(generator, examples, how far the student has come from the teacher) -> the student's likeness to
the teacher's answers, and the ceiling, an example each.
"""


def labels(sure: float, of: int = 8) -> Likenesses:
    """Short answers, compared as a whole: each example has its own likeliest answer, given with a
    chance around `sure`; the student gives another answer in its place with the chance `far`.
    """

    def draw(
        generator: np.random.Generator, count: int, far: float
    ) -> tuple[np.ndarray, np.ndarray]:
        chance = generator.beta(10 * sure, 10 * (1 - sure), count)
        one, two, own = (_answers(generator, chance, of) for _ in range(3))
        strange = generator.random(count) < far
        own = np.where(strange, of, own)  # what the teacher never says
        return np.mean([own == one, own == two], 0), (one == two).astype(float)

    return draw


def _answers(generator: np.random.Generator, chance: np.ndarray, of: int) -> np.ndarray:
    others = generator.integers(1, of, len(chance))
    return np.where(generator.random(len(chance)) < chance, 0, others)


def texts(spread: float) -> Likenesses:
    """Texts of 40 words, compared by the share that is alike: each answer has words of its own in
    place of the common ones, `spread` of them on average; the student `far` more.
    """

    def draw(
        generator: np.random.Generator, count: int, far: float
    ) -> tuple[np.ndarray, np.ndarray]:
        mean = generator.beta(8 * spread, 8 * (1 - spread), count)[:, None]
        kept = generator.random((3, count, 40)) >= mean
        one, two, own = kept
        own = own & (generator.random((count, 40)) >= far)
        alike = ((own & one).mean(1) + (own & two).mean(1)) / 2
        return alike, (one & two).mean(1)

    return draw


LIKENESSES: dict[str, Likenesses] = {
    "labels, the likeliest given 9 times of 10": labels(0.9),
    "labels, the likeliest given 6 times of 10": labels(0.6),
    "texts, a tenth of the words differ": texts(0.1),
    "texts, half of the words differ": texts(0.5),
}


def ceiling_of(kind: Likenesses) -> float:
    """How like two answers of the teacher are on average."""
    generator = np.random.default_rng(4)
    drawn = [np.mean(kind(generator, 50_000, 0.0), 1) for _ in range(40)]
    alike, ceiling = np.mean(drawn, 0)
    assert abs(alike - ceiling) < 0.001  # the same weights are at the ceiling
    return float(ceiling)


def of_likeness(
    kind: Likenesses, ceiling: float, lacking: float, count: int, rounds: int
) -> tuple[float, float]:
    """How often a student passes whose likeness lacks so much, and how often the interval of its
    difference to the teacher's own holds the true one.
    """
    generator = np.random.default_rng(6)
    passed, ends = 0, []
    for _ in range(rounds):
        pair = kind(generator, count, lacking / ceiling)
        wanted = statistics.needed(*pair, SHARE, MARGIN)
        passed += wanted is not None and count >= wanted
        _, *span = statistics.paired_difference(*pair, SHARE)
        ends.append(tuple(span))
    return passed / rounds, _share_covered(ends, -lacking)


def rows_of_likeness(simulations: int) -> None:
    """Print the table of likeness, as Markdown."""
    counts = (60, 100, 240, 1000)
    print("| answers | teacher's own | student | of | " + " | ".join(map(str, counts)) + " |")
    print("|---|---|---|---|" + "---|" * len(counts))
    for name, kind in LIKENESSES.items():
        ceiling = ceiling_of(kind)
        for student, lacking in {"worse by the margin": MARGIN, "as the teacher": 0.0}.items():
            cells = [of_likeness(kind, ceiling, lacking, n, simulations) for n in counts]
            for what, values in zip(("passes", "covered"), zip(*cells, strict=True), strict=True):
                row = f"{name} | {ceiling:.1%} | {student} | {what} | {_cells(values)}"
                print(f"| {row} |", flush=True)


# -- tables ----------------------------------------------------------------------------------------


def rows(simulations: int) -> None:
    """Print every table, as Markdown."""
    head = " | ".join(METHODS)
    print(f"| teacher alone / student alone right | examples | {head} |")
    print("|---|---|" + "---|" * len(METHODS))
    for lost, won in DISCORDANT:
        for count in COUNTS:
            cells = (f"{false_ship(ends, count, lost, won):.1%}" for ends in METHODS.values())
            print(f"| {lost:.0%} / {won:.0%} | {count} | {' | '.join(cells)} |")
    print("\n| interval | of | 24 | 60 | 240 |\n|---|---|---|---|---|")
    counts = (24, 60, 240)
    shares = (0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    cells = (min(coverage_of_a_share(n, p) for p in shares) for n in counts)
    print(f"| accuracy | lowest of {len(shares)} true ones | {_cells(cells)} |")
    odds = [
        (a, b) for a in (0.01, 0.03, 0.1, 0.2, 0.3) for b in (0, 0.01, 0.03, 0.1, 0.2) if b <= a
    ]
    cells = (min(coverage_of_pairs(ours, n, *each) for each in odds) for n in counts)
    print(f"| difference of accuracies | lowest of {len(odds)} true ones | {_cells(cells)} |")
    for name, (values, bounds) in VALUES.items():
        cells = (coverage(values, bounds, n, simulations) for n in counts)
        print(f"| mean | {name} | {_cells(cells)} |", flush=True)
    for name in ("gap closed", "quality kept"):
        cells = (coverage_of_quotients(name, n, simulations) for n in counts)
        print(f"| {name} | | {_cells(cells)} |", flush=True)


def _cells(values: Any) -> str:
    return " | ".join(f"{value:.1%}" for value in values)


if __name__ == "__main__" and sys.argv[1:2] == ["share"]:
    right, of = map(int, sys.argv[2:])
    low, high = _share(right, of)
    print(f"{right / of:.1%} [{low:.1%}, {high:.1%}]")
elif __name__ == "__main__" and sys.argv[1:2] == ["likeness"]:
    rows_of_likeness(int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
elif __name__ == "__main__":
    rows(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
