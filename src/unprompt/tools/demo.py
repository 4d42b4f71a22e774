"""Where the quickstart's recipe lies: inside an installed package, or in a clone."""

from __future__ import annotations

from pathlib import Path

from unprompt.messages import UserError


def recipe_path() -> Path:
    """The quickstart's recipe."""
    here = Path(__file__).resolve().parent
    for root in (here.parent / "recipes", here.parents[2] / "recipes"):
        if (root / "quickstart.yaml").is_file():
            return root / "quickstart.yaml"
    raise UserError(
        "the quickstart is not installed",
        where=str(here),
        fix="clone the project and run make demo there",
    )
