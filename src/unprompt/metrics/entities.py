"""How much a summary tells for its length: named entities that its document has, too, for each
token.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from dataclasses import replace
from typing import Any

from unprompt.messages import UserError
from unprompt.metrics.metric import Metric

MODEL = "en_core_web_sm"
"""spaCy's small English model. It is on no package index under its makers' name, so no extra of
ours can bring it.
"""


def entity_density(answer: str, source: str) -> float:
    """Overlapped entity density: distinct entities of the answer that are entities of the source,
    too, divided by the answer's tokens.

    Entities are what spaCy's small English model names in either text, numbers and dates among
    them. Two that differ in letter case or blanks only are one; kinds (person, place, ...) are left
    aside. Tokens are spaCy's, punctuation among them, blanks not.

    Args:
        answer: The summary.
        source: The document.

    Returns:
        A number in [0, 1]; 0 for an answer without tokens.

    Source: Shirgaonkar et al. 2024, equation 8, for one document; the report takes the mean over
    documents. They don't say which model finds entities, nor whose tokens count; compare systems,
    not papers.
    """
    named, tokens = _read(answer)
    return len(named & _entities(source)) / tokens if tokens else 0.0


def entity_density_in_text(answer: str, source: str) -> float:
    """As `entity_density`, but an entity of the answer counts if its text stands in the source as
    whole words, letter case and kinds of blanks aside; whether it is an entity there isn't asked.

    So it counts what the model overlooks in the source, and takes no time to read it (a second for
    20,000 characters). Not equation 8.
    """
    named, tokens = _read(answer)
    text = _plain(source)
    there = [re.search(rf"(?<!\w){re.escape(entity)}(?!\w)", text) for entity in named]
    return sum(match is not None for match in there) / tokens if tokens else 0.0


def _read(text: str) -> tuple[frozenset[str], int]:
    """The distinct entities of a text, and the number of its tokens."""
    document = _pipeline()(text)
    named = frozenset(_plain(entity.text) for entity in document.ents) - {""}
    return named, sum(not token.is_space for token in document)


@functools.lru_cache(maxsize=1024)
def _entities(source: str) -> frozenset[str]:
    """Those of a document; kept, since every system's answer is held to the same documents."""
    return _read(source)[0]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def check(where: str) -> None:
    """Say so if spaCy or its model is not installed.

    Raises:
        UserError: One of them isn't.
    """
    try:
        _pipeline()
    except ImportError as error:
        if error.name == MODEL:
            what = f"entity_density needs spaCy's model {MODEL}"
            fix = f"python -m spacy download {MODEL}"
        else:
            what = f"entity_density needs the package {error.name or 'spacy'}"
            fix = "pip install 'unprompt[entities]'"
        raise UserError(what, where=where, fix=fix) from None


@functools.cache
def _pipeline() -> Any:
    importlib.import_module("spacy")  # a second that only those who ask for it wait
    model = importlib.import_module(MODEL)
    pipeline = model.load(exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])
    pipeline.max_length = sys.maxsize  # spaCy's limit guards memory: 3 GB for a million characters
    return pipeline


ENTITY_DENSITY = Metric(
    entity_density, reads="source", needs_gold=False, is_share=False, check=check
)
ENTITY_DENSITY_IN_TEXT = replace(ENTITY_DENSITY, function=entity_density_in_text)
