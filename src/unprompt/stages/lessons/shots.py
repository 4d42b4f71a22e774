"""Several (question, answer) pairs in one sequence: lessons for in-context learning (AICD, Liu
2024), and questions behind 0 to n shots. Pure.

The layout of both, with sep the separator: T_student(x_1) y_1 sep T_student(x_2) y_2 sep ...
T_student(x_n) y_n <end>.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.messages import UserError
from unprompt.recipe import Context, Lessons, Recipe, Shots, Template
from unprompt.records import Lesson, Prompt, SoftLabels
from unprompt.stages import inputs
from unprompt.stages.prompts import plain
from unprompt.stages.templates.render import render, render_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def answer_weights(settings: Lessons) -> list[float]:
    """w_1 ... w_n of Liu 2024, the last answer's last."""
    weights, n = settings.weights, settings.n
    if weights.each is not None:
        return list(weights.each)
    if n == 1:
        return [weights.last]
    if weights.schedule == "constant":
        return [weights.shots] * (n - 1) + [weights.last]
    steps = np.linspace if weights.schedule == "linear" else np.geomspace
    return steps(weights.shots, weights.last, n).tolist()


@dataclass
class Packed:
    """Lessons of several pairs.

    Attributes:
        epochs: The lessons of each epoch; one list, if all epochs have the same shots.
        dropped: Shots left out, all epochs together, because the sequence was over the window.
        short: Sequences that lack some.
        sequences: All of them.
    """

    epochs: list[list[Lesson]]
    dropped: int = 0
    short: int = 0
    sequences: int = 0


def pack(
    lessons: Sequence[Lesson],
    texts: Mapping[str, str],
    input_of: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    settings: Lessons,
    *,
    window: int | None,
    epochs: int,
    seed: int,
) -> Packed:
    """Each lesson behind n - 1 others of its context; loss = sum over i of w_i * KL(y_i | x_1, y_1,
    ..., x_i) (Liu 2024, AICD).

    Labels are carried over as they are, those of answers with weight 0 left out. A sequence over
    the window loses whole shots from the front.

    Args:
        lessons: Single ones, of one context.
        texts: The student's prompt of each, by the lesson's id.
        input_of: The lesson's id -> its input's id (they differ where an input has several
            completions).
        epochs: For how many epochs random shots are drawn.

    Raises:
        UserError: Too few inputs have a lesson.
    """
    ahead = _shots(lessons, texts, input_of, settings, epochs, seed)
    pairs = [
        _Pair(
            lesson,
            tokenizer(
                settings.separator + texts[lesson.example_id],
                add_special_tokens=False,
                verbose=False,
            ).input_ids,
            ends=lesson.input_ids[-1] == tokenizer.eos_token_id,
        )
        for lesson in lessons
    ]
    weights, loss_on_all = answer_weights(settings), settings.loss_on == "all"
    join = functools.partial(_joined, weights=weights, loss_on_all=loss_on_all)
    packed = Packed([])
    for shots_of in ahead:
        epoch = []
        for n, pair in enumerate(pairs):
            sequence = [*(pairs[k] for k in shots_of[n]), pair]
            dropped, joined = 0, join(sequence)
            while window and len(joined.input_ids) > window and dropped + 1 < len(sequence):
                dropped += 1
                joined = join(sequence[dropped:])
            packed.dropped += dropped
            packed.short += dropped > 0
            epoch.append(joined)
        packed.epochs.append(epoch)
        packed.sequences += len(epoch)
    return packed


def refuse_too_few(inputs_: int, n: int, name: str) -> None:
    """A lesson never has itself, or another completion of its own input, as a shot.

    Raises:
        UserError: There are not enough others.
    """
    if inputs_ < n:
        raise UserError(
            f"{inputs_} inputs have a lesson, but lessons.n is {n}: each stands behind {n - 1}"
            " others",
            where=f"contexts.{name}",
            fix="lower lessons.n, or give more inputs",
        )


@dataclass(frozen=True)
class _Pair:
    """A question and its answer as they stand in a sequence.

    Attributes:
        later: The question's tokens behind a separator; at the front they are the lesson's own.
        ends: Whether the answer has an end token, which only a sequence's last one keeps.
    """

    lesson: Lesson
    later: list[int]
    ends: bool


def _joined(sequence: Sequence[_Pair], weights: Sequence[float], *, loss_on_all: bool) -> Lesson:
    ids: list[int] = []
    token_weights: list[float] = []
    labels: list[SoftLabels] = []
    last, front = sequence[-1], sequence[0].lesson.prompt_length
    for pair, weight in zip(sequence, weights[-len(sequence) :], strict=True):
        lesson = pair.lesson
        asked = pair.later if ids else lesson.input_ids[:front]
        target = lesson.input_ids[lesson.prompt_length :]
        target = target[: len(target) - (pair.ends and pair is not last)]
        taught, lesson_weight = lesson.labels.slice(0, len(target)), float(lesson.weights[-1])
        if loss_on_all:
            free = 0 if ids else 1  # nothing predicts the first token
            labels += [SoftLabels.hard(asked[free:]), taught]
            token_weights += [0.0] * free + [lesson_weight] * (len(asked) - free + len(target))
        else:
            labels += [taught] if weight else []
            token_weights += [0.0] * len(asked) + [weight * lesson_weight] * len(target)
        ids += [*asked, *target]
    return replace(
        last.lesson,
        input_ids=tuple(ids),
        prompt_length=1 if loss_on_all else front,
        weights=np.asarray(token_weights, np.float32),
        labels=SoftLabels.concat(labels),
    )


def _shots(
    lessons: Sequence[Lesson],
    texts: Mapping[str, str],
    input_of: Mapping[str, str],
    settings: Lessons,
    epochs: int,
    seed: int,
) -> list[list[list[int]]]:
    """Epoch -> lesson -> numbers of the lessons ahead of it, of as many other inputs."""
    by_input: dict[str, list[int]] = {}
    for n, lesson in enumerate(lessons):
        by_input.setdefault(input_of[lesson.example_id], []).append(n)
    refuse_too_few(len(by_input), settings.n, lessons[0].context if lessons else "")
    others, members = settings.n - 1, list(by_input.values())
    number = {id_: n for n, id_ in enumerate(by_input)}
    inputs_ = [number[input_of[lesson.example_id]] for lesson in lessons]
    if not others:
        return [[[] for _ in lessons]]
    if settings.select == "fixed":
        return [[[members[m][0] for m in range(others + 1) if m != n][:others] for n in inputs_]]
    if settings.select == "nearest":
        near = _nearest([texts[lessons[first].example_id] for first, *_ in members], others)
        return [[[members[m][0] for m in near[n]] for n in inputs_]]

    def drawn(epoch: int, lesson: Lesson, itself: int) -> list[int]:
        key = f"{seed}:{epoch}:{lesson.context}:{lesson.example_id}"
        digest = hashlib.sha256(key.encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8]))
        picked = random.choice(len(members) - 1, others, replace=False).tolist()
        chosen = [members[m + (m >= itself)] for m in picked]
        return [member[random.integers(len(member))] for member in chosen]

    each = list(zip(lessons, inputs_, strict=True))
    return [[drawn(epoch, lesson, n) for lesson, n in each] for epoch in range(epochs)]


def _nearest(texts: Sequence[str], count: int) -> list[list[int]]:
    """The `count` texts nearest to each by the cosine of TF-IDF weights, the nearest last, beside
    the question; of equals, the earlier ones.
    """
    words, nearest = _words(texts), []
    for n in range(len(texts)):
        likeness = (words[n] @ words.T).toarray()[0]
        likeness[n] = -np.inf
        nearest.append(np.argsort(-likeness, kind="stable")[:count][::-1].tolist())
    return nearest


def _words(texts: Sequence[str]) -> Any:
    """TF-IDF weights of each text's words, a sparse matrix of unit rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    except ValueError:  # no words
        raise UserError(
            "the student's prompts have no words to be compared by",
            where="lessons.select",
            fix="write random or fixed",
        ) from None


# -- questions behind shots ------------------------------------------------------------------------


def draws(settings: Shots) -> list[tuple[int, int]]:
    """(shots, number of the draw) of all that is measured; without shots nothing is drawn."""
    numbers = range(1, settings.draws + 1)
    return [(count, draw) for count in settings.counts for draw in (numbers if count else (1,))]


def questions(
    settings: Shots,
    name: str,
    context: Context,
    pool: list[dict[str, Any]] | None,
    asked: Sequence[Prompt],
    seed: int,
    where: str,
    modules: str,
) -> dict[tuple[int, int], list[Prompt]]:
    """Each held-out example's prompt behind shots: (shots, draw) -> prompts.

    A draw is one order of the pool, the same for all examples: the first so many are shown, an
    example that is itself among them left out.

    Args:
        settings: The evaluation's `shots`.
        pool: The context's own few-shot pool, which the student's template may name.
        asked: The student's prompts without shots.
        where: Key of the section, for messages.

    Raises:
        UserError: The student's prompt is a chat, the pool is too small, or a shot's answer is
            empty.
    """
    refuse_chat(context.student, name, where)
    rows = inputs.load(settings.pool, f"{where}.pool", modules)
    shown = render_all(name, context.student, "student", rows, [pool])
    texts, pieces = [plain(prompt) for prompt in shown], []
    for row, prompt in zip(rows, shown, strict=True):
        answer = render(Template(text=settings.answer), name, row, None, f"{where}.answer").content
        if not str(answer).strip():
            raise UserError(
                f"the answer of shot '{row.id}' is empty",
                where=f"{where}.answer",
                fix="mend the template or the pool",
            )
        pieces.append(f"{prompt.content}{answer}{settings.separator}")
    behind: dict[tuple[int, int], list[Prompt]] = {}
    for count, draw in draws(settings):
        order, prompts = np.random.default_rng([seed, draw]).permutation(len(rows)), []
        for prompt in asked:
            itself = plain(prompt)
            chosen = list(itertools.islice((n for n in order if texts[n] != itself), count))
            if len(chosen) < count:
                raise UserError(
                    f"{count} shots are wanted, but the pool has only {len(chosen)} beside example"
                    f" '{prompt.example_id}'",
                    where=f"{where}.pool",
                    fix="give a bigger pool, or lower counts",
                )
            text = "".join(pieces[n] for n in chosen) + str(prompt.content)
            prompts.append(Prompt(prompt.example_id, prompt.context, text))
        behind[count, draw] = prompts
    return behind


def refuse_chat(template: Template, name: str, where: str) -> None:
    """Pairs can only be joined as text.

    Raises:
        UserError: The student's prompt is a chat.
    """
    if template.messages:
        raise UserError(
            f"the student's prompt in context '{name}' is a chat, but pairs with shots are joined"
            " as plain text",
            where=where,
            fix=f"write contexts.{name}.student as plain text",
        )


def check(recipe: Recipe, asked: Mapping[str, Sequence[Prompt]], *, encoder_decoder: bool) -> None:
    """Before any money is spent: lessons with shots are possible.

    Args:
        asked: The student's prompts of each context that is taught.

    Raises:
        UserError: They are not.
    """
    for round_, plan in recipe.plan.items():
        if plan.lessons.kind != "shots":
            continue
        where = f"rounds.{round_}.lessons.kind" if recipe.rounds else "lessons.kind"
        if encoder_decoder:
            raise UserError(
                "an encoder-decoder model can't learn answers between questions",
                where=where,
                fix="name a decoder-only model",
            )
        for name in plan.contexts:
            refuse_chat(recipe.contexts[name].student, name, where)
            refuse_too_few(len(asked[name]), plan.lessons.n, name)
            if plan.lessons.select == "nearest":
                _words([str(prompt.content) for prompt in asked[name]])
