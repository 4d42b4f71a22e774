"""Krippendorff's alpha against published values, and the edges."""

from __future__ import annotations

import pytest

from unprompt.metrics.agreement import krippendorff_alpha

NO = None
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D: four observers, twelve
# units, missing values
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NO, NO, NO],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NO, 3],
    [NO, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NO],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NO],
]
# the worked example of the encyclopedia: three coders, fifteen units
THREE_CODERS = [
    [NO, NO, NO, NO, NO, 3, 4, 1, 2, 1, 1, 3, 3, NO, 3],
    [1, NO, 2, 1, 3, 3, 4, 3, NO, NO, NO, NO, NO, NO, NO],
    [NO, NO, 2, 1, 3, 4, 4, NO, 2, 1, 1, 3, 3, NO, 4],
]


def units(raters: list[list[int | None]]) -> list[list[float]]:
    return [[rating for rating in unit if rating is not None] for unit in zip(*raters, strict=True)]


def test_published_examples() -> None:
    assert krippendorff_alpha(units(KRIPPENDORFF), "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(units(KRIPPENDORFF), "interval") == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha(units(THREE_CODERS), "interval") == pytest.approx(0.811, abs=5e-4)


def test_by_hand() -> None:
    """Units (0, 1) and (1, 1): D_o = (1 + 1) / 4; D_e = 2 * 1 * 3 / (4 * 3). Both 1/2."""
    assert krippendorff_alpha([[0, 1], [1, 1]]) == pytest.approx(0.0)
    assert krippendorff_alpha([[0, 0], [1, 1]]) == 1.0
    assert krippendorff_alpha([[0, 0], [1, 1], [6]]) == 1.0, "a unit with one rating says nothing"


@pytest.mark.parametrize("nothing", [[], [[3]], [[3, 3], [3, 3]]])
def test_where_it_is_not_defined(nothing: list[list[float]]) -> None:
    assert krippendorff_alpha(nothing) is None
