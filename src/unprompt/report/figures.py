"""Pieces that several parts of `report.json` are made of, and those of inputs, judge and cost."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict  # that of typing, before Python 3.12, pydantic can't read


class Interval(TypedDict):
    """A mean and its 95 % interval; null ends: too few to give one."""

    mean: float
    low: float | None
    high: float | None


class Counted(Interval):
    """A mean over so many examples."""

    examples: int


class Ratio(TypedDict):
    """A quotient of means and its 95 % interval; null ends: too few to give one."""

    value: float
    low: float | None
    high: float | None


class Gain(TypedDict):
    """KL(teacher || before) of held-out inputs, in nats per token: `nothing` of them have nothing
    to teach (they lie under the first of `edges`); `counts` between the edges.
    """

    mean: float
    examples: int
    nothing: int
    edges: list[float]
    counts: list[int]


class TrainingGain(Gain):
    """The same of the training inputs that gave lessons, where the recipe has `min_gain`; of them
    `left_out` lie under that.
    """

    min_gain: float
    left_out: int


class Exercised(TypedDict):
    """An instruction of the teacher's prompt: of so many `inputs` that were looked at, those on
    which leaving it out changes the teacher.
    """

    text: str
    inputs: int
    exercised: int


class Coverage(TypedDict):
    """Which instructions the inputs exercise that a model wrote: leaving one out moves the teacher
    by `edge` nats per token or more. `added`: inputs that were written for those that none did.
    """

    edge: float
    added: int
    instructions: list[Exercised]


class Judged(TypedDict):
    """Verdicts on one system's answers, or on a context's inputs."""

    judged: int
    criteria: dict[str, Counted | None]
    overall: Counted | None
    verdicts: int
    unparsable: int
    unjudged: int
    why_unjudged: dict[str, int]


class Difficulty(Judged):
    """Of inputs; `agreement`: Krippendorff's alpha between repeats."""

    agreement: dict[str, float | None]


class JudgedContext(TypedDict):
    """Verdicts on the answers to one context's inputs."""

    systems: dict[str, Judged]
    agreement: dict[str, float | None]


class Judge(TypedDict):
    """What the judge says."""

    repeats: int
    contexts: dict[str, JudgedContext]
    difficulty: dict[str, Difficulty]
    scale: list[int]
    difficulty_scale: list[int]


class Price(TypedDict):
    """Dollars per million tokens."""

    model: str
    input: float
    output: float
    source: str
    cached_input: float | None
    cache_minimum: int


class Once(TypedDict):
    """What a student costs once; null where the seconds of training are not known."""

    rounds: list[str]
    collecting: dict[str, float]
    seconds_of_training: float | None
    training: float | None
    total: dict[str, float | None]


class Priced(TypedDict):
    """Dollars of a system's calls."""

    model: str
    per_1000_calls: dict[str, float]
    break_even_calls: NotRequired[dict[str, int | str | None]]
    total: NotRequired[dict[str, float | None]]


class Cost(TypedDict):
    """Dollars; keys `plain` and `cached`: without and with the provider's prompt caching."""

    prices: dict[str, Price]
    dollars_per_hour: float
    calls: int | None
    once: dict[str, Once]
    contexts: dict[str, dict[str, Priced]]
