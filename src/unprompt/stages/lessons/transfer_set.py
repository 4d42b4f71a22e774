"""What a round's student is taught: contexts side by side (Snell et al. 2022, equation 2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from unprompt.messages import UserError, say
from unprompt.recipe import Extract, Lessons, Recipe
from unprompt.records import Completion, Lesson, Prompt, Who
from unprompt.stages import lessons as made
from unprompt.stages.lessons import gain, rationales, select, shots
from unprompt.stages.lessons.mixing import mixed
from unprompt.stages.prompts import Prompts, sample_ids, several
from unprompt.stages.questions import Question
from unprompt.store.answers import Answers
from unprompt.store.folder import RunDir
from unprompt.store.tables import write_lessons

Asking = Callable[[str, Question], Answers]
"""Asks a question; the text is what the terminal calls it."""
Reading = Callable[[list[Lesson], str], list[list[float]]]
"""KL from lessons' labels to the model without a prompt, in nats, of each token of each lesson; the
text is what the terminal calls it."""
_FIRST, _MANY = 16, 64
"""Answers that are looked at ahead of the others, and of how many that is worth it."""
_OFTEN = 0.2
"""Share of a context's answers that are cut, over which that is said at once."""


@dataclass(frozen=True)
class Taught:
    """What one teacher's answers (or the gold ones) teach in a context.

    Attributes:
        lessons: One of each answer that was kept.
        drops: What became of the others.
        answers: Question and answers, first those without the hint; none of gold answers.
        gains: Input -> its context gain in nats per token, where the recipe has `min_gain`; inputs
            under that have no lesson.
    """

    context: str
    who: Who
    lessons: list[Lesson]
    drops: made.Drops
    answers: list[tuple[Question, Answers]]
    gains: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TransferSet:
    """A round's lessons, which lie on disk.

    Attributes:
        taught: What they are made of, without the lessons themselves.
        epochs: How many epochs differ; each then has lessons of its own, one behind the other.
        counts: `lessons` of an epoch, how many of them are `replayed`, and `weighted_tokens`.
        shots: What the window took from lessons with shots; nothing of others.
    """

    taught: list[tuple[Taught, int]]
    epochs: int
    counts: dict[str, int]
    shots: dict[str, int]


def taught(
    recipe: Recipe, prompts: Prompts, round_: str, ask: Asking, read: Reading
) -> list[Taught]:
    """What a round's teacher teaches in each of its contexts.

    Raises:
        UserError: Too many answers of a context give no lesson, or none has anything to teach.
    """
    who, settings = recipe.teacher_of(round_), recipe.plan[round_].lessons
    return [
        of_context(recipe, prompts, name, who, settings, ask, read)
        for name in recipe.plan[round_].contexts
    ]


def of_round(
    recipe: Recipe, prompts: Prompts, files: RunDir, round_: str, ask: Asking, read: Reading
) -> TransferSet:
    """Make a round's lessons, and write them down: its contexts', each as much as it counts
    (equation 2), and those replayed against forgetting.

    Raises:
        UserError: Too many answers of a context give no lesson, or none has anything to teach.
    """
    round_plan = recipe.plan[round_]
    settings, replay = round_plan.lessons, round_plan.replay
    parts = taught(recipe, prompts, round_, ask, read)
    lessons, dropped = _joined(parts), dict[str, int]()
    epochs = [lessons]
    if settings.kind == "shots":
        epochs, dropped = _behind_shots(recipe, prompts, round_, parts)
    replayed = list[Lesson]()
    if replay:
        start = recipe.start_of(round_)
        again = [
            of_context(recipe, prompts, name, start, settings, ask) for name in replay.contexts
        ]
        others, wanted = _joined(again), made.replay_size(len(lessons), replay.share)
        if wanted > len(others):
            say(
                f"round {round_}: {len(others)} lessons are replayed instead of {wanted};"
                " extraction failed for the rest"
            )
        replayed = made.replayed(others, wanted, recipe.seed)
        parts = [*parts, *again]
    weights = {name: recipe.contexts[name].weight for name in round_plan.learned}
    epochs = mixed(epochs, replayed, weights, settings.mixing)
    path = files.round(round_).folder / "lessons.parquet"
    write_lessons(path, itertools.chain.from_iterable(epochs))
    files.round(round_).notes.add(path.name)
    weighted = sum((lesson.weights != 0).sum() for epoch in epochs for lesson in epoch)
    counts = {
        "lessons": len(epochs[0]),
        "replayed": len(replayed),
        "weighted_tokens": round(weighted / len(epochs)),
    }
    counted = [(replace(each, lessons=[]), len(each.lessons)) for each in parts]
    return TransferSet(counted, len(epochs), counts, dropped)


def of_context(
    recipe: Recipe,
    prompts: Prompts,
    name: str,
    who: Who,
    settings: Lessons,
    ask: Asking,
    read: Reading | None = None,
) -> Taught:
    """A teacher answers all inputs of a context (or the gold answers are there); the answers
    become lessons, one each.

    Args:
        read: Measures context gain, where the recipe wants some; None: lessons that are replayed.

    Raises:
        UserError: Too many give none, or none has anything to teach.
    """
    context, reader = recipe.contexts[name], prompts.readers.student
    answers: list[tuple[Question, Answers]] = []
    counts: dict[str, int] = {}
    pair = None
    if name in prompts.gold:
        rule, asked = Extract(), prompts.student[name].prompts
        completions = made.gold_completions(asked, prompts.gold[name], reader.tokenizer)
    else:
        rule, pair = context.extract, prompts.readers.carrying(who)
        asked, completions, counts = kept(recipe, prompts, name, who, ask, answers)
    build = partial(
        made.build,
        asked,
        pair.carried(completions) if pair else completions,
        reader,
        rule,
        where=f"contexts.{name}.extract",
        modules=recipe.modules,
        **pair.anew() if pair else {},
    )
    lessons, drops = build(end_token=settings.end_token)
    _tell(recipe, name, who, settings, completions, lessons, drops)
    input_of = _input_of(recipe, prompts, name)
    inputs = {input_of[lesson.example_id] for lesson in lessons}
    if counts:
        without = len(prompts.inputs.taught[name]) - len(inputs)
        drops.filtered = {**counts, "inputs without a lesson": without}
        named = ", ".join(f"{count} {what}" for what, count in drops.filtered.items())
        say(f"{name}: filtered answers of {who}: {named}")
    gains = dict[str, float]()
    if read and context.inputs and (least := context.inputs.min_gain):
        measured = build(end_token=True, add_end=False)[0]
        nats = read(measured, f"{name}: KL of before on answers of {who}")
        gains = gain.of_inputs(measured, nats, input_of)
        low = gains.keys() - gain.kept(gains, least, name)
        lessons = [lesson for lesson in lessons if input_of[lesson.example_id] not in low]
        inputs -= low
    if settings.kind == "shots":
        select.refuse_too_few(len(inputs), settings.n, name)
    return Taught(name, who, lessons, drops, answers, gains)


def _tell(
    recipe: Recipe,
    name: str,
    who: Who,
    settings: Lessons,
    completions: Sequence[Completion],
    lessons: Sequence[Lesson],
    drops: made.Drops,
) -> None:
    """What did not become a lesson, or not whole.

    Raises:
        UserError: It is too much.
    """
    made.refuse_too_many_failures(drops, len(completions), settings.max_failed, name, completions)
    if not lessons:
        reasons = ", ".join(f"{count} {reason}" for reason, count in drops.reasons().items())
        raise UserError(
            f"not one of {len(completions)} answers of {who} gives a lesson ({reasons})",
            where=f"contexts.{name}.extract",
            fix="mend it, or raise sampling.max_new_tokens; the answers are kept",
        )
    if len(drops.cut_at_limit) > _OFTEN * len(completions):
        say(
            f"WARNING: {name}: {len(drops.cut_at_limit)} of {len(completions)} answers of {who}"
            f" were cut at {recipe.sampling.max_new_tokens} tokens, and are taught without an end:"
            " raise sampling.max_new_tokens"
        )
    if drops.failed:
        reasons = ", ".join(f"{count} {reason}" for reason, count in drops.reasons().items())
        say(
            f"{name}: {len(drops.failed)} of {len(completions)} answers of {who} give no lesson:"
            f" {reasons}"
        )


def kept(
    recipe: Recipe,
    prompts: Prompts,
    name: str,
    who: Who,
    ask: Asking,
    answers: list[tuple[Question, Answers]],
) -> tuple[Sequence[Prompt], Sequence[Completion], dict[str, int]]:
    """A teacher answers a context's inputs. Of the answers that its filter keeps: the student's
    prompts, the completions; and what was filtered. Inputs of which nothing is kept are asked
    again with the context's hint.

    Args:
        answers: Gets what was asked, and answered.
    """
    context, count = recipe.contexts[name], recipe.sampling.per_input
    rows, asked = prompts.inputs.taught[name], several(prompts.student[name].prompts, count)

    def answered(title: str, side: Any) -> Answers:
        question = Question(who, side, recipe.sampling, recipe.labels)
        answers.append((question, ask(title, question)))
        return answers[-1][1]

    def verdicts(places: Sequence[int], completions: Sequence[Completion]) -> list[str]:
        inputs = [rows[n] for n in places]
        assert context.filter
        return rationales.judge(
            context.filter, context.extract, inputs, completions, count, name, recipe.modules
        )

    title = f"{name}: {who} answers"
    side = prompts.teacher[name].times(count)
    if len(side.prompts) > _MANY and context.extract == Extract():
        few = Question(who, side.first(_FIRST), recipe.sampling, recipe.labels)
        _refuse_cut(ask(f"{title}, the first {_FIRST}", few), recipe, name, who)
    first_answers = answered(title, side)
    if context.filter is None:
        return asked, first_answers, {}
    completions = list(first_answers)
    first = verdicts(range(len(rows)), completions)
    final, hinted = list(first), None
    if context.hint:
        left = rationales.unkept(first, count)
        again = answered(f"{title}, with the hint", prompts.hint[name].only(left, count))
        hinted = verdicts(left, again)
        places = [n * count + k for n in left for k in range(count)]
        for place, completion, verdict in zip(places, again, hinted, strict=True):
            completions[place], final[place] = completion, verdict
    counts = rationales.counts(context.filter, first, hinted)
    places = [n for n, verdict in enumerate(final) if verdict == rationales.KEPT]
    rationales.refuse_nothing(len(places), counts, name)
    return [asked[n] for n in places], [completions[n] for n in places], counts


def _refuse_cut(first: Sequence[Completion], recipe: Recipe, name: str, who: Who) -> None:
    """Before the rest is paid for."""
    cut = sum(completion.stop == "length" for completion in first)
    most = max(round_.lessons.max_cut for round_ in recipe.plan.values() if name in round_.learned)
    if cut > most * len(first):
        tokens = recipe.sampling.max_new_tokens
        raise UserError(
            f"{cut} of the first {len(first)} answers of {who} are cut at {tokens} tokens, more"
            f" than lessons.max_cut allows ({most:.0%})",
            where=f"contexts.{name}",
            fix=f"raise sampling.max_new_tokens (to {4 * tokens}), or lessons.max_cut; the answers"
            " are kept",
        )


def _joined(taught: Sequence[Taught]) -> list[Lesson]:
    return [lesson for each in taught for lesson in each.lessons]


def _input_of(recipe: Recipe, prompts: Prompts, name: str) -> dict[str, str]:
    """A lesson's id -> its input's; they differ where an input has several completions."""
    count = recipe.per_input(name)
    rows = prompts.inputs.taught[name]
    return {id_: row.id for row in rows for id_ in sample_ids(row.id, count)}


def _behind_shots(
    recipe: Recipe, prompts: Prompts, round_: str, taught: Sequence[Taught]
) -> tuple[list[list[Lesson]], dict[str, int]]:
    """Each context's lessons, each behind others of them, of each epoch; and what the window
    took.
    """
    round_plan, reader = recipe.plan[round_], prompts.readers.student
    packed = []
    for each in taught:
        asked = several(prompts.student[each.context].prompts, recipe.per_input(each.context))
        packed.append(
            shots.pack(
                each.lessons,
                {prompt.example_id: str(prompt.content) for prompt in asked},
                _input_of(recipe, prompts, each.context),
                reader,
                round_plan.lessons,
                epochs=math.ceil(round_plan.train.epochs),
                seed=recipe.seed,
            )
        )
    epochs = [
        list(itertools.chain(*parts)) for parts in zip(*(p.epochs for p in packed), strict=True)
    ]
    counts = {
        key: sum(getattr(each, key) for each in packed) for key in ("sequences", "short", "dropped")
    }
    if counts["dropped"]:
        say(
            f"round {round_}: {counts['dropped']} shots dropped from the front of"
            f" {counts['short']} of {counts['sequences']} sequences, which were over the window"
            f" of {reader.window}"
        )
    written, other = (
        sum(getattr(each, key) for each in packed) for key in ("answer_tokens", "other_tokens")
    )
    if other:
        say(
            f"round {round_}: {other} of {written} tokens of answers ahead of others are not those"
            " that the teacher wrote (beside what follows the tokenizer cuts otherwise): each is"
            " its own label"
        )
    return epochs, counts
