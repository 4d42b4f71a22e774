"""From a prompt alone to a verdict: how long `unprompt distill PROMPT` takes at its defaults, in an
empty folder, with nothing stored.

    python benchmarks/distill.py [PROMPT ...] [--set a.b=c ...]

Prompts are the tutorial's and the support desk's (recipes/prompts) unless given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def tutorials(folder: Path) -> Path:
    """The prompt that docs/tutorial.md begins with, as a file."""
    page = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    found = re.search(r"```text title=prompt\.md\n(.*?)```", page, re.DOTALL)
    assert found
    path = folder / "tutorial.md"
    path.write_text(found[1], "utf-8")
    return path


def distil(prompt: Path, folder: Path, overrides: list[str]) -> None:
    """Run it, and print its row."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "unprompt", "distill", str(prompt), "--out", str(folder)]
    command += [word for each in overrides for word in ("--set", each)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    minutes = (time.perf_counter() - began) / 60
    report = json.loads((folder / "run" / "report.json").read_text("utf-8"))
    context = report["contexts"]["main"]
    verdict = [line for line in done.stdout.splitlines() if line.startswith("verdict on")]
    lines = len(prompt.read_text("utf-8").splitlines())
    print(
        f"| {prompt.name} | {lines} | {context['inputs']} | {context['lessons']} |"
        f" {minutes:.1f} | {'; '.join(verdict)} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("prompts", nargs="*", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; settings: {' '.join(options.overrides) or 'the defaults'}\n")
    print(
        "| prompt | its lines | inputs | lessons | minutes | verdict |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = [tutorials(folder), ROOT / "recipes" / "prompts" / "support" / "prompt.md"]
        for number, prompt in enumerate(options.prompts or ours):
            distil(prompt, folder / f"distilled-{number}", options.overrides)


if __name__ == "__main__":
    main()
