"""kill -9 at random moments: of the driver and the trainer (one process here) in all stages, and of
the server that it asks. 50 of them for the table of docs/reliability.md, half as many in the suite.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import moments
from faults.conftest import BATCH, TABLED, Counts, Warm, Whole, asked_twice, lost, same, words
from faults.dying import Endpoint

SEED = 20261122
RUNS, KILLS, SERVERS_KILLED = (8, 5, 10) if TABLED else (4, 5, 5)
_killed_in: Counter[str] = Counter()


def stage(run: Path) -> str:
    """How far a run has come, by its files."""
    if (run / "report.json").exists():
        return "report"
    if (run / "train_log.json").exists():
        return "kl and report" if list(run.glob("kl/*.tokens.json")) else "evaluate"
    if list(run.glob("checkpoints/checkpoint-*")) or (run / "lessons.arrow").exists():
        return "train"
    if (run / "lessons.parquet").exists():
        return "held-out"
    return "collect" if list(run.glob("completions/*")) else "check"


def moment(draw: random.Random, number: int, left: int, whole: Whole) -> dict[str, Any]:
    """Where a run is killed that has `left` kills to go: at a change to its files (even numbers) or
    in the middle of computing (odd ones). Chance seldom hits the first stage, training and the
    last, so some are aimed at them.
    """
    if left == KILLS and number % 4 == 0:
        return {"kind": moments.CHANGE, "steps": draw.randint(1, 3)}
    if left == 1 and number % 4 == 1:
        return {"file": "kl/*.tokens.json", "steps": draw.randint(1, 10)}
    if left == 1 and number % 4 == 2:
        return {"file": "checkpoints", "steps": draw.randint(1, 10)}
    kind = moments.LAYER if number % 2 else moments.CHANGE
    return {"kind": kind, "steps": draw.randint(1, whole.steps[kind] // left)}


@pytest.mark.parametrize("number", range(RUNS))
def test_the_driver_and_trainer(
    number: int, warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """Five times killed at seeded moments, and started again. A run that is through before it is
    killed is held against the undisturbed one, and another is begun.
    """
    print(f"seed {SEED}, number {number}")
    draw, kills, folder = random.Random(SEED + number), 0, 0
    while kills < KILLS:
        out, killed, ended = tmp_path / str(folder) / "run", dict[int, str](), False
        out.parent.mkdir()
        while kills + len(killed) < KILLS and not ended:
            left = KILLS - kills - len(killed)
            started = warm.start(recipe, out, moment=moment(draw, number, left, whole))
            ended = started.wait() == 0
            if not ended:
                killed[started.id] = stage(out)
        warm.run(recipe, out)
        again, beyond = asked_twice(out, set(killed))
        assert again <= BATCH * len(killed)
        trained = sum(where == "train" for where in killed.values())
        counts.note("kill -9 of the trainer", trained)
        counts.note(
            "kill -9 of the driver",
            len(killed) - trained,
            lost=lost(out, whole.folder),
            again=again,
            beyond=beyond,
            survived=same(out, whole),
        )
        _killed_in.update(killed.values())
        kills, folder = kills + len(killed), folder + 1


def test_all_stages_were_hit() -> None:
    print(_killed_in)
    if _killed_in.total() == RUNS * KILLS:  # not, where only some of these tests were chosen
        assert {"check", "collect", "held-out", "train", "evaluate", "kl and report"} <= set(
            _killed_in
        )


def test_the_server(warm: Warm, decoder_folder: Path, counts: Counts, tmp_path: Path) -> None:
    """It is killed at random requests, before or in the middle of an answer, and started again; the
    run asks again by itself.
    """
    print(f"seed {SEED}")
    draw = random.Random(SEED)
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        # two requests are on their way at once, and one kill must not stand for two
        moments = sorted(draw.sample(range(1, 24, 2), SERVERS_KILLED // 2))
        found = []
        for dies_at in ([], moments):
            with Endpoint(folder / f"{len(dies_at)}.log", dies_at) as server:
                path = folder / f"{len(dies_at)}.yaml"
                section = {
                    "url": server.url,
                    "model": "tiny-model",
                    "api": "completions",
                    "concurrency": 2,
                    "retries": 20,
                }
                path.write_text(
                    yaml.safe_dump(
                        words(
                            decoder_folder,
                            teacher_model={"server": section},
                            labels={"kind": "hard"},
                            name="x",
                        )
                    )
                )
                warm.run(path, folder / f"run{len(dies_at)}" / "run")
                assert server.deaths == len(dies_at)
                found.append((folder / f"run{len(dies_at)}" / "run", server.answered()))
        (calm, _), (shaken, answered) = found
        counts.note(
            "kill -9 of the server",
            len(moments),
            again=server.got() - len(set(answered)),
            beyond=len(answered) - len(set(answered)),
            survived=_texts(calm) == _texts(shaken),
        )


def _texts(run: Path) -> list[tuple[str, str, str]]:
    from unprompt.store.tables import read_grades

    return sorted((g.example_id, g.system, g.text) for g in read_grades(run / "grades.parquet"))


def test_two_runs_on_one_folder(
    warm: Warm, recipe: Path, whole: Whole, counts: Counts, tmp_path: Path
) -> None:
    """The second is refused while the first, which stopped itself, is there; the lock is gone with
    a killed process.
    """
    out = tmp_path / "run"
    first = warm.start(
        recipe, out, moment={"file": "recipe.yaml", "steps": 1, "signal": signal.SIGSTOP}
    )
    first.wait_until_it_stopped()
    assert "another run is at work in this folder" in warm.refused(recipe, out)
    first.kill()
    assert first.wait() == -9
    warm.run(recipe, out)
    again, beyond = asked_twice(out, {first.id})
    counts.note(
        "a second run on the folder",
        lost=lost(out, whole.folder),
        again=again,
        beyond=beyond,
        survived=same(out, whole),
    )
