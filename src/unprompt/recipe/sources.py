"""D: where rows come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from unprompt.recipe.section import PathText, Section
from unprompt.recipe.templates import Template
from unprompt.recipe.training import Writing

SOURCES = ("file", "rows", "hub", "rule", "mix", "sample")
"""Fields of `Data` that say where rows come from; `stages/inputs/load.py` reads each."""


WRITTEN = ("sample",)
"""Those of which a model writes the rows, ahead of a run's lessons."""


class Part(Section):
    """One part of a mixture."""

    data: Data
    """Its rows."""
    share: Annotated[float, Field(gt=0)]
    """Its share of the mixture, relative to the other parts' shares."""


class Sample(Writing):
    """Inputs that a language model (the teacher's weights) writes from a few examples (Snell et al.
    2022, section 2.1).
    """

    seeds: Data
    """Pool of seed inputs. Each draw's prompt shows a random few of them."""
    template: Template
    """The prompt; `examples` are the seeds shown."""
    count: Annotated[int, Field(ge=1)]
    """Inputs wanted, after duplicates and copies are taken out."""
    per_prompt: Annotated[int, Field(ge=1)] = 4
    """Seeds shown in each prompt."""
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
