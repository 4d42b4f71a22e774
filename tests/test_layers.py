"""No room imports one above it, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import unprompt

ROOT = Path(__file__).parent.parent


def test_no_arrow_points_upward() -> None:
    """The contracts stand in pyproject.toml."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import unprompt",
        "import unprompt.cli",
        "import unprompt.recipe",
        "import unprompt.pipeline",
    ],
)
def test_torch_is_not_imported_early(code: str) -> None:
    heavy = (
        "[m for m in ('torch', 'transformers', 'scipy', 'sklearn', 'datasets', 'peft', 'gradio',"
        " 'ray') if m in sys.modules]"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", "--help"], capture_output=True, text=True, check=True
    )
    names = (
        "run collect check show transfer init demo tune library cost rate compare ui chat export"
    )
    for command in names.split():
        assert f"  {command}" in done.stdout


def test_public_names_exist() -> None:
    for name in unprompt.__all__:
        assert getattr(unprompt, name) is not None
