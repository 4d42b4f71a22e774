"""The recipe's further systems: some weights under some prompt, as the grid of Shirgaonkar et al.
2024 (tables 1 and 6) has them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unprompt.recipe import Recipe
from unprompt.records import Example, Prompt
from unprompt.stages.templates import render


def render_all(
    recipe: Recipe,
    held_out: Mapping[str, Sequence[Example]],
    shown: Mapping[str, Sequence[Sequence[dict[str, Any]] | None]],
    rendered: Mapping[tuple[str, str, str], list[Prompt]],
) -> dict[tuple[str, str], list[Prompt]]:
    """(System, context) -> what it is asked there on the held-out examples.

    Args:
        shown: Context -> the examples in each of the teacher's prompts; a template of a system's
            own sees the same.
        rendered: The contexts' own prompts by (context, `teacher` or `student`, `held`).

    Raises:
        UserError: A system's own template fails on an example.
    """
    found = {}
    for name, system in recipe.systems.items():
        for context in recipe.systems_contexts(name):
            if isinstance(system.prompt, str):
                found[name, context] = rendered[context, system.prompt, "held"]
            else:
                rows, where = held_out[context], f"systems.{name}.prompt"
                found[name, context] = render.render_all(
                    context, system.prompt, "", rows, shown[context], where
                )
    return found


def described(recipe: Recipe) -> dict[str, dict[str, str]]:
    """System -> its `model` and `prompt` in words, for the tables."""
    return {
        name: {
            "model": system.model,
            "prompt": system.prompt if isinstance(system.prompt, str) else "own",
        }
        for name, system in recipe.systems.items()
    }
