"""How close systems are to the teacher: KL on what it answered to held-out inputs; and drift."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from unprompt.messages import UserError, bar, say
from unprompt.recipe import Extract, Recipe
from unprompt.records import BASE, Lesson, TokenKL, Who, student
from unprompt.stages import lessons
from unprompt.stages.asks import Ask, of_system
from unprompt.stages.plan import why_not_compared
from unprompt.stages.prompts import Prompts
from unprompt.stages.weights import Weights
from unprompt.store.answers import Answers
from unprompt.store.digests import read_signed, signed
from unprompt.store.files import FORMAT, fingerprint, replacing

if TYPE_CHECKING:
    from unprompt.engines.hf.engine import HFEngine
    from unprompt.stages.train.watch import Watch

Answered = Mapping[Ask, Answers]
_SECONDS = 30
"""Work that a stop may lose."""
_WATCHED = 32
"""Held-out inputs that are looked at while a student trains."""


def held(
    recipe: Recipe, prompts: Prompts, answers: Answered, context: str, *, sampled: bool = False
) -> list[Lesson] | str:
    """What the teacher answered to a context's held-out inputs, behind the student's prompts; where
    that can't be compared, why.

    Args:
        sampled: Not the graded answers, but those that it sampled for this (of fewer inputs).
    """
    if sampled:
        ask = next((a for a in answers if (a.purpose, a.context) == ("sampled", context)), None)
    else:
        ask = of_system(list(answers), context, "teacher")
    if ask is None:
        return []
    if why := why_not_compared(prompts, ask.who):
        return why
    pair = prompts.readers.carrying(ask.who)
    try:
        completions = pair.carried(answers[ask]) if pair else answers[ask]
    except UserError as error:
        return error.what
    return lessons.build(
        prompts.held_student[context].prompts[: len(completions)],
        completions,
        prompts.readers.student,
        recipe.contexts[context].extract,
        end_token=True,
        add_end=False,
        where=f"contexts.{context}.extract",
        modules=recipe.modules,
    )[0]


def kl_file(weights: Weights, who: Who, asked: Sequence[Lesson]) -> str:
    """Where KL from the lessons' labels to these weights is kept, in the run's folder."""
    key = fingerprint(
        FORMAT,
        weights.identity(who),
        [[x.input_ids, x.labels.ids.tolist(), x.labels.probs.tolist()] for x in asked],
    )
    return f"kl/{key}.tokens.json"


def token_kl(weights: Weights, who: Who, asked: Sequence[Lesson], title: str) -> list[list[float]]:
    """KL from the lessons' labels to these weights, in nats, of each token of each lesson; kept in
    the run's folder.
    """
    name = kl_file(weights, who, asked)
    if (known := weights.files.read(name)) is not None:
        return known
    with bar(title, len(asked)) as progress:
        return read_kl(weights, who, asked, name, progress)


def read_kl(
    weights: Weights,
    who: Who,
    asked: Sequence[Lesson],
    name: str,
    progress: Callable[[int], object],
    like: Sequence[int] | None = None,
) -> list[list[float]]:
    """Measure it, and keep it.

    Args:
        like: What their prompts begin like (see `HFEngine.read`), if they share much: that is read
            once for all.
    """
    from unprompt.stages.train import kl

    engine, batch = weights.here(who), weights.recipe.batch_size or 32
    begun = weights.files.folder / name.replace(".tokens.", ".begun.")
    with engine.ready():
        if like is None:
            nats = _in_parts(begun, engine, asked, batch, progress)
        else:
            nats = kl.shared_kl(engine, asked, batch, like, progress)
    weights.files.keep(name, json.dumps(nats))
    begun.unlink(missing_ok=True)
    return nats


def _in_parts(
    begun: Path,
    engine: HFEngine,
    asked: Sequence[Lesson],
    batch: int,
    progress: Callable[[int], object],
) -> list[list[float]]:
    """What is measured is kept meanwhile, so that a stop loses little of it."""
    from unprompt.stages.train import kl

    nats: dict[str, list[float]] = read_signed(begun) or {}
    done, written = set(map(int, nats)), time.monotonic()
    progress(len(done))
    for numbers, found in kl.batched_kl(engine.model, engine.tokenizer, asked, batch, done):
        progress(len(set(numbers) - done))
        nats |= dict(zip(map(str, numbers), found, strict=True))
        if time.monotonic() >= written + _SECONDS:
            with replacing(begun) as partial:
                partial.write_text(signed(nats))
            written = time.monotonic()
    return [nats[str(number)] for number in range(len(asked))]


def to_teacher(
    weights: Weights, prompts: Prompts, answers: Answered, *, sampled: bool = False
) -> tuple[dict[str, dict[str, TokenKL]], dict[str, str]]:
    """Context -> `before` and each round -> KL(teacher || system); and the contexts that are left
    out, with the reason.

    Args:
        sampled: As in `held`.
    """
    from unprompt.stages.train import kl

    recipe, tokenizer = weights.recipe, prompts.readers.student.tokenizer
    of_context, left_out = dict[str, list[Lesson]](), dict[str, str]()
    for name in prompts.inputs.held_out:
        said = held(recipe, prompts, answers, name, sampled=sampled)
        if isinstance(said, str):
            left_out[name] = said
            if sampled:
                say(f"{name}: no KL on answers that the teacher sampled: {said}")
        elif said:
            of_context[name] = said
    pieces = {
        name: [kl.pieces(tokenizer, lesson) for lesson in own] for name, own in of_context.items()
    }
    values: dict[str, dict[str, TokenKL]] = {name: {} for name in of_context}
    for who in (BASE, *map(student, recipe.plan)):
        system = who.round or "before"
        for name, own in of_context.items():
            on = " on sampled answers" if sampled else ""
            nats = token_kl(weights, who, own, f"{name}: KL of {system}{on}")
            ids = [lesson.example_id for lesson in own]
            values[name][system] = TokenKL(ids, pieces[name], nats)
    return values, left_out


def watch(
    weights: Weights, prompts: Prompts, answers: Answered, round_: str, decided: str
) -> Watch | None:
    """Looks at the held-out inputs of a round's contexts while it trains, as far as their teacher
    has answered by now.
    """
    from unprompt.stages.train.watch import Watch

    recipe, asked = weights.recipe, dict[str, list[Lesson]]()
    for name in recipe.plan[round_].contexts if recipe.report.watch else ():
        said = held(recipe, prompts, answers, name)
        if said and not isinstance(said, str):
            asked[name] = said[:_WATCHED]
    if not asked:
        return None
    name, tokenizer = watched(decided), prompts.readers.student.tokenizer
    size = recipe.batch_size or 32
    return Watch(weights.files, name, tokenizer, asked, recipe.report.watch, size)


def watched(decided: str) -> str:
    """Where `Watch` keeps what it sees of the training of a student that this decides."""
    return f"kl/{fingerprint('watch', decided, _WATCHED)}.json"


def drift(weights: Weights, prompts: Prompts, answers: Answered) -> dict[str, list[float]]:
    """Each round -> KL(base || student) of each unrelated input, in nats per token of the base
    model's answer.

    Raises:
        UserError: The base model answers none of them.
    """
    for ask in (ask for ask in answers if ask.purpose == "drift" and ask.question):
        assert ask.question
        built, drops = lessons.build(
            ask.question.side.prompts,
            answers[ask],
            prompts.readers.student,
            Extract(),
            end_token=True,
            where="drift",
        )
        if drops.failed:
            reasons = ", ".join(f"{count} {reason}" for reason, count in drops.reasons().items())
            say(f"drift: measured on {len(built)} of {len(answers[ask])} inputs ({reasons})")
        if not built:
            raise UserError(
                "the base model answers none of these inputs",
                where="drift.inputs",
                fix="give other inputs, or another template",
            )
        nats = {
            name: token_kl(weights, student(name), built, f"drift: KL of {name}")
            for name in weights.recipe.plan
        }
        return {name: [sum(each) / len(each) for each in own] for name, own in nats.items()}
    return {}
