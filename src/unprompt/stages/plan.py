"""All that a run will ask and read, before anything is asked. Check's figures are sums over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from unprompt import metrics
from unprompt.messages import UserError
from unprompt.recipe import Evaluate, Labels, Recipe, Sample, Sampling
from unprompt.records import BASE, JUDGE, TEACHER, WRITER, Prompt, System, Who, student
from unprompt.stages import inputs
from unprompt.stages.asks import Ask, Pass, Plan, Size, of_system
from unprompt.stages.evaluate import instructions, judge, likeness
from unprompt.stages.inputs import draw, written
from unprompt.stages.lessons import shots
from unprompt.stages.prompts import Prompts, Side, measure
from unprompt.stages.questions import Question
from unprompt.stages.templates.render import render, render_all

EVALUATION_LABELS = Labels(kind="sampled", draws=100)
"""Labels that KL on held-out inputs is estimated from, whatever the lessons are made of."""


def plan(recipe: Recipe, prompts: Prompts) -> Plan:
    """What a run of the recipe asks.

    Raises:
        UserError: A prompt of a further system, behind shots or for drift is not in order.
    """
    notes: list[str] = []
    for where in recipe.covered:
        if why := why_not_covered(recipe, where.split(".")[1]):
            notes.append(f"note: which instructions {where} exercise is not measured: {why}")
    asks = [*_draws(recipe, prompts), *_lessons(recipe, prompts)]
    for who in (TEACHER, BASE, *map(student, recipe.plan)):
        for context in prompts.inputs.held_out:
            asks += _held_out(recipe, prompts, who, context, notes)
    asks += _sampled(recipe, prompts, asks)
    asks += likeness.asked(recipe, prompts, asks)
    asks += [*_association(recipe, prompts), *_drift(recipe, prompts)]
    asks += _judge(recipe, prompts, asks)
    passes = [*_passes_of_inputs(recipe, prompts), *_passes(recipe, prompts, asks)]
    return Plan(asks, passes, notes)


def _draws(recipe: Recipe, prompts: Prompts) -> Iterator[Ask]:
    """Inputs that a model writes; of their prompts a few are looked at."""
    for where, source in recipe.drawn.items():
        calls, name, few = source.draws, where.split(".")[1], min(8, source.draws)
        if isinstance(source, Sample):
            seeds = inputs.load(source.seeds, f"{where}.sample.seeds", recipe.modules)
            shown = draw.ask(source, seeds, 0, few, recipe.seed, where)
            yield _drawn(prompts, where, TEACHER, shown, calls, source.max_new_tokens)
            continue
        rows = prompts.inputs.shown[name][0]
        brief = written.brief(recipe.contexts[name], source.field, rows)
        if listed := [asked for _, asked in written.lists(source, brief, where)]:
            yield _drawn(prompts, where, WRITER, listed, len(listed), written.LISTED)
        if where in recipe.covered and source.covered and not why_not_covered(recipe, name):
            more = source.topped_up(len(brief.instructions))
            calls += written.alone(source, more).draws
        longest = max(written.cases(source, brief, []), key=lambda case: len(case.about))
        reader = prompts.readers.of(WRITER)
        shown = [
            written.ask(
                brief, longest, written.opener(source, longest, n, reader), n, recipe.seed, where
            )
            for n in range(few)
        ]
        yield _drawn(prompts, where, WRITER, shown, calls, source.max_new_tokens)


def _drawn(
    prompts: Prompts, where: str, who: Who, shown: Sequence[Prompt], calls: int, longest: int
) -> Ask:
    """So many draws, of which these are some, with the longest answer."""
    reader = prompts.readers.of(who)
    side = measure(written.as_read(shown, reader), reader, where, longest)
    read = calls * max(side.lengths)
    size = Size(calls, read, read, calls * longest)
    return Ask("draws", where.split(".")[1], who, bound=size, at_most=True)


def _lessons(recipe: Recipe, prompts: Prompts) -> Iterator[Ask]:
    """What teachers are asked for lessons; where nothing is kept of an input, with the hint."""
    for name in (name for name in recipe.contexts if name in prompts.teacher):
        for who in dict.fromkeys([*_teachers(recipe, name), *recipe.replayed_by(name)]):
            side = prompts.teacher[name].times(recipe.sampling.per_input)
            yield Ask("lessons", name, who, Question(who, side, recipe.sampling, recipe.labels))
            if name in prompts.hint:
                side = prompts.hint[name].times(recipe.sampling.per_input)
                question = Question(who, side, recipe.sampling, recipe.labels)
                yield Ask("hint", name, who, question, at_most=True)


def _teachers(recipe: Recipe, context: str) -> list[Who]:
    return [
        recipe.teacher_of(name) for name, each in recipe.plan.items() if context in each.contexts
    ]


def _held_out(
    recipe: Recipe, prompts: Prompts, who: Who, context: str, notes: list[str]
) -> Iterator[Ask]:
    """What these weights are asked on a context's held-out examples, a row of its table each."""
    evaluation = recipe.evaluation(context)
    assert evaluation
    teacher, last = recipe.taught_by(context)[0], list(recipe.plan)[-1]
    sides = [
        (System(name, who), _of_further(recipe, prompts, name, context))
        for name, system in recipe.systems.items()
        if recipe.system_who(name) == who and context in recipe.systems_contexts(name)
    ]
    under_teachers = prompts.held_teacher.get(context)
    if who != TEACHER:
        name = "before" if who == BASE else who.round
        sides.append((System(name, who), prompts.held_student[context]))
    for system, side in sides:
        yield from _row(recipe, prompts, evaluation, context, system, side)
    if who != TEACHER and evaluation.shots:
        yield from _behind_shots(recipe, prompts, evaluation, context, sides[-1][0])
    if who == teacher and under_teachers:
        row = System("teacher", who)
        yield from _row(recipe, prompts, evaluation, context, row, under_teachers)
    if who == student(last) and under_teachers and recipe.teacher_model:
        under_teachers = _as_student_reads(prompts, context, under_teachers, notes)
    if who == student(last) and under_teachers and context in recipe.plan[last].contexts:
        row = System(f"{last}_teacher_prompt", who)
        yield from _row(recipe, prompts, evaluation, context, row, under_teachers)


def _row(
    recipe: Recipe,
    prompts: Prompts,
    evaluation: Evaluate,
    context: str,
    system: System,
    side: Side,
) -> Iterator[Ask]:
    sampling, who = recipe.sampling_of(evaluation), system.who
    if evaluation.choices:
        for which, given in prompts.given(context, who).items():
            question = Question(who, side, sampling, given=given)
            yield Ask("held-out", context, who, question, system=system, part=which)
        return
    pair, served = prompts.readers.carrying(who), prompts.readers.of(who).server
    compared = system.name == "teacher" and not (pair and pair.by == "text") and not served
    labels = EVALUATION_LABELS if compared or _needs_labels(recipe, evaluation) else None
    question = Question(who, side, sampling, labels)
    yield Ask("held-out", context, who, question, system=system)


def _needs_labels(recipe: Recipe, evaluation: Evaluate) -> bool:
    return metrics.need_labels(evaluation.metrics, "evaluate.metrics", recipe.modules)


def _of_further(recipe: Recipe, prompts: Prompts, name: str, context: str) -> Side:
    """The prompts of one of the recipe's `systems`, as its model reads them (Shirgaonkar et al.
    2024, tables 1 and 6); a template of its own sees the teacher's examples.
    """
    system, where = recipe.systems[name], f"systems.{name}.prompt"
    if isinstance(system.prompt, str):
        known = prompts.side(context, system.prompt, held_out=True)
        assert known
        asked = known.prompts
    else:
        rows, shown = prompts.inputs.held_out[context], prompts.inputs.shown[context]
        asked = render_all(context, system.prompt, "", rows, shown, where)
    reader = prompts.readers.of(recipe.system_who(name))
    return measure(asked, reader, where, prompts.longest)


def _behind_shots(
    recipe: Recipe, prompts: Prompts, evaluation: Evaluate, context: str, system: System
) -> Iterator[Ask]:
    """A student's held-out prompts behind 0 to n shots; an answer ends where the next question
    would begin.
    """
    assert evaluation.shots
    where, sampling = f"{recipe.evaluated_at(context)}.shots", recipe.sampling_of(evaluation)
    stop = tuple(dict.fromkeys((*sampling.stop, evaluation.shots.separator)))
    sampling = sampling.model_copy(update={"stop": stop})
    labels = EVALUATION_LABELS if _needs_labels(recipe, evaluation) else None
    for (count, draw_), asked in shots.questions(
        evaluation.shots,
        context,
        recipe.contexts[context],
        prompts.inputs.pools[context],
        prompts.held_student[context].prompts,
        recipe.seed,
        where,
        recipe.modules,
    ).items():
        side = measure(asked, prompts.readers.student, where, prompts.longest)
        row = replace(system, shots=count, draw=draw_)
        question = Question(system.who, side, sampling, labels)
        yield Ask("held-out", context, system.who, question, system=row)


def _as_student_reads(prompts: Prompts, context: str, side: Side, notes: list[str]) -> Side | None:
    """A bigger teacher's prompt, rendered by the student's chat template, if that fits its
    window.
    """
    reader, where = prompts.readers.student, f"contexts.{context}.teacher"
    try:
        return measure(side.prompts, reader, where, prompts.longest)
    except UserError as error:
        notes.append(f"  note: the student is not asked with the teacher's prompt: {error.what}")
        return None


def _sampled(recipe: Recipe, prompts: Prompts, asks: Sequence[Ask]) -> Iterator[Ask]:
    """What the teacher may say to held-out inputs, for KL, where there is one."""
    for context, side in prompts.held_teacher.items():
        evaluation, teacher = recipe.evaluation(context), of_system(asks, context, "teacher")
        count = min(recipe.report.sampled, len(side.prompts))
        if not (count and teacher and evaluation) or why_not_compared(prompts, teacher.who):
            continue
        plain = {"temperature": 1.0, "top_p": 1.0}
        sampling = recipe.sampling_of(evaluation).model_copy(update=plain)
        question = Question(teacher.who, side.first(count), sampling, EVALUATION_LABELS)
        yield Ask("sampled", context, teacher.who, question)


def _association(recipe: Recipe, prompts: Prompts) -> Iterator[Ask]:
    """Every context's student prompt on every other's held-out examples."""
    chosen, given = recipe.association or (), prompts.inputs
    for asking in chosen:
        for context in (other for other in chosen if other != asking):
            evaluation = recipe.evaluation(context)
            assert evaluation
            template, rows = recipe.contexts[asking].student, given.held_out[context]
            side = measure(
                render_all(asking, template, "student", rows, [given.pools[asking]]),
                prompts.readers.student,
                f"contexts.{asking}.student (on examples of {context}, for association)",
                prompts.longest,
            )
            for who in (BASE, *map(student, recipe.plan)):
                question = Question(who, side, recipe.sampling_of(evaluation))
                yield Ask("association", context, who, question, part=asking)


def _drift(recipe: Recipe, prompts: Prompts) -> Iterator[Ask]:
    """The base model's answers to unrelated inputs."""
    if recipe.drift is None:
        return
    settings, where = recipe.drift, "drift.template"
    rows = inputs.load(settings.inputs, "drift.inputs", recipe.modules)
    asked = [render(settings.template, "drift", row, None, where) for row in rows]
    side = measure(asked, prompts.readers.student, where, settings.max_new_tokens)
    sampling = Sampling(max_new_tokens=settings.max_new_tokens)
    yield Ask("drift", "", BASE, Question(BASE, side, sampling, EVALUATION_LABELS))


def _judge(recipe: Recipe, prompts: Prompts, asks: Sequence[Ask]) -> Iterator[Ask]:
    """What the judge may be asked: equal answers are judged once."""
    settings, reader = recipe.judge, prompts.readers.judge
    if settings is None or reader is None:
        return
    asked = {name: side.prompts for name, side in prompts.held_student.items()}
    held_out = prompts.inputs.held_out
    for context, difficulty, tokens in judge.lengths(recipe, held_out, asked, reader):
        evaluation = recipe.evaluation(context)
        assert evaluation
        rows = [
            ask
            for ask in asks
            if ask.purpose == "held-out" and ask.context == context and ask.system
            if ask.system.shots is None
        ]
        calls = settings.repeats * (1 if difficulty else len(rows))
        longest = 0 if difficulty else recipe.sampling_of(evaluation).max_new_tokens
        read = calls * (tokens + longest)
        size = Size(calls, read, read, calls * settings.max_new_tokens)
        yield Ask("judge", context, JUDGE, bound=size, at_most=True)


def _passes(recipe: Recipe, prompts: Prompts, asks: Sequence[Ask]) -> Iterator[Pass]:
    """KL of `before` and of every student on the teacher's answers, and of the teacher without
    each of its instructions, behind a prefix that its examples share.
    """
    students = (BASE, *map(student, recipe.plan))
    for context, side in prompts.held_teacher.items():
        teacher = of_system(asks, context, "teacher")
        if teacher is None or why_not_compared(prompts, teacher.who):
            continue
        for who in students:
            yield Pass("KL", who, prompts.held_student[context])
            if recipe.report.sampled:
                yield Pass("KL", who, prompts.held_student[context].first(recipe.report.sampled))
        settings = recipe.report.instructions
        first = side.first(settings.examples)
        for _ in instructions.find(first.prompts)[: settings.items]:
            yield Pass("instructions", teacher.who, first)
    for ask in asks:
        if ask.purpose == "drift" and ask.question:
            for who in students[1:]:
                yield Pass("drift", who, ask.question.side)


def _passes_of_inputs(recipe: Recipe, prompts: Prompts) -> Iterator[Pass]:
    """Context gain of inputs that must have some, and which instructions written ones exercise."""
    for context in prompts.teacher:
        given = recipe.contexts[context].inputs
        for _ in _teachers(recipe, context) if given and given.min_gain else ():
            yield Pass("KL", BASE, prompts.student[context].times(recipe.sampling.per_input))
    for where, source in recipe.covered.items():
        context = where.split(".")[1]
        if source.covered and not why_not_covered(recipe, context):
            first = prompts.teacher[context].first(source.covered.examples)
            for _ in instructions.find(first.prompts):
                yield Pass("coverage", TEACHER, first)


def why_not_compared(prompts: Prompts, teacher: Who) -> str:
    """Why there is no KL between this teacher and a student; empty if there is."""
    pair = prompts.readers.carrying(teacher)
    if pair and prompts.readers.teacher.server:
        return "the teacher's server does not tell its whole distribution"
    if pair and pair.by == "text":
        return (
            "teacher and student have different tokenizers, and tokens are counted in each one's"
            " own"
        )
    return ""


def why_not_covered(recipe: Recipe, context: str) -> str:
    """Why it is not measured which instructions a context's inputs exercise; empty if it is."""
    if recipe.labels.kind in ("hard", "top_k"):
        return f"labels.kind: {recipe.labels.kind} keeps only a part of the teacher's distribution"
    gold, teacher = recipe.contexts[context].gold, recipe.taught_by(context)[0]
    if context not in recipe.used or gold is not None or teacher != TEACHER:
        return "the recipe's teacher is not asked there"
    return ""
