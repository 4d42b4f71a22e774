"""Overlapped entity density, by hand."""

from __future__ import annotations

import pytest

from unprompt.metrics.entities import entity_density

SOURCE = "In 2004 Barack  Obama visited\nBerlin and Hamburg. He stayed for 3 days."


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Barack Obama visited Berlin in 2004.", 3 / 7),  # 7 tokens with the full stop
        ("Barack Obama visited Paris in 2004.", 2 / 7),  # Paris is not in the source
        ("He visited Berlin, and Berlin again.", 1 / 8),  # once is enough
        ("He visited  Berlin.\n\n", 1 / 4),  # blanks are no tokens
        ("He stayed 200 days.", 0.0),  # whole words: 200 is not the start of 2004
        ("Somebody went somewhere.", 0.0),
        ("", 0.0),
    ],
)
def test_by_hand(answer: str, value: float) -> None:
    assert entity_density(answer, SOURCE) == pytest.approx(value)


def test_letter_case_and_blanks_aside() -> None:
    assert entity_density("Barack Obama visited Berlin in 2004.", SOURCE.upper()) == pytest.approx(
        3 / 7
    )
