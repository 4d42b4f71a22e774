"""Unprompt puts a prompt into a model's weights (context distillation) and proves it with numbers.

import unprompt

recipe = unprompt.load("recipe.yaml")
run = unprompt.run(recipe)
print(run.report["contexts"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

_HOME = {
    "Recipe": "recipe",
    "load": "recipe",
    "parse": "recipe",
    "run": "pipeline",
    "Run": "pipeline",
    "Example": "records",
    "Prompt": "records",
    "Completion": "records",
    "Lesson": "records",
    "Grade": "records",
    "SoftLabels": "records",
    "UserError": "messages",
}

__all__ = [
    "Completion",
    "Example",
    "Grade",
    "Lesson",
    "Prompt",
    "Recipe",
    "Run",
    "SoftLabels",
    "UserError",
    "__version__",
    "load",
    "parse",
    "run",
]

if TYPE_CHECKING:
    from unprompt.messages import UserError
    from unprompt.pipeline import Run, run
    from unprompt.recipe import Recipe, load, parse
    from unprompt.records import Completion, Example, Grade, Lesson, Prompt, SoftLabels


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: `import unprompt` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'unprompt' has no attribute '{name}'")
    return getattr(importlib.import_module(f"unprompt.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    """So that editors and notebooks complete names that are not imported yet."""
    return sorted({*globals(), *__all__})
