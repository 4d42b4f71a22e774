"""What is measured, and what it is held to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator

from unprompt.recipe.models import Model
from unprompt.recipe.section import FromFile, PathText, Section, known
from unprompt.recipe.sources import Data
from unprompt.recipe.templates import Extract, Template
from unprompt.recipe.training import Writing


class Choices(Section):
    """Two continuations of which the right one should be the more probable: nothing is
    generated.
    """

    right: str
    """Jinja2 template of the continuation that should win."""
    wrong: str
    """Jinja2 template of the other."""


class Shots(Section):
    """Answers behind 0 to n (question, answer) pairs of a pool, laid out as lessons of `kind:
    shots` are (Liu 2024, AICD).
    """

    pool: Data
    """Where the shots come from. An example is never its own shot."""
    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2, 4)
    """Shots ahead of the question."""
    draws: Annotated[int, Field(ge=1)] = 3
    """Seeded draws of the shots; mean and deviation over them are reported."""
    answer: str = "{{ rationale }}"
    """Jinja2 template of a shot's answer, behind the student's prompt for it; write the blank
    between the two if there is to be one."""
    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    """Text between a shot's answer and the next question. An answer ends where it begins."""

    @field_validator("counts")
    @classmethod
    def _once(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(counts))


class Evaluate(Writing):
    """What the systems are measured on."""

    data: Data | None = None
    """Held-out examples, with gold answers if a metric needs them."""
    hold_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of `data`: the share of the context's own `inputs` that is held out, and never
    trained on. Which rows these are hangs on `seed` and each row itself (or its group, by
    `inputs.group`), so that rows that are appended move none."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Names of metrics, or `package.module:name` of a function or a `Metric`."""
    choices: Choices | None = None
    """Instead of writing answers: score two continuations. The metrics are then `score`, 1 if
    P(right) > P(wrong), and `magnitude`, P(right) - P(wrong)."""
    likeness: Literal["exact", "rouge_l", "json_fields"] | None = None
    """How answers are compared with the teacher's where no metric needs gold answers: `exact`, the
    same text (letter case, blanks, and punctuation at the ends aside); `rouge_l`, the longest
    common subsequence of words; `json_fields`, the share of a JSON object's fields that are equal.
    Unless given, `json_fields` where all of the teacher's answers are JSON objects, `exact` where
    they have at most 8 words in the median, else `rouge_l`."""
    group: str | None = None
    """Field by which rows belong together: intervals take the mean of each group for one
    observation."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Temperature of the answers that are graded."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Longest graded answer in tokens; as in `sampling` unless given."""
    stop: tuple[str, ...] | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Texts that end a graded answer; as in `sampling` unless given."""
    extract: Extract | None = None
    """f of an answer that is graded; the context's `extract` unless given."""
    lenient: Extract | None = None
    """A second extraction. What the metrics make of it stands beside the strict figures, as
    `METRIC_lenient`."""
    source: str | None = None
    """Field (or Jinja2 expression of the fields, as `input.document`) with the text that an answer
    is about; `entity_density` and metrics that read the source look there."""
    schema_: Annotated[dict[str, Any] | None, FromFile] = Field(default=None, alias="schema")
    """JSON schema for the metric `json_schema`: the schema itself, or `{file: schema.json}`."""
    shots: Shots | None = None
    """Answers behind 0 to n shots, of the untrained student and of every round's."""

    def _wrong(self) -> Iterator[str]:
        if (self.data is None) == (self.hold_out is None):
            yield "give data, or hold_out (a share of the inputs, as 0.2), and not both"
        for key in ("extract", "lenient", "likeness", "shots"):
            if self.choices and getattr(self, key) is not None:
                what = f"{key} is for answers that are written, but choices are only scored"
                yield f"{what} -> give one of the two"


class System(Section):
    """A further system that is measured on held-out examples, beside teacher, before and the
    rounds: some weights under some prompt.
    """

    model: str = "base"
    """Whose weights: `teacher` (the recipe's), `base` (the student before any round), or a round's
    name."""
    prompt: Literal["teacher", "student"] | Template = "student"
    """Which prompt: the context's `teacher` or `student`, or a template of its own (`examples` are
    those that the teacher's prompts show)."""
    contexts: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Where it is measured; in every evaluated context unless given."""

    @field_validator("prompt")
    @classmethod
    def _a_prompt(cls, prompt: Any) -> Any:
        if isinstance(prompt, Template) and prompt.text is not None and "{" not in prompt.text:
            raise ValueError(
                "a template that shows nothing of the input -> write teacher, student or a template"
                " with a field of the data"
            )
        return prompt


class Drift(Section):
    """How far students move where they should not: KL(base || student) on inputs that have nothing
    to do with the contexts.
    """

    inputs: Data
    """Unrelated inputs."""
    template: Template = Template(text="{{ text }}")
    """Their prompt."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens of the base model's answer on which KL is measured."""
    limit: Annotated[float, Field(gt=0)] | None = None
    """Highest drift of the last round's student, in nats per token (the mean over an answer's
    tokens, then over inputs); above it the run fails."""


_TUNABLE = {"teacher": "sampling", "student": "evaluate"}
"""Who is tuned -> the section whose settings of writing are tried."""


class Tune(Section):
    """What `unprompt tune` tries on an evaluation split: sampling settings (Shirgaonkar et al.
    2024, equation 3) and variants of a prompt (equation 5).
    """

    context: str
    """Name of the context whose prompt is asked."""
    data: Data
    """The evaluation split, with gold answers. Never the data that the recipe's `evaluate` holds
    out."""
    metric: str = "accuracy"
    """What is highest for the best combination: the name of a metric, or `package.module:function`.
    Answers are read as in the context's evaluation."""
    who: Literal["teacher", "student"] = "teacher"
    """Whose prompt and weights: the teacher's, or the untrained student's."""
    settings: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Setting -> the values to try: `temperature`, `top_p`, `max_new_tokens` and `stop`, of the
    teacher in `sampling` (`sampling.temperature`, ...), of the student in `evaluate`
    (`evaluate.temperature`, ...). What is not named stays as the recipe says."""
    variants: dict[str, Template | None] = Field(default_factory=dict)
    """Templates to try by name; null is the context's own. Only that one unless given."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Combinations tried: all of them unless given; of more than that, those that Optuna's TPE
    sampler picks."""

    def _wrong(self) -> Iterator[str]:
        tunable = [f"{_TUNABLE[self.who]}.{name}" for name in Writing.model_fields]
        for key, values in self.settings.items():
            known(key, tunable, "tune.settings", f"setting of the {self.who} to tune")
            for value in values:
                try:
                    Writing.model_validate({key.partition(".")[2]: value})
                except ValidationError as error:
                    yield f"tune.settings.{key} can't be {value!r}: {error.errors()[0]['msg']}"
            if any(value in values[:n] for n, value in enumerate(values)):
                yield f"tune.settings.{key} names a value twice -> leave one out"
        if not self.settings and not self.variants:
            yield "there is nothing to choose among -> give settings, variants, or both"


class Judge(Section):
    """A language model rates the graded answers, from 0 to 6 on each criterion. `judge: {}` is
    enough.
    """

    model: Model | None = None
    """Who judges; the teacher unless given. A model tends to like its own answers: name another one
    where you can."""
    contexts: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Whose answers are judged; those of all evaluated contexts that write answers unless given."""
    criteria: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """Criterion -> what 0 and what 6 means; `helpful`, `honest` and `harmless` (judge.yaml) unless
    given."""
    template: Template | None = None
    """The judge's prompt; judge.yaml's unless given. It sees `turns` (role, content), `answer`,
    `criteria` (name, text), `low`, `high`, and the example's `fields` and `target`, and has to ask
    for a line `name: number` for each criterion."""
    repeats: Annotated[int, Field(ge=1)] = 2
    """Times each answer is judged, every time with the criteria in another order; how far the
    repeats agree is reported."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest verdict in tokens."""
    difficulty: bool = False
    """Also rate how difficult each held-out example is, from 1 to 5 on five criteria (judge.yaml).
    """

    @field_validator("criteria")
    @classmethod
    def _names_of_a_line(cls, criteria: dict[str, str] | None) -> dict[str, str] | None:
        for name in criteria or ():
            if not re.fullmatch(r"[^\W\d]([\w -]*\w)?", name):
                raise ValueError(
                    f"'{name}' can't name a criterion -> begin with a letter, and use letters,"
                    " digits, blanks, - and _"
                )
        return criteria

    def _wrong(self) -> Iterator[str]:
        count = 3 if self.criteria is None else len(self.criteria)
        if self.repeats > math.factorial(count):
            yield (
                f"{count} criteria have only {math.factorial(count)} orders, fewer than repeats ->"
                " lower repeats"
            )


class Cost(Section):
    """What a call costs with each system, and after how many calls distilling has paid for
    itself.
    """

    teacher: str
    """The teacher's name in the price table."""
    student: str
    """The student's name in the price table."""
    prices: PathText | None = None
    """Your own price table (YAML, laid out as prices.yaml); it wins over our examples."""
    dollars_per_hour: Annotated[float, Field(ge=0)]
    """What the machine that trains costs."""
    calls: Annotated[int, Field(ge=1)] | None = None
    """Calls you expect; the report then has the total for them, one-time cost included."""


class Instructions(Section):
    """Every bulleted or numbered instruction of the teacher's prompt is left out in turn, once the
    report's first version is written. A bare number is `examples`.
    """

    shorthand: ClassVar = {int: "examples"}

    examples: Annotated[int, Field(ge=0)] = 32
    """Held-out examples of each context on which that is measured. 0: none."""
    items: Annotated[int, Field(ge=1)] | None = None
    """Instructions of each context that are measured; all of them unless given. Longest first:
    which of them matter most is not known ahead, so that is a guess."""
    seconds: Annotated[float, Field(gt=0)] | None = 300.0
    """No further instruction is begun that would not end within so many seconds of one run; null:
    no limit. What was measured before is kept, and counts for nothing."""


class Report(Section):
    """What the report's verdict is held to, and what is measured for the report alone."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How much worse than the teacher the student may be on the first metric: 0.05 is 5 points of
    100."""
    failures: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the student's answers that may fail extraction, and of the teacher's that may be
    cut, before the verdict is `look closer`."""
    instructions: Instructions = Instructions()
    """How much each instruction of the teacher's prompt matters, and how much of it was taken in.
    """
    watch: Annotated[int, Field(ge=0)] = 4
    """Parts of the training behind each of which gap closed is measured on held-out inputs (on at
    most 32 of each context). 0: only at the end."""
    sampled: Annotated[int, Field(ge=0)] = 64
    """Held-out examples of each context that the teacher answers once more, sampling at temperature
    1, so that gap closed is measured on what it may say, too, beside what is graded. 0: none."""
    self_agreement: Annotated[int, Field(ge=0)] | None = None
    """Held-out examples of each context that the teacher answers twice as `sampling` says (at
    temperature 1 where that is greedy), and every other system once, to see how like the teacher's
    answers theirs are, beside how like they are to each other. Unless given, all where no metric
    needs gold answers, and the verdict is held to it; else none."""
