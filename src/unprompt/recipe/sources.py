"""D: where rows come from."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unprompt.recipe.models import Model
from unprompt.recipe.section import PathText, Section, nearest
from unprompt.recipe.templates import Template
from unprompt.recipe.training import Writing

SOURCES = ("file", "rows", "hub", "rule", "mix", "sample", "from_prompt")
"""Fields of `Data` that say where rows come from; `stages/inputs/load.py` reads each."""

KINDS = (
    *("ordinary", "instruction", "edge", "short", "long"),
    *("language", "off_topic", "breaking"),
)
"""Kinds of inputs that `stages/inputs/writer.yaml` describes, with their shares."""

WRITTEN = ("sample", "from_prompt")
"""Those of which a model writes the rows, ahead of a run's lessons."""


class Part(Section):
    """One part of a mixture."""

    data: Data
    """Its rows."""
    share: Annotated[float, Field(gt=0)]
    """Its share of the mixture, relative to the other parts' shares."""


class _Written(Writing):
    """What is common to inputs that a language model writes."""

    count: Annotated[int, Field(ge=1)]
    """Inputs wanted, after duplicates and copies are taken out."""
    field: str = "text"
    """Field of the input that the written text becomes; copies are looked for in the same field of
    seeds and held-out examples."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the draws."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest input in tokens; a text that gets so far without ending is thrown away."""
    stop: tuple[str, ...] = ("\n",)
    """Texts that end an input."""
    near: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Texts at least so similar (1 - normalised edit distance of letters) are near duplicates; 1
    keeps all but exact ones."""
    tries: Annotated[float, Field(ge=1)] = 4.0
    """Draws at most, for each input wanted."""

    @property
    def draws(self) -> int:
        """Draws at most."""
        return int(self.count * self.tries)


class Sample(_Written):
    """Inputs that a language model (the teacher's weights) writes from a few examples (Snell et al.
    2022, section 2.1).
    """

    seeds: Data
    """Pool of seed inputs. Each draw's prompt shows a random few of them."""
    template: Template
    """The prompt; `examples` are the seeds shown."""
    per_prompt: Annotated[int, Field(ge=1)] = 4
    """Seeds shown in each prompt."""


class Kind(Section):
    """One kind of inputs. A bare number is its `share`."""

    shorthand: ClassVar = {int: "share", float: "share"}

    share: Annotated[float, Field(ge=0)] = 1.0
    """Its share of the inputs, relative to the other kinds' shares. 0: none."""
    about: str | None = None
    """What a user of this kind writes, as it stands in "Write ... that a user sends to it.":
    `an angry message, in capitals`. Needed of kinds of your own."""


class Coverage(Section):
    """Which of the prompt's instructions written inputs exercise. A bare number is `examples`."""

    shorthand: ClassVar = {int: "examples"}

    examples: Annotated[int, Field(ge=1)] = 8
    """Inputs that are looked at for each instruction, first those that were written for it."""
    top_up: Annotated[int, Field(ge=0)] = 4
    """Inputs more for each instruction that none of them exercises; 0: none. Fewer where there are
    many such instructions: in all at most a quarter of `count`, or one for each."""


class FromPrompt(_Written):
    """Inputs that a language model writes from the teacher's prompt alone: first it lists what
    users of such a prompt would write about, by kinds, then it writes inputs for each case.
    """

    writer: Model | None = None
    """Who writes; the teacher unless given. A bigger model, or a server, writes better inputs. All
    `from_prompt` of a recipe have one writer."""
    kinds: dict[str, Kind] = Field(default_factory=dict)
    """Kinds of inputs with their shares, over those of writer.yaml: `ordinary`, `instruction` (a
    case for each listed instruction of the prompt), `edge`, `short`, `long`, `language` (where the
    prompt speaks of other languages), `off_topic`, `breaking` (attempts to make it break its
    rules); and kinds of your own."""
    per_case: Annotated[int, Field(ge=1)] = 4
    """Inputs wanted of each case that the writer lists."""
    openers: tuple[str, ...] | None = None
    """Beginnings that inputs are given in turns: begun like a user, a small writer goes on as a
    user. Those of writer.yaml unless given; `[]`: none. A server gets none, nor do inputs in
    another language."""
    coverage: Coverage | bool = True
    """Measure which of the prompt's listed instructions the inputs exercise: leaving it out changes
    the teacher's distribution by 0.01 nats per token or more. Instructions that none exercises get
    inputs of their own, once. `false`: not measured. Nor is it where labels are `hard` or `top_k`,
    as a server's are."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    """Temperature of the draws; small writers lose the thread at 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Nucleus sampling, as in `sampling`."""

    @property
    def covered(self) -> Coverage | None:
        """How coverage is measured; None: it is not."""
        return (
            self.coverage
            if isinstance(self.coverage, Coverage)
            else (Coverage() if self.coverage else None)
        )

    def topped_up(self, instructions: int) -> int:
        """Inputs more, for so many instructions that none exercises."""
        wanted = self.covered.top_up * instructions if self.covered else 0
        return min(wanted, max(instructions, self.count // 4))

    def _wrong(self) -> Iterator[str]:
        for name, kind in self.kinds.items():
            if name not in KINDS and kind.about is None:
                fix = nearest(name, KINDS, "say what its users write (about)")
                yield f"kinds has '{name}', which is no kind -> {fix}"
        if (
            self.kinds
            and not any(kind.share for kind in self.kinds.values())
            and all(name in self.kinds for name in KINDS)
        ):
            yield "no kind has a share over 0 -> give one"


class Data(Section):
    """Rows from a file, an inline list, the hub or a rule, sampled from a language model, or a
    mixture of these. A bare string is a file, a bare list is the rows.
    """

    shorthand: ClassVar = {str: "file", list: "rows"}

    file: PathText | None = None
    """JSONL (.jsonl, .ndjson), JSON list (.json), CSV (.csv, .tsv) or Parquet (.parquet), seen from
    the recipe's folder; all but Parquet may be packed by gzip (.jsonl.gz)."""
    format: Literal["rows", "openai", "langfuse", "langsmith"] = "rows"
    """What the file's rows are: `rows`, inputs as they are; or logged conversations, in OpenAI's
    form (`messages`, or `request` with `response`) or as Langfuse or LangSmith export them. Each
    then gives inputs with `history` (the turns ahead of an answer), `system`, `tools`,
    `conversation`, and the logged answer as `target`."""
    turns: Literal["last", "all"] = "last"
    """Of logged conversations: whether only the last answer of each is learned, or all."""
    system: PathText | None = None
    """Of logged conversations: only those whose system prompt is this file's text."""
    rows: tuple[dict[str, Any], ...] | None = None
    """The rows themselves."""
    hub: str | None = None
    """A data set on the Hugging Face hub, read with `datasets`."""
    rule: str | None = None
    """`package.module:function`: called with `args`, returns the rows (dictionaries)."""
    mix: Annotated[tuple[Part, ...], Field(min_length=2)] | None = None
    """Several data sets with shares; as many rows as they allow, or `limit`."""
    sample: Sample | None = None
    """Inputs written by the teacher's model from seeds."""
    from_prompt: FromPrompt | None = None
    """Inputs written by a model from the teacher's prompt alone."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for `rule`, or for `datasets.load_dataset` with `hub`."""
    split: str = "train"
    """Split of a hub data set."""
    id: str = "id"
    """Field that holds the row's id. Rows without it are numbered."""
    target: str = "target"
    """Field that holds the gold answer, where there is one."""
    group: str | None = None
    """Field that names what a row belongs to, as its conversation: `evaluate.hold_out` holds out
    whole groups. Without it each row stands by itself; of logged conversations it is
    `conversation`."""
    model_written: bool = False
    """Whether a model wrote the rows: where a mixture has real ones, too, `evaluate.hold_out` holds
    out none of these. Always so of rows that a model writes in the run."""
    min_gain: Annotated[float, Field(gt=0)] | None = None
    """Of a context's inputs: leave those out of the lessons that have less to teach, in nats per
    token of the teacher's answer (its context gain, KL from the teacher to the model without the
    prompt). 0.01 is what the report counts as nothing."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take only the first so many rows."""

    def _wrong(self) -> Iterator[str]:
        if sum(getattr(self, kind) is not None for kind in SOURCES) != 1:
            yield f"give exactly one of {', '.join(SOURCES)}"
        for key in ("format", "turns", "system"):
            given = getattr(self, key) != type(self).model_fields[key].default
            if given and (self.format == "rows" or self.file is None):
                yield f"{key} is of a file of logged conversations -> give file and format"

    @property
    def written(self) -> Sample | FromPrompt | None:
        """How a model writes its rows; None where it writes none."""
        return self.sample or self.from_prompt

    @property
    def kind(self) -> str:
        """Which of the sources it is."""
        return next(kind for kind in SOURCES if getattr(self, kind) is not None)

    @property
    def grouped_by(self) -> str | None:
        """Field that names a row's group: of logs the conversation, unless `group` says another."""
        return self.group or (None if self.format == "rows" else "conversation")

    @property
    def by_model(self) -> bool:
        """Whether a model wrote its rows, or will."""
        return self.model_written or self.kind in WRITTEN

    def dated(self, day: date) -> Data:
        """The same, with `day` for today to a writer that has no date."""
        if self.from_prompt and self.from_prompt.writer:
            writer = {"writer": self.from_prompt.writer.dated(day)}
            return self.model_copy(
                update={"from_prompt": self.from_prompt.model_copy(update=writer)}
            )
        parts = [part.model_copy(update={"data": part.data.dated(day)}) for part in self.mix or ()]
        return self.model_copy(update={"mix": tuple(parts)}) if parts else self

    def parts(self, where: str = "") -> Iterator[tuple[str, Data]]:
        """The data and those that it is mixed from, each by its key in the recipe."""
        yield where, self
        for n, part in enumerate(self.mix or ()):
            yield from part.data.parts(f"{where}.mix.{n}.data")


class Examples(Section):
    """A few-shot pool, and how much of it stands in one prompt. Anything without `pool` is the pool
    itself, all of it in one prompt.
    """

    pool: Data
    """The rows."""
    per_prompt: Annotated[int, Field(ge=1)] | None = None
    """Rows in one prompt, drawn with the recipe's seed; all of them unless given."""
    prompts: Annotated[int, Field(ge=1)] = 1
    """Prompt ensemble: so many prompts with different rows for each input; their next-token
    probabilities are averaged (Snell et al. 2022, hypothesis 5: more examples than a window holds).
    """

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return data if isinstance(data, dict) and "pool" in data else {"pool": data}

    def _wrong(self) -> Iterator[str]:
        if self.prompts > 1 and self.per_prompt is None:
            yield "an ensemble needs per_prompt -> say how many examples each of its prompts shows"
