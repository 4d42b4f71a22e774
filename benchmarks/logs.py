"""From production logs to a recipe that runs: 500 conversations of hh_helpful (HH-RLHF, MIT) with a
system prompt in front become a log in OpenAI's form; `unprompt init --logs` makes a recipe of it,
`unprompt check` reads it, and `unprompt run` runs it, with no edit, cut to a few inputs.

    python benchmarks/logs.py FOLDER [--inputs 16]

FOLDER holds train.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SYSTEM = (
    "You are a helpful neighbour. Answer in at most two sentences. Never say that you are a model."
)


def log(source: Path, target: Path, count: int) -> int:
    """Write the log; gives how many conversations it holds."""
    system = {"role": "system", "content": SYSTEM}
    with source.open(encoding="utf-8") as rows, target.open("w", encoding="utf-8") as out:
        lines = list(itertools.islice(rows, count))
        for row in map(json.loads, lines):
            answer = {"role": "assistant", "content": row["target"]}
            messages = [system, *row["input"]["messages"], answer]
            out.write(json.dumps({"id": row["id"], "messages": messages}) + "\n")
    return len(lines)


def timed(*arguments: str, cwd: Path) -> str:
    """What a command says; its time is printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", *arguments], cwd=cwd, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    print(f"unprompt {' '.join(arguments)}: {time.perf_counter() - began:.1f} s")
    if done.returncode:
        raise SystemExit(said)
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500, help="conversations")
    parser.add_argument("--inputs", type=int, default=16, help="inputs of the run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = log(options.folder / "train.jsonl", folder / "logs.jsonl", options.count)
        print(f"{count} conversations")
        print(timed("init", "--logs", "logs.jsonl", cwd=folder))
        print(timed("check", "recipe.yaml", cwd=folder))
        less = ("--set", f"contexts.main.inputs.limit={options.inputs}")
        print(timed("run", "recipe.yaml", "--out", "run", *less, cwd=folder))


if __name__ == "__main__":
    main()
