"""The held-out examples as the page and notebooks see them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unprompt.metrics.match import same
from unprompt.records import Example, Grade, TokenKL, as_text
from unprompt.report.visible import visible

if TYPE_CHECKING:
    import pandas

    from unprompt.stages.prompts import Side


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
        """For Parquet; what may be anything as JSON text."""
        return {
            "context": self.context,
            "example_id": self.example_id,
            "target": json.dumps(self.target, ensure_ascii=False, default=str),
            "teacher": self.teacher,
            "student": self.student,
            "pieces": json.dumps(self.pieces),
            "nats": json.dumps(self.nats),
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> HeldOut:
        """Back from Parquet."""
        return HeldOut(
            **{**row, **{key: json.loads(row[key]) for key in ("target", "pieces", "nats")}}
        )


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
    found = []
    for n, example in enumerate(rows):
        at, asked = place.get(example.id), as_text(teacher.prompts[n].content) if teacher else None
        pieces = first.pieces[at] if first and at is not None else []
        nats = {} if at is None else {system: values.nats[at] for system, values in kl.items()}
        found.append(
            HeldOut(
                context,
                example.id,
                example.target,
                asked,
                as_text(student.prompts[n].content),
                pieces,
                nats,
            )
        )
    return found


@dataclass(frozen=True)
class Examples(Sequence[HeldOut]):
    """A run's held-out examples, with what every system answered."""

    rows: Sequence[HeldOut]
    grades: Sequence[Grade]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.rows[place]

    def __iter__(self) -> Iterator[HeldOut]:
        return iter(self.rows)

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
                f"{g.system}.{key}": value for key, value in values.items()
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
    found = []
    for context in dict.fromkeys(x.context for x in rows):
        own = [x for x in rows if x.context == context and x.example_id in answers.get(context, {})]
        if not own:
            continue
        graded = answers[context]
        systems = list(dict.fromkeys(name for x in own for name in graded[x.example_id]))
        systems.sort(key=lambda s: (s != "teacher", s != "before"))
        metric = next(iter(graded[own[0].example_id][systems[0]].metrics), None)
        teacher = _shared([x.teacher for x in own if x.teacher is not None])
        student = _shared([x.student for x in own])
        entries = []
        for x in own:
            given = graded[x.example_id]
            asked = (
                None
                if x.teacher is None
                else visible(x.teacher[len(teacher[0]) : len(x.teacher) - len(teacher[1])])
            )
            said = [_answer(given.get(system), given.get("teacher"), metric) for system in systems]
            target = (
                ""
                if x.target is None
                else x.target
                if isinstance(x.target, str)
                else json.dumps(x.target, ensure_ascii=False)
            )
            pieces = [visible(piece) for piece in x.pieces]
            nats = {system: [round(1000 * v) for v in values] for system, values in x.nats.items()}
            mine = visible(x.student[len(student[0]) : len(x.student) - len(student[1])])
            entries.append(
                [
                    visible(x.example_id),
                    visible(target),
                    None if asked == mine else asked,
                    mine,
                    said,
                    pieces,
                    nats,
                ]
            )
        found.append(
            {
                "context": context,
                "metric": metric,
                "systems": systems,
                "students": [s for s in students if s in systems],
                "teacher": None
                if all(x.teacher is None for x in own)
                else [visible(part) for part in teacher],
                "student": [visible(part) for part in student],
                "rows": entries,
            }
        )
    return found


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
    return a[
        : next(
            (n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
        )
    ]


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
