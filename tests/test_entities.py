"""Overlapped entity density, by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from unprompt.metrics import entities
from unprompt.metrics.entities import entity_density, entity_density_in_text

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
    assert entity_density_in_text(answer, SOURCE) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "source", "among_entities", "in_text"),
    [
        # of 7 tokens; in capitals the model reads "BARACK" and "OBAMA" as two entities
        ("Barack Obama visited Berlin in 2004.", SOURCE.upper(), 2 / 7, 3 / 7),
        # "3 days" is an entity, "2 or 3 days" another one, in which the first one's text stands
        ("He stayed 3 days.", "He stayed for 2 or 3 days.", 0, 1 / 5),
        # "Berlin" stands in the text as a part of "Berlin Wall" alone
        ("He saw Berlin.", "The Berlin Wall fell in 1989.", 0, 1 / 4),
    ],
)
def test_equation_8_asks_for_entities_of_the_document_not_for_its_words(
    answer: str, source: str, among_entities: float, in_text: float
) -> None:
    assert entity_density(answer, source) == pytest.approx(among_entities)
    assert entity_density_in_text(answer, source) == pytest.approx(in_text)


@pytest.mark.parametrize("density", [entity_density, entity_density_in_text])
def test_letter_case_and_blanks_aside(density: Callable[[str, str], float]) -> None:
    assert density("He visited Berlin.", "He visited BERLIN in 2004.") == pytest.approx(1 / 4)
    assert density("He stayed\n3   days.", SOURCE) == pytest.approx(1 / 5)


def test_a_document_may_be_longer_than_spacy_reads_unasked() -> None:
    assert entities._pipeline().max_length > 10**9


def test_the_model_that_is_loaded_is_the_users_own() -> None:
    """By the name under which its makers publish it; the tests' copy stands in for it here."""
    entities.check("metrics")
    assert entities.MODEL == "en_core_web_sm"
    loaded = sys.modules[entities.MODEL]
    assert loaded.__file__ == str(Path(__file__).with_name("en_core_web_sm.py"))
