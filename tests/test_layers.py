"""No room imports one above it, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
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
        " runs rm cache verify"
    )
    for command in names.split():
        assert f"  {command}" in done.stdout


def test_version_is_the_one_of_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", "--version"], capture_output=True, text=True, check=True
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert done.stdout == f"unprompt {unprompt.__version__}\n"
    assert unprompt.__version__ == project["version"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = Path(sys.executable).with_name("unprompt")
    done = subprocess.run(
        [command, "--show-completion", shell],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert "_UNPROMPT_COMPLETE" in done.stdout
    done = subprocess.run(
        [command],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "_UNPROMPT_COMPLETE": f"complete_{shell}",
            "_TYPER_COMPLETE_ARGS": "unprompt c",
            "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            "COMP_WORDS": "unprompt c",
            "COMP_CWORD": "1",
        },
        check=False,
    )
    for name in ("collect", "check", "compare", "chat"):
        assert name in done.stdout
    assert "export" not in done.stdout


def test_public_names_exist() -> None:
    for name in unprompt.__all__:
        assert getattr(unprompt, name) is not None
