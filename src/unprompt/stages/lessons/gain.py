"""Context gain of the inputs that are taught: those that have too little to teach are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from unprompt.messages import UserError, say
from unprompt.records import Lesson


def of_inputs(
    measured: Sequence[Lesson], nats: Sequence[Sequence[float]], input_of: Mapping[str, str]
) -> dict[str, float]:
    """Input -> its context gain: KL(teacher || before), in nats per token; the mean over its
    answers of the mean over an answer's tokens.

    Args:
        measured: The teacher's answers behind the student's prompts, with its labels.
        nats: KL(label || before) of each weighted token of each of them.
        input_of: A lesson's id -> its input's; they differ where an input has several answers.
    """
    means: dict[str, list[float]] = {}
    for lesson, each in zip(measured, nats, strict=True):
        means.setdefault(input_of[lesson.example_id], []).append(fmean(each) if each else 0.0)
    return {id_: fmean(own) for id_, own in means.items()}


def kept(gains: Mapping[str, float], least: float, context: str) -> set[str]:
    """Inputs that gain at least so much, in nats per token; how many do not is said.

    Raises:
        UserError: None does.
    """
    enough = {id_ for id_, gain in gains.items() if gain >= least}
    if not enough:
        raise UserError(
            f"all {len(gains)} inputs would be left out: none has a context gain of {least:g} nats"
            f" per token (the highest is {max(gains.values()):.2g})",
            where=f"contexts.{context}.inputs.min_gain",
            fix="give inputs to which the prompt changes the answer, or lower it; the answers are"
            " kept",
        )
    say(
        f"{context}: {len(gains) - len(enough)} of {len(gains)} inputs are left out: their context"
        f" gain is under {least:g} nats per token"
    )
    return enough
