"""How like the teacher's answers everybody's are, on held-out examples: what is asked for it, and
what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from unprompt import metrics
from unprompt.metrics.likeness import Likeness, kind_of, likeness
from unprompt.recipe import Evaluate, Recipe, Sampling
from unprompt.records import Grade, System
from unprompt.stages.asks import Ask, of_system
from unprompt.stages.evaluate.grade import grade
from unprompt.stages.prompts import Prompts
from unprompt.stages.questions import Question
from unprompt.store.answers import Answers

_THIRD = 3
"""Which answer to an input those of the other systems are. The random stream of an answer hangs on
its input and number: drawn from one of the teacher's two, a student's answers would be more like
the teacher's than the teacher's own.
"""


def decides(recipe: Recipe, evaluation: Evaluate) -> bool:
    """Whether the verdict is held to likeness: no metric compares with gold answers."""
    wanted = metrics.find_all(evaluation.metrics, "evaluate.metrics", recipe.modules).values()
    return not evaluation.choices and not any(metric.needs_gold for metric in wanted)


def count(recipe: Recipe, evaluation: Evaluate, held_out: int) -> int:
    """On how many of a context's held-out examples it is measured (`report.self_agreement`)."""
    if evaluation.choices:
        return 0
    most = recipe.report.self_agreement
    if most is None:
        return held_out if decides(recipe, evaluation) else 0
    return min(most, held_out)


def sampling(recipe: Recipe) -> Sampling:
    """How the answers are written: as `sampling` says, and never greedily. Two greedy answers are
    the same, which says nothing of how much a teacher's answers differ.
    """
    written = recipe.sampling
    return written if written.temperature else written.model_copy(update={"temperature": 1.0})


def asked(recipe: Recipe, prompts: Prompts, asks: Sequence[Ask]) -> Iterator[Ask]:
    """Two answers of the teacher to each input, and one of every other system that is asked for
    answers on the same examples.
    """
    rows = "before", *recipe.plan, *recipe.systems
    for context, side in prompts.held_teacher.items():
        evaluation, teacher = recipe.evaluation(context), of_system(asks, context, "teacher")
        if teacher is None or evaluation is None:
            continue
        size = count(recipe, evaluation, len(side.prompts))
        if not size:
            continue
        side, how = side.only(range(size), 2), sampling(recipe)
        row, question = System("teacher", teacher.who), Question(teacher.who, side, how)
        yield Ask("likeness", context, teacher.who, question, system=row)
        for name in rows:
            ask = of_system(asks, context, name)
            if ask and ask.question:
                side = ask.question.side.again(range(size), _THIRD)
                question = Question(ask.who, side, how)
                row = System(name, ask.who)
                yield Ask("likeness", context, ask.who, question, system=row)


def measured(
    recipe: Recipe, prompts: Prompts, answers: Mapping[Ask, Answers], grades: Sequence[Grade]
) -> dict[str, Likeness]:
    """Context -> what it is there. Which kind is used hangs on the teacher's graded answers alone.

    Raises:
        UserError: A user's function for extraction fails.
    """
    found: dict[str, Likeness] = {}
    for context, systems in _extracted(recipe, prompts, answers).items():
        evaluation = recipe.evaluation(context)
        assert evaluation
        shown = [
            g.answer
            for g in grades
            if (g.context, g.row) == (context, "teacher") and g.answer is not None
        ]
        kind, why = kind_of(shown)
        if evaluation.likeness:
            kind, why = evaluation.likeness, f"{recipe.evaluated_at(context)}.likeness says so"
        both = systems.pop("teacher")
        first, second = both[::2], both[1::2]
        found[context] = Likeness(
            kind,
            why,
            sampling(recipe).temperature,
            decides(recipe, evaluation),
            [row.id for row in prompts.inputs.held_out[context][: len(first)]],
            likeness(kind, first, second),
            {name: _to_both(kind, theirs, first, second) for name, theirs in systems.items()},
        )
    return found


_Extracted = list[str | None]


def _extracted(
    recipe: Recipe, prompts: Prompts, answers: Mapping[Ask, Answers]
) -> dict[str, dict[str, _Extracted]]:
    """Context -> system -> what is extracted of its answers; None where nothing is."""
    found: dict[str, dict[str, _Extracted]] = {}
    for ask, completions in answers.items():
        if ask.purpose != "likeness" or ask.system is None:
            continue
        context, evaluation = ask.context, recipe.evaluation(ask.context)
        assert evaluation
        each = 2 if ask.system.name == "teacher" else 1
        rows = prompts.inputs.held_out[context][: len(completions) // each]
        graded = grade(
            ask.system.name,
            context,
            recipe.contexts[context].extract,
            [row for row in rows for _ in range(each)],
            completions,
            evaluation.model_copy(update={"metrics": (), "lenient": None}),
            recipe.modules,
        )
        found.setdefault(context, {})[ask.system.name] = [one.answer for one in graded]
    return found


def _to_both(kind: str, theirs: _Extracted, first: _Extracted, second: _Extracted) -> list[float]:
    """Of each answer, the mean over the teacher's two."""
    pairs = zip(likeness(kind, first, theirs), likeness(kind, second, theirs), strict=True)
    return [fmean(pair) for pair in pairs]
