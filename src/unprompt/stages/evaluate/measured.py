"""Everything that is measured of a run's answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unprompt import metrics
from unprompt.engines.tokens import common_prefix
from unprompt.metrics.association import Association, association
from unprompt.metrics.likeness import Likeness
from unprompt.metrics.statistics import SHARE, by_group
from unprompt.recipe import Recipe, Sampling
from unprompt.records import BASE, JUDGE, Completion, Grade, Prompt, TokenKL, student
from unprompt.stages.asks import Ask, of_system
from unprompt.stages.evaluate import closeness, judge, likeness
from unprompt.stages.evaluate.grade import grade, grade_choices
from unprompt.stages.prompts import Prompts, Side
from unprompt.stages.questions import Question
from unprompt.stages.weights import Weights
from unprompt.store.answers import Answers

Answered = Mapping[Ask, Answers]


@dataclass(frozen=True)
class Measured:
    """What a report is made of.

    Attributes:
        grades: Of every system's answers.
        seconds: Context -> system -> measured seconds a call; None if nobody noted them.
        kl: Context -> `before` and each round -> KL(teacher || system).
        kl_sampled: The same on answers that the teacher sampled.
        kl_left_out: Context -> why it has no KL.
        associations: System -> its association matrix.
        drift: Round -> KL(base || student) of each unrelated input.
        verdicts: The judge's.
        likeness: Context -> how like the teacher's answers everybody's are.
        instructions: Context -> how much each instruction of the teacher's prompt matters, as far
            as that is measured (`Bars`, which come last).
    """

    grades: list[Grade]
    seconds: dict[str, dict[str, float | None]]
    kl: dict[str, dict[str, TokenKL]]
    kl_sampled: dict[str, dict[str, TokenKL]]
    kl_left_out: dict[str, str]
    associations: dict[str, Association]
    drift: dict[str, list[float]]
    verdicts: list[judge.Verdict]
    likeness: dict[str, Likeness]
    instructions: dict[str, dict[str, Any]] = field(default_factory=dict)


def measure(weights: Weights, prompts: Prompts, answers: Answered) -> Measured:
    """Grade, compare and judge what was answered.

    Raises:
        UserError: A metric fails, or there is nothing to measure drift on.
    """
    recipe = weights.recipe
    grades = graded(recipe, prompts, answers)
    kl, left_out = closeness.to_teacher(weights, prompts, answers)
    return Measured(
        grades,
        _seconds(answers),
        kl,
        closeness.to_teacher(weights, prompts, answers, sampled=True)[0],
        left_out,
        _associations(recipe, prompts, answers),
        closeness.drift(weights, prompts, answers),
        _verdicts(weights, prompts, grades),
        likeness.measured(recipe, prompts, answers, grades),
    )


def graded(recipe: Recipe, prompts: Prompts, answers: Answered) -> list[Grade]:
    """What each system's answers are worth, one context after the other."""
    grades: list[Grade] = []
    for name, rows in prompts.inputs.held_out.items():
        evaluation = recipe.evaluation(name)
        assert evaluation
        right: Answers | None = None
        for ask, completions in answers.items():
            if ask.purpose != "held-out" or ask.context != name:
                continue
            assert ask.system
            system = ask.system.name
            if ask.part == "right":
                right = completions
            elif ask.part == "wrong":
                assert right is not None
                grades += grade_choices(system, name, rows, right, completions, evaluation)
            else:
                grades += grade(
                    system,
                    name,
                    recipe.contexts[name].extract,
                    rows,
                    completions,
                    evaluation,
                    recipe.modules,
                    shots=ask.system.shots,
                    draw=ask.system.draw,
                )
    return grades


def _seconds(answers: Answered) -> dict[str, dict[str, float | None]]:
    seconds: dict[str, dict[str, float | None]] = {}
    for ask, completions in answers.items():
        if ask.purpose == "held-out" and ask.system and ask.system.shots is None and not ask.part:
            seconds.setdefault(ask.context, {})[ask.system.name] = completions.seconds_a_call
    return seconds


def _associations(recipe: Recipe, prompts: Prompts, answers: Answered) -> dict[str, Association]:
    """Every context's student prompt on every other's held-out examples, before and after each
    round.
    """
    chosen, matrices = recipe.association or (), dict[str, Association]()
    crossed = {
        (ask.who, ask.part, ask.context): completions
        for ask, completions in answers.items()
        if ask.purpose == "association"
    }
    firsts = [
        name for given in chosen if (of := recipe.evaluation(given)) for name in of.metrics[:1]
    ]
    found = metrics.find_all(firsts, "evaluate.metrics", recipe.modules).values()
    bounds = SHARE if all(metric.is_share for metric in found) else None
    for who in (BASE, *map(student, recipe.plan)) if chosen else ():
        system = who.round or "before"
        values: dict[tuple[str, str], list[float]] = {}
        for asking in chosen:
            for given in chosen:
                evaluation = recipe.evaluation(given)
                row = of_system(list(answers), given, system)
                assert evaluation
                assert row
                completions = answers[row] if asking == given else crossed[who, asking, given]
                grades = grade(
                    system,
                    given,
                    recipe.contexts[asking].extract,
                    prompts.inputs.held_out[given],
                    completions,
                    evaluation,
                    recipe.modules,
                )
                metric = evaluation.metrics[0]
                values[asking, given] = by_group(
                    [each.metrics[metric] for each in grades], [each.group for each in grades]
                )
        matrices[system] = association(values, chosen, bounds)
    return matrices


def _verdicts(weights: Weights, prompts: Prompts, grades: Sequence[Grade]) -> list[judge.Verdict]:
    """The judge's verdicts on the graded answers, and on how difficult the held-out examples are;
    they are kept in the run's folder.
    """
    settings, reader = weights.recipe.judge, prompts.readers.judge
    if settings is None or reader is None:
        return []
    if settings.model:
        weights.forget_engines()  # who answered is not needed now

    def ask(asked: list[Prompt], ids: list[list[int]]) -> Sequence[Completion]:
        prefix = 0 if reader.encoder_decoder else common_prefix(ids)
        side = Side(asked, [len(each) for each in ids], (prefix,))
        sampling = Sampling(temperature=0, max_new_tokens=settings.max_new_tokens)
        return weights.collect("judge", Question(JUDGE, side, sampling))

    asked = {name: side.prompts for name, side in prompts.held_student.items()}
    held_out = prompts.inputs.held_out
    verdicts = judge.judge(weights.recipe, held_out, asked, grades, reader, ask)
    lines = [json.dumps(asdict(verdict), ensure_ascii=False) for verdict in verdicts]
    weights.files.keep("verdicts.jsonl", "".join(f"{line}\n" for line in lines))
    return verdicts
