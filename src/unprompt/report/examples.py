"""The held-out examples as the page and notebooks see them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unprompt.metrics.match import same
from unprompt.records import Example, Grade, TokenKL, as_text
from unprompt.visible import visible

if TYPE_CHECKING:
    import pandas

    from unprompt.stages.prompts import Side

_JSON = ("target", "pieces", "nats")
"""What may be anything; in Parquet it is JSON text."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out example: what teacher and student were asked, and what the teacher's answer costs
    each system.

    Attributes:
        teacher: The teacher's prompt, the first of an ensemble's; None if the context has none.
        student: The student's prompt.
        pieces: The teacher's answer, the extracted part, token by token; empty if there is no KL on
            it.
        nats: System -> KL(teacher || system) of each of these tokens.
    """

    context: str
    example_id: str
    target: Any
    teacher: str | None
    student: str
    pieces: list[str] = field(default_factory=list)
    nats: dict[str, list[float]] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """For Parquet."""
        target = json.dumps(self.target, ensure_ascii=False, default=str)
        texts = {"pieces": json.dumps(self.pieces), "nats": json.dumps(self.nats)}
        return {**vars(self), "target": target, **texts}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> HeldOut:
        """Back from Parquet."""
        return HeldOut(**{**row, **{key: json.loads(row[key]) for key in _JSON}})


def held_out(
    context: str,
    rows: Sequence[Example],
    student: Side,
    teacher: Side | None,
    kl: Mapping[str, TokenKL],
) -> list[HeldOut]:
    """A context's held-out examples, from the run's records."""
    first = next(iter(kl.values()), None)
    place = {id_: n for n, id_ in enumerate(first.example_ids)} if first else {}
    examples = []
    for n, example in enumerate(rows):
        at = place.get(example.id)
        examples.append(
            HeldOut(
                context,
                example.id,
                example.target,
                as_text(teacher.prompts[n].content) if teacher else None,
                as_text(student.prompts[n].content),
                first.pieces[at] if first and at is not None else [],
                {} if at is None else {system: values.nats[at] for system, values in kl.items()},
            )
        )
    return examples


@dataclass(frozen=True)
class Examples(Sequence[HeldOut]):
    """A run's held-out examples, with what every system answered."""

    rows: Sequence[HeldOut]
    grades: Sequence[Grade]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def to_pandas(self) -> pandas.DataFrame:
        """One line an example; of each system `SYSTEM.text`, `.answer`, `.failure`, `.kl` (nats per
        token) and a column each metric.

        Raises:
            ImportError: pandas is not installed; Unprompt does not need it otherwise.
        """
        import pandas

        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for x in self.rows:
            line = {
                "context": x.context,
                "id": x.example_id,
                "target": x.target,
                "teacher_prompt": x.teacher,
                "student_prompt": x.student,
            }
            line |= {f"{system}.kl": sum(nats) / len(nats) for system, nats in x.nats.items()}
            lines[x.context, x.example_id] = line
        for g in self.grades:
            values = {"text": g.text, "answer": g.answer, "failure": g.failure, **g.metrics}
            lines[g.context, g.example_id] |= {
                f"{g.row}.{key}": value for key, value in values.items()
            }
        return pandas.DataFrame(list(lines.values()))


def browser(
    rows: Sequence[HeldOut], grades: Sequence[Grade], students: Sequence[str]
) -> list[dict[str, Any]]:
    """What the page's browser of examples shows, one entry a context, every text made visible.

    A prompt is `shared[0] + own + shared[1]`; an example's entry is `[id, target, teacher's own,
    student's own, answers, pieces, nats]`, an answer `[text, extracted (1: all of the text, null:
    nothing), failure or null, value or null, same as the teacher's]` in the order of `systems`;
    nats are thousandths.
    """
    answers: dict[str, dict[str, dict[str, Grade]]] = {}
    for g in grades:
        if g.shots is None:
            answers.setdefault(g.context, {}).setdefault(g.example_id, {})[g.system] = g
    contexts = []
    for context in dict.fromkeys(x.context for x in rows):
        graded = answers.get(context, {})
        shown = [x for x in rows if x.context == context and x.example_id in graded]
        if not shown:
            continue
        systems = list(dict.fromkeys(name for x in shown for name in graded[x.example_id]))
        systems.sort(key=lambda s: (s != "teacher", s != "before"))
        metric = next(iter(graded[shown[0].example_id][systems[0]].metrics), None)
        prompts = [x.teacher for x in shown if x.teacher is not None]
        teacher, student = _shared(prompts), _shared([x.student for x in shown])
        entries = []
        for x in shown:
            by = graded[x.example_id]
            given = [_answer(by.get(system), by.get("teacher"), metric) for system in systems]
            entries.append(_entry(x, teacher, student, given))
        contexts.append(
            {
                "context": context,
                "metric": metric,
                "systems": systems,
                "students": [s for s in students if s in systems],
                "teacher": [visible(part) for part in teacher] if prompts else None,
                "student": [visible(part) for part in student],
                "rows": entries,
            }
        )
    return contexts


def _entry(
    x: HeldOut, teacher: tuple[str, str], student: tuple[str, str], given: list[Any]
) -> list[Any]:
    asked = None if x.teacher is None else _between(x.teacher, teacher)
    mine = _between(x.student, student)
    target = "" if x.target is None else x.target
    if not isinstance(target, str):
        target = json.dumps(target, ensure_ascii=False)
    return [
        visible(x.example_id),
        visible(target),
        None if asked == mine else asked,
        mine,
        given,
        [visible(piece) for piece in x.pieces],
        {system: [round(1000 * v) for v in values] for system, values in x.nats.items()},
    ]


def _between(prompt: str, shared: tuple[str, str]) -> str:
    """What is a prompt's own."""
    return visible(prompt[len(shared[0]) : len(prompt) - len(shared[1])])


def _answer(grade: Grade | None, teacher: Grade | None, metric: str | None) -> list[Any] | None:
    if grade is None:
        return None
    answer = None if grade.answer is None else visible(grade.answer)
    text = visible(grade.text)
    value = None if metric is None else round(grade.metrics[metric], 4)
    return [
        text,
        1 if answer == text.strip() else answer,
        grade.failure,
        value,
        int(teacher is not None and same(grade, teacher)),
    ]


def _shared(texts: Sequence[str]) -> tuple[str, str]:
    """What all texts begin with, and what all end with behind that."""
    if len(texts) < 2:
        return "", ""
    first = _common(min(texts), max(texts))
    backwards = [text[len(first) :][::-1] for text in texts]
    return first, _common(min(backwards), max(backwards))[::-1]


def _common(a: str, b: str) -> str:
    """What both begin with."""
    same_so_far = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))
    return a[: sum(1 for _ in same_so_far)]


def vanished(teacher: Sequence[str], student: Sequence[str]) -> list[tuple[str, bool]]:
    """The shared parts of a teacher's prompt, ahead of the input and behind it, in pieces: (text,
    whether the student's prompt lacks it).

    What stays is what stands next to the input in both prompts.
    """
    stays_ahead = len(_common(teacher[0][::-1], student[0][::-1]))
    stays_behind = len(_common(teacher[1], student[1]))
    cut = len(teacher[0]) - stays_ahead
    return [
        (teacher[0][:cut], True),
        (teacher[0][cut:], False),
        ("", False),
        (teacher[1][:stays_behind], False),
        (teacher[1][stays_behind:], True),
    ]
