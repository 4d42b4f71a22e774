"""Hand-over: a round's transfer set as chat JSONL, and a validator of such files.

One line is `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content":
...}]}`: what hosted fine-tuning APIs, TRL (conversational language modelling), axolotl
(`chat_template`) and LLaMA-Factory (`sharegpt` with `messages`, `role`, `content`) read as it is.
Learning from text alone is what Shirgaonkar et al. 2024 do: no loss of ours is needed. Soft labels
and weights of lessons have no place in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import recipe as recipe_
from unprompt.engines import models
from unprompt.engines.tokens import Reader, encode
from unprompt.messages import UserError
from unprompt.records import Lesson, Messages, Prompt
from unprompt.stages.prompts import rendered, several
from unprompt.store.files import replacing
from unprompt.store.tables import read_lessons
from unprompt.tools.finished import named_round, opened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLES = ("system", "developer", "user", "assistant", "tool")
_AHEAD = {
    "system": {None},
    "developer": {None},
    "user": {None, "system", "developer", "assistant"},
    "assistant": {"user", "tool"},
    "tool": {"assistant", "tool"},
}
"""Role -> roles that may stand right ahead of it; None: nothing does."""


# -- pure ------------------------------------------------------------------------------------------


def example(prompt: str | Messages, answer: str) -> Messages:
    """A student's prompt and its answer as a chat. An answer that the prompt begins (its last
    message is the assistant's) goes on there.
    """
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    if prompt[-1]["role"] == "assistant":
        return (*prompt[:-1], {"role": "assistant", "content": prompt[-1]["content"] + answer})
    return (*prompt, {"role": "assistant", "content": answer})


@dataclass(frozen=True)
class Exported:
    """Chats of a round's lessons.

    Attributes:
        chats: One for each lesson, in order.
        cut: Lessons left out, since `max_new_tokens` cut their answer: whoever trains on this file
            puts an end token behind every answer.
        weighted: Chats whose lesson has another weight than 1, which the file can't say.
    """

    chats: list[Messages]
    cut: int
    weighted: int


def export(
    lessons: Sequence[Lesson],
    asked: dict[tuple[str, str], Prompt],
    reader: Reader,
    *,
    end_token: bool,
) -> Exported:
    """Lessons as chats.

    Args:
        asked: (Context, example id, or that of one of its completions) -> the student's prompt.
        reader: The student's.
        end_token: Lessons of finished answers end with the end token (the round's
            `lessons.end_token`); one without was cut.

    Raises:
        UserError: A lesson that is not the student's prompt and one answer.
    """
    chats, cut, weighted, tokenizer = [], 0, 0, reader.tokenizer
    for lesson in lessons:
        prompt = asked.get((lesson.context, lesson.example_id))
        begins = encode(tokenizer, prompt.content, lesson.context) if prompt else None
        weights = lesson.weights[lesson.prompt_length :]
        if (
            prompt is None
            or begins != list(lesson.input_ids[: lesson.prompt_length])
            or not weights.all()
        ):
            raise UserError(
                f"the lesson of input '{lesson.example_id}' is not the student's prompt as it is"
                " now, and one answer",
                where=f"contexts.{lesson.context}",
                fix=(
                    "run the recipe again if its data have changed; lessons of several shots can't"
                    " be handed over"
                ),
            )
        ids = list(lesson.input_ids[lesson.prompt_length :])
        finished = ids[-1] in reader.ends
        if end_token and not finished:
            cut += 1
            continue
        text = tokenizer.decode(
            ids[:-1] if finished else ids,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        chats.append(example(prompt.content, str(text)))
        weighted += lesson.loss_weight != 1 or bool((weights != 1).any())
    return Exported(chats, cut, weighted)


def to_lines(chats: Iterable[Messages]) -> str:
    """JSONL."""
    return "".join(
        json.dumps({"messages": list(chat)}, ensure_ascii=False) + "\n" for chat in chats
    )


def validate(text: str, where: str) -> list[Messages]:
    """The chats of a JSONL text.

    Args:
        where: The file's name, for messages.

    Raises:
        UserError: The first line that is not a chat that ends with an answer, by number.
    """
    if not text.strip():
        raise UserError("there is no example in it", where=where, fix="give at least one")
    return [
        _chat(line, f"{where}:{number}")
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1)
    ]


def _chat(line: str, where: str) -> Messages:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        said = getattr(error, "msg", "nested too deeply, or a number of too many digits")
        raise UserError(
            f"not JSON: {said}", where=where, fix='write one {"messages": [...]} a line'
        ) from None
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("messages"), list)
        or not row["messages"]
    ):
        raise UserError(
            "there is no list 'messages'", where=where, fix='write one {"messages": [...]} a line'
        )
    strange = sorted(row.keys() - {"messages"})
    if strange:
        raise UserError(
            f"unknown key '{strange[0]}'",
            where=where,
            fix="leave only messages: hosted services refuse other keys",
        )
    before: str | None = None
    for number, message in enumerate(row["messages"], 1):
        before = _message(message, before, f"message {number}", where)
    if before != "assistant":
        raise UserError(
            f"the last message is the {before}'s",
            where=where,
            fix="end with the assistant's answer",
        )
    return tuple(row["messages"])


def _message(message: Any, before: str | None, which: str, where: str) -> str:
    """The role of a message that is in order."""
    if not isinstance(message, dict) or message.keys() != {"role", "content"}:
        raise UserError(
            f"{which} has not just role and content",
            where=where,
            fix='write {"role": ..., "content": ...}',
        )
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise UserError(
            f"{which} has the unknown role {role!r}",
            where=where,
            fix=f"use one of {', '.join(ROLES)}",
        )
    if not isinstance(content, str):
        raise UserError(
            f"the content of {which} is not text",
            where=where,
            fix="write it as one string; images and parts are not for text models",
        )
    if role != "tool" and not content.strip():
        raise UserError(
            f"the content of {which} ({role}) is empty",
            where=where,
            fix="give it some text, or leave that example out",
        )
    try:
        content.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"the content of {which} holds half a character",
            where=where,
            fix="mend the text: it was cut inside an emoji",
        ) from None
    if before not in _AHEAD[role]:
        ahead = f"behind {before}" if before else "first"
        raise UserError(
            f"{which} is the {role}'s and stands {ahead}",
            where=where,
            fix="begin with system (or none), then let user and assistant take turns",
        )
    return role


def summary(chats: Sequence[Messages], tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Counts of a file that is in order, in lines.

    Args:
        tokenizer: Counts tokens, by its chat template if it has one; without, only examples are
            counted.
    """
    answers: dict[str, Counter[str]] = {}
    for chat in chats:
        answers.setdefault(json.dumps(chat[:-1], ensure_ascii=False), Counter())[
            chat[-1]["content"]
        ] += 1
    several = [found for found in answers.values() if len(found) > 1]
    lines = [f"{len(chats)} examples, {len(answers)} different prompts"]
    if several:
        lines.append(
            f"note: {len(several)} prompts have several different answers"
            f" ({sum(found.total() for found in several)} examples)"
        )
    twice = len(chats) - sum(len(found) for found in answers.values())
    if twice:
        lines.append(f"note: {twice} examples are there already, prompt and answer")
    turns = sum(any(message["role"] == "assistant" for message in chat[:-1]) for chat in chats)
    if turns:
        lines.append(
            f"note: {turns} examples have earlier answers in them; tell the trainer to learn only"
            " the last one"
        )
    if tokenizer is not None:
        sizes = [_tokens(chat, tokenizer) for chat in chats]
        longest = max(range(len(chats)), key=lambda n: sizes[n][0])
        asked, said = (
            sum(whole - answer for whole, answer in sizes),
            sum(answer for _, answer in sizes),
        )
        lines.append(
            f"tokens: {asked + said:,} ({asked:,} in prompts, {said:,} in answers); longest"
            f" example: {sizes[longest][0]} in line {longest + 1}"
        )
    return lines


def _tokens(chat: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Tokens of a chat, and of its last answer."""

    def of(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    answer = of(chat[-1]["content"])
    if not tokenizer.chat_template:
        return sum(of(message["content"]) for message in chat[:-1]) + answer, answer
    return len(encode(tokenizer, chat[:-1], "messages")) + answer, answer


# -- files -----------------------------------------------------------------------------------------


def hand_over(folder: Path, round_: str | None, out: Path | None) -> list[str]:
    """Write a round's transfer set as chat JSONL.

    Args:
        folder: A run's folder.
        round_: A round's name; the last one unless given.
        out: The file; `transfer.jsonl` beside the round's lessons unless given.

    Returns:
        Lines for the terminal.

    Raises:
        UserError: No run, no such round, no lessons of it yet, or lessons that chats can't hold.
    """
    if out and out.exists():
        raise UserError(
            "there is a file of this name already",
            where=str(out),
            fix="choose another name with --out",
        )
    files, recipe = opened(folder)
    name = named_round(recipe, round_)
    source = files.round(name).proven("lessons.parquet")
    if not source.is_file():
        raise UserError(
            f"round '{name}' has no lessons yet",
            where=str(folder),
            fix="run the recipe to its end first",
        )
    target = out or source.with_name("transfer.jsonl")
    prompts = rendered(recipe)
    reader = prompts.readers.student
    asked = {
        (context, prompt.example_id): prompt
        for context, side in prompts.student.items()
        for prompt in several(side.prompts, recipe.per_input(context))
    }
    found = export(
        read_lessons(source),
        asked,
        reader,
        end_token=recipe.plan[name].lessons.end_token,
    )
    if not found.chats:
        raise UserError(
            f"all {found.cut} answers were cut at max_new_tokens",
            where=str(folder),
            fix="raise sampling.max_new_tokens and run again",
        )
    text = to_lines(found.chats)
    validate(text, target.name)
    with replacing(target) as partial:
        partial.write_text(text, "utf-8")
    return [*summary(found.chats, reader.tokenizer), *_left(found), f"written: {target}"]


def _left(found: Exported) -> Iterator[str]:
    """What the file does not hold."""
    if found.cut:
        yield (
            f"note: {found.cut} lessons are left out: max_new_tokens cut their answers, and every"
            " trainer would teach to stop there"
        )
    if found.weighted:
        yield (
            f"note: the weights of {found.weighted} lessons are not in the file: it has no place"
            " for them"
        )


def check_file(path: Path, model: str | None) -> list[str]:
    """Validate a chat JSONL file.

    Args:
        model: Hub id, folder or GGUF file whose tokenizer counts; only examples are counted unless
            given.

    Returns:
        Lines for the terminal.

    Raises:
        UserError: What is wrong first, with its line.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            "there is no such file", where=str(path), fix="give the path of a JSONL file"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text ({error.reason})", where=str(path), fix=f"save {path.name} as UTF-8"
        ) from None
    chats = validate(text, str(path))
    weights = (
        recipe_.Model.model_validate(
            {"gguf": model} if model and model.endswith(".gguf") else model
        )
        if model
        else None
    )
    return [
        *summary(chats, models.load_tokenizer(weights, "--model") if weights else None),
        f"{path} is in order",
    ]
