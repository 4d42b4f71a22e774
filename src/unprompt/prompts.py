"""T: an input seen through a template, as text or chat messages, and then as token ids. Pure; no
model needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import jinja2.meta
import jinja2.nodes

from unprompt import sandbox
from unprompt.errors import UserError
from unprompt.recipe import Server, Template
from unprompt.records import Example, Messages, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JINJA = sandbox.Sandbox()


@functools.lru_cache(maxsize=256)
def _compile(source: str) -> jinja2.Template:
    return _JINJA.from_string(source)


@functools.lru_cache(maxsize=64)
def _expression(source: str) -> Any:
    return _JINJA.compile_expression(source, undefined_to_none=False)


def render(
    template: Template,
    context: str,
    example: Example,
    examples: Sequence[dict[str, Any]] | None,
    where: str,
) -> Prompt:
    """T(x).

    Args:
        template: The recipe's template.
        context: Name of the context, carried along.
        example: The input; its fields are the template's variables.
        examples: The few-shot pool, as `examples`; None if the context has none, and a template
            that names it then fails.
        where: The template's key in the recipe, for messages.

    Raises:
        UserError: The template is not Jinja2, names a field the input lacks, or fails while
            rendering.
    """
    variables = example.fields if examples is None else {"examples": examples, **example.fields}
    if template.text is not None:
        return Prompt(example.id, context, _rendered(template.text, variables, example, where))
    messages: list[dict[str, str]] = []
    for m in template.messages or ():
        if m.turns is not None:
            messages += _turns(m.turns, variables, example, where)
        else:
            assert m.role is not None
            assert m.content is not None
            messages.append(
                {"role": m.role, "content": _rendered(m.content, variables, example, where)}
            )
    if not messages:
        raise UserError(
            f"the prompt of input '{example.id}' is empty",
            where=where,
            fix="give the template some text",
        )
    return Prompt(example.id, context, tuple(messages))


def variables(template: Template) -> list[str]:
    """Fields of an input that a template names, in the order in which they stand there; `examples`
    is among them if it is named.
    """
    found: dict[str, None] = {}
    for source in (
        [template.text]
        if template.text is not None
        else [m.content or f"{{{{ {m.turns} }}}}" for m in template.messages or ()]
    ):
        tree = _JINJA.parse(source)
        names = jinja2.meta.find_undeclared_variables(tree) - _JINJA.globals.keys()
        found |= dict.fromkeys(
            node.name for node in tree.find_all(jinja2.nodes.Name) if node.name in names
        )
    return list(found)


def value(expression: str, example: Example, where: str) -> Any:
    """What a field of the row holds, or a Jinja2 expression of its fields (`input.document`) gives.

    Raises:
        UserError: There is no such field, or the expression is none.
    """
    return _value(expression, example.fields, example, where)


def _turns(
    expression: str, variables: Mapping[str, Any], example: Example, where: str
) -> list[dict[str, str]]:
    found = _value(expression, variables, example, f"{where}.turns")
    if not isinstance(found, (list, tuple)):
        raise _no_turns(expression, example, where, f"it is {type(found).__name__}")
    for number, turn in enumerate(found, 1):
        if not (
            isinstance(turn, dict)
            and isinstance(turn.get("role"), str)
            and isinstance(turn.get("content"), str)
        ):
            raise _no_turns(expression, example, where, f"turn {number} is {str(turn)[:40]!r}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in found]


def _no_turns(expression: str, example: Example, where: str, why: str) -> UserError:
    return UserError(
        f"'{expression}' of input '{example.id}' is no list of turns: {why}",
        where=f"{where}.turns",
        fix='write [{"role": "user", "content": "..."}, ...], or [] where there are none',
    )


def _value(expression: str, variables: Mapping[str, Any], example: Example, where: str) -> Any:
    def get() -> Any:
        with _JINJA.limited():
            found = _expression(expression)(variables)
            if isinstance(found, jinja2.Undefined):
                str(found)  # a strict one says here what is undefined
            return found

    return _said(get, variables, example, where)


def _rendered(source: str, variables: Mapping[str, Any], example: Example, where: str) -> str:
    return _said(
        lambda: _JINJA.text(lambda: _compile(source), variables), variables, example, where
    )


def _said(
    get: Callable[[], Any], variables: Mapping[str, Any], example: Example, where: str
) -> Any:
    try:
        return get()
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"not a Jinja2 template: {error.message}",
            where=f"{where}, line {error.lineno}",
            fix="mend the braces",
        ) from None
    except jinja2.UndefinedError as error:
        names = ", ".join(sorted(variables))
        raise UserError(
            f"{error.message} in input '{example.id}'", where=where, fix=f"the data has: {names}"
        ) from None
    except MemoryError:
        raise UserError(
            f"takes too much memory on input '{example.id}'", where=where, fix="mend the template"
        ) from None
    except (
        Exception
    ) as error:  # whatever the template's own expressions raise, a refusal of the sandbox among it
        raise UserError(
            f"failed on input '{example.id}': {type(error).__name__}: {error}",
            where=where,
            fix="mend the template",
        ) from None


def render_all(
    name: str,
    template: Template,
    side: str,
    inputs: Sequence[Example],
    examples: Sequence[Sequence[dict[str, Any]] | None],
    where: str | None = None,
) -> list[Prompt]:
    """Every input through the context's `teacher` or `student` template (`side`).

    Args:
        examples: What stands in each prompt of an ensemble as `examples`; one entry where there is
            one prompt.
        where: Key of a template that is not the context's.
    """
    where = where or f"contexts.{name}.{side}"
    with sandbox.room():
        members = [
            [render(template, name, example, shown, where) for example in inputs]
            for shown in examples
        ]
    return [
        replace(first, others=tuple(prompt.content for prompt in others))
        for first, *others in zip(*members, strict=True)
    ]


def sample_ids(id_: str, count: int) -> list[str]:
    """Ids of an input's completions: the input's own, then `id/2`, `id/3`, ..."""
    return [id_, *(f"{id_}/{number}" for number in range(2, count + 1))]


def several(asked: Sequence[Prompt], count: int) -> list[Prompt]:
    """Each prompt `count` times, under the ids of the input's completions."""
    return [
        replace(prompt, example_id=id_)
        for prompt in asked
        for id_ in sample_ids(prompt.example_id, count)
    ]


def encode(
    tokenizer: PreTrainedTokenizerBase, content: str | Messages, where: str = "template"
) -> list[int]:
    """Token ids of a rendered prompt.

    Plain text gets the tokenizer's own special tokens (a BOS where the model has one). Chat
    messages go through the model's chat template with its generation prompt; a last message in the
    role `assistant` is continued instead.

    Raises:
        UserError: The tokenizer has no chat template, or the template refuses the roles.
    """
    if isinstance(content, str):
        return list(tokenizer(content, verbose=False).input_ids)
    if not tokenizer.chat_template:
        raise UserError(
            "this model has no chat template",
            where=where,
            fix="write the prompt as plain text, or use a chat model",
        )
    going_on = content[-1]["role"] == "assistant"
    try:
        text = tokenizer.apply_chat_template(
            [dict(message) for message in content],
            tokenize=False,
            add_generation_prompt=not going_on,
            continue_final_message=going_on,
        )
    except (jinja2.TemplateError, ValueError) as error:
        raise UserError(
            f"the model's chat template refuses it: {error}",
            where=where,
            fix="use the roles it knows",
        ) from None
    assert isinstance(text, str)
    return list(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of the longest common prefix of all sequences, at least one token short of the
    shortest.
    """
    if not sequences:
        return 0
    low, high = (
        min(sequences),
        max(sequences),
    )  # the common prefix of all is that of the lexicographic extremes
    limit = min(map(len, sequences)) - 1
    shared = next(
        (n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b),
        min(len(low), len(high)),
    )
    return max(0, min(shared, limit))


def plain(prompt: Prompt) -> str:
    """A prompt for telling whether two are the same: letter case and blanks aside."""
    return " ".join(as_text(prompt.content).casefold().split())


def as_text(content: str | Messages) -> str:
    """A prompt for people to read."""
    return (
        content
        if isinstance(content, str)
        else "\n".join(f"[{m['role']}] {m['content']}" for m in content)
    )


class Reader(NamedTuple):
    """Who reads prompts, and how much fits: `window` in tokens, None without a limit. The tokenizer
    of a `server` that names none is the student's, and lengths are then estimates.
    """

    tokenizer: PreTrainedTokenizerBase
    encoder_decoder: bool
    window: int | None
    server: Server | None = None

    @property
    def chat(self) -> bool:
        """Whether it takes messages."""
        return (
            bool(self.tokenizer.chat_template) if self.server is None else self.server.api == "chat"
        )

    def encode(self, content: str | Messages, where: str) -> list[int]:
        """A prompt's token ids, or, where the tokenizer is not the reader's own, as many as it may
        have.
        """
        if self.server and not self.server.tokenizer:
            return list(self.tokenizer(as_text(content), verbose=False).input_ids)
        return encode(self.tokenizer, content, where)


@dataclass(frozen=True)
class Side:
    """Rendered prompts of one template over one data set, with their lengths in tokens and the
    prefix that all share (of an ensemble: each rendering's prefix; the length is of all
    renderings).
    """

    prompts: list[Prompt]
    lengths: list[int]
    prefix: tuple[int, ...]

    def only(self, places: Sequence[int], count: int = 1) -> Side:
        """Some of the prompts, each `count` times (under the ids of an input's completions)."""
        lengths = [self.lengths[n] for n in places for _ in range(count)]
        return Side(several([self.prompts[n] for n in places], count), lengths, self.prefix)
