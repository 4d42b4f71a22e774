"""All that can be known before weights are loaded: data, templates, window, tokenizer, overlap,
cost.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.engines import models
from unprompt.messages import UserError
from unprompt.recipe import FromPrompt, Model, Recipe, prices
from unprompt.recipe.names import function, join
from unprompt.records import TEACHER, Example
from unprompt.stages import (
    abilities,
    about,
    estimate as estimated,
    evaluate,
    lessons,
    plan as plan_,
    processes,
    teachable,
)
from unprompt.stages.asks import Plan
from unprompt.stages.evaluate import judge
from unprompt.stages.inputs import files
from unprompt.stages.inputs.every import Inputs, every
from unprompt.stages.lessons import rationales, shots
from unprompt.stages.prompts import Prompts, Side, plain, rendered, sample_ids
from unprompt.stages.templates.render import render

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Checked:
    """What the check saw.

    Attributes:
        overlap: Context -> how many inputs stand on both sides, by what that means.
        lines: For the terminal.
        prices: Of `teacher` and `student`, where the recipe has `cost`.
    """

    prompts: Prompts
    plan: Plan
    overlap: dict[str, dict[str, int]]
    lines: list[str]
    prices: dict[str, prices.Price]


def check(recipe: Recipe, *, estimate: bool = True) -> Checked:
    """Everything in the recipe, against everything it names.

    Raises:
        UserError: The first thing that is wrong.
    """
    join(recipe.modules, recipe.functions)
    priced = costs(recipe)
    for where, model in recipe.models.items():
        abilities.refuse(recipe, model, where)
    inputs = every(recipe)
    _refuse_settings(recipe, inputs)
    _refuse_replay(recipe, inputs.taught)
    _refuse_sample_ids(recipe, inputs.taught)
    skeleton = _skeleton(recipe.model, "model")
    _refuse_training(recipe, skeleton)
    prompts = rendered(recipe, inputs)
    taught = {name: prompts.student[name].prompts for name in inputs.taught}
    shots.check(recipe, taught, encoder_decoder=prompts.readers.student.encoder_decoder)
    _refuse_labels(recipe, prompts)
    teachable.refuse(recipe, prompts)
    lines = list(about.of_models(recipe, prompts))
    plan = plan_.plan(recipe, prompts)
    lines += plan.notes
    if recipe.judge and prompts.readers.judge:
        asked = {name: side.prompts for name, side in prompts.held_student.items()}
        lines.append(judge.check(recipe, inputs.held_out, asked, prompts.readers.judge))
    undrawn = {where.split(".")[1] for where in recipe.drawn}
    overlap = {  # what stands in for inputs that are yet to be written overlaps with itself
        name: _overlap(name, recipe, prompts) for name in inputs.taught if name not in undrawn
    }
    for name in recipe.contexts:
        lines += _about(name, recipe, prompts, overlap.get(name))
    lines += [*_notes(recipe, prompts), *teachable.notes(recipe, prompts)]
    if estimate:
        weights = _count(skeleton)
        teachers = _count_of(recipe.teacher_model, "teacher_model", weights)
        key, writer = recipe.writer or ("", None)
        others = {
            "teacher": teachers,
            "judge": _count_of(recipe.judge and recipe.judge.model, "judge.model", teachers),
            "writer": _count_of(writer, key, teachers),
        }
        asked = plan.sizes(recipe)
        lines.append(estimated.answers(asked))
        lines.append(estimated.estimate(recipe, prompts, plan, asked, weights, others))
        lines += estimated.most(recipe, asked, prompts.readers)
    return Checked(prompts, plan, overlap, lines, priced)


def costs(recipe: Recipe) -> dict[str, prices.Price]:
    """Prices of `teacher` and `student`, where the recipe wants to know what they cost."""
    if recipe.cost is None:
        return {}
    table = prices.load(recipe.cost.prices)
    return {
        who: prices.price(table, getattr(recipe.cost, who), f"cost.{who}")
        for who in ("teacher", "student")
    }


def _refuse_settings(recipe: Recipe, inputs: Inputs) -> None:
    """Functions exist, and metrics and filters can use the data."""
    for name, context in recipe.contexts.items():
        where = f"contexts.{name}"
        rules = {
            "extract": context.extract,
            "filter.extract": context.filter and context.filter.extract,
        }
        for key, rule in rules.items():
            if rule and ":" in rule.keep:
                function(rule.keep, f"{where}.{key}", recipe.modules)
        rows = inputs.taught.get(name)
        if rows is not None and context.filter:
            rationales.check(context.filter, rows, recipe.sampling.per_input, name, recipe.modules)
            if context.filter.keep == "correct":
                evaluate.refuse_gold(context.filter.metric, rows, f"{where}.inputs.target")
        if evaluation := recipe.evaluation(name):
            held_out = inputs.held_out[name]
            where, source = recipe.evaluated_at(name), recipe.held_out_from(name)
            evaluate.check(evaluation, held_out, where, recipe.modules, source)


def _refuse_replay(recipe: Recipe, taught: dict[str, list[Example]]) -> None:
    def lessons_of(contexts: tuple[str, ...]) -> int:
        return sum(len(taught[name]) * recipe.per_input(name) for name in contexts)

    for name, round_ in recipe.plan.items():
        if round_.replay is None:
            continue
        size, there = lessons_of(round_.contexts), lessons_of(round_.replay.contexts)
        needed = lessons.replay_size(size, round_.replay.share)
        if needed > there:
            raise UserError(
                f"a share of {round_.replay.share:g} beside {size} inputs takes {needed}"
                f" replayed ones, but its contexts have {there}",
                where=f"rounds.{name}.replay",
                fix="lower share, or give those contexts more inputs",
            )


def _refuse_sample_ids(recipe: Recipe, taught: dict[str, list[Example]]) -> None:
    for name, rows in taught.items():
        ids = {row.id for row in rows}
        for row in rows:
            for id_ in sample_ids(row.id, recipe.per_input(name))[1:]:
                if id_ in ids:
                    raise UserError(
                        f"with sampling.per_input, '{id_}' is the id of a completion of input"
                        f" '{row.id}', but another input has it, too",
                        where=f"contexts.{name}.inputs",
                        fix="rename one of the two inputs",
                    )


def _refuse_labels(recipe: Recipe, prompts: Prompts) -> None:
    """Soft labels only come across between tokens that are the same to both; and context gain is
    only told by labels that stand for the teacher's whole distribution.
    """
    for name in recipe.used:
        inputs = recipe.contexts[name].inputs
        if inputs and inputs.min_gain and recipe.labels.kind in ("hard", "top_k"):
            raise UserError(
                f"context gain is KL from the teacher's distribution, and labels.kind:"
                f" {recipe.labels.kind} keeps only a part of it",
                where=f"contexts.{name}.inputs.min_gain",
                fix="leave it out, or have a teacher with files of its own and write labels.kind:"
                " sampled",
            )
    pair = prompts.readers.pair
    teaches = any(
        recipe.teacher_of(name) == TEACHER
        and any(recipe.contexts[context].gold is None for context in round_.contexts)
        for name, round_ in recipe.plan.items()
    )
    if pair and pair.by == "text" and teaches and recipe.labels.kind != "hard":
        raise UserError(
            f"teacher and student have different tokenizers ({pair.why}), so the teacher's"
            " probabilities say nothing about the student's tokens",
            where="labels.kind",
            fix="write labels.kind: hard (the teacher's text is then tokenised anew), or name a"
            " teacher of the student's family",
        )


def _refuse_training(recipe: Recipe, skeleton: Any) -> None:
    """What the trainer and the adapter would refuse later."""
    for settings in (round_.train for round_ in recipe.plan.values()):
        adapter = settings.adapter
        plain_adapter = adapter is None or adapter.targets == "all-linear"
        if processes.count() == 1 and not settings.trainer and plain_adapter:
            continue
        from unprompt.stages import train

        train.arguments(settings, Path("checkpoints"), recipe.seed)
        if adapter is not None:
            train.attach_adapter(copy.deepcopy(skeleton), settings, recipe.seed)


def _skeleton(model: Model, where: str) -> Any:
    """The model's modules, without memory for their weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = models.load_config(model, where)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        try:
            return kind.from_config(config)
        except ValueError:
            raise UserError(
                f"a {config.model_type} model does not write text",
                where=where,
                fix="name a language model",
            ) from None
        except Exception as error:  # numbers that fit no model, each in its own way
            raise UserError(
                f"no model can be made of its config.json: {models.first_line(error)[:200]}",
                where=where,
                fix="fetch the file again",
            ) from None


def _count(skeleton: Any) -> int:
    return sum(parameter.numel() for parameter in skeleton.parameters())


def _count_of(model: Model | None, where: str, without: int) -> int:
    """Weights of another model; 0 of one behind a server; `without` one, those given."""
    if model is None:
        return without
    return 0 if model.server else _count(_skeleton(model, where))


def _overlap(name: str, recipe: Recipe, prompts: Prompts) -> dict[str, int]:
    """How many inputs stand on both sides, as the student's prompt shows them (letter case and
    blanks aside).
    """
    template, pool = recipe.contexts[name].student, prompts.inputs.pools[name]
    trained = {plain(prompt) for prompt in prompts.student[name].prompts}
    held_side = prompts.held_student.get(name)
    held = [plain(prompt) for prompt in held_side.prompts] if held_side else []
    shown = set()
    for number, row in enumerate(pool or ()):
        try:
            shown.add(plain(render(template, name, Example(str(number), row), pool, "")))
        except UserError:
            continue  # an example that lacks the input's fields can't be an input
    return {
        "held-out inputs among the training inputs": sum(text in trained for text in held),
        "held-out inputs among the prompt's examples": sum(text in shown for text in held),
        "training inputs among the prompt's examples": len(trained & shown),
        "training inputs that occur twice": len(prompts.inputs.taught[name]) - len(trained),
    }


def _about(
    name: str, recipe: Recipe, prompts: Prompts, overlap: dict[str, int] | None
) -> Iterator[str]:
    """Lines on a context."""
    student = prompts.student.get(name) or prompts.held_student.get(name)
    teacher = prompts.teacher.get(name) or prompts.held_teacher.get(name)
    if student is None:
        return
    lengths = f"student's prompt {_mean(student)} tokens (longest {max(student.lengths)})"
    if teacher:
        many = len(teacher.prefix)
        members = f"{many} prompts for each input, together " if many > 1 else ""
        lengths = (
            f"teacher's prompt {members}{_mean(teacher)} tokens (longest {max(teacher.lengths)},"
            f" {sum(teacher.prefix)} shared by all), {lengths}"
        )
    yield from _left_out(name, recipe)
    kind = "" if name in recipe.used else " only evaluated,"
    if name in recipe.used and recipe.contexts[name].gold is not None:
        kind = " gold answers,"
    counts = [len(rows.get(name, ())) for rows in (prompts.inputs.taught, prompts.inputs.held_out)]
    yield f"context {name}:{kind} {counts[0]} inputs, {counts[1]} held out; {lengths}"
    if alike := prompts.inputs.left_out.get(name):
        yield f"  {alike} held-out inputs are left out: equal ones are among the training inputs"
    if overlap is not None:
        counted = [f"{count} {what}" for what, count in overlap.items() if count]
        yield f"  overlap: {'; '.join(counted) if counted else 'none'}"
    readers = prompts.readers
    yield from about.of_beginnings(
        {"teacher": (readers.teacher, teacher), "student": (readers.student, student)}
    )
    for side, which in ((teacher, "teacher"), (student, "student")):
        texts = [prompt.content for prompt in side.prompts] if side else []
        blank = sum(isinstance(text, str) and text[-1:].isspace() for text in texts)
        if blank:
            yield (
                f"  note: {blank} {which} prompts end in a blank; most tokenizers answer worse"
                " after one"
            )


def _left_out(name: str, recipe: Recipe) -> Iterator[str]:
    """What of logs is no input."""
    evaluation, where = recipe.evaluation(name), recipe.evaluated_at(name)
    for data, at in (
        (recipe.contexts[name].inputs, f"contexts.{name}.inputs"),
        (evaluation and evaluation.data, f"{where}.data"),
    ):
        for place, part in data.parts(at) if data else ():
            if left := files.left_out(part, place):
                yield f"{part.file}: left out: {left}"


def _mean(side: Side) -> str:
    return f"{sum(side.lengths) / len(side.lengths):.0f}"


def _notes(recipe: Recipe, prompts: Prompts) -> Iterator[str]:
    """What a user may not have meant."""
    server = recipe.teacher_model and recipe.teacher_model.server
    if recipe.labels.kind == "top_k":
        why = "a server tells no more" if server else "top_k_tail keeps it, with fewer numbers"
        yield (
            f"note: labels.kind top_k cuts what lies behind the {recipe.labels.kept} most probable"
            f" tokens, an error that does not average out: {why}"
        )
    elif server and not server.tokenizer:
        yield (
            "note: labels.kind hard: with server.tokenizer it could be top_k, where the server"
            " sends log-probabilities"
        )
    idle = set(recipe.contexts) - recipe.used - prompts.inputs.held_out.keys()
    if idle:
        named = [name for name in recipe.contexts if name in idle]
        yield f"note: neither taught nor evaluated: {', '.join(named)}"
    for where, source in recipe.drawn.items():
        instead = "texts of the longest kind" if isinstance(source, FromPrompt) else "their seeds"
        yield (
            f"note: the inputs of {where} are yet to be written by a model; {instead} stand in for"
            " them here"
        )
