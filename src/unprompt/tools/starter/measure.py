"""How many inputs a recipe begins with, and how long a teacher's answers are, by a few of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unprompt import pipeline
from unprompt.engines import models
from unprompt.messages import say
from unprompt.recipe import Data, Recipe
from unprompt.records import TEACHER
from unprompt.store.folder import RunDir

GENEROUS = 256
"""Tokens of an answer where nothing was measured."""
_ANSWERS = 8
"""Answers that are looked at, of which the longest is left aside: a small model rambles now and
then.
"""
_MOST, _MOST_ON_PROCESSORS = 512, 128
"""How long they may get: processors write slowly, and small models often find no end."""
_WRITTEN, _WRITTEN_ON_PROCESSORS = 400, 100
"""Inputs."""


def inputs_written() -> int:
    """How many inputs a model writes, where the user has none and does not say: on processors as
    many as a quarter of an hour has room for, from the prompt to the verdict.
    """
    import torch

    return _WRITTEN if torch.cuda.is_available() else _WRITTEN_ON_PROCESSORS


class Length(NamedTuple):
    """How long answers may be.

    Attributes:
        tokens: Of an answer, at most.
        told: What was measured.
        cut: Whether answers run on beyond that, and are learned as far as they go.
    """

    tokens: int
    told: str
    cut: bool = False


def answer_length(recipe: Recipe, run: Path | None) -> Length:
    """Ask the teacher a few of the inputs.

    Args:
        recipe: That is to be written.
        run: A run's folder, in which inputs are written that the recipe has none of.

    Returns:
        A quarter more than the longest but one.

    Raises:
        UserError: The recipe's models or data can't be read, or too few inputs are written.
    """
    from unprompt.stages.prompts import rendered
    from unprompt.stages.questions import Question
    from unprompt.stages.weights import Weights

    context = recipe.contexts["main"]
    if recipe.drawn and run:
        drawn = pipeline.inputs(recipe, run)["contexts.main.inputs"]
        source = Data(rows=tuple(drawn[:_ANSWERS]))
    else:
        assert context.inputs
        source = context.inputs.model_copy(update={"limit": _ANSWERS})
    known = recipe.model_copy(
        update={
            "contexts": {"main": context.model_copy(update={"inputs": source})},
            "evaluate": None,
            "sampling": recipe.sampling.model_copy(update={"max_new_tokens": 1}),
        }
    )
    prompts = rendered(known)
    side, window = prompts.teacher["main"], prompts.readers.teacher.window
    device = models.device(known.teacher_model or known.model)
    most = _MOST_ON_PROCESSORS if device.type == "cpu" else _MOST
    most = min(most, window - max(side.lengths)) if window else most
    sampling = known.sampling.model_copy(update={"max_new_tokens": most})
    say(f"measuring how long answers are, on {len(side.prompts)} inputs")
    with tempfile.TemporaryDirectory() as folder:
        weights = Weights(known, RunDir(Path(folder)), prompts.readers.student.tokenizer)
        question = Question(TEACHER, side, sampling)
        answers = list(weights.collect("answers", question))
        weights.forget_engines()
    return fitting([len(a.token_ids) if a.stop != "length" else None for a in answers], most)


def fitting(lengths: Sequence[int | None], most: int) -> Length:
    """How long an answer may be.

    Args:
        lengths: Tokens of a few answers; None of one that did not end within `most`.

    Returns:
        A quarter more tokens than the longest answer has, where one in eight is left aside.
    """
    known = sorted(most if length is None else length for length in lengths)
    longest = known[len(known) - 1 - len(known) // _ANSWERS]
    if longest >= most:
        cut = sum(length is None for length in lengths)
        told = f"{cut} of {len(lengths)} answers are longer than {most} tokens"
        told += ", and learned as far as that: raise sampling.max_new_tokens if they should end"
        return Length(most, told, cut=True)
    tokens = min(most, 16 * -(-longest * 5 // (4 * 16)))
    within = sum(length <= longest for length in known)
    told = f"{within} of {len(lengths)} answers have at most {longest} tokens"
    more = "is a quarter more" if tokens < most else "is the most that was looked at"
    return Length(tokens, f"{told}: {tokens} {more}")
