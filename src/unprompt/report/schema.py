"""What `report.json` holds: its sections, in the order they are computed and shown in, and the type
of each.

`python -m unprompt.report` writes their JSON schema, docs/report.schema.json, anew.
"""

from __future__ import annotations

from typing import Any, NotRequired

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # that of typing, before Python 3.12, pydantic can't read

from unprompt.report.figures import (
    Cost,
    Counted,
    Coverage,
    Gain,
    Interval,
    Judge,
    Ratio,
    TrainingGain,
)
from unprompt.report.sections import (
    across,
    association,
    cost,
    coverage,
    drift,
    fields,
    gain,
    judge,
    kl,
    likeness,
    margins,
    rounds,
    servers,
    shots,
    systems,
)

SCHEMA = 4
"""Version of `report.json` (docs/report.md). It rises when a key goes or changes its meaning; new
keys may come without."""
SECTIONS = (
    systems.SECTION,
    likeness.SECTION,
    fields.SECTION,
    shots.SECTION,
    kl.SECTION,
    gain.SECTION,
    coverage.SECTION,
    servers.SECTION,
    across.SECTION,
    rounds.SECTION,
    association.SECTION,
    drift.SECTION,
    margins.SECTION,
    judge.SECTION,
    cost.SECTION,
)


class Figures(Interval):
    """A metric of one system; `is_share`: shown in percent; against the teacher, the paired
    difference, the share of the teacher's mean, and the examples (or groups) that are needed to
    hold the difference to the margin.
    """

    is_share: NotRequired[bool]
    to_teacher: NotRequired[Interval]
    kept: NotRequired[Ratio | None]
    needed: NotRequired[int | None]


class Confusion(TypedDict):
    """`counts[gold][answer]`; the last two columns are another text, and nothing extracted."""

    labels: list[str]
    counts: list[list[int]]


class Closeness(TypedDict, total=False):
    """KL(teacher || system) on answers of the teacher, in nats per token: `mean` over `examples` of
    the mean over an answer's tokens, `by_token` over the tokens of all; of a student the share of
    KL(teacher || before) that is gone, by each of the two.
    """

    kl_nats_per_token: dict[str, float]
    gap_closed: Ratio
    gap_closed_by_token: Ratio


class System(Closeness):
    """One system on one context's held-out examples; `cut_at_limit`: answers that `max_new_tokens`
    cut in what is graded; `outcomes`: examples that are `lost`, `won`,
    `changed` or `failed` against the teacher; `failures`: why answers could not be extracted
    (reason -> count); `sampled`: closeness on answers that it sampled.
    """

    examples: int
    groups: int | None
    metrics: dict[str, Figures]
    prompt_tokens: float
    completion_tokens: float
    seconds_per_call: float | None
    extraction_failures: int
    failures: NotRequired[dict[str, int]]
    cut_at_limit: NotRequired[int]
    lenient_failures: NotRequired[int]
    confusion: NotRequired[Confusion | None]
    agreement: NotRequired[Interval]
    outcomes: NotRequired[dict[str, int]]
    sampled: NotRequired[Closeness]


class Like(Interval):
    """How like the teacher's answers one system's are; against how like they are to each other the
    paired difference, and the examples that are `needed` to hold it to the margin. Of a student
    besides how far it has come past the half of the way from `before` to there, and the examples
    that it takes to see that.
    """

    to_ceiling: Interval
    needed: int | None
    past_half: NotRequired[Interval]
    half_needed: NotRequired[int | None]


class Likeness(TypedDict):
    """Of sampled answers, from 0 to 1; `kind`: how they are compared, and `why` so; `decides`:
    whether the verdict is held to it; `ceiling`: of two answers of the teacher.
    """

    kind: str
    why: str
    temperature: float
    decides: bool
    examples: int
    groups: int | None
    ceiling: Interval
    systems: dict[str, Like]


class LikeStudent(Like):
    """A student's, with what it is held to."""

    kind: str
    decides: bool
    examples: int
    ceiling: Interval


class Drawn(TypedDict):
    """A metric behind so many shots, over the draws of the shots; `sd`: null for one draw."""

    mean: float
    sd: float | None
    draws: list[float]
    is_share: NotRequired[bool]


class Positions(TypedDict):
    """KL at each token of the teacher's answers; `left_out`: too few answers reach them."""

    answers: list[int]
    systems: dict[str, list[float]]
    left_out: int


class Bar(TypedDict):
    """An instruction of the teacher's prompt; `taken_in`: null where it matters too little."""

    text: str
    matters: Interval
    taken_in: dict[str, Ratio | None]


class Instructions(TypedDict):
    """What was internalised; the instruction that matters most stands first. `items`: instructions
    of the prompt; `left_out`: why not all of them are measured.
    """

    examples: int
    items: NotRequired[int]
    bars: list[Bar]
    left_out: NotRequired[str]


class Failed(TypedDict):
    """Answers that could not be extracted."""

    reasons: dict[str, int]
    examples: list[str]


class HeldOut(TypedDict):
    """What a context was measured on; `digest`: of the examples' ids, fields and gold answers."""

    examples: int
    digest: str


class Context(TypedDict):
    """What was distilled together: how it was taught, and every system on it."""

    inputs: NotRequired[int]
    taught_by: NotRequired[list[str]]
    lessons: NotRequired[int]
    failed_extractions: NotRequired[Failed]
    cut_at_limit: NotRequired[int]
    filtered: NotRequired[dict[str, dict[str, int]]]
    overlap: NotRequired[dict[str, int]]
    drawn: NotRequired[dict[str, dict[str, int]]]
    distilled: dict[str, Any]
    held_out: NotRequired[HeldOut]
    systems: NotRequired[dict[str, System]]
    prompt_tokens_saved: NotRequired[float]
    times_fewer_prompt_tokens: NotRequired[float]
    shots: NotRequired[dict[str, dict[str, dict[str, Drawn | int]]]]
    kl_left_out: NotRequired[str]
    kl_by_position: NotRequired[Positions]
    instructions: NotRequired[Instructions]
    likeness: NotRequired[Likeness]
    context_gain: NotRequired[Gain]
    coverage: NotRequired[Coverage]
    training_gain: NotRequired[TrainingGain]


class Watched(TypedDict):
    """Gap closed while a student trained; a point has `step` and `gap_closed`."""

    inputs: int
    points: list[dict[str, float]]


class Round(TypedDict):
    """One student's training; `loss_per`: what its losses are means over, `weighted token` (unless
    given) or `lesson`; `shots`: `sequences`, and the `dropped` shots of those that are `short`.
    """

    contexts: list[str]
    start: str
    teacher: str
    lessons: int
    replayed: int
    weighted_tokens: int
    steps: int
    first_loss: float
    last_loss: float
    log: list[dict[str, float]]
    loss_per: NotRequired[str]
    shots: NotRequired[dict[str, int]]
    held_out: NotRequired[dict[str, Watched]]


class Server(TypedDict):
    """What an endpoint was asked by all runs in the folder."""

    model: str
    url: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    entries: int
    unmapped: int
    dollars: NotRequired[float]


class Drift(Interval):
    """KL(base || student) on unrelated inputs, nats per token; the mean over inputs."""

    inputs: int


class Matrix(TypedDict):
    """A row for each context's prompt, a column for each context's inputs."""

    matrix: list[list[float]]
    correct: Interval
    wrong: Interval


class Association(TypedDict):
    """Every prompt on every context's inputs."""

    contexts: list[str]
    is_share: NotRequired[bool]
    systems: dict[str, Matrix]


class Task(TypedDict):
    """What a context is worth to the teacher, and to the student that was taught it."""

    task: str
    in_context: Interval
    distilled: Interval
    is_share: NotRequired[bool]


class Undefined(TypedDict):
    """Why there is no correlation."""

    undefined: str


class Correlation(TypedDict):
    """Pearson's r over the tasks; null ends of its interval: fewer than 24 tasks."""

    r: float
    p: float
    low: float | None
    high: float | None
    tasks: int


class Margins(TypedDict):
    """Margins of the teachers and of the students, task by task."""

    tasks: list[Task]
    correlation: Correlation | Undefined


class Student(TypedDict):
    """A student on a context where a teacher was measured, and the verdict on it. A reason has
    `says`, a verdict or `note`, which decides nothing, and `text`.
    """

    student: str
    context: str
    metric: str | None
    examples: int
    examples_needed: int | None
    quality: Figures | None
    teacher_quality: Figures | None
    likeness: LikeStudent | None
    gap_closed: Ratio | None
    agreement: Interval | None
    prompt_tokens: dict[str, float]
    saving_per_1000_calls: dict[str, float] | None
    break_even_calls: dict[str, int | str | None] | None
    reasons: list[dict[str, str]]
    verdict: str


class Verdict(TypedDict):
    """Of the last student, the worst of its contexts; null if there was no teacher."""

    student: str
    verdict: str | None


class Report(TypedDict):
    """report.json. Shares are from 0 to 1, KL in nats, money in dollars."""

    schema: int
    name: str
    contexts: dict[str, Context]
    rounds: dict[str, Round]
    systems: NotRequired[dict[str, dict[str, str]]]
    servers: NotRequired[dict[str, Server]]
    fields: NotRequired[dict[str, dict[str, dict[str, Counted]]]]
    association: NotRequired[Association]
    drift: NotRequired[dict[str, Drift]]
    margins: NotRequired[Margins]
    judge: NotRequired[Judge]
    cost: NotRequired[Cost]
    recipe: dict[str, Any]
    versions: dict[str, str]
    machine: dict[str, str]
    use: list[str]
    students: list[Student]
    verdict: Verdict


def json_schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    return TypeAdapter(Report).json_schema()
