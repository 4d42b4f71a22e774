"""All that can be known before weights are loaded: data, templates, window, tokenizer, overlap,
cost.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.engines import models, vocabulary
from unprompt.engines.tokens import Reader, common_prefix, refuse_length
from unprompt.messages import UserError
from unprompt.recipe import Model, Recipe, Template, prices
from unprompt.recipe.names import function, search
from unprompt.records import Example, Prompt
from unprompt.stages import (
    abilities,
    estimate as estimated,
    evaluate,
    inputs,
    lessons,
    processes,
    served,
    systems,
)
from unprompt.stages.evaluate import judge
from unprompt.stages.inputs import draw
from unprompt.stages.lessons import rationales, shots
from unprompt.stages.prompts import Side, plain, sample_ids
from unprompt.stages.templates.render import render, render_all

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Checked:
    """What the check found; the stages work on this. Contexts that are not taught have no inputs,
    those that are not evaluated nothing held out.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder_decoder: bool
    inputs: dict[str, list[Example]]
    held_out: dict[str, list[Example]]
    teacher: dict[str, Side]
    student: dict[str, Side]
    held_teacher: dict[str, Side]
    held_student: dict[str, Side]
    over_teachers_prompt: dict[str, Side | None]
    """The teacher's held-out prompts as the student reads them; None where they are over its
    window."""
    crossed: dict[tuple[str, str], Side]
    """Association: (whose student prompt, whose held-out examples)."""
    gold: dict[str, list[str]]
    """Gold answers of contexts that have no teacher to ask."""
    choices: dict[str, dict[str, list[tuple[str, list[int]]]]]
    """Context -> `right` and `wrong` -> text and token ids of the continuation, for each held-out
    example."""
    drift: Side | None
    overlap: dict[str, dict[str, int]]
    lines: list[str] = field(default_factory=list)
    """For the terminal."""
    hint: dict[str, Side] = field(default_factory=dict)
    """The teacher's prompts with a hint, of contexts that have one."""
    shots: dict[str, dict[tuple[int, int], Side]] = field(default_factory=dict)
    """Context -> (shots, draw) -> the student's held-out prompts behind them."""
    window: int | None = None
    """The student's, in tokens."""
    pair: vocabulary.Pair | None = None
    """How the tokens of a teacher that is another model come to the student."""
    teacher_choices: dict[str, dict[str, list[tuple[str, list[int]]]]] = field(default_factory=dict)
    """The same as `choices` in the teacher's tokens."""
    systems: dict[tuple[str, str], Side] = field(default_factory=dict)
    """(Further system, context) -> its held-out prompts, as the model reads them that is asked."""
    judge: Reader | None = None
    """Who reads the judge's prompts."""
    prices: dict[str, prices.Price] = field(default_factory=dict)
    """Of `teacher` and `student`."""
    readers: dict[str, Reader] = field(default_factory=dict)
    """Of `teacher` and `student`."""
    shown: dict[str, list[list[dict[str, Any]]] | list[None]] = field(default_factory=dict)
    """Context -> the examples in each of the teacher's prompts."""
    pools: dict[str, list[dict[str, Any]] | None] = field(default_factory=dict)
    """Context -> all its examples."""


def check(recipe: Recipe, *, estimate: bool = True) -> Checked:
    """Everything in the recipe, against everything it names.

    Raises:
        UserError: The first thing that is wrong.
    """
    search(recipe.modules)
    priced = _prices(recipe)
    teacher_server = recipe.teacher_model.server if recipe.teacher_model else None
    for model, where in (
        (recipe.model, "model"),
        (recipe.teacher_model, "teacher_model"),
        (recipe.judge and recipe.judge.model, "judge.model"),
    ):
        if model and model.server:
            served.refuse(recipe, model.server, where)
        if model:
            abilities.refuse(recipe, model, where)
    seen: dict[str, list[Example]] = {}
    held_out: dict[str, list[Example]] = {}
    pools: dict[str, list[dict[str, Any]] | None] = {}
    shown: dict[str, list[list[dict[str, Any]]] | list[None]] = {}
    for name, context in recipe.contexts.items():
        where = f"contexts.{name}"
        if context.inputs and name in recipe.used:
            seen[name] = inputs.load(context.inputs, f"{where}.inputs", recipe.modules)
        pools[name], shown[name] = None, [None]
        if context.examples:
            rows = [
                example.fields
                for example in inputs.load(
                    context.examples.pool, f"{where}.examples", recipe.modules
                )
            ]
            pools[name], shown[name] = (
                rows,
                inputs.subsets(context.examples, rows, recipe.seed, f"{where}.examples"),
            )
        for key, rule in (
            ("extract", context.extract),
            ("filter.extract", context.filter and context.filter.extract),
        ):
            if rule and ":" in rule.keep:
                function(rule.keep, f"{where}.{key}", recipe.modules)
        if name in seen and context.filter:
            rationales.check(
                context.filter, seen[name], recipe.sampling.per_input, name, recipe.modules
            )
            if context.filter.keep == "correct":
                evaluate.refuse_gold(context.filter.metric, seen[name], f"{where}.inputs.target")
        if evaluation := recipe.evaluation(name):
            at = f"{where}.evaluate" if evaluation is context.evaluate else "evaluate"
            held_out[name] = inputs.load(evaluation.data, f"{at}.data", recipe.modules)
            evaluate.check(evaluation, held_out[name], at, recipe.modules)
    rendered: dict[tuple[str, str, str], list[Prompt]] = {}
    for name, context in recipe.contexts.items():
        for part, rows in (("inputs", seen.get(name)), ("held", held_out.get(name))):
            if rows is None:
                continue
            if context.teacher and not (part == "inputs" and context.gold is not None):
                rendered[name, "teacher", part] = render_all(
                    name, context.teacher, "teacher", rows, shown[name]
                )
            rendered[name, "student", part] = render_all(
                name, context.student, "student", rows, [pools[name]]
            )
        if context.hint and name in seen:
            hinted = [rationales.with_gold(row) for row in seen[name]]
            rendered[name, "hint", "inputs"] = render_all(
                name, context.hint, "hint", hinted, shown[name]
            )
    rendered_systems = systems.render_all(recipe, held_out, shown, rendered)
    gold = {
        name: _gold(name, recipe, rows)
        for name, rows in seen.items()
        if recipe.contexts[name].gold is not None
    }
    _check_replay(recipe, seen)
    _check_sample_ids(recipe, seen)

    tokenizer = models.load_tokenizer(recipe.model, "model")
    config = models.load_config(recipe.model, "model")
    skeleton = _skeleton(config)
    _check_training(recipe, skeleton)
    shots.check(
        recipe,
        {name: rendered[name, "student", "inputs"] for name in seen},
        encoder_decoder=config.is_encoder_decoder,
    )
    student_reads = Reader(
        tokenizer, config.is_encoder_decoder, models.window(recipe.model, config, tokenizer)
    )
    teacher_reads, teacher_config, pair = student_reads, config, None
    if recipe.teacher_model and teacher_server:
        teacher_reads = served.reader(recipe.teacher_model, tokenizer, "teacher_model")
    elif recipe.teacher_model:
        teacher_config = models.load_config(recipe.teacher_model, "teacher_model")
        own = models.load_tokenizer(recipe.teacher_model, "teacher_model")
        teacher_reads = Reader(
            own,
            teacher_config.is_encoder_decoder,
            models.window(recipe.teacher_model, teacher_config, own),
        )
    teacher_tokenizer = teacher_reads.tokenizer
    if recipe.teacher_model:
        ends = (
            models.end_ids(teacher_tokenizer)
            if teacher_server
            else models.ends_of(
                recipe.teacher_model, teacher_tokenizer, teacher_config, "teacher_model"
            )
        )
        pair = _pair(recipe, student_reads, config, teacher_reads, ends)
    chats = any(
        template and template.messages
        for context in recipe.contexts.values()
        for template in (context.teacher, context.student)
    )
    lines = [
        _describe("model", recipe.model, tokenizer, config),
        *_end_of_answer("model", recipe.model, tokenizer, config, chats=chats),
    ]
    if teacher_server:
        assert pair
        lines += [*served.describe("teacher", teacher_server), *vocabulary.describe(pair)]
    elif recipe.teacher_model:
        lines.append(_describe("teacher", recipe.teacher_model, teacher_tokenizer, teacher_config))
        lines += _end_of_answer(
            "teacher", recipe.teacher_model, teacher_tokenizer, teacher_config, chats=chats
        )
        assert pair
        lines += vocabulary.describe(pair, _embeddings(teacher_config), _embeddings(config))

    written = {
        name: evaluate.continuations(evaluation, held_out[name], f"contexts.{name}.evaluate")
        for name in held_out
        if (evaluation := recipe.evaluation(name)) and evaluation.choices
    }
    choices, teacher_choices = (
        {name: _tokens(who, found, name) for name, found in written.items()}
        for who in (tokenizer, teacher_tokenizer)
    )
    longest_answer = max(_longest_answer(recipe, choices), _longest_answer(recipe, teacher_choices))
    sides: dict[tuple[str, str, str], Side] = {}
    for (name, side, part), asked in rendered.items():
        readers = (
            [student_reads]
            if side == "student"
            else [
                teacher_reads if whose is None else student_reads
                for whose in (*recipe.taught_by(name), *recipe.replayed_by(name))
            ]
        )
        for who in reversed(readers):  # the first teacher's lengths are kept
            sides[name, side, part] = measure(asked, who, f"contexts.{name}.{side}", longest_answer)
    over: dict[str, Side | None] = {
        name: side
        for (name, whose, part), side in sides.items()
        if (whose, part) == ("teacher", "held")
    }
    if recipe.teacher_model:
        for name in over:
            over[name] = _under_teachers_prompt(
                name, rendered[name, "teacher", "held"], student_reads, longest_answer, lines
            )
    crossed = {
        (asking, given): measure(
            render_all(
                asking, recipe.contexts[asking].student, "student", held_out[given], [pools[asking]]
            ),
            student_reads,
            f"contexts.{asking}.student (on examples of {given}, for association)",
            longest_answer,
        )
        for asking in recipe.association or ()
        for given in recipe.association or ()
        if asking != given
    }
    behind: dict[str, dict[tuple[int, int], Side]] = {}
    for name in held_out:
        evaluation = recipe.evaluation(name)
        if evaluation and evaluation.shots:
            where = (
                f"contexts.{name}.evaluate.shots"
                if evaluation is not recipe.evaluate
                else "evaluate.shots"
            )
            asked = rendered[name, "student", "held"]
            questions = shots.questions(
                evaluation.shots,
                name,
                recipe.contexts[name],
                pools[name],
                asked,
                recipe.seed,
                where,
                recipe.modules,
            )
            behind[name] = {
                key: measure(found, student_reads, where, longest_answer)
                for key, found in questions.items()
            }
    asked_systems = {
        (name, context): measure(
            asked,
            teacher_reads if recipe.systems[name].model == "teacher" else student_reads,
            f"systems.{name}.prompt",
            longest_answer,
        )
        for (name, context), asked in rendered_systems.items()
    }
    drift = None
    if recipe.drift:
        rows = inputs.load(recipe.drift.inputs, "drift.inputs", recipe.modules)
        asked = [
            render(recipe.drift.template, "drift", row, None, "drift.template") for row in rows
        ]
        drift = measure(asked, student_reads, "drift.template", recipe.drift.max_new_tokens)
    judge_reads = _judge(recipe, tokenizer, teacher_reads, held_out, rendered, lines)
    waiting = draw.sources(recipe)
    undrawn = {
        where.split(".")[1] for where in waiting
    }  # what stands in for their inputs overlaps with itself
    overlap = {
        name: _overlap(name, recipe, rendered, rows, pools[name])
        for name, rows in seen.items()
        if name not in undrawn
    }
    lines += [
        line for name in recipe.contexts for line in _about(name, recipe, sides, overlap.get(name))
    ]
    idle = [name for name in recipe.contexts if name not in recipe.used and name not in held_out]
    if recipe.labels.kind == "top_k":
        lines.append(
            f"note: labels.kind top_k cuts what lies behind the {recipe.labels.kept} most probable"
            " tokens, an error that does not average out: "
            + (
                "a server tells no more"
                if teacher_server
                else "top_k_tail keeps it, with fewer numbers"
            )
        )
    elif teacher_server and not teacher_server.tokenizer:
        lines.append(
            "note: labels.kind hard: with server.tokenizer it could be top_k, where the server"
            " sends log-probabilities"
        )
    if idle:
        lines.append(f"note: neither taught nor evaluated: {', '.join(idle)}")
    if waiting:
        lines.append(
            f"note: the inputs of {', '.join(waiting)} are yet to be sampled from the model; their"
            " seeds stand in for them here"
        )
    if estimate:
        weights = sum(p.numel() for p in skeleton.parameters())
        teachers = (
            0
            if teacher_server
            else (
                sum(p.numel() for p in _skeleton(teacher_config).parameters())
                if recipe.teacher_model
                else weights
            )
        )
        further = [
            *crossed.values(),
            *(side for found in behind.values() for side in found.values()),
            *([drift] if drift else []),
        ]
        lines.append(estimated.estimate(recipe, sides, further, asked_systems, weights, teachers))
        reads = {"teacher": teacher_reads, **({"judge": judge_reads} if judge_reads else {})}
        lines += served.most(
            recipe,
            reads,
            sides,
            asked_systems,
            held_out,
            {name: rendered[name, "student", "held"] for name in held_out},
        )

    def half(side: str, part: str) -> dict[str, Side]:
        return {
            name: sides[name, side, part] for name in recipe.contexts if (name, side, part) in sides
        }

    return Checked(
        tokenizer,
        config.is_encoder_decoder,
        seen,
        held_out,
        half("teacher", "inputs"),
        half("student", "inputs"),
        half("teacher", "held"),
        half("student", "held"),
        over,
        crossed,
        gold,
        choices,
        drift,
        overlap,
        lines,
        hint=half("hint", "inputs"),
        shots=behind,
        window=student_reads.window,
        pair=pair,
        teacher_choices=teacher_choices,
        systems=asked_systems,
        judge=judge_reads,
        prices=priced,
        readers={"teacher": teacher_reads, "student": student_reads},
        shown=shown,
        pools=pools,
    )


def _prices(recipe: Recipe) -> dict[str, prices.Price]:
    """Of `teacher` and `student`, where the recipe wants to know what they cost."""
    if recipe.cost is None:
        return {}
    table = prices.load(recipe.cost.prices)
    return {
        who: prices.price(table, getattr(recipe.cost, who), f"cost.{who}")
        for who in ("teacher", "student")
    }


def _judge(
    recipe: Recipe,
    student: PreTrainedTokenizerBase,
    teacher: Reader,
    held_out: dict[str, list[Example]],
    rendered: dict[tuple[str, str, str], list[Prompt]],
    lines: list[str],
) -> Reader | None:
    """Who reads the judge's prompts: the teacher, or a model of its own."""
    if recipe.judge is None:
        return None
    reader = teacher
    if recipe.judge.model and recipe.judge.model.server:
        lines += served.describe("judge.model", recipe.judge.model.server)
        reader = served.reader(recipe.judge.model, student, "judge.model")
    elif recipe.judge.model:
        tokenizer, config = (
            models.load_tokenizer(recipe.judge.model, "judge.model"),
            models.load_config(recipe.judge.model, "judge.model"),
        )
        lines.append(_describe("judge.model", recipe.judge.model, tokenizer, config))
        reader = Reader(
            tokenizer,
            config.is_encoder_decoder,
            models.window(recipe.judge.model, config, tokenizer),
        )
    lines.append(
        judge.check(
            recipe, held_out, {name: rendered[name, "student", "held"] for name in held_out}, reader
        )
    )
    return reader


def _gold(name: str, recipe: Recipe, rows: Sequence[Example]) -> list[str]:
    template = Template(text=recipe.contexts[name].gold)
    found = [
        str(render(template, name, row, None, f"contexts.{name}.gold").content) for row in rows
    ]
    empty = next((row.id for row, text in zip(rows, found, strict=True) if not text.strip()), None)
    if empty is not None:
        raise UserError(
            f"the gold answer of input '{empty}' is empty",
            where=f"contexts.{name}.gold",
            fix="mend the template or the data",
        )
    return found


def _tokens(
    tokenizer: PreTrainedTokenizerBase, found: dict[str, list[str]], name: str
) -> dict[str, list[tuple[str, list[int]]]]:
    tokens = {
        side: [
            (text, list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids))
            for text in texts
        ]
        for side, texts in found.items()
    }
    for side, given in tokens.items():
        if not all(ids for _, ids in given):
            raise UserError(
                "a continuation is empty",
                where=f"contexts.{name}.evaluate.choices.{side}",
                fix="mend the template or the data",
            )
    return tokens


def _longest_answer(
    recipe: Recipe, choices: dict[str, dict[str, list[tuple[str, list[int]]]]]
) -> int:
    """Tokens that must fit behind every prompt."""
    evaluated = [
        evaluation
        for name in recipe.contexts
        if (evaluation := recipe.evaluation(name)) and not evaluation.choices
    ]
    written = [evaluate.sampling_of(recipe, evaluation).max_new_tokens for evaluation in evaluated]
    scored = [
        len(ids) for sides in choices.values() for given in sides.values() for _, ids in given
    ]
    return max([recipe.sampling.max_new_tokens, *written, *scored])


def _check_replay(recipe: Recipe, seen: dict[str, list[Example]]) -> None:
    for name, round_ in recipe.plan.items():
        if round_.replay:
            taught = sum(
                len(seen[context]) * recipe.per_input(context) for context in round_.contexts
            )
            needed = lessons.replay_size(taught, round_.replay.share)
            there = sum(
                len(seen[context]) * recipe.per_input(context) for context in round_.replay.contexts
            )
            if needed > there:
                raise UserError(
                    f"a share of {round_.replay.share:g} beside {taught} inputs takes {needed}"
                    f" replayed ones, but its contexts have {there}",
                    where=f"rounds.{name}.replay",
                    fix="lower share, or give those contexts more inputs",
                )


def _check_sample_ids(recipe: Recipe, seen: dict[str, list[Example]]) -> None:
    for name, rows in seen.items():
        ids = {row.id for row in rows}
        for row in rows:
            taken = next(
                (id_ for id_ in sample_ids(row.id, recipe.per_input(name))[1:] if id_ in ids),
                None,
            )
            if taken:
                raise UserError(
                    f"with sampling.per_input, '{taken}' is the id of a completion of input"
                    f" '{row.id}', but another input has it, too",
                    where=f"contexts.{name}.inputs",
                    fix="rename one of the two inputs",
                )


def _pair(
    recipe: Recipe,
    student: Reader,
    config: PretrainedConfig,
    teacher: Reader,
    teacher_ends: set[int],
) -> vocabulary.Pair:
    """How labels come from the teacher to the student; soft ones only between tokens that are the
    same to both.
    """
    ends = models.ends_of(recipe.model, student.tokenizer, config, "model")
    if teacher.server and not teacher.server.tokenizer:
        found = vocabulary.unknown(student.tokenizer, student.window)
    else:
        found = vocabulary.pair(
            student.tokenizer,
            teacher.tokenizer,
            _embeddings(config),
            student.window,
            ends,
            teacher_ends,
        )
    teaches = any(
        recipe.teacher_of(name) is None
        and any(recipe.contexts[context].gold is None for context in round_.contexts)
        for name, round_ in recipe.plan.items()
    )
    if found.by == "text" and teaches and recipe.labels.kind != "hard":
        raise UserError(
            f"teacher and student have different tokenizers ({found.why}), so the teacher's"
            " probabilities say nothing about the student's tokens",
            where="labels.kind",
            fix=(
                "write labels.kind: hard (the teacher's text is then tokenised anew), or name a"
                " teacher of the student's family"
            ),
        )
    return found


def _embeddings(config: PretrainedConfig) -> int:
    return int(config.get_text_config().vocab_size)


def _describe(
    role: str, model: Model, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig
) -> str:
    vocabulary = _embeddings(config)
    if vocabulary < len(tokenizer):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens but the model only {vocabulary} embeddings",
            where=role,
            fix="use the model's own tokenizer",
        )
    padded = f", padded to {vocabulary}" if vocabulary > len(tokenizer) else ""
    window = models.window(model, config, tokenizer)
    template = "chat template" if tokenizer.chat_template else "no chat template"
    return (
        f"{role}: {model.gguf or model.name or model.rule} ({config.model_type}), window"
        f" {window or 'unlimited'}, vocabulary {len(tokenizer)}{padded}, end token"
        f" {tokenizer.eos_token!r} ({tokenizer.eos_token_id}), {template}"
    )


def _end_of_answer(
    role: str,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    *,
    chats: bool,
) -> list[str]:
    """A note if the chat template ends an answer with a token at which the model does not stop: its
    answers, and the student's, would run on.
    """
    if not chats or not tokenizer.chat_template:
        return []
    mark = "unprompt"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may refuse this conversation, and is then not judged by it
        return []
    behind = tokenizer(
        str(text).rpartition(mark)[2].lstrip(), add_special_tokens=False, verbose=False
    ).input_ids
    ends = models.ends_of(model, tokenizer, config, role)
    if behind and behind[0] not in ends:
        closing, stops = (
            tokenizer.convert_ids_to_tokens(behind[0]),
            tokenizer.convert_ids_to_tokens(sorted(ends)),
        )
        return [
            f"  note: {role}'s chat template ends an answer with {closing!r}, but the model stops"
            f" at {stops}: set its eos_token to {closing!r}"
        ]
    return []


def _under_teachers_prompt(
    name: str, asked: list[Prompt], reader: Reader, longest_answer: int, lines: list[str]
) -> Side | None:
    """The student is also asked with the bigger teacher's prompt, rendered by its own chat
    template, if that fits its own window.
    """
    try:
        return measure(asked, reader, f"contexts.{name}.teacher", longest_answer)
    except UserError as error:
        lines.append(f"  note: the student is not asked with the teacher's prompt: {error.what}")
        return None


def measure(asked: list[Prompt], reader: Reader, where: str, longest_answer: int) -> Side:
    """Prompts with their lengths in the reader's tokens.

    Raises:
        UserError: One is empty, or over the reader's window with its answer.
    """
    tokenizer, encoder_decoder, window, server = reader
    if server:
        served.refuse_forms(server, asked, where)
    ids = [[reader.encode(content, where) for content in prompt.renderings] for prompt in asked]
    for prompt, tokens in (
        (prompt, tokens)
        for prompt, renderings in zip(asked, ids, strict=True)
        for tokens in renderings
    ):
        what = f"the prompt of input '{prompt.example_id}'"
        refuse_length(what, len(tokens), longest_answer, window, where)
        if (
            not encoder_decoder
            and tokens[-1] == tokenizer.eos_token_id
            and isinstance(prompt.content, str)
        ):
            raise UserError(
                "the tokenizer puts an end token behind the prompt",
                where=where,
                fix="set add_eos_token to false in its tokenizer_config.json",
            )
    prefix = tuple(
        0 if encoder_decoder else common_prefix(list(member)) for member in zip(*ids, strict=True)
    )
    return Side(asked, [sum(map(len, renderings)) for renderings in ids], prefix)


def _overlap(
    name: str,
    recipe: Recipe,
    rendered: dict[tuple[str, str, str], list[Prompt]],
    inputs_: Sequence[Example],
    pool: list[dict[str, Any]] | None,
) -> dict[str, int]:
    """How many inputs stand on both sides, as the student's prompt shows them (letter case and
    blanks aside).
    """
    trained = {plain(prompt) for prompt in rendered[name, "student", "inputs"]}
    held = [plain(prompt) for prompt in rendered.get((name, "student", "held"), ())]
    shown = set()
    for number, row in enumerate(pool or ()):
        try:
            shown.add(
                plain(
                    render(recipe.contexts[name].student, name, Example(str(number), row), pool, "")
                )
            )
        except UserError:
            continue  # an example that lacks the input's fields can't be an input
    return {
        "held-out inputs among the training inputs": sum(text in trained for text in held),
        "held-out inputs among the prompt's examples": sum(text in shown for text in held),
        "training inputs among the prompt's examples": len(trained & shown),
        "training inputs that occur twice": len(inputs_) - len(trained),
    }


def _about(
    name: str,
    recipe: Recipe,
    sides: dict[tuple[str, str, str], Side],
    overlap: dict[str, int] | None,
) -> list[str]:
    def of(side: str) -> Side | None:
        return sides.get((name, side, "inputs")) or sides.get((name, side, "held"))

    teacher, student = of("teacher"), of("student")
    if student is None:
        return []
    counts = {
        part: len(sides[name, "student", part].prompts) if (name, "student", part) in sides else 0
        for part in ("inputs", "held")
    }
    lengths = (
        f"student's prompt {sum(student.lengths) / len(student.lengths):.0f} tokens (longest"
        f" {max(student.lengths)})"
    )
    if teacher:
        members = (
            f"{len(teacher.prefix)} prompts for each input, together "
            if len(teacher.prefix) > 1
            else ""
        )
        mean = sum(teacher.lengths) / len(teacher.lengths)
        lengths = (
            f"teacher's prompt {members}{mean:.0f} tokens (longest {max(teacher.lengths)},"
            f" {sum(teacher.prefix)} shared by all), {lengths}"
        )
    kind = (
        ""
        if name in recipe.used and recipe.contexts[name].gold is None
        else " gold answers,"
        if name in recipe.used
        else " only evaluated,"
    )
    lines = [
        f"context {name}:{kind} {counts['inputs']} inputs, {counts['held']} held out; {lengths}"
    ]
    if overlap is not None:
        found = [f"{count} {what}" for what, count in overlap.items() if count]
        lines.append(f"  overlap: {'; '.join(found) if found else 'none'}")
    for side, which in (
        (side, which) for side, which in ((teacher, "teacher"), (student, "student")) if side
    ):
        ends_blank = sum(
            isinstance(p.content, str) and p.content[-1:].isspace() for p in side.prompts
        )
        if ends_blank:
            lines.append(
                f"  note: {ends_blank} {which} prompts end in a blank; most tokenizers answer worse"
                " after one"
            )
    return lines


def _skeleton(config: PretrainedConfig) -> Any:
    """The model's modules, without memory for their weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        try:
            return kind.from_config(config)
        except ValueError:
            raise UserError(
                f"a {config.model_type} model does not write text",
                where="model",
                fix="name a language model",
            ) from None


def _check_training(recipe: Recipe, skeleton: Any) -> None:
    """What the trainer and the adapter would refuse later."""
    for settings in (round_.train for round_ in recipe.plan.values()):
        adapter = settings.adapter
        if (
            processes.count() == 1
            and not settings.trainer
            and (adapter is None or adapter.targets == "all-linear")
        ):
            continue
        from unprompt.stages import train

        train.arguments(settings, Path("checkpoints"), recipe.seed)
        if adapter is not None:
            train.attach_adapter(copy.deepcopy(skeleton), settings, recipe.seed)
