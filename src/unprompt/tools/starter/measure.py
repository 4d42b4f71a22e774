"""How long a teacher's answers are, from a few of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from unprompt import pipeline
from unprompt.messages import say
from unprompt.recipe import Data, Recipe
from unprompt.records import TEACHER
from unprompt.store.folder import RunDir

GENEROUS = 256
"""Tokens of an answer where nothing was measured."""
_ANSWERS, _MOST = 8, 512
"""Answers that are looked at, of which the longest is left aside (a small model rambles now and
then), and how long they may get.
"""


def answer_length(recipe: Recipe, run: Path | None) -> tuple[int, str]:
    """Ask the teacher a few of the inputs.

    Args:
        recipe: That is to be written.
        run: A run's folder, in which inputs are written that the recipe has none of.

    Returns:
        Tokens that an answer may have: a quarter more than the longest but one; and a line that
        says what was measured.

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
    most = min(_MOST, window - max(side.lengths)) if window else _MOST
    sampling = known.sampling.model_copy(update={"max_new_tokens": most})
    say(f"measuring how long answers are, on {len(side.prompts)} inputs")
    with tempfile.TemporaryDirectory() as folder:
        weights = Weights(known, RunDir(Path(folder)), prompts.readers.student.tokenizer)
        question = Question(TEACHER, side, sampling)
        answers = list(weights.collect("answers", question))
        weights.forget_engines()
    return fitting([len(a.token_ids) if a.stop != "length" else None for a in answers], most)


def fitting(lengths: Sequence[int | None], most: int) -> tuple[int, str]:
    """How long an answer may be.

    Args:
        lengths: Tokens of a few answers; None of one that did not end within `most`.

    Returns:
        A quarter more tokens than the longest answer has, where one in eight is left aside; and a
        line that says what was measured.
    """
    known = sorted(most if length is None else length for length in lengths)
    longest = known[len(known) - 1 - len(known) // _ANSWERS]
    if longest >= most:
        cut = sum(length is None for length in lengths)
        return most, f"{cut} of {len(lengths)} answers are longer than {most} tokens"
    tokens = min(most, 16 * -(-longest * 5 // (4 * 16)))
    within = sum(length <= longest for length in known)
    told = f"{within} of {len(lengths)} answers have at most {longest} tokens"
    return tokens, f"{told}: {tokens} is a quarter more"
