"""Hand-over: a round's transfer set as chat JSONL, and a validator of such files.

One line is `{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content":
...}]}`, with `tools` beside it where the prompt has some: what hosted fine-tuning APIs, TRL
(conversational language modelling), axolotl (`chat_template`) and LLaMA-Factory (`sharegpt` with
`messages`, `role`, `content`) read as it is. Arguments of calls are JSON text, as OpenAI has them.
Learning from text alone is what Shirgaonkar et al. 2024 do: no loss of ours is needed. Soft labels
and weights of lessons have no place in it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unprompt import recipe as recipe_
from unprompt.engines import chats as chats_, models
from unprompt.engines.tokens import Reader, encode
from unprompt.messages import UserError
from unprompt.metrics import calls
from unprompt.records import Lesson, Message, Messages, Prompt, like, spelled, text_of
from unprompt.stages.prompts import rendered, several
from unprompt.store.files import replacing
from unprompt.store.tables import read_lessons
from unprompt.tools.chat_lines import to_lines, validate
from unprompt.tools.finished import named_round, opened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# -- pure ------------------------------------------------------------------------------------------


def example(prompt: str | Messages, answer: str) -> Messages:
    """A student's prompt and its answer as a chat. An answer that the prompt begins (its last
    message is the assistant's) goes on there.
    """
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    said: Message = {"role": "assistant", "content": answer}
    before = prompt[:]
    if before[-1]["role"] == "assistant":
        said["content"] = text_of(before[-1]["content"]) + answer
        before = before[:-1]
    return like((*before, said), prompt)


def _with_calls(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, answer: str
) -> Messages:
    """As `example`, with what the answer calls apart from its text, where the chat template writes
    just that answer of it.
    """
    chat = example(prompt, answer)
    try:
        found = calls.calls_in(answer)
        if isinstance(prompt, str) or not found or len(chat) == len(prompt):
            return chat
        written = [
            {
                "id": f"call{n:05}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for n, call in enumerate(found, 1)
        ]
        said: Message = {"role": "assistant", "content": None, "tool_calls": written}
        if chats_.answer(tokenizer, prompt, said, "transfer") == answer.strip():
            return like((*prompt, said), prompt)
    except (ValueError, UserError):  # no call that can be read, or none that the template writes
        pass
    return chat


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
        chats.append(_with_calls(tokenizer, prompt.content, str(text)))
        weighted += lesson.loss_weight != 1 or bool((weights != 1).any())
    return Exported(chats, cut, weighted)


def summary(chats: Sequence[Messages], tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Counts of a file that is in order, in lines.

    Args:
        tokenizer: Counts tokens, by its chat template if it has one; without, only examples are
            counted.
    """
    answers: dict[str, Counter[str]] = {}
    for chat in chats:
        asked = json.dumps(chats_.sent(_asked(chat)), ensure_ascii=False)
        answers.setdefault(asked, Counter())[spelled(chat[-1])] += 1
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
    earlier = sum(any(message["role"] == "assistant" for message in chat[:-1]) for chat in chats)
    if earlier:
        lines.append(
            f"note: {earlier} examples have earlier answers in them; tell the trainer to learn only"
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


def _asked(chat: Messages) -> Messages:
    """All but the last answer."""
    return like(chat[:-1], chat)


def _tokens(chat: Messages, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Tokens of a chat, and of its last answer."""

    def of(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    asked, said = _asked(chat), chat[-1]
    if not tokenizer.chat_template:
        answer = of(spelled(said))
        return sum(of(spelled(message)) for message in asked) + answer, answer
    calls = said.get("tool_calls")
    answer = of(chats_.answer(tokenizer, asked, said, "messages") if calls else said["content"])
    return len(encode(tokenizer, asked, "messages")) + answer, answer


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
