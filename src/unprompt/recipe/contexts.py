"""A context: D, T_teacher, T_student, f (Snell et al. 2022, section 2.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from unprompt.recipe.measuring import Evaluate
from unprompt.recipe.section import FromFile, Section
from unprompt.recipe.sources import Data, Examples
from unprompt.recipe.templates import Extract, Template


class Filter(Section):
    """Which of the teacher's completions become lessons; the others are counted."""

    keep: Literal["correct", "majority", "valid"] = "correct"
    """`correct`: those whose answer is the input's gold answer. `majority`: those whose answer is
    what most completions of the input say (self-consistency); of equals, the answer sampled first.
    `valid`: those whose answer is a JSON object or list, and keeps to `schema` if there is one."""
    schema_: Annotated[dict[str, Any] | None, FromFile] = Field(default=None, alias="schema")
    """With `keep: valid`: the JSON schema that an answer has to keep to, or `{file: schema.json}`.
    """
    extract: Extract | None = None
    """The answer in a completion; the context's `extract` unless given."""
    metric: str = "accuracy"
    """Name of a metric, or `package.module:function`, which is 1 for an answer that is correct, or
    for two that agree."""

    def _wrong(self) -> Iterator[str]:
        if self.schema_ is not None and self.keep != "valid":
            yield "schema is for keep: valid -> write that, or leave schema out"


class Library(Section):
    """A task of the prompt library (`unprompt library` lists them). A bare string is its name."""

    shorthand: ClassVar = {str: "task"}

    task: str
    """Its name."""
    form: Literal["chat", "text"] = "chat"
    """`chat`: messages, for instruct models. `text`: plain text, for models without a chat
    template."""
    fields: dict[str, str] | None = None
    """The task's field -> the row's field, or a Jinja2 expression of its fields (`question:
    input.question`); fields of the same name need none."""
    teacher: Literal["elaborate", "plain"] = "elaborate"
    """The teacher's prompt. `plain`: the student's own, for a bigger teacher that is to be asked no
    more than the student."""


class Context(Section):
    """The four components of a context (Snell et al. 2022, section 2.1): D, T_teacher, T_student,
    f. One without `teacher` and `gold` is only evaluated.
    """

    library: Library | None = None
    """Task of the prompt library that gives `teacher` (its elaborate prompt), `student` (its plain
    prompt), `extract`, and defaults of `evaluate` and `sampling`; what is written here beside it
    wins, key by key. A resolved recipe has it all written out, and no library."""
    inputs: Data | None = None
    """D: the raw inputs the teacher practises on. No labels needed."""
    examples: Examples | None = None
    """Few-shot pool: the rows templates see as `examples`."""
    teacher: Template | None = None
    """T_teacher: the long prompt."""
    gold: str | None = None
    """Jinja2 template of the answer to learn, where no teacher is asked: supervised training on
    gold examples."""
    student: Template
    """T_student: the short prompt, or just the input."""
    extract: Extract = Extract()
    """f: the part of the teacher's completion that the student learns, and of an answer that is
    graded."""
    filter: Filter | None = None
    """Which of the teacher's completions are used; all of them unless given."""
    hint: Template | None = None
    """Prompt that an input of which the filter keeps nothing is asked with again; it may show the
    gold answer, `{{ target }}` (STaR's rationalization, Zelikman et al. 2022). The lesson has the
    student's own prompt all the same."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of this context's loss in the sum of equation 2 (see `lessons.mixing`)."""
    evaluate: Evaluate | bool = True
    """How this context is proven: as the recipe's `evaluate` says (true), not at all (false), or
    its own way."""

    def _wrong(self) -> Iterator[str]:
        if self.filter and (self.teacher is None or self.gold is not None):
            yield (
                "filter is for a teacher's completions, but no teacher is asked here -> give"
                " teacher and no gold, or no filter"
            )
        if self.hint and not self.filter:
            yield "hint is for inputs of which a filter keeps nothing -> add filter"

    @property
    def teaches(self) -> bool:
        """Whether there are lessons in it."""
        return self.inputs is not None and (self.teacher is not None or self.gold is not None)
