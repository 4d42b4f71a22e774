"""Collecting on Ray, one worker and two: the quickstart's teacher and some of its inputs.

    python benchmarks/ray_scaling.py [--inputs 128] [--repeats 3]

Busy is the seconds that a worker asked and wrote parts (of two workers the mean); asking, the
seconds from the first prompt's being handed over to the last part: with the workers' start and
their loading of the model, which a longer job pays once, too; command, all of it, with Ray's own
start. The rows take turns. One worker of two threads stands beside two workers of one, since both
use two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from unprompt.store.answers import Parts

ROWS = {
    "1 process, 1 thread": (0, 1),
    "1 worker, 1 thread": (1, 1),
    "2 workers, 1 thread each": (2, 1),
    "1 worker, 2 threads": (1, 2),
}
"""Name -> workers (0: no Ray), threads of each."""


def collected(
    inputs: int, batch: int, workers: int, threads: int, folder: Path
) -> tuple[float, float, float]:
    """Seconds that each worker was busy, of asking, and of the whole command."""
    file = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
    rows = f"{{file: quickstart/messages.jsonl, limit: {inputs}}}"
    sets = [f"contexts.hotel.inputs={rows}", "evaluate=null", f"batch_size={batch}"]
    command = [
        sys.executable,
        "-m",
        "unprompt",
        "collect",
        str(file),
        "--out",
        str(folder),
        *(word for each in sets for word in ("--set", each)),
    ]
    began = time.perf_counter()
    done = subprocess.run(
        [*command, *(["--ray", "local", "--workers", str(workers)] if workers else [])],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    whole = time.perf_counter() - began
    (store,) = (folder / "completions").iterdir()
    times = json.loads((store / "seconds.json").read_text()).values()
    calls, asked = (sum(column) for column in zip(*times, strict=True))
    assert calls == len(Parts(store).places) == inputs
    asking = re.search(r"teacher answers: \d+ in ([\d.]+) s", done.stderr)
    assert asking, done.stderr
    return asked / max(1, workers), float(asking[1]), whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=128)
    parser.add_argument(
        "--batch", type=int, default=8, help="Prompts at once; a part is two of these"
    )
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    took: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ROWS}
    for _ in range(given.repeats):
        for name, (workers, threads) in ROWS.items():
            with tempfile.TemporaryDirectory() as folder:
                took[name].append(
                    collected(given.inputs, given.batch, workers, threads, Path(folder))
                )
                print(name, *took[name][-1], file=sys.stderr, flush=True)
    base = statistics.median(busy for busy, _, _ in took["1 worker, 1 thread"])
    print(
        f"| {given.inputs} inputs, {given.batch} at once | busy, s (lowest to highest) | prompts/s"
        " | over one worker | asking, s | command, s |"
    )
    print("|---|---|---|---|---|---|")
    for name, found in took.items():
        busy, asking, whole = (statistics.median(values) for values in zip(*found, strict=True))
        low, high = min(values[0] for values in found), max(values[0] for values in found)
        print(
            f"| {name} | {busy:.1f} ({low:.1f} to {high:.1f}) | {given.inputs / busy:.2f} |"
            f" {base / busy:.2f}x | {asking:.1f} | {whole:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
