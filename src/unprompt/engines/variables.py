"""Variables of a chat template (`enable_thinking`, `date_string`): which it reads, and their values
as defaults in the template itself.

A default in the template holds wherever the template goes: in a student's folder, in a server that
takes its template from there. What one side's prompts set on top is given when they are rendered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.meta
import jinja2.nodes

from unprompt.messages import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OURS = {
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "strftime_now",
    "raise_exception",
}
"""What a chat template is given anyway."""
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""Tags of transformers that mark answers, and are nothing to Jinja2."""
_NAMED = 12


def of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Variables that the chat template reads ahead of setting them: those that a recipe may set."""
    named = _OURS | set(tokenizer.special_tokens_map)
    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    found = set[str]()
    for source in _sources(tokenizer.chat_template):
        try:
            tree = environment.parse(_GENERATION.sub("", source))
        except jinja2.TemplateSyntaxError:  # the first rendering says so
            continue
        first = dict[str, str]()  # name -> whether it is read or set where it first stands
        for name in _names(tree):
            first.setdefault(name.name, name.ctx)
        undeclared = jinja2.meta.find_undeclared_variables(tree)  # some are set in a branch only
        found |= {name for name in undeclared if first[name] == "load"}
    return sorted(found - named - environment.globals.keys())


def _names(node: jinja2.nodes.Node) -> Iterator[jinja2.nodes.Name]:
    """Names in the order in which they are read and set."""
    children = list(node.iter_child_nodes())
    if isinstance(node, jinja2.nodes.Assign):
        children.reverse()  # what is assigned is read first
    for child in children:
        if isinstance(child, jinja2.nodes.Name):
            yield child
        yield from _names(child)


def _sources(template: Any) -> Iterable[str]:
    """The chat template, or each of several."""
    return template.values() if isinstance(template, dict) else [template] if template else []


def refuse(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any], where: str) -> None:
    """Of values for variables.

    Raises:
        UserError: There is no chat template, or it doesn't read one of them.
    """
    if not given:
        return
    if not tokenizer.chat_template:
        fix = "leave them out, or use a chat model"
        raise UserError("this model has no chat template", where=where, fix=fix)
    reads = of(tokenizer)
    for name in given:
        if name not in reads:
            raise UserError(
                f"the chat template has no variable '{name}'",
                where=where,
                fix=f"it reads {', '.join(reads[:_NAMED])}" if reads else "it reads none",
            )


def with_defaults(tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any]) -> Any:
    """The chat template, or each of several, with these values where nobody gives others."""
    ahead = "".join(
        f"{{%- if {name} is not defined -%}}{{%- set {name} = {value!r} -%}}{{%- endif -%}}"
        for name, value in given.items()
    )
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        return {name: ahead + source for name, source in template.items()}
    return ahead + template
