"""Is the answer JSON, does it keep to a schema, and are its fields the gold ones?

All of the answer has to be JSON: who calls would have to take a fence of backticks or a word ahead
of it away first, and one that forgets to would fail. Where that is not meant, `evaluate.extract`
says which part is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unprompt.messages import UserError
from unprompt.metrics.metric import Metric
from unprompt.records import Example


def loads(text: str) -> Any:
    """JSON as the standard has it: no NaN, no infinity.

    Raises:
        ValueError: It is none.
    """

    def no_number(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def equal(a: Any, b: Any) -> bool:
    """Whether two values are the same as JSON: 1 is 1.0, but not true; keys in any order."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(equal(*pair) for pair in zip(a, b, strict=True))
    return bool(a == b)


def json_valid(answer: str, _: object = None) -> float:
    """1 if the answer is a JSON object or list; a bare word or number is none that is meant."""
    try:
        return float(isinstance(loads(answer), dict | list))
    except ValueError:
        return 0.0


JSON_VALID = Metric(json_valid, needs_gold=False)


def json_schema(answer: str, schema: Mapping[str, Any]) -> float:
    """1 if the answer is JSON that keeps to a schema, as `jsonschema` finds it. What `format` says
    is not held to (the standard's default).

    Source: JSON Schema, by the draft that the schema names (2020-12 unless it does).
    """
    try:
        return float(_validator(schema).is_valid(loads(answer)))
    except ValueError:
        return 0.0


JSON_SCHEMA = Metric(json_schema, reads="schema", needs_gold=False)


def json_fields(answer: str, example: Example) -> float:
    """Share of the gold object's fields that the answer has, equal as JSON; fields that gold lacks
    don't count. 0 for what is no object.
    """
    right = fields_right(answer, gold_fields(example.target))
    return sum(right.values()) / len(right)


JSON_FIELDS = Metric(json_fields, refuses_gold=True)


def gold_fields(target: Any) -> Mapping[str, Any]:
    """The fields of a gold object, which may be JSON text.

    Raises:
        ValueError: It is no object, or has no field.
    """
    gold = loads(target) if isinstance(target, str) else target
    if not isinstance(gold, Mapping) or not gold:
        raise ValueError(f"it is no JSON object with fields: {str(target)[:40]!r}")
    return gold


def fields_right(answer: str, gold: Mapping[str, Any]) -> dict[str, bool]:
    """Which of the gold fields an answer has right."""
    try:
        said = loads(answer)
    except ValueError:
        said = None
    fields = said if isinstance(said, dict) else {}
    return {key: key in fields and equal(fields[key], value) for key, value in gold.items()}


def refuse_schema(schema: dict[str, Any], where: str) -> None:
    """Before any money is spent: the schema is one, and names nothing outside itself.

    Raises:
        UserError: It is none, or does.
    """
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        what = f"this is no JSON schema: {error.message[:80]}"
        raise UserError(what, where=where, fix="mend it") from None
    for ref in _refs(schema):
        if not ref.startswith("#"):
            what = f"the schema names another one, {ref[:60]!r}"
            raise UserError(what, where=where, fix="write all of it here, under $defs")


def _refs(schema: Any) -> Sequence[str]:
    if isinstance(schema, Mapping):
        own = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return own + [ref for value in schema.values() for ref in _refs(value)]
    return (
        [ref for each in schema for ref in _refs(each)] if isinstance(schema, list | tuple) else []
    )


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    return validator_for(schema)(schema, registry=Registry())  # which fetches nothing
