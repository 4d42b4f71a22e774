"""Several (question, answer) pairs in one sequence: lessons for in-context learning (AICD, Liu
2024), and questions behind 0 to n shots. Pure.

The layout of both, with sep the separator: T_student(x_1) y_1 sep T_student(x_2) y_2 sep ...
T_student(x_n) y_n <end>.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from unprompt.engines.tokens import Reader, decoded, encode_places
from unprompt.messages import UserError
from unprompt.recipe import Context, Lessons, Recipe, Shots, Template
from unprompt.records import Lesson, Prompt, SoftLabels
from unprompt.stages import inputs
from unprompt.stages.lessons import select
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
        answer_tokens: Of the shots that have a weight.
        other_tokens: How many of those are not what the teacher wrote: beside the text that follows
            (or inside it) the tokenizer cuts otherwise. Each is its own label.
    """

    epochs: list[list[Lesson]]
    dropped: int = 0
    short: int = 0
    sequences: int = 0
    answer_tokens: int = 0
    other_tokens: int = 0


def pack(
    lessons: Sequence[Lesson],
    texts: Mapping[str, str],
    input_of: Mapping[str, str],
    reader: Reader,
    settings: Lessons,
    *,
    epochs: int,
    seed: int,
) -> Packed:
    """Each lesson behind n - 1 others of its context; loss = sum over i of w_i * KL(y_i | x_1, y_1,
    ..., x_i) (Liu 2024, AICD).

    All that stands ahead of the last answer is one text, tokenised as the same layout is when it is
    a prompt; weights lie on the tokens that hold a character of an answer. Labels are carried over
    where the tokens are those that the teacher wrote, and left out of answers with weight 0. A
    sequence over the window loses whole shots from the front.

    Args:
        lessons: Single ones, of one context.
        texts: The student's prompt of each, by the lesson's id.
        input_of: The lesson's id -> its input's id (they differ where an input has several
            completions).
        reader: The student's.
        epochs: For how many epochs random shots are drawn.

    Raises:
        UserError: Too few inputs have a lesson.
    """
    ahead = select.shots(lessons, texts, input_of, settings, epochs, seed)
    pairs = [_pair(lesson, texts[lesson.example_id], reader) for lesson in lessons]
    packed, window = Packed([]), reader.window
    for shots_of in ahead:
        epoch = []
        for n, pair in enumerate(pairs):
            sequence = [*(pairs[k] for k in shots_of[n]), pair]
            dropped, joined = 0, _joined(sequence, settings, reader.tokenizer)
            while window and len(joined.lesson.input_ids) > window and dropped + 1 < len(sequence):
                dropped += 1
                joined = _joined(sequence[dropped:], settings, reader.tokenizer)
            packed.dropped += dropped
            packed.short += dropped > 0
            packed.answer_tokens += joined.answer_tokens
            packed.other_tokens += joined.other_tokens
            epoch.append(joined.lesson)
        packed.epochs.append(epoch)
        packed.sequences += len(epoch)
    return packed


class _Pair(NamedTuple):
    """A question and its answer as they stand in a sequence.

    Attributes:
        lesson: Of the two alone.
        question: T_student(x).
        answer: What follows it, without the end token, which only a sequence's last one keeps.
        tokens: The answer's, as the teacher wrote it.
    """

    lesson: Lesson
    question: str
    answer: str
    tokens: tuple[int, ...]


class _Joined(NamedTuple):
    """A sequence, and the counts of `Packed`."""

    lesson: Lesson
    answer_tokens: int
    other_tokens: int


def _pair(lesson: Lesson, question: str, reader: Reader) -> _Pair:
    asked = lesson.input_ids[: lesson.prompt_length]
    tokens = lesson.input_ids[lesson.prompt_length :]
    tokens = tokens[: len(tokens) - (tokens[-1] in reader.ends)]
    # behind the question: alone, a first blank may be lost
    whole = decoded(reader.tokenizer, [*asked, *tokens])
    return _Pair(lesson, question, whole[len(decoded(reader.tokenizer, asked)) :], tokens)


def _joined(
    sequence: Sequence[_Pair], settings: Lessons, tokenizer: PreTrainedTokenizerBase
) -> _Joined:
    *shots, last = sequence
    weights = answer_weights(settings)[-len(sequence) :]
    text, spans = "", list[tuple[int, int]]()
    for pair in shots:
        start = len(text) + len(pair.question)
        text += pair.question + pair.answer
        spans.append((start, len(text)))
        text += settings.separator
    ids, places = encode_places(tokenizer, text + last.question)
    weights_T = np.zeros(len(ids), np.float32)
    own: dict[int, tuple[int, int]] = {}  # token -> (shot, token of its answer), where the same
    written = 0
    for number, (pair, weight, span) in enumerate(zip(shots, weights, spans, strict=False)):
        inside = [n for n, place in enumerate(places) if _overlap(place, span)]
        same = {inside[n]: m for m, n in _same(pair.tokens, [ids[n] for n in inside])}
        if "\ufffd" in pair.answer:  # half a character, which no text holds, is not taught
            inside = sorted(same)
        weights_T[inside] = weight * pair.lesson.weights[-1]
        if weight:
            own |= {n: (number, m) for n, m in same.items()}
            written += len(inside)
    if settings.loss_on == "all":
        weights_T[1:] = last.lesson.weights[-1]  # nothing predicts the first token
    taught = np.flatnonzero(weights_T).tolist()
    labels = _labels(taught, ids, own, [pair.lesson.labels for pair in shots])
    front = last.lesson.prompt_length
    answer, on_last = last.lesson.input_ids[front:], last.lesson.weights[front:]
    if settings.loss_on != "all":
        on_last = on_last * np.float32(weights[-1])
    lesson = replace(
        last.lesson,
        input_ids=(*ids, *answer),
        prompt_length=1 if settings.loss_on == "all" else (taught or [len(ids)])[0],
        weights=np.concatenate([weights_T, on_last]),
        labels=SoftLabels.concat([*labels, *([last.lesson.labels] if on_last.any() else [])]),
    )
    return _Joined(lesson, written, written - len(own))


def _labels(
    taught: Sequence[int],
    ids: Sequence[int],
    own: Mapping[int, tuple[int, int]],
    labels: Sequence[SoftLabels],
) -> list[SoftLabels]:
    """The teacher's labels of those tokens that are its own, run by run; the others are their own
    label.
    """

    def run(at: tuple[int, int]) -> Any:
        number, n = at
        return (own[n][0], own[n][1] - number) if n in own else None

    parts = []
    for key, group in itertools.groupby(enumerate(taught), run):
        places = [n for _, n in group]
        if key is None:
            parts.append(SoftLabels.hard([ids[n] for n in places]))
        else:
            shot, first = own[places[0]]
            parts.append(labels[shot].slice(first, first + len(places)))
    return parts


def _overlap(place: tuple[int, int], span: tuple[int, int]) -> bool:
    return place[0] < span[1] and span[0] < place[1]


def _same(written: Sequence[int], read: Sequence[int]) -> list[tuple[int, int]]:
    """Places of equal tokens, from both ends on to the first that differs: (in `written`, in
    `read`).

    >>> _same([5, 6, 7], [5, 6, 8])
    [(0, 0), (1, 1)]
    >>> _same([5, 6, 7], [4, 7])
    [(2, 1)]
    """
    pairs, most = list[tuple[int, int]](), min(len(written), len(read))
    while len(pairs) < most and written[len(pairs)] == read[len(pairs)]:
        pairs.append((len(pairs), len(pairs)))
    ahead = len(pairs)
    for back in range(1, most - ahead + 1):
        if written[-back] != read[-back]:
            break
        pairs.append((len(written) - back, len(read) - back))
    return pairs


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
            select.refuse_too_few(len(asked[name]), plan.lessons.n, name)
            if plan.lessons.select == "nearest":
                select.words([str(prompt.content) for prompt in asked[name]])
