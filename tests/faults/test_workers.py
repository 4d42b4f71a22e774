"""kill -9 of Ray's workers, ahead of a part or in the middle of it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import ray
from ray import cloudpickle

from faults.conftest import TABLED, Counts
from unprompt.recipe import Sampling
from unprompt.records import BASE, Completion, Prompt
from unprompt.stages import collect
from unprompt.stages.cluster import Workers
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question
from unprompt.store.tables import read_completions

SEED = 20261123
KILLS, PARTS = (6, 24) if TABLED else (2, 8)


class Dying:
    """An engine that notes what it is asked, and kills its own process, whichever worker that is,
    once the parts asked so far reach a moment. No part dies twice.
    """

    def __init__(self, folder: Path, moments: list[int]) -> None:
        self.folder, self.moments = folder, moments

    def generate(self, prompts: list[Prompt], *_: Any, **__: Any) -> list[Completion]:
        ids = " ".join(prompt.example_id for prompt in prompts)
        notes = self.folder / "asked"
        with notes.open("a") as file:
            print(ids, file=file, flush=True)
        asked = len(notes.read_text().splitlines())
        due = [self.folder / f"killed-{moment}" for moment in self.moments if asked >= moment]
        if not any(path.exists() and path.read_text() == ids for path in due):
            for path in due:
                with contextlib.suppress(FileExistsError):
                    with path.open("x") as file:
                        file.write(ids)
                    os.kill(os.getpid(), signal.SIGKILL)
        return [answer(prompt) for prompt in prompts]


def answer(prompt: Prompt) -> Completion:
    return Completion(
        prompt.example_id,
        prompt.context,
        f"said to {prompt.example_id}",
        (len(prompt.example_id),),
        "end",
        1,
    )


def test_the_workers(counts: Counts, tmp_path: Path) -> None:
    """Again and again one of two workers is killed; Ray starts others, and the command goes on by
    itself.
    """
    print(f"seed {SEED}")
    draw, notes, store = random.Random(SEED), tmp_path / "notes", tmp_path / "store"
    notes.mkdir()
    store.mkdir()
    moments = [1 + 3 * number + draw.randrange(3) for number in range(KILLS)]
    prompts = [Prompt(f"i{n}", "c", f"text {n}") for n in range(4 * PARTS)]
    engine = cast("Callable[[], Any]", partial(Dying, notes, moments))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't find the tests
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # tests/test_ray.py, which comes behind this in one suite, goes on in this cluster and ends it
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    collect.fill(
        Workers("local", 2).ask(engine, gpu=False),
        store,
        Question(BASE, Side(prompts, [1] * len(prompts), (0,)), Sampling()),
        batch_size=2,
    )
    died = [ids for path in notes.glob("killed-*") for ids in path.read_text().split()]
    asked = Counter((notes / "asked").read_text().split())
    kept = {
        completion.example_id: completion.text for completion in read_completions(store).values()
    }
    assert len(list(notes.glob("killed-*"))) == KILLS
    counts.note(
        "kill -9 of a Ray worker",
        KILLS,
        lost=len(prompts) - len(kept),
        again=sum(asked.values()) - len(prompts),
        beyond=sum((asked - Counter(p.example_id for p in prompts) - Counter(died)).values()),
        survived=kept == {prompt.example_id: answer(prompt).text for prompt in prompts},
    )
