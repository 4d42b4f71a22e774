"""A round's student: trained on its lessons by all processes of a run, unless that was done."""

from __future__ import annotations

import json
import shutil
from typing import Any

from unprompt.messages import UserError, say
from unprompt.records import BASE, TEACHER
from unprompt.stages import processes
from unprompt.stages.lessons.transfer_set import TransferSet
from unprompt.stages.train import loop
from unprompt.stages.train.watch import Watch
from unprompt.stages.weights import Weights
from unprompt.store.files import FORMAT, file_digest, fingerprint
from unprompt.store.stored import StoredLessons


def made_from(weights: Weights, round_: str, epochs: int) -> str:
    """What decides a round's student, its lessons on disk among it.

    Args:
        epochs: How many epochs differ.
    """
    recipe = weights.recipe
    return fingerprint(
        FORMAT,
        file_digest(weights.files.round(round_).folder / "lessons.parquet"),
        recipe.plan[round_].train.model_dump(),
        recipe.seed,
        weights.identity(recipe.start_of(round_)),
        *([epochs] if epochs > 1 else []),
        *(["sum"] if recipe.plan[round_].lessons.reduction == "sum" else []),
    )


def trained(
    weights: Weights, round_: str, transfer: TransferSet, watch: Watch | None, decided: str
) -> None:
    """Train a round's student (equation 1), unless just that was done before; the other processes
    join in.

    Args:
        decided: What `made_from` says.
    """
    recipe, files = weights.recipe, weights.files.round(round_)
    if files.trained(decided):
        # of a run that was killed just behind the note
        shutil.rmtree(files.checkpoints, ignore_errors=True)
        StoredLessons.beside(files.folder / "lessons.parquet").unlink(missing_ok=True)
        return
    if round_ != "after":
        start = recipe.start_of(round_)
        origin = "the model" if start == BASE else start
        say(f"round {round_}: {transfer.counts['lessons']} lessons, from {origin}")
    processes.say_to_others({"round": round_, "made_from": decided, "epochs": transfer.epochs})
    together(weights, round_, decided, transfer.epochs, watch)


def together(
    weights: Weights, round_: str, decided: str, epochs: int, watch: Watch | None = None
) -> None:
    """What all processes of a run do: a round's student, from the lessons on disk."""
    files, plan = weights.files.round(round_), weights.recipe.plan[round_]
    source = files.folder / "lessons.parquet"
    lessons = processes.from_first(lambda: StoredLessons.copied(source))
    if not lessons.path.is_file():
        raise UserError(
            "what the first process wrote is not here",
            where=str(lessons.path.resolve()),
            fix="put the run's folder (--out) on a disk that all machines share",
        )
    try:
        loop.train(
            weights.to_train(round_),
            weights.tokenizer,
            lessons,
            plan.train,
            files,
            seed=weights.recipe.seed,
            made_from=decided,
            variants=epochs,
            reduction=plan.lessons.reduction,
            watch=watch,
        )
    finally:
        if not processes.number():
            lessons.path.unlink(missing_ok=True)
    weights.take_off()  # what is graded is what was saved
    if processes.count() > 1:
        weights.forget()  # what was sharded can't be used by one process


def facts(weights: Weights, round_: str, transfer: TransferSet, watched: str) -> dict[str, Any]:
    """What the report says of a round's training.

    Args:
        watched: The file that `Watch` kept, if it looked on.
    """
    recipe = weights.recipe
    log = json.loads((weights.files.round(round_).folder / "train_log.json").read_text())
    losses, teacher = log["losses"], recipe.teacher_of(round_)
    settings = recipe.plan[round_].lessons
    counts = {
        "contexts": list(recipe.plan[round_].contexts),
        "start": str(recipe.start_of(round_)),
        "teacher": "base" if teacher == TEACHER else str(teacher),
        **transfer.counts,
        "steps": log["steps"],
        "first_loss": losses[0]["loss"],
        "last_loss": losses[-1]["loss"],
        "log": losses,
        "loss_per": "lesson" if settings.reduction == "sum" else "weighted token",
    }
    if seen := weights.files.read(watched):
        counts["watch"] = seen
    if transfer.shots:
        counts["shots"] = transfer.shots
    return counts
