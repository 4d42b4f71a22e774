"""How long a line, a function and a file may be, how tangled a function, how wide the package.

What is over a budget today is a debt, listed with its size. A debt may shrink and not grow, and
one that is paid leaves the list. `python tests/test_budgets.py` prints the list as it should be.
"""

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

DEBTS = {
    "complexity pipeline.py _Work.report": 13,
    "complexity report/numbers.py numbers": 14,
    "complexity report/text.py _facts": 13,
    "complexity stages/check.py check": 35,
    "complexity stages/train/loop.py train": 14,
    "lines cli.py": 481,
    "lines pipeline.py": 1320,
    "lines pipeline.py _Work.draw_inputs": 68,
    "lines pipeline.py _Work.report": 103,
    "lines pipeline.py _sources": 69,
    "lines report/card.py model_card": 77,
    "lines report/cost.py report": 89,
    "lines report/examples.py browser": 69,
    "lines report/numbers.py numbers": 125,
    "lines report/text.py _facts": 85,
    "lines stages/check.py": 803,
    "lines stages/check.py check": 314,
    "lines stages/estimate.py estimate": 70,
    "lines stages/evaluate/judge.py": 418,
    "lines stages/evaluate/judge.py judge": 71,
    "lines stages/lessons/build.py build": 79,
    "lines stages/lessons/rationales.py judge": 70,
    "lines stages/lessons/shots.py pack": 61,
    "lines stages/train/fast/head.py _Loss.forward": 62,
    "lines stages/train/loop.py": 508,
    "lines stages/train/loop.py train": 139,
    "lines stages/train/loss.py collate": 63,
    "lines tools/export.py export": 62,
    "lines tools/rating/rate.py": 587,
    "lines tools/rating/rate.py _key": 63,
    "lines tools/rating/rate.py summary": 68,
    "lines tools/show.py show": 88,
    "lines tools/starter.py write": 72,
    "lines tools/transfer.py hand_over": 75,
    "lines tools/tune.py": 524,
    "lines tools/ui/__init__.py app": 76,
    "lines tools/ui/rating.py page": 126,
    "lines tools/ui/trying.py page": 117,
}


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
    over = over_budget()
    grown = [f"{what}: {size}" for what, size in over.items() if size > DEBTS.get(what, 0)]
    assert not grown, f"over budget, or a debt that has grown: {grown}"
    paid = sorted(DEBTS.keys() - over.keys())
    assert not paid, f"paid: take these off the list: {paid}"


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


if __name__ == "__main__":
    for debt, size in over_budget().items():
        print(f'    "{debt}": {size},')
