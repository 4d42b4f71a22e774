"""The flow goes one way: no module imports one that comes after it. And nothing heavy is imported
before it is needed.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unprompt

SOURCE = Path(unprompt.__file__).parent
ORDER = [
    {"errors"},
    {"records", "library"},
    {"recipe", "progress"},
    {"inputs", "sandbox", "processes"},
    {"prompts", "extract", "rundir", "loss", "metrics", "prices", "ballots"},
    {"models", "answers"},
    {"draw", "engines", "fast", "stored", "systems", "vocabulary"},
    {
        "collect",
        "lessons",
        "shots",
        "rationales",
        "evaluate",
        "cost",
        "judge",
        "kl",
        "instructions",
    },
    {"train", "report", "estimate", "served", "watch", "cluster"},
    {"check", "weights"},
    {"pipeline", "live"},
    {"show", "starter", "demo", "transfer", "tune", "rate", "chat", "export"},
    {"ui"},
    {"cli"},
    {"__main__"},
]
RANK = {room: number for number, rooms in enumerate(ORDER) for room in rooms}


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "unprompt"
        ):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("unprompt.")
            }
    return found


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE))
)
def test_imports_point_upstream(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the public names, imported lazily from everywhere
    assert room in RANK, f"{room} is not in the order of rooms: give it a place"
    for other in imported_rooms(path) - {room}:
        assert RANK[other] < RANK[room], (
            f"{room} imports {other}, which comes after it or beside it"
        )


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
