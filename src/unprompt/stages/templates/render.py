"""T: an input seen through a template, as text or chat messages, and then as token ids. Pure; no
model needed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jinja2
import jinja2.meta
import jinja2.nodes

from unprompt import recipe
from unprompt.messages import UserError
from unprompt.recipe import Template
from unprompt.records import Chat, Example, Message, Prompt
from unprompt.stages.templates import sandbox, turns
from unprompt.stages.templates.shared import PART, Shared

_JINJA = sandbox.Sandbox()
_NAMED = 8
"""Fields that a message names at most."""


@functools.lru_cache(maxsize=256)
def _compile(source: str) -> jinja2.Template:
    return _JINJA.from_string(source)


@functools.lru_cache(maxsize=256)
def _jinjas_own(source: str) -> frozenset[str]:
    """Words of a template that mean something of Jinja2's, whatever the data call so."""
    words = {text for _, kind, text in _JINJA.lex(source) if kind == "name"}
    return frozenset(words & {"true", "false", "none", "True", "False", "None", "self"})


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
    variables = _variables(example, examples, where)
    where = where if template.file is None else f"{where} ({template.file})"
    if template.text is not None:
        return Prompt(example.id, context, _rendered(template.text, variables, example, where))
    messages: list[Message] = []
    for number, message in enumerate(template.messages or (), 1):
        if message.turns is None:
            at = where if message.file is None else f"{where} ({message.file})"
            messages.append(_message(message, variables, example, at))
            continue
        found = _value(message.turns, variables, example, f"{where}.turns")
        said = turns.read(found, message.turns, example.id, f"{where}.turns")
        if number == len(template.messages or ()):
            _refuse_answered(said, message.turns, example, where)
        messages += said
    if not messages:
        what = f"the prompt of input '{example.id}' is empty"
        raise UserError(what, where=where, fix="give the template some text")
    tools = _tools(template, variables, example, where)
    return Prompt(example.id, context, Chat(tuple(messages), tools, template.chat_template).plain)


def _message(
    message: recipe.Message, variables: Mapping[str, Any], example: Example, where: str
) -> Message:
    """A message as the template writes it."""
    content: Any = message.content
    if isinstance(content, str):
        content = _rendered(content, variables, example, where)
    elif content is not None:
        content = [
            {**part, "text": _rendered(part["text"], variables, example, where)} for part in content
        ]
    more = {key: getattr(message, key) for key in turns.MORE}
    written = {"role": message.role, "content": content, **more}
    return turns.message(written, f"a message of input '{example.id}'", where)


def _tools(
    template: Template, variables: Mapping[str, Any], example: Example, where: str
) -> tuple[dict[str, Any], ...]:
    """What may be called: as the template lists it, or as the row holds it; a row may hold none."""
    found: Any = template.tools
    if isinstance(found, str):
        found = _value(found, variables, example, f"{where}.tools")
    return turns.tools(found, f"input '{example.id}'", f"{where}.tools")


def _variables(
    example: Example, examples: Sequence[dict[str, Any]] | None, where: str
) -> Mapping[str, Any]:
    """What a template may name: the fields, the few-shot pool, and, unless a field is called so,
    `input` for all fields, of which some may have names that are no words.
    """
    if examples is not None and "examples" in example.fields:
        raise UserError(
            f"input '{example.id}' has a field 'examples', and the context's few-shot examples are"
            " called so, too",
            where=where,
            fix="rename that field of the data",
        )
    pool = {} if examples is None else {"examples": examples}
    return {"input": example.fields, **example.fields, **pool}


def variables(template: Template) -> list[str]:
    """Fields of an input that a template names, in the order in which they stand there; `examples`
    is among them if it is named.
    """
    messages = template.messages or ()
    sources = [source for message in messages for source in _sources(message)]
    sources += [f"{{{{ {template.tools} }}}}"] if isinstance(template.tools, str) else []
    named: list[str] = []
    for source in [template.text] if template.text is not None else sources:
        tree = _JINJA.parse(source)
        fields = jinja2.meta.find_undeclared_variables(tree) - _JINJA.globals.keys()
        kinds = jinja2.nodes.Name, jinja2.nodes.Getitem, jinja2.nodes.Getattr
        for node in tree.find_all(kinds):
            if isinstance(node, jinja2.nodes.Name) and node.name in fields:
                named.append(node.name)
            elif isinstance(node, jinja2.nodes.Getitem) and _is_input(node.node):
                named += [node.arg.value] if isinstance(node.arg, jinja2.nodes.Const) else []
                fields -= {"input"}  # it is no field, but holds them
            elif isinstance(node, jinja2.nodes.Getattr) and _is_input(node.node):
                named += [] if hasattr(dict, node.attr) else [node.attr]
                fields -= {"input"}
    return list(dict.fromkeys(named))


def _sources(message: recipe.Message) -> list[str]:
    """The Jinja2 texts of a message."""
    if message.turns is not None:
        return [f"{{{{ {message.turns} }}}}"]
    content = message.content
    return [content] if isinstance(content, str) else [part["text"] for part in content or ()]


def _is_input(node: jinja2.nodes.Node) -> bool:
    return isinstance(node, jinja2.nodes.Name) and node.name == "input"


def value(expression: str, example: Example, where: str) -> Any:
    """What a field of the row holds, or a Jinja2 expression of its fields (`input.document`) gives.

    Raises:
        UserError: There is no such field, or the expression is none.
    """
    return _value(expression, _variables(example, None, where), example, where)


def _refuse_answered(
    said: Sequence[Message], expression: str, example: Example, where: str
) -> None:
    """Of the turns at a prompt's end."""
    if said and said[-1]["role"] == "assistant":
        raise UserError(
            f"the turns of input '{example.id}' end with the assistant's answer, behind which the"
            " model would go on",
            where=f"{where}.turns",
            fix=f"write turns: {expression}[:-1] (the answer may be the input's target)",
        )


def _value(expression: str, variables: Mapping[str, Any], example: Example, where: str) -> Any:
    with _explained(variables, example, where), _JINJA.limited():
        result = _expression(expression)(variables)
        if isinstance(result, jinja2.Undefined):
            str(result)  # a strict one says here what is undefined
        return result


def _rendered(source: str, variables: Mapping[str, Any], example: Example, where: str) -> str:
    with _explained(variables, example, where):
        if hidden := _jinjas_own(source) & example.fields.keys():
            name = min(hidden)
            raise UserError(
                f"input '{example.id}' has a field '{name}', which is a word of Jinja2's own",
                where=where,
                fix=f'write input["{name}"] for the field, or rename it',
            )
        return _JINJA.text(lambda: _compile(source), variables)


@contextlib.contextmanager
def _explained(variables: Mapping[str, Any], example: Example, where: str) -> Iterator[None]:
    """What a template raises, in one line."""
    fix = "mend the template"
    try:
        yield
        return
    except UserError:
        raise
    except jinja2.TemplateSyntaxError as error:
        what, where = f"not a Jinja2 template: {error.message}", f"{where}, line {error.lineno}"
        fix = f"mend the braces{_odd_names(example)}"
    except jinja2.UndefinedError as error:
        what = f"{error.message} in input '{example.id}'"
        names = sorted(variables.keys() - ({"input"} - example.fields.keys()))
        fix = f"the data has: {', '.join(names)}{_odd_names(example)}"
    except sandbox.NoText as error:
        what = f"{error} would stand in the prompt of input '{example.id}'"
        fix = "take another field, or write it as text into the data"
        if isinstance(error, sandbox.Null):
            nulls = [name for name, each in example.fields.items() if each is None]
            what += f" (null there: {', '.join(nulls)})" if nulls else ""
            fix = f'write {{{{ {nulls[0] if nulls else "field"} or "" }}}}, or leave such rows out'
    except MemoryError:
        what = f"takes too much memory on input '{example.id}'"
    except Exception as error:  # whatever the template's own expressions raise, and the sandbox
        what = f"failed on input '{example.id}': {type(error).__name__}: {error}"
    raise UserError(what, where=where, fix=fix)


def _odd_names(example: Example) -> str:
    """How fields are reached whose names can't stand in braces as they are."""
    odd = [name for name in example.fields if not name.isidentifier()]
    written = ", ".join(f'input["{name}"]' for name in odd[:_NAMED])
    return f" (names that are no words are written {written})" if odd else ""


def render_all(
    name: str,
    template: Template,
    side: str,
    inputs: Sequence[Example],
    examples: Sequence[Sequence[dict[str, Any]] | None],
    where: str | None = None,
) -> Shared:
    """Every input through the context's `teacher` or `student` template (`side`).

    Args:
        examples: What stands in each prompt of an ensemble as `examples`; one entry where there is
            one prompt.
        where: Key of a template that is not the context's.
    """
    where = where or f"contexts.{name}.{side}"

    def part(few: Sequence[Example]) -> list[Prompt]:
        members: list[list[Prompt]] = []
        for shown in examples:
            with sandbox.room():  # of one part: the prompts of a whole data set may be long
                members.append([render(template, name, each, shown, where) for each in few])
        return [
            replace(first, others=tuple(prompt.content for prompt in others))
            for first, *others in zip(*members, strict=True)
        ]

    return Shared(part(inputs[start : start + PART]) for start in range(0, len(inputs), PART))
