"""All that can be known before weights are loaded: data, templates, window, tokenizer, overlap, cost."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import evaluate, inputs, models, prompts
from unprompt.errors import UserError
from unprompt.recipe import Model, Recipe
from unprompt.records import Example, Prompt

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_LABEL_BYTES = {"sampled": 32, "top_k": 8, "hard": 4}
"""Rough bytes on disk for one answer token (top_k: for each of the k)."""


@dataclass(frozen=True)
class Side:
    """Rendered prompts of one template over one data set, with their lengths in tokens and the prefix that all share."""

    prompts: list[Prompt]
    lengths: list[int]
    prefix: int


@dataclass(frozen=True)
class Checked:
    """What the check found; the stages work on this."""

    tokenizer: PreTrainedTokenizerBase
    encoder_decoder: bool
    inputs: dict[str, list[Example]]
    held_out: list[Example]
    teacher: dict[str, Side]
    student: dict[str, Side]
    held_teacher: dict[str, Side]
    held_student: dict[str, Side]
    over_teachers_prompt: dict[str, Side | None]
    """The teacher's held-out prompts as the student reads them; None where they are over its window."""
    overlap: dict[str, dict[str, int]]
    lines: list[str] = field(default_factory=list)
    """For the terminal."""


def check(recipe: Recipe, *, estimate: bool = True) -> Checked:
    """Everything in the recipe, against everything it names.

    Raises:
        UserError: The first thing that is wrong.
    """
    seen: dict[str, list[Example]] = {}
    pools: dict[str, list[dict[str, Any]] | None] = {}
    for name, context in recipe.contexts.items():
        seen[name] = inputs.load(context.inputs, f"contexts.{name}.inputs", recipe.modules)
        pool = inputs.load(context.examples, f"contexts.{name}.examples", recipe.modules) if context.examples else None
        pools[name] = None if pool is None else [example.fields for example in pool]
        if ":" in context.extract.keep:
            inputs.function(context.extract.keep, f"contexts.{name}.extract", recipe.modules)
    held_out = inputs.load(recipe.evaluate.data, "evaluate.data", recipe.modules) if recipe.evaluate else []
    if recipe.evaluate:
        evaluate.check(recipe.evaluate, held_out, recipe.modules)
    rendered = {
        (name, side, part): prompts.render_all(name, context, side, rows, pools[name])
        for name, context in recipe.contexts.items()
        for side in ("teacher", "student")
        for part, rows in (("inputs", seen[name]), ("held", held_out))
    }

    tokenizer = models.load_tokenizer(recipe.model, "model")
    config = models.load_config(recipe.model, "model")
    skeleton = _skeleton(config)
    _check_training(recipe, skeleton)
    teacher_tokenizer, teacher_config = tokenizer, config
    if recipe.teacher_model:
        teacher_tokenizer = models.load_tokenizer(recipe.teacher_model, "teacher_model")
        teacher_config = models.load_config(recipe.teacher_model, "teacher_model")
        _same_vocabulary(tokenizer, teacher_tokenizer)
    chats = any(context.teacher.messages or context.student.messages for context in recipe.contexts.values())
    lines = [_describe("model", recipe.model, tokenizer, config), *_end_of_answer("model", recipe.model, tokenizer, chats=chats)]
    if recipe.teacher_model:
        lines.append(_describe("teacher", recipe.teacher_model, teacher_tokenizer, teacher_config))
        lines += _end_of_answer("teacher", recipe.teacher_model, teacher_tokenizer, chats=chats)
        if teacher_tokenizer.eos_token_id != tokenizer.eos_token_id:
            lines.append(
                f"  note: the teacher ends its answers with {teacher_tokenizer.eos_token!r}, the student with {tokenizer.eos_token!r}: "
                "the student learns its own"
            )

    longest_answer = recipe.sampling.max_new_tokens
    if recipe.evaluate:
        longest_answer = max(longest_answer, evaluate.sampling_of(recipe).max_new_tokens)
    sides: dict[tuple[str, str, str], Side] = {}
    for (name, side, part), asked in rendered.items():
        who = (teacher_tokenizer, teacher_config) if side == "teacher" else (tokenizer, config)
        sides[name, side, part] = _measure(
            asked, *who, f"contexts.{name}.{side}", longest_answer, encoder_decoder=who[1].is_encoder_decoder
        )
    over: dict[str, Side | None] = {name: sides[name, "teacher", "held"] for name in recipe.contexts}
    if recipe.teacher_model:
        for name in recipe.contexts:
            over[name] = _under_teachers_prompt(name, rendered[name, "teacher", "held"], tokenizer, config, longest_answer, lines)
    overlap = {name: _overlap(name, recipe, rendered, seen[name], held_out, pools[name]) for name in recipe.contexts}
    lines += [line for name in recipe.contexts for line in _about(name, sides, overlap[name])]
    if estimate:
        lines.append(_estimate(recipe, sides, sum(p.numel() for p in skeleton.parameters())))

    def half(side: str, part: str) -> dict[str, Side]:
        return {name: sides[name, side, part] for name in recipe.contexts}

    return Checked(
        tokenizer, config.is_encoder_decoder, seen, held_out, half("teacher", "inputs"), half("student", "inputs"), half("teacher", "held"),
        half("student", "held"), over, overlap, lines,
    )  # fmt: skip


def _same_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
    if student.get_vocab() != teacher.get_vocab():
        raise UserError(
            f"teacher and student have different vocabularies ({len(teacher)} and {len(student)} tokens), so labels can't be carried across",
            where="teacher_model",
            fix="name a teacher of the student's family",
        )


def _describe(role: str, model: Model, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> str:
    vocabulary = int(config.get_text_config().vocab_size)
    if vocabulary < len(tokenizer):
        raise UserError(
            f"the tokenizer has {len(tokenizer)} tokens but the model only {vocabulary} embeddings",
            where=role,
            fix="use the model's own tokenizer",
        )
    padded = f", padded to {vocabulary}" if vocabulary > len(tokenizer) else ""
    window = models.window(config, tokenizer)
    template = "chat template" if tokenizer.chat_template else "no chat template"
    return (
        f"{role}: {model.gguf or model.name} ({config.model_type}), window {window or 'unlimited'}, vocabulary {len(tokenizer)}{padded}, "
        f"end token {tokenizer.eos_token!r} ({tokenizer.eos_token_id}), {template}"
    )


def _end_of_answer(role: str, model: Model, tokenizer: PreTrainedTokenizerBase, *, chats: bool) -> list[str]:
    """A note if the chat template ends an answer with a token at which the model does not stop: its answers, and the student's, would run on."""
    if not chats or not tokenizer.chat_template:
        return []
    mark = "unprompt"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may refuse this conversation, and is then not judged by it
        return []
    behind = tokenizer(str(text).rpartition(mark)[2].lstrip(), add_special_tokens=False, verbose=False).input_ids
    ends = models.end_ids(tokenizer, models.load_generation(model, role))
    if behind and behind[0] not in ends:
        closing, stops = tokenizer.convert_ids_to_tokens(behind[0]), tokenizer.convert_ids_to_tokens(sorted(ends))
        return [
            f"  note: {role}'s chat template ends an answer with {closing!r}, but the model stops at {stops}: set eos_token to {closing!r}"
        ]
    return []


def _under_teachers_prompt(
    name: str, asked: list[Prompt], tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, longest_answer: int, lines: list[str]
) -> Side | None:
    """The student is also asked with the bigger teacher's prompt, rendered by its own chat template, if that fits its own window."""
    try:
        return _measure(asked, tokenizer, config, f"contexts.{name}.teacher", longest_answer, encoder_decoder=config.is_encoder_decoder)
    except UserError as error:
        lines.append(f"  note: the student is not asked with the teacher's prompt: {error.what}")
        return None


def _measure(
    asked: list[Prompt],
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    where: str,
    longest_answer: int,
    *,
    encoder_decoder: bool,
) -> Side:
    ids = [prompts.encode(tokenizer, prompt.content, where) for prompt in asked]
    window = models.window(config, tokenizer)
    for prompt, tokens in zip(asked, ids, strict=True):
        if not tokens:
            raise UserError(f"the prompt of input '{prompt.example_id}' is empty", where=where, fix="give the template some text")
        if window and len(tokens) + longest_answer > window:
            raise UserError(
                f"the prompt of input '{prompt.example_id}' has {len(tokens)} tokens; with {longest_answer} new ones that is over the model's window of {window}",
                where=where,
                fix="use fewer examples, shorter inputs or a model with a longer window (nothing is ever cut)",
            )
        if not encoder_decoder and tokens[-1] == tokenizer.eos_token_id and isinstance(prompt.content, str):
            raise UserError(
                "the tokenizer puts an end token behind the prompt",
                where=where,
                fix="set add_eos_token to false in its tokenizer_config.json",
            )
    return Side(asked, [len(tokens) for tokens in ids], 0 if encoder_decoder else prompts.common_prefix(ids))


def _overlap(
    name: str, recipe: Recipe, rendered: dict[tuple[str, str, str], list[Prompt]], inputs_: Sequence[Example], held_out: Sequence[Example],
    pool: list[dict[str, Any]] | None,
) -> dict[str, int]:  # fmt: skip
    """How many inputs stand on both sides, as the student's prompt shows them (letter case and blanks aside)."""

    def plain(prompt: Prompt) -> str:
        return " ".join(prompts.as_text(prompt.content).casefold().split())

    trained = {plain(prompt) for prompt in rendered[name, "student", "inputs"]}
    held = [plain(prompt) for prompt in rendered[name, "student", "held"]]
    shown = set()
    for number, row in enumerate(pool or ()):
        try:
            shown.add(plain(prompts.render(recipe.contexts[name].student, name, Example(str(number), row), pool, "")))
        except UserError:
            continue  # an example that lacks the input's fields can't be an input
    return {
        "held-out inputs among the training inputs": sum(text in trained for text in held),
        "held-out inputs among the prompt's examples": sum(text in shown for text in held),
        "training inputs among the prompt's examples": len(trained & shown),
        "training inputs that occur twice": len(inputs_) - len(trained),
    }


def _about(name: str, sides: dict[tuple[str, str, str], Side], overlap: dict[str, int]) -> list[str]:
    teacher, student = sides[name, "teacher", "inputs"], sides[name, "student", "inputs"]
    held = len(sides[name, "teacher", "held"].prompts)
    mean_teacher, mean_student = (sum(side.lengths) / len(side.lengths) for side in (teacher, student))
    lines = [
        f"context {name}: {len(teacher.prompts)} inputs, {held} held out; teacher's prompt {mean_teacher:.0f} tokens (longest {max(teacher.lengths)}, "
        f"{teacher.prefix} shared by all), student's {mean_student:.0f} (longest {max(student.lengths)})"
    ]
    found = [f"{count} {what}" for what, count in overlap.items() if count]
    lines.append(f"  overlap: {'; '.join(found) if found else 'none'}")
    for side, which in ((teacher, "teacher"), (student, "student")):
        ends_blank = sum(isinstance(p.content, str) and p.content[-1:].isspace() for p in side.prompts)
        if ends_blank:
            lines.append(f"  note: {ends_blank} {which} prompts end in a blank; most tokenizers answer worse after one")
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
            raise UserError(f"a {config.model_type} model does not write text", where="model", fix="name a language model") from None


def _check_training(recipe: Recipe, skeleton: Any) -> None:
    """What the trainer and the adapter would refuse later."""
    adapter = recipe.train.adapter
    if not recipe.train.trainer and (adapter is None or adapter.targets == "all-linear"):
        return
    from unprompt import train

    train.arguments(recipe.train, Path("checkpoints"), recipe.seed)
    if adapter is not None:
        train.attach_adapter(copy.deepcopy(skeleton), recipe.train, recipe.seed)


def _estimate(recipe: Recipe, sides: dict[tuple[str, str, str], Side], weights: int) -> str:
    """Tokens, label storage and time, from the model's size and a short matrix product on this machine."""
    read, asked, taught = 0, 0, 0.0
    evaluated = 2 if recipe.evaluate else 0
    for (_, side, part), s in sides.items():
        own = s.prefix + sum(length - s.prefix for length in s.lengths) if s.lengths else 0
        if part == "inputs":
            read += own if side == "teacher" else 0
            asked += len(s.prompts) if side == "teacher" else 0
            taught += recipe.train.epochs * sum(s.lengths) if side == "student" else 0
        else:
            read += evaluated * own * (1 if side == "teacher" else 2)  # answers, and for the student's prompt their KL too
    new = asked * recipe.sampling.max_new_tokens
    taught += recipe.train.epochs * new
    size = _LABEL_BYTES[recipe.labels.kind] * (recipe.labels.k if recipe.labels.kind == "top_k" else 1) * new
    held = sum(len(s.prompts) for (_, _, part), s in sides.items() if part == "held")
    new_all = new + evaluated * held * recipe.sampling.max_new_tokens
    seconds = 2 * weights * (read + new_all + 3 * taught) / _speed(models.device(recipe.model), models.dtype(recipe.model))
    spent = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
    return (
        f"estimate: {weights / 1e6:.0f}M weights; {read:,} prompt tokens read (shared prefixes once), at most {new:,} answer tokens collected, "
        f"{taught:,.0f} trained on; labels at most {size / 1e6:.1f} MB; at most {spent} on this machine"
    )


def _speed(device: Any, dtype: Any) -> float:
    """Floating-point operations a second to count on: half of a matrix product's, measured in a fifth of a second."""
    import torch

    a = torch.ones(512, 1024, device=device, dtype=dtype)
    b = torch.ones(1024, 1024, device=device, dtype=dtype)
    (a @ b).sum().item()
    began, rounds = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        (a @ b).sum().item()
        rounds += 1
    return 0.5 * rounds * 2 * 512 * 1024 * 1024 / (time.perf_counter() - began)
