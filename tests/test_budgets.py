"""How long a line, a function and a file may be, how tangled a function, how wide the package."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "unprompt"
SOURCES = sorted(PACKAGE.rglob("*.py"))

COLUMNS = 100
FILE_LINES = 400
FUNCTION_LINES = 60
COMPLEXITY = 12
ENTRIES = 12


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def functions(path: Path) -> dict[int, tuple[str, int]]:
    """Of each function: the line it begins on, its name with those it stands in, its lines."""
    found: dict[int, tuple[str, int]] = {}

    def walk(node: ast.AST, inside: str) -> None:
        for child in ast.iter_child_nodes(node):
            within = inside
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                within = f"{inside}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    lines = (child.end_lineno or child.lineno) - child.lineno + 1
                    found[child.lineno] = (within, lines)
            walk(child, within)

    walk(ast.parse(path.read_text("utf-8")), "")
    return found


def complex_functions() -> dict[str, int]:
    """Ruff counts (C901), whatever the code says about not being counted."""
    command = [
        *(sys.executable, "-m", "ruff", "check", "--isolated", "--ignore-noqa", "--exit-zero"),
        *("--no-cache", "--select", "C901", "--output-format", "json"),
        *("--config", f"lint.mccabe.max-complexity={COMPLEXITY}", str(PACKAGE)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    over: dict[str, int] = {}
    for row in json.loads(done.stdout):
        path = Path(row["filename"])
        function, _ = functions(path)[row["location"]["row"]]
        [size] = re.findall(r"\((\d+) > \d+\)", row["message"])
        over[f"complexity {name(path)} {function}"] = int(size)
    return over


def over_budget() -> dict[str, int]:
    """What is over a budget, and its size."""
    over: dict[str, int] = {}
    for path in SOURCES:
        lines = len(path.read_text("utf-8").splitlines())
        if lines > FILE_LINES:
            over[f"lines {name(path)}"] = lines
        for function, length in functions(path).values():
            if length > FUNCTION_LINES:
                over[f"lines {name(path)} {function}"] = length
    return dict(sorted({**over, **complex_functions()}.items()))


def test_files_and_functions_keep_their_budgets() -> None:
    assert not over_budget()


def too_long(line: str) -> bool:
    """As ruff has it: a pragma does not count, and one long word can't be broken."""
    code = re.sub(r"\s*#\s*(pyright|noqa|type):.*$", "", line)
    return len(code) > COLUMNS and len(code.split()) > 1


def test_lines_are_short_and_formatted() -> None:
    wrong = [
        f"{name(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if too_long(line) or re.search(r"#\s*fmt:\s*(skip|off)", line)
    ]
    assert not wrong


def test_the_package_is_narrow() -> None:
    beside = {"__init__.py", "__main__.py", "py.typed", "__pycache__"}
    entries = {path.name for path in PACKAGE.iterdir()} - beside
    assert len(entries) <= ENTRIES, sorted(entries)
