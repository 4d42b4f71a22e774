"""What a user writes: one YAML file (or the same names from Python) under a strict schema."""

from unprompt.recipe.contexts import Context, Filter, Library
from unprompt.recipe.measuring import Choices, Cost, Drift, Evaluate, Judge, Shots, System, Tune
from unprompt.recipe.models import Budget, Model, Server, TokenPrice
from unprompt.recipe.reading import load, parse, read_yaml
from unprompt.recipe.recipe import Recipe
from unprompt.recipe.sources import Data, Examples, FromPrompt, Kind, Part, Sample
from unprompt.recipe.templates import Extract, Message, Template
from unprompt.recipe.training import (
    Adapter,
    Labels,
    Lessons,
    Replay,
    Round,
    Sampling,
    Train,
    Weights,
    Writing,
)

__all__ = [
    "Adapter",
    "Budget",
    "Choices",
    "Context",
    "Cost",
    "Data",
    "Drift",
    "Evaluate",
    "Examples",
    "Extract",
    "Filter",
    "FromPrompt",
    "Judge",
    "Kind",
    "Labels",
    "Lessons",
    "Library",
    "Message",
    "Model",
    "Part",
    "Recipe",
    "Replay",
    "Round",
    "Sample",
    "Sampling",
    "Server",
    "Shots",
    "System",
    "Template",
    "TokenPrice",
    "Train",
    "Tune",
    "Weights",
    "Writing",
    "load",
    "parse",
    "read_yaml",
]
