"""What `check` says of the models: who answers, how prompts begin, how answers begin and end."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from unprompt.engines import models, variables, vocabulary
from unprompt.engines.tokens import (
    Reader,
    adds_start,
    behind_answer,
    decoded,
    default_system,
    open_thought,
    writes_date,
)
from unprompt.recipe import Model, Recipe, Server
from unprompt.stages.prompts import Prompts, Side

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NAMED = 6
"""End tokens that are named at most."""
_FIRST = 4
"""Tokens of a prompt that are shown."""
_SHOWN = 60
"""Letters of a default system message that are shown."""


def of_models(recipe: Recipe, prompts: Prompts) -> Iterator[str]:
    """Lines on who answers, and how labels come from teacher to student."""
    readers = prompts.readers
    reads = {
        "model": readers.student,
        "teacher_model": readers.teacher,
        "judge.model": readers.judge,
        **{where: readers.writer for where, _ in [recipe.writer or ("", None)] if where},
    }
    chats = any(
        template and template.messages
        for context in recipe.contexts.values()
        for template in (context.teacher, context.student)
    )
    embeddings = {}
    for where, model in recipe.models.items():
        role, reader = "teacher" if where == "teacher_model" else where, reads[where]
        assert reader
        if model.server:
            yield from _of_server(role, model.server)
        else:
            assert reader.embeddings is not None
            kind, embeddings[role] = models.load_config(model, where).model_type, reader.embeddings
            yield _of_model(role, model, kind, reader, reader.embeddings)
            yield from _without_embeddings(reader, reader.embeddings)
            if chats and role in ("model", "teacher"):
                yield from _of_chats(role, model, reader, _opened(recipe, prompts, where))
                if _lacks_system(recipe, where):
                    yield from _of_default_system(role, reader.tokenizer)
        if role == "teacher" and readers.pair:
            yield from vocabulary.describe(
                readers.pair,
                embeddings.get("teacher", 0),
                embeddings["model"] if not model.server else 0,
            )


def _of_server(role: str, server: Server) -> Iterator[str]:
    read = (
        "its own tokenizer"
        if server.tokenizer
        else "no tokenizer: lengths are estimates by the student's"
    )
    yield f"{role}: {server.model} at {server.url} ({server.api}), {read}"
    if (
        server.api_key_env
        and server.url.startswith("http://")
        and "//localhost" not in server.url
        and "//127.0.0.1" not in server.url
    ):
        yield f"  note: the key goes to {server.url} unencrypted"


def _of_model(role: str, model: Model, kind: str, reader: Reader, embeddings: int) -> str:
    tokenizer = reader.tokenizer
    padded = f", padded to {embeddings}" if embeddings > len(tokenizer) else ""
    template = "chat template" if tokenizer.chat_template else "no chat template"
    return (
        f"{role}: {model.gguf or model.name or model.rule} ({kind}), window"
        f" {reader.window or 'unlimited'}, vocabulary {len(tokenizer)}{padded},"
        f" {_start(tokenizer)}, {_ends(tokenizer, reader.ends)}, {template}"
    )


def _without_embeddings(reader: Reader, embeddings: int) -> Iterator[str]:
    """Tokens that the model can't read (`<image_soft_token>` of a model without pictures)."""
    vocabulary_ = reader.tokenizer.get_vocab().items()
    beyond = sorted((id_, token) for token, id_ in vocabulary_ if id_ >= embeddings)
    if beyond:
        named = ", ".join(f"{token!r} ({id_})" for id_, token in beyond[:_NAMED])
        more = f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
        yield (
            f"  note: the model has no embeddings for {named}{more}: a prompt with one of them is"
            " refused, an answer left out"
        )


def _start(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that plain text gets ahead."""
    start = tokenizer.bos_token_id
    given = start is not None and adds_start(tokenizer)
    return f"start token {tokenizer.bos_token!r} ({start})" if given else "no start token"


def _ends(tokenizer: PreTrainedTokenizerBase, ends: Set[int]) -> str:
    """The tokens that end an answer, the tokenizer's own first."""
    own = tokenizer.eos_token_id
    ids = sorted(ends, key=lambda id_: (id_ != own, id_))
    named = ", ".join(f"{tokenizer.convert_ids_to_tokens(id_)!r} ({id_})" for id_ in ids[:_NAMED])
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"end token{'s' if len(ids) > 1 else ''} {named}{more}"


def _opened(recipe: Recipe, prompts: Prompts, where: str) -> str:
    """A thought that prompts of this model open ahead of what is learned; empty: none do."""
    sides = [prompts.student, prompts.held_student] if where == "model" else []
    found = [side.opened for of in sides for side in of.values()]
    if where == "teacher_model" or recipe.teacher_model is None:
        found += [
            side.opened
            for of in (prompts.teacher, prompts.held_teacher, prompts.hint)
            for name, side in of.items()
            if recipe.contexts[name].extract.keep != "answer"
        ]
    return next(filter(None, found), "")


def _of_chats(role: str, model: Model, reader: Reader, thought: str) -> Iterator[str]:
    """What a chat template does that a user may not have meant."""
    tokenizer = reader.tokenizer
    behind = behind_answer(tokenizer)
    if behind and behind[0] not in reader.ends:  # it is text: answers would run on
        closing = tokenizer.convert_ids_to_tokens(behind[0])
        stops = tokenizer.convert_ids_to_tokens(sorted(reader.ends))
        yield (
            f"  note: {role}'s chat template ends an answer with {closing!r}, but the model stops"
            f" at {stops}: set its eos_token to {closing!r}"
        )
    if thought:
        mend = (
            f"let extract keep the thought and its end, or use a template that opens no {thought}"
        )
        if "enable_thinking" in str(tokenizer.chat_template) and not open_thought(
            tokenizer, enable_thinking=False
        ):
            mend = "write chat_template: {enable_thinking: false} beside the model's name"
        yield (
            f"  note: {role}'s chat template opens a thought ({thought}) ahead of the answer: what"
            " the student learns stands inside it, and a server that takes thoughts out returns an"
            f" empty answer; {mend}"
        )
    if writes_date(tokenizer) and "date_string" not in model.chat_template:
        day, pin = model.date or "today's", ""
        if "date_string" in variables.of(tokenizer):
            pin = ", chat_template: {date_string: ...} any text"
        yield (
            f"  note: {role}'s chat template writes the date: a run keeps that of its first day"
            f" ({day}); `date` beside the model's name sets another{pin}"
        )


def _lacks_system(recipe: Recipe, where: str) -> bool:
    """Whether some chat that this model reads has no system message."""
    teaches = where == "teacher_model" or recipe.teacher_model is None
    return any(
        template
        and template.messages
        and all(message.role not in ("system", "developer", None) for message in template.messages)
        for context in recipe.contexts.values()
        for template in (
            context.student if where == "model" else None,
            context.teacher if teaches else None,
        )
    )


def _of_default_system(role: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """What the chat template writes in the place of a system message that isn't there."""
    if text := default_system(tokenizer):
        count = len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        shown = " ".join(text.split())[:_SHOWN]
        yield (
            f"  note: {role}'s chat template writes a system message of its own where a prompt has"
            f" none, {count} tokens: '{shown}'; a system message of yours takes its place"
        )


def of_beginnings(sides: dict[str, tuple[Reader, Side | None]]) -> Iterator[str]:
    """How prompts begin, in tokens.

    Args:
        sides: `teacher` and `student` -> who reads the prompts, and they.
    """
    shown, notes = [], []
    for which, (reader, side) in sides.items():
        if side is None or (reader.server and not reader.server.tokenizer):
            continue
        tokenizer = reader.tokenizer
        ids = reader.encode(side.prompts[0].content, which)[:_FIRST]
        shown.append(f"{which} {' '.join(repr(decoded(tokenizer, [id_])) for id_ in ids)}")
        if ids[:2] == [tokenizer.bos_token_id] * 2:
            notes.append(f"  note: {which} prompts begin with the start token twice")
        texts, start = [prompt.content for prompt in side.prompts], str(tokenizer.bos_token)
        own = sum(isinstance(text, str) and text.startswith(start) for text in texts)
        if own and adds_start(tokenizer):
            how = "the server may add another" if reader.server else "no other is added"
            notes.append(f"  note: {own} {which} prompts begin with {start!r} themselves: {how}")
    if shown:
        yield f"  first tokens: {'; '.join(shown)}"
    yield from notes
