"""What a report is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unprompt.metrics import choices, find_all
from unprompt.metrics.association import Association
from unprompt.metrics.likeness import Likeness
from unprompt.metrics.statistics import SHARE, Bounds
from unprompt.recipe import Recipe
from unprompt.records import Grade, TokenKL
from unprompt.report.cost import Spending

if TYPE_CHECKING:
    from unprompt.stages.evaluate.judge import Verdict


@dataclass(frozen=True)
class Evidence:
    """What a run collected, trained and measured.

    Attributes:
        contexts: For each context what collecting and extraction gave: counts, drops, overlap;
            empty for one that is only evaluated.
        grades: Of all systems.
        kl: Context -> `before` and rounds -> KL(teacher || system) on each held-out example's
            answer.
        kl_sampled: The same on answers that the teacher sampled.
        seconds: Context -> system -> measured seconds a call.
        rounds: Round -> what it was taught, steps, first and last loss.
        folder: Where the last round's student lies, as the printed commands name it.
        associations: System -> its association matrix.
        drift: Round -> KL(base || student) of each unrelated input, nats per token.
        verdicts: The judge's.
        spending: Of the recipe's `cost`.
        servers: What endpoints were asked.
        instructions: Context -> how much each instruction of the teacher's prompt matters.
        likeness: Context -> how like the teacher's answers everybody's are.
        gains: Context -> training input -> its context gain in nats per token, where the recipe has
            `min_gain`.
    """

    recipe: Recipe
    contexts: Mapping[str, Mapping[str, Any]]
    grades: Sequence[Grade]
    kl: Mapping[str, Mapping[str, TokenKL]]
    seconds: Mapping[str, Mapping[str, float | None]]
    rounds: Mapping[str, Mapping[str, Any]]
    folder: str
    kl_sampled: Mapping[str, Mapping[str, TokenKL]] = field(default_factory=dict)
    associations: Mapping[str, Association] = field(default_factory=dict)
    drift: Mapping[str, Sequence[float]] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
    spending: Spending | None = None
    servers: Mapping[str, Any] = field(default_factory=dict)
    instructions: Mapping[str, Any] = field(default_factory=dict)
    likeness: Mapping[str, Likeness] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    encoder_decoder: bool = False

    def of(self, context: str, *, behind_shots: bool = False) -> dict[str, list[Grade]]:
        """System -> its grades on a context; behind shots one entry a draw."""
        grades: dict[str, list[Grade]] = {}
        for grade in self.grades:
            if grade.context == context and (grade.shots is not None) == behind_shots:
                grades.setdefault(grade.row, []).append(grade)
        return grades

    def shares(self, context: str) -> dict[str, bool]:
        """Metric -> whether it is a share. What is not named here is: the figures of `choices`."""
        evaluation = self.recipe.evaluation(context)
        if evaluation is None or evaluation.choices:
            return {}
        metrics = find_all(evaluation.metrics, "evaluate.metrics", self.recipe.modules)
        return {
            key: metric.is_share
            for name, metric in metrics.items()
            for key in (name, f"{name}_lenient")
        }

    def bounds(self, context: str) -> dict[str, Bounds | None]:
        """Metric -> between which its values lie; None: it has no bounds."""
        evaluation = self.recipe.evaluation(context)
        if evaluation and evaluation.choices:
            return dict(choices.BOUNDS)
        return {key: SHARE if share else None for key, share in self.shares(context).items()}

    def groups(self, context: str) -> dict[str, str | None]:
        """Held-out example -> what `evaluate.group` names."""
        return {grade.example_id: grade.group for grade in self.grades if grade.context == context}

    def all_shares(self, contexts: Sequence[str]) -> bool:
        """Whether the metrics that the contexts' figures are taken of, the first ones, are."""
        return all(next(iter(self.shares(context).values()), True) for context in contexts)
