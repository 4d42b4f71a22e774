"""T: an input seen through a template, as text or chat messages, and then as token ids. Pure; no
model needed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.meta
import jinja2.nodes

from unprompt.messages import UserError
from unprompt.recipe import Template
from unprompt.records import Example, Prompt
from unprompt.stages.templates import sandbox

if TYPE_CHECKING:
    pass

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
