"""What people are told to rate by."""

from __future__ import annotations

from unprompt.recipe import Recipe

LOW, HIGH = 1, 5
"""Ends of the page's scale, where the recipe says nothing else and no sheet was exported before."""
JUDGED = 0, 6
"""Those of a judge's criteria."""


def scale(recipe: Recipe) -> tuple[int, int]:
    """The page's: that of the judge's criteria, where the recipe writes its own."""
    return JUDGED if recipe.judge and recipe.judge.criteria else (LOW, HIGH)


def lines(recipe: Recipe, low: int, high: int) -> list[str]:
    """The criteria of the recipe's judge, where it writes its own and the scale is theirs; else
    what is asked of any answer.
    """
    if recipe.judge and recipe.judge.criteria and (low, high) == JUDGED:
        return [
            "One rating for all of these together:",
            *(f"{name}: {' '.join(text.split())}" for name, text in recipe.judge.criteria.items()),
        ]
    return [
        "How well does the response do what the input asks for?",
        f"{low}: of no use, wrong, or about something else.",
        "Halfway: it helps in part, or a good deal of it is wrong.",
        f"{high}: right, all that is asked for, and ready to use. Length is no merit.",
    ]
