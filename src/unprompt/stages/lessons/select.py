"""Which lessons stand ahead of which. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unprompt.messages import UserError
from unprompt.recipe import Lessons
from unprompt.records import Lesson


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


def shots(
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
    weights, nearest = words(texts), []
    for n in range(len(texts)):
        likeness = (weights[n] @ weights.T).toarray()[0]
        likeness[n] = -np.inf
        nearest.append(np.argsort(-likeness, kind="stable")[:count][::-1].tolist())
    return nearest


def words(texts: Sequence[str]) -> Any:
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
