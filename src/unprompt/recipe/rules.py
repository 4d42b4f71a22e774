"""What the sections of a recipe ask of each other: one small function a rule.

They are tried in the order in which they stand here; the first that is broken is said. A later rule
may rely on the ones ahead of it, as on names that exist.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unprompt.recipe.section import known
from unprompt.recipe.sources import WRITTEN, Data, FromPrompt

if TYPE_CHECKING:
    from unprompt.recipe.recipe import Recipe

_NAME = r"[A-Za-z0-9][\w-]*"
_TAKEN = ("teacher", "before", "base", "previous")


def student_has_files(recipe: Recipe) -> None:
    """Who is trained is not behind a server."""
    if recipe.model.server:
        raise ValueError(
            "a server's weights can't be trained -> name files as model, and the server as"
            " teacher_model or judge.model"
        )


def engine_is_asked(recipe: Recipe) -> None:
    """`model.engine` says who runs a model that teaches."""
    if recipe.model.engine != "hf" and recipe.teacher_model:
        raise ValueError(
            "model.engine is for a model that teaches, but teacher_model does -> write"
            " teacher_model.engine"
        )


def prompts_write_inputs(recipe: Recipe) -> None:
    """`from_prompt` stands among a context's inputs, where there is a teacher's prompt."""
    for where, source in recipe.drawn.items():
        name = where.split(".")[1]
        if isinstance(source, FromPrompt) and recipe.contexts[name].teacher is None:
            raise ValueError(
                f"{where}.from_prompt has no prompt to write from -> give context '{name}' a"
                " teacher"
            )


def inputs_have_one_writer(recipe: Recipe) -> None:
    """All `from_prompt` name one writer, or none."""
    sources = [source for source in recipe.drawn.values() if isinstance(source, FromPrompt)]
    if any(source.writer != sources[0].writer for source in sources):
        raise ValueError(
            "two from_prompt have different writers -> name one writer in all of them, or in none"
        )


def contexts_exist(recipe: Recipe) -> None:
    """Whoever names a context names one that there is."""
    for named in (_compared, _judged, _taught, _measured):
        for where, name in named(recipe):
            known(name, recipe.contexts, where, "context")
    if recipe.tune:
        known(recipe.tune.context, recipe.contexts, "tune.context", "context")


def held_out_inputs_are_there(recipe: Recipe) -> None:
    """`hold_out` takes from a context's own inputs."""
    for name, context in recipe.contexts.items():
        evaluation = recipe.evaluation(name)
        if evaluation and evaluation.hold_out and context.inputs is None:
            raise ValueError(
                f"{recipe.evaluated_at(name)}.hold_out is a share of the inputs, which context"
                f" '{name}' has not -> give it inputs, its own evaluate.data, or evaluate: false"
            )


def only_inputs_are_written(recipe: Recipe) -> None:
    """A model writes contexts' inputs; elsewhere what it is shown would stand in for them."""
    for where, data in _read(recipe):
        for _, part in data.parts():
            if part.kind in WRITTEN:
                raise ValueError(
                    f"{where} can't be {part.kind}: a model writes only contexts' inputs -> give"
                    " it rows that are there, or evaluate: {hold_out: 0.2} for a share of the"
                    " inputs"
                )


def inputs_have_gain(recipe: Recipe) -> None:
    """`min_gain` is of all of a context's inputs, where there is a teacher."""
    elsewhere = [part for where, data in _read(recipe) for part in data.parts(where)]
    for name, context in recipe.contexts.items():
        where = f"contexts.{name}.inputs"
        own, *parts = list(context.inputs.parts(where)) if context.inputs else [(where, None)]
        elsewhere += parts
        if own[1] and own[1].min_gain and (context.gold is not None or not context.teacher):
            raise ValueError(
                f"{where}.min_gain is what a teacher's prompt brings, and none is asked here ->"
                " leave it out"
            )
    for where, data in elsewhere:
        if data and data.min_gain:
            raise ValueError(
                f"{where}.min_gain is of all inputs of a context -> write it into"
                " contexts.NAME.inputs"
            )


def compared_contexts_are_evaluated(recipe: Recipe) -> None:
    """`association` and `margins` compare grades."""
    for where, name in _compared(recipe):
        evaluation = recipe.evaluation(name)
        if evaluation is None or not (evaluation.metrics or evaluation.choices):
            raise ValueError(
                f"{where} names context '{name}', which is not evaluated -> give it an"
                " evaluate section"
            )


def associated_contexts_write(recipe: Recipe) -> None:
    """`association` grades answers that are written."""
    for name in recipe.association or ():
        evaluation = recipe.evaluation(name)
        if evaluation and evaluation.choices:
            raise ValueError(
                f"association names context '{name}', which is evaluated by choices -> it"
                " needs answers that are written"
            )


def tuned_teacher_has_a_prompt(recipe: Recipe) -> None:
    """A teacher is tuned where it has a prompt."""
    tune = recipe.tune
    if tune and tune.who == "teacher" and recipe.contexts[tune.context].teacher is None:
        raise ValueError(
            f"tune names context '{tune.context}', which has no teacher -> give it"
            " one, or write who: student"
        )


def tuned_student_is_evaluated(recipe: Recipe) -> None:
    """A student is tuned where it is evaluated."""
    tune = recipe.tune
    if tune and tune.who == "student" and recipe.evaluation(tune.context) is None:
        raise ValueError(
            f"tune names context '{tune.context}', which is not evaluated -> give it"
            " an evaluate section"
        )


def judged_contexts_write(recipe: Recipe) -> None:
    """A judge rates answers that are written."""
    for where, name in _judged(recipe):
        evaluation = recipe.evaluation(name)
        if evaluation is None or evaluation.choices:
            raise ValueError(
                f"{where} names context '{name}', which writes no answers that are"
                " graded -> leave it out"
            )


def judge_has_answers(recipe: Recipe) -> None:
    """There is something to judge."""
    if recipe.judge and not recipe.judged:
        raise ValueError("judge has no answers to judge -> give evaluate data")


def cost_has_systems(recipe: Recipe) -> None:
    """There is something whose cost can be told."""
    if recipe.cost and not any(recipe.evaluation(name) for name in recipe.contexts):
        raise ValueError("cost needs systems that are measured -> give evaluate data")


def something_is_taught(recipe: Recipe) -> None:
    """Without `rounds`, some context teaches."""
    if not recipe.rounds and not recipe.plan["after"].contexts:
        raise ValueError(
            "no context has anything to teach -> give one inputs and a teacher (or gold)"
        )


def rounds_can_be_named(recipe: Recipe) -> None:
    """A round's name is a folder, a row of a table, and nobody else's."""
    for name in recipe.rounds:
        if not re.fullmatch(_NAME, name) or name in _TAKEN:
            raise ValueError(
                f"'{name}' can't name a round -> use letters, digits, - and _, and not teacher,"
                " before, base or previous"
            )


def taught_contexts_teach(recipe: Recipe) -> None:
    """Rounds name contexts that have lessons."""
    for where, name in _taught(recipe):
        if not recipe.contexts[name].teaches:
            raise ValueError(
                f"{where} names context '{name}', which has nothing to teach -> give it"
                " inputs and a teacher (or gold)"
            )


def first_teacher_is_no_student(recipe: Recipe) -> None:
    """Only behind a first round is there a previous teacher."""
    for name, round_ in list(recipe.rounds.items())[:1]:
        if round_.teacher == "previous":
            raise ValueError(
                f"rounds.{name}.teacher is 'previous', but there is no round before the first ->"
                " write base"
            )


def rounds_follow_earlier_ones(recipe: Recipe) -> None:
    """`start` and `teacher` name rounds ahead of their own."""
    names = list(recipe.rounds)
    for number, (name, round_) in enumerate(recipe.rounds.items()):
        for key, whose in (("start", round_.start), ("teacher", round_.teacher)):
            if whose not in ("base", "previous"):
                known(whose, names[:number], f"rounds.{name}.{key}", "earlier round")


def students_keep_their_adapter(recipe: Recipe) -> None:
    """A round goes on with the adapter of the round that it starts from."""
    for name, round_ in recipe.rounds.items():
        start = recipe.start_of(name).round
        if start and recipe.rounds[start].train.adapter != round_.train.adapter:
            raise ValueError(
                f"rounds.{name} starts from round '{start}', which has another train.adapter -> use"
                " the same, or start: base"
            )


def systems_can_be_named(recipe: Recipe) -> None:
    """A system's name is a row of a table, and nobody else's."""
    taken = (*_TAKEN, *recipe.plan, *(f"{round_}_teacher_prompt" for round_ in recipe.plan))
    for name in recipe.systems:
        if not re.fullmatch(_NAME, name) or name in taken:
            raise ValueError(
                f"'{name}' can't name a system -> use letters, digits, - and _, and not"
                " teacher, before, base, previous or a round"
            )


def systems_have_weights(recipe: Recipe) -> None:
    """`systems.NAME.model` is the teacher, the base, or a round's student."""
    for name, system in recipe.systems.items():
        if system.model not in ("teacher", "base"):
            known(system.model, recipe.plan, f"systems.{name}.model", "round (nor teacher or base)")


def systems_contexts_are_evaluated(recipe: Recipe) -> None:
    """`systems.NAME.contexts` names contexts that are evaluated."""
    for where, name in _measured(recipe):
        if recipe.evaluation(name) is None:
            raise ValueError(
                f"{where} names context '{name}', which is not evaluated -> give it an evaluate"
                " section"
            )


def systems_have_prompts(recipe: Recipe) -> None:
    """A system under the teacher's prompt is measured where there is one."""
    for name, system in recipe.systems.items():
        for context in recipe.systems_contexts(name):
            if system.prompt == "teacher" and not recipe.contexts[context].teacher:
                raise ValueError(
                    f"systems.{name} needs a teacher's prompt, which context '{context}' has not"
                    " -> name its contexts"
                )


def systems_are_measured(recipe: Recipe) -> None:
    """A system is measured somewhere."""
    for name in recipe.systems:
        if not recipe.systems_contexts(name):
            raise ValueError(f"systems.{name} is measured nowhere -> evaluate a context")


def margins_are_taught_once(recipe: Recipe) -> None:
    """Both contexts of a margin are taught by a teacher in one round each."""
    for task, pair in (recipe.margins or {}).items():
        for name in pair:
            rounds = sum(name in round_.contexts for round_ in recipe.plan.values())
            if rounds != 1 or recipe.contexts[name].teacher is None:
                raise ValueError(
                    f"margins.{task} needs context '{name}' taught by a teacher in exactly one"
                    " round -> mend rounds"
                )


def _read(recipe: Recipe) -> Iterator[tuple[str, Data]]:
    """Data that is read as it is, by its key."""
    named: dict[str, Data | None] = {
        "drift.inputs": recipe.drift and recipe.drift.inputs,
        "tune.data": recipe.tune and recipe.tune.data,
    }
    for name, context in recipe.contexts.items():
        named[f"contexts.{name}.examples"] = context.examples and context.examples.pool
        if evaluation := recipe.evaluation(name):
            at = recipe.evaluated_at(name)
            named[f"{at}.data"] = evaluation.data
            named[f"{at}.shots.pool"] = evaluation.shots and evaluation.shots.pool
        for where, data in (
            context.inputs.parts(f"contexts.{name}.inputs") if context.inputs else ()
        ):
            named[f"{where}.sample.seeds"] = data.sample and data.sample.seeds
    yield from ((where, data) for where, data in named.items() if data)


def _compared(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Where contexts are compared, and which."""
    yield from (("association", name) for name in recipe.association or ())
    for task, pair in (recipe.margins or {}).items():
        yield from ((f"margins.{task}", name) for name in pair)


def _taught(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Rounds, and the contexts that they teach or replay."""
    for name, round_ in recipe.rounds.items():
        yield from ((f"rounds.{name}", context) for context in round_.learned)


def _judged(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Contexts that the judge is to rate."""
    contexts = (recipe.judge and recipe.judge.contexts) or ()
    yield from (("judge.contexts", name) for name in contexts)


def _measured(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Further systems, and the contexts that they name."""
    for name, system in recipe.systems.items():
        yield from ((f"systems.{name}", context) for context in system.contexts or ())


RULES: tuple[Callable[[Recipe], None], ...] = tuple(
    rule
    for name, rule in list(globals().items())
    if inspect.isfunction(rule) and rule.__module__ == __name__ and not name.startswith("_")
)
"""Every function of this file but the helpers, in the order in which they stand."""
