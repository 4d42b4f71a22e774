"""The recipe's reference, written from its docstrings: docs/reference.md for people, and
recipe.schema.json for editors (`# yaml-language-server: $schema=...`).

`python -m unprompt.recipe.reference` writes both anew.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from unprompt.recipe.recipe import Recipe
from unprompt.recipe.section import Section
from unprompt.recipe.sources import Examples

SCHEMA = Path(__file__).with_name("recipe.schema.json")
"""In the installed package."""
PAGE = Path(__file__).parents[3] / "docs" / "reference.md"
"""In the project's folder."""
COMMAND = "python -m unprompt.recipe.reference"

_HEAD = """\
# Reference: every field of a recipe

This page lists what each section of a recipe takes.
Below a field's name stand its type, its default, and what it does.
For a recipe to begin with, see the [tutorial](tutorial.md).

Editors can check a recipe while you write it.
`unprompt init` writes the line that they need, which comes first in the file:

```yaml
# yaml-language-server: $schema=<path or address of recipe.schema.json>
```

The schema is part of the installed package, as `unprompt/recipe/recipe.schema.json`.

This page and the schema are written by `{command}`.
"""
_ONE = {"string": "text", "integer": "whole number", "number": "number", "null": "`null`"}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "over",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "not shorter than",
    "maxLength": "not longer than",
}
_SENTENCE = re.compile(r"(?<=[.!?])(?<!et al\.)\s+")
_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n")


def sections() -> dict[str, type[Section]]:
    """All sections by name, in the order in which a reader of a recipe meets them."""
    shapes, names = _shapes(), ["Recipe"]
    classes = list(Section.__subclasses__())
    for each in classes:  # and theirs, which are put behind
        classes += each.__subclasses__()

    def visit(name: str) -> None:
        for inner in _inside(shapes[name]["properties"]):
            if inner not in names:
                names.append(inner)
                visit(inner)

    visit("Recipe")
    by_name = {section.__name__: section for section in classes}
    return {name: by_name[name] for name in names}


def _shapes() -> dict[str, Any]:
    """The plain JSON schema of each section."""
    schema = Recipe.model_json_schema()
    return {**schema["$defs"], "Recipe": schema}


def _inside(shape: Any) -> list[str]:
    """Sections that a JSON schema names, each once."""
    return list(dict.fromkeys(re.findall(r'"#/\$defs/(\w+)"', json.dumps(shape))))


def _fields(section: type[Section]) -> dict[str, FieldInfo]:
    """A section's fields by their names in a recipe; those that it shares with others last."""
    fields = section.model_fields
    names = dict.fromkeys([*section.__annotations__, *fields])
    return {fields[name].alias or name: fields[name] for name in names if name in fields}


def page() -> str:
    """docs/reference.md."""
    shapes = _shapes()
    places: dict[str, dict[str, list[str]]] = {}
    for parent in sections():
        for key, shape in shapes[parent]["properties"].items():
            for name in _inside(shape):
                places.setdefault(name, {}).setdefault(parent, []).append(f"`{key}`")
    links = ",\n".join(map(_link, sections()))
    lines = [_HEAD.format(command=COMMAND), f"Sections:\n{links}."]
    for name, section in sections().items():
        lines += ["", f"## {name}", "", *_sentences(section.__doc__ or ""), ""]
        if name in places:
            where = [f"{_link(at)} as {_listed(keys, 'and')}" for at, keys in places[name].items()]
            lines += ["Stands in " + ",\n".join(where) + ".", ""]
        for key, field in _fields(section).items():
            words = _type_and_default(shapes[name]["properties"][key], field.is_required())
            lines.append(f"- **`{key}`**: {words}.\\")
            lines += [f"  {sentence}" for sentence in _sentences(field.description or "")]
    return "\n".join(lines) + "\n"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _sentences(text: str) -> list[str]:
    return _SENTENCE.split(" ".join(text.split()))


def _type(shape: dict[str, Any], many: bool = False) -> str:
    """A field's type in words, from its JSON schema."""
    if "$ref" in shape:
        return _link(shape["$ref"].rpartition("/")[2])
    if "anyOf" in shape:
        return " or ".join(_type(each, many) for each in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        return _listed([f"`{value}`" for value in shape.get("enum") or [shape["const"]]], "or")
    kind = shape.get("type")
    if kind == "array":
        if "prefixItems" in shape:
            return f"list of {len(shape['prefixItems'])} {_type(shape['prefixItems'][0], True)}"
        least = f" (at least {shape['minItems']})" if "minItems" in shape else ""
        return f"list of {_type(shape['items'], True)}{least}"
    if kind == "object":
        inner = shape.get("additionalProperties")
        of = f" of names to {_type(inner, True)}" if isinstance(inner, dict) and inner else ""
        least = f" (at least {shape['minProperties']})" if "minProperties" in shape else ""
        return f"mapping{'s' if many else ''}{of}{least}"
    if kind == "boolean":
        return "`true` or `false`"
    limits = [f"{word} {shape[key]}" for key, word in _LIMITS.items() if key in shape]
    word = _ONE[kind] + ("s" if many and kind != "null" else "") if kind else "anything"
    return f"{word} ({', '.join(limits)})" if limits else word


def _type_and_default(shape: dict[str, Any], required: bool) -> str:
    if required:
        return f"{_type(shape)}; required"
    default = shape.get("default", {})  # that of a `default_factory` is not in the schema
    if default is None:
        return f"{_type({'anyOf': _given(shape)})}; optional"
    if isinstance(default, dict) and default:
        return f"{_type(shape)}; its own defaults unless given"
    plain = isinstance(default, str) and default.strip()
    return f"{_type(shape)}; default `{default if plain else json.dumps(default)}`"


def _given(shape: dict[str, Any]) -> list[dict[str, Any]]:
    """What a field takes beside null."""
    return [each for each in shape.get("anyOf", [shape]) if each.get("type") != "null"]


def json_schema() -> dict[str, Any]:
    """What an editor holds a recipe against. It flags nothing that `unprompt check` accepts; what
    depends on two fields at once is left to the check.
    """
    whole = _as_read(Recipe.model_json_schema())
    shapes = whole["$defs"]
    assert shapes["Context"].pop("required") == ["student"]  # which the library may give, too
    shapes["Context"]["anyOf"] = [{"required": ["student"]}, {"required": ["library"]}]
    round_ = shapes["Round"]["properties"]
    for fields, key in ((round_, "train"), (round_, "lessons"), (whole["properties"], "sampling")):
        text = fields[key].pop("description")  # left empty, it is as in the recipe or the library
        fields[key] = {"anyOf": [fields[key], {"type": "null"}], "description": text}
    for name, section in sections().items():
        bare = [_bare(shapes[name]["properties"][key]) for key in section.shorthand.values()]
        bare += [{"$ref": "#/$defs/Data"}] if section is Examples else []
        if bare:
            text = shapes[name].pop("description")
            shapes[name] = {"description": text, "anyOf": [shapes[name], *bare]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of Unprompt",
        **whole,
    }


def _bare(shape: dict[str, Any]) -> dict[str, Any]:
    """A field's schema, for where its value stands for the whole section."""
    left_out = {"description", "default"}
    return {key: value for key, value in _given(shape)[0].items() if key not in left_out}


def _as_read(shape: Any) -> Any:
    """A schema that takes values in all the ways in which pydantic reads them: numbers and truth
    values as text, too. (YAML 1.1 reads 5e-4 as text, YAML 1.2 `yes`.)
    """
    if isinstance(shape, list):
        return [_as_read(each) for each in shape]
    if not isinstance(shape, dict):
        return shape
    shape = {key: _as_read(value) for key, value in shape.items()}
    for key, kind in (("title", str), ("default", dict)):
        if isinstance(shape.get(key), kind):
            del shape[key]
    if isinstance(shape.get("description"), str):
        shape["description"] = " ".join(shape["description"].split())
    if shape.get("type") in ("integer", "number"):
        shape |= {"type": [shape["type"], "string", "boolean"], "pattern": r"\d"}
    elif shape.get("type") == "boolean":
        any_case = ["".join(f"[{c}{c.upper()}]" for c in word) for word in _BOOLEANS]
        words = "|".join([*any_case, "0", "1"])
        shape |= {"type": ["boolean", "string", "integer"], "pattern": f"^({words})$"}
        shape |= {"minimum": 0, "maximum": 1}
    return shape


def main() -> None:
    """Write both files."""
    SCHEMA.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
