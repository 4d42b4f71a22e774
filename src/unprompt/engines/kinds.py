"""Who runs a model: one line an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from unprompt.engines import Can, Engine, Lent, hf, server, vllm
from unprompt.recipe import Model


class Kind(NamedTuple):
    """An engine that is not made yet: what it can, and how a run makes it of a model, its key in
    the recipe, and what it lends.
    """

    can: Can
    make: Callable[[Model, str, Lent], Engine]


ENGINES = {
    "hf": Kind(hf.CAN, hf.make),
    "vllm": Kind(vllm.CAN, vllm.make),
    "server": Kind(server.CAN, server.make),
}


def of(model: Model) -> Kind:
    """The engine that the recipe names for a model."""
    return ENGINES["server" if model.server else model.engine]


def settings(model: Model) -> list[str]:
    """What decides answers beside the weights: an engine that is not the default, and its settings,
    which stand in the recipe under its name.
    """
    if model.server or model.engine == "hf":
        return []
    given = getattr(model, model.engine, {})
    return [f"{model.engine} {json.dumps(given, sort_keys=True, default=str)}"]
