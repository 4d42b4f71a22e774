"""Does the answer call the tools that it should?

Read are the syntaxes that models write their calls in: `<tool_call>{...}</tool_call>` (Hermes,
Qwen), within it tags for each argument (GLM, Qwen3-Coder: a value that reads as JSON is that, else
a text), JSON alone (Llama 3), `[TOOL_CALLS]` with a list or with `name[ARGS]{...}` (Mistral),
DeepSeek's, JSON in a fence of backticks, and Python, `[name(key=value)]` (Llama 4, and fences of
Gemma). Text beside calls that are marked off is no matter; calls that nothing marks off have to be
the whole answer.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from unprompt.metrics.json_answers import equal, loads
from unprompt.metrics.metric import Metric
from unprompt.records import Example


class Call(NamedTuple):
    """A function's name and its arguments."""

    name: str
    arguments: Any


class Broken(ValueError):
    """What begins as a call and is none."""


_MARKED = (
    re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL),
    re.compile(r"```(?:tool_calls?|tool_code|json|python)\s*\n(.*?)(?:```|\Z)", re.DOTALL),
)
_LISTED = re.compile(r"\[TOOL_CALLS\]\s*(\[.*|\{.*)", re.DOTALL)
_NAMED = re.compile(r"\[TOOL_CALLS\]\s*([\w.-]+)\s*(?:\[CALL_ID\]\w*)?\[ARGS\]\s*")
_DEEPSEEK = re.compile(r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?([\w.-]+)\s*")
_AHEAD = re.compile(r"(?:<｜tool▁sep｜>|```json|\s)*")
_GLM = (
    re.compile(r"([\w.-]+)\s*(?=<arg_key>|\Z)"),
    re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL),
)
_QWEN3 = (
    re.compile(r"<function=([\w.-]+)>\s*"),
    re.compile(r"<parameter=([^>]+)>\n?(.*?)\n?</parameter>", re.DOTALL),
)
"""How tags name the function, and each argument with its value."""
_TAG = "<|python_tag|>"
_WORDS = {"true": True, "false": False, "null": None}


def calls_in(text: str) -> list[Call]:
    """The calls of an answer, in order; none where it calls nothing.

    Raises:
        Broken: It begins a call, and what stands there is none.

    >>> calls_in('I look. <tool_call>{"name": "look", "arguments": {"at": "Oslo"}}</tool_call>')
    [Call(name='look', arguments={'at': 'Oslo'})]
    >>> calls_in('[look(at="Oslo")]')
    [Call(name='look', arguments={'at': 'Oslo'})]
    >>> calls_in("Nothing to look at.")
    []
    """
    if found := list(_NAMED.finditer(text)):
        return [Call(each[1], _object(text[each.end() :])) for each in found]
    if found := list(_DEEPSEEK.finditer(text)):
        rests = [_AHEAD.sub("", text[each.end() :], count=1) for each in found]
        return [Call(each[1], _object(rest)) for each, rest in zip(found, rests, strict=True)]
    if listed := _LISTED.search(text):
        return list(_of_json(listed[1], whole=False))
    if found := list(_MARKED[0].finditer(text)):
        return [call for each in found for call in _of_tags(each[1]) or _of_either(each[1])]
    if found := list(_MARKED[1].finditer(text)):
        return [call for each in found for call in _unmarked(each[1])]
    return _unmarked(text.replace(_TAG, ""))


def _unmarked(text: str) -> list[Call]:
    """Calls that are all of a text."""
    try:
        return _of_either(text)
    except Broken:
        return []


def _of_either(text: str) -> list[Call]:
    text = text.strip()
    return list(_of_json(text) if re.match(r"\{|\[\s*[\]{]", text) else _of_python(text))


def _of_tags(text: str) -> list[Call]:
    """The call of a text that has a tag for each argument; none, if it has none."""
    for name, argument in (_GLM, _QWEN3):
        if begun := name.match(text.strip()):
            return [Call(begun[1], {k: _read(v) for k, v in argument.findall(text)})]
    return []


def _read(value: str) -> Any:
    try:
        return loads(value)
    except ValueError:
        return value


def _object(text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        raise Broken(text[:40]) from None


def _of_json(text: str, *, whole: bool = True) -> Iterator[Call]:
    """Calls as JSON: objects or lists of them, one behind the other.

    Args:
        whole: Nothing else may stand behind them.
    """
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            if at and not whole:
                return
            raise Broken(text[:40]) from None
        yield from (_call(each) for each in (value if isinstance(value, list) else [value]))
        at = end + len(text[end:]) - len(text[end:].lstrip(" \t\r\n;,"))


def _call(value: Any) -> Call:
    """A call as OpenAI, Llama or Hermes has it."""
    function = value.get("function", value) if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else function
    of = function if isinstance(function, dict) else value
    if not isinstance(name, str) or not isinstance(of, dict):
        raise Broken(str(value)[:40])
    key = next((key for key in ("arguments", "parameters") if key in of), None)
    arguments = of[key] if key else {}
    if isinstance(arguments, str):
        arguments = loads(arguments or "{}")
    if not isinstance(arguments, dict | None) or (key is None and len(of) > 1 and of is value):
        raise Broken(str(value)[:40])
    return Call(name, arguments or {})


def _of_python(text: str) -> Iterator[Call]:
    try:
        with warnings.catch_warnings():  # of what a model wrote, to nobody's use
            warnings.simplefilter("ignore")
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Broken(text[:40]) from None
    for node in tree.elts if isinstance(tree, ast.List) else [tree]:
        if not isinstance(node, ast.Call) or node.args:
            raise Broken(text[:40])
        yield Call(ast.unparse(node.func), {str(k.arg): _literal(k.value) for k in node.keywords})


def _literal(node: ast.expr) -> Any:
    """A value as JSON has it, or as Python does."""
    if isinstance(node, ast.Name) and node.id in _WORDS:
        return _WORDS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(each) for each in node.elts]
    try:
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            return {_literal(k): _literal(v) for k, v in pairs if k}
        return ast.literal_eval(node)
    except (ValueError, TypeError):  # a list as a key is a TypeError
        raise Broken(ast.unparse(node)[:40]) from None


def gold(example: Example) -> list[Call]:
    """The calls that an example wants: a list of them, OpenAI's, or the JSON text of one; none of
    an empty list.

    Raises:
        ValueError: It is something else.
    """
    target = example.target
    if isinstance(target, str):
        target = loads(target)
    if isinstance(target, dict):
        target = target.get("tool_calls", [target])
    if not isinstance(target, list | tuple):
        raise ValueError(f"it is no list of calls: {str(example.target)[:40]!r}")
    return [_call(each) for each in target]


def _compared(part: Callable[[Call], Any]) -> Callable[[str, Example], float]:
    """A metric of this part of each call: 1 if the answer's are the gold ones, in any order."""

    def metric(answer: str, example: Example) -> float:
        wanted = [part(call) for call in gold(example)]
        try:
            found = [part(call) for call in calls_in(answer)]
        except ValueError:
            return 0.0
        return float(_same(found, wanted))

    return metric


def _same(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    """Whether the two lists hold equal things, in any order."""
    rest = list(wanted)
    for each in found:
        at = next((n for n, other in enumerate(rest) if equal(each, other)), None)
        if at is None:
            return False
        rest.pop(at)
    return not rest


TOOL_CALL = Metric(_compared(lambda call: [call.name, call.arguments]), refuses_gold=True)
"""1 if the answer's calls are the gold ones, names and arguments equal as JSON, in any order; where
none is wanted, if it calls nothing."""
TOOL_CALL_NAME = Metric(_compared(lambda call: call.name), refuses_gold=True)
"""The same of the names alone: the right tools, whatever the arguments."""
TOOL_CALL_ARGUMENTS = Metric(_compared(lambda call: call.arguments), refuses_gold=True)
"""The same of the arguments alone."""
