"""What collecting would take: a simulation of workers that take parts from a queue, die and come
back, in hours, bytes and dollars.

    python benchmarks/plan.py [--inputs 1e8] [--decode 700] [...]      every assumption is printed,
    and can be set

Each GPU has a time to fail drawn from an exponential distribution; a failure takes its whole worker
down, costs the part it was at, and the time until the model is loaded again. Nothing else is
random. Not simulated: spot prices, queues for GPUs, network limits, training. What this machine
takes to read a store's keys and to hold and check a prompt is measured when this is run, not
assumed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import statistics
import tempfile
import time
import tracemalloc
from dataclasses import dataclass, fields
from pathlib import Path

from unprompt import recipe
from unprompt.records import Completion, SoftLabels
from unprompt.stages import check
from unprompt.stages.collect import LARGEST_PART
from unprompt.store.answers import Parts
from unprompt.store.tables import write_completions
from unprompt.tools import demo


@dataclass
class Plan:
    """What is assumed; the field's name is the flag's."""

    inputs: float = 1e8  # prompts, one answer each
    own: float = 100  # tokens of a prompt behind the shared prefix, which each worker reads once
    answer: float = 100  # tokens of an answer
    # prompt tokens/s of one GPU: 2 x 70e9 FLOP a token, 35 % of an H100's 989 TFLOP/s in bfloat16
    prefill: float = 2500
    decode: float = (
        700  # answer tokens/s of one GPU in full batches; measure your own engine, with its labels
    )
    draining: float = (
        0.15  # share of a part's time lost while its last answers are finished with empty places
    )
    part: int = LARGEST_PART  # prompts of a part, of a job of over 819,200
    label_bytes: float = (
        36  # of one answer token on disk, at 100 draws, as in the quickstart (`labels.py --run`)
    )
    mtbf: float = 5000  # hours from one failure of a GPU (or its machine) to the next
    load: float = 600  # seconds until a worker that died has the model again
    host_gb: float = 256  # memory of the machine that runs the command
    get_ms: float = 60  # to read the keys of one part from an object store: two requests
    readers: int = 16  # parts read at once (answers.Parts)
    gpu_hour: float = 3.0  # dollars of an H100-80GB for an hour, on demand; ask for yours
    big_gpu_hour: float = (
        4.0  # of an H200-141GB: the one GPU that holds 70 GB of weights in fp8, and caches
    )
    put: float = 5e-6  # dollars of one write to an object store
    month_gb: float = 0.023  # dollars of a gigabyte for a month in an object store
    seed: int = 0


CLUSTERS = {"1 GPU": (1, 1), "8 GPUs": (8, 4), "256 GPUs": (256, 4)}
"""Name -> GPUs, and GPUs of one worker: 140 GB of bfloat16 weights over four; in 8 bits on one
H200."""


def simulate(plan: Plan, inputs: float, gpus: int, each: int, seed: int) -> dict[str, float]:
    """Hours until the last part is written, GPU hours, and what failures cost."""
    draw, parts = random.Random(seed), math.ceil(inputs / plan.part)
    seconds = (
        plan.part
        * (plan.own / plan.prefill + plan.answer / plan.decode)
        / each
        / (1 - plan.draining)
    )
    fails = lambda: draw.expovariate(each / (plan.mtbf * 3600))  # noqa: E731
    idle = [
        (plan.load, fails()) for _ in range(gpus // each)
    ]  # when a worker is free, and when it dies
    heapq.heapify(idle)
    failures, lost, end = 0, 0.0, 0.0
    while parts:
        free, dies = heapq.heappop(idle)
        if dies < free + seconds:
            failures, lost = failures + 1, lost + max(0.0, dies - free)
            back = max(dies, free) + plan.load
            heapq.heappush(idle, (back, back + fails()))
            continue
        parts, end = parts - 1, max(end, free + seconds)
        heapq.heappush(idle, (free + seconds, dies))
    return {
        "hours": end / 3600,
        "gpu_hours": end / 3600 * gpus,
        "failures": failures,
        "lost": (lost + failures * plan.load) * each / 3600,
    }


def measured(count: int = 2000) -> dict[str, float]:
    """Of this machine: seconds to read the keys of one local part; seconds and bytes that `check`
    takes for an input of the quickstart (876 tokens).
    """
    rows = [
        (f"{n:024x}", Completion(f"i{n}", "c", "text", (1, 2), "end", 7, SoftLabels.hard([1, 2])))
        for n in range(LARGEST_PART)
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(20):
            write_completions(Path(folder) / f"part-{number}.parquet", rows)
        began = time.perf_counter()
        Parts(Path(folder))
        scan = (time.perf_counter() - began) / 20
        _checked(Path(folder), 10)  # what is read and imported once
        few_s, few_b = _checked(Path(folder), count // 10)
        many_s, many_b = _checked(Path(folder), count)
    return {
        "scan_s": scan,
        "check_s": (many_s - few_s) / (count * 0.9),
        "check_bytes": (many_b - few_b) / (count * 0.9),
    }


def _checked(folder: Path, count: int) -> tuple[float, float]:
    """Seconds of `check` for so many inputs, and bytes of what it leaves in memory."""
    file = folder / f"{count}.jsonl"
    file.write_text(
        "".join(
            json.dumps({"text": f"Message {n}: our towels have not come, and the lift is out."})
            + "\n"
            for n in range(count)
        )
    )
    plan = recipe.load(demo.recipe_path(), [f"contexts.hotel.inputs={file}", "evaluate=null"])
    began = time.perf_counter()
    check.check(plan, estimate=False)
    seconds = time.perf_counter() - began
    tracemalloc.start()
    checked = check.check(plan, estimate=False)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(checked.prompts.inputs.taught["hotel"]) == count
    return seconds, held


def walls(
    plan: Plan, here: dict[str, float], inputs: float, hours: float
) -> list[tuple[float, str]]:
    """How far each thing is over what is bearable (over 1: it breaks), and what it is; the worst
    first.
    """
    parts, memory = inputs / plan.part, inputs * here["check_bytes"] / 1e9
    scan = parts * plan.get_ms / 1000 / plan.readers / 60
    found = [
        (
            memory / plan.host_gb,
            f"memory of the command (all prompts rendered): {memory:,.0f} GB of {plan.host_gb:g}",
        ),
        (hours / 24 / 30, f"waiting: {hours / 24:,.1f} days, over 30"),
        (
            inputs * here["check_s"] / 3600 / 6,
            f"check ahead of asking, one process: {inputs * here['check_s'] / 3600:,.1f} h, over 6",
        ),
        (
            scan / 60,
            f"reading the keys of {parts:,.0f} parts in an object store: {scan:,.0f} min, over 60",
        ),
    ]
    return sorted(found, reverse=True)


def show(plan: Plan, here: dict[str, float], name: str, shards: int) -> None:
    """Print one worked example, of the whole or of one of several recipes after each other that
    hold a share of the inputs each.
    """
    gpus, each = CLUSTERS[name]
    several = [simulate(plan, plan.inputs, gpus, each, plan.seed + n) for n in range(5)]
    found, hourly = (
        {key: statistics.mean(one[key] for one in several) for key in several[0]},
        plan.gpu_hour if each > 1 else plan.big_gpu_hour,
    )
    parts, stored = plan.inputs / plan.part, plan.inputs * plan.answer * plan.label_bytes / 1e9
    print(
        f"\n{name}: {gpus // each} workers of {each}, the inputs in {shards}"
        f" recipe{'s' * (shards > 1)}"
    )
    print(
        f"  {found['hours']:,.0f} h ({found['hours'] / 24:,.1f} days), {found['gpu_hours']:,.0f}"
        f" GPU hours, ${found['gpu_hours'] * hourly:,.0f} at ${hourly:g}"
    )
    print(
        f"  {found['failures']:.1f} failures (mean of 5 draws) cost {found['lost']:,.1f} GPU hours"
        f" ({found['lost'] / found['gpu_hours']:.2%})"
    )
    print(
        f"  {parts:,.0f} parts of {stored / parts * 1e6:,.0f} kB, {stored:,.0f} GB of labels:"
        f" ${parts * plan.put:,.2f} to write, ${stored * plan.month_gb:,.2f} a month to keep"
    )
    print(
        f"  resume of one recipe on this machine's disk: {parts / shards * here['scan_s']:,.0f} s"
    )
    for over, what in walls(plan, here, plan.inputs / shards, found["hours"]):
        print(f"  {'BREAKS' if over > 1 else 'holds '} {what}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in fields(Plan):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    parser.add_argument("--clusters", nargs="+", choices=CLUSTERS, default=list(CLUSTERS))
    parser.add_argument(
        "--shards",
        type=int,
        default=1,
        help="Recipes that the inputs are cut into, one after the other on all GPUs",
    )
    given = vars(parser.parse_args())
    clusters, shards = given.pop("clusters"), given.pop("shards")
    plan = Plan(**given)
    print("assumed:", ", ".join(f"{name}={value:g}" for name, value in given.items()))
    here = measured()
    print("measured here:", ", ".join(f"{name}={value:.4g}" for name, value in here.items()))
    for name in clusters:
        show(plan, here, name, shards)


if __name__ == "__main__":
    main()
