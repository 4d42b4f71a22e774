"""Transformers in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unprompt.engines import Can, Lent, models
from unprompt.messages import say
from unprompt.recipe import Model

if TYPE_CHECKING:
    from unprompt.engines.hf.engine import HFEngine

CAN = Can("transformers")


def make(model: Model, where: str, lent: Lent) -> HFEngine:
    """The model, loaded."""
    from unprompt.engines.hf.engine import HFEngine

    say(f"loading the {lent.role}")
    tokenizer = models.load_tokenizer(model, where)
    return HFEngine(models.load_weights(model, where), tokenizer)
