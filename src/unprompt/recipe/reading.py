"""From a YAML file and `--set` overrides to a recipe; what breaks the schema is said in one
line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from unprompt.messages import UserError
from unprompt.recipe.recipe import Recipe
from unprompt.recipe.section import nearest, number
from unprompt.recipe.training import TRAINER_FIELDS

_MOST_PIECES = 2_000_000
"""Values in a file, each counted wherever it stands or is named (`*name`)."""
_DEEPEST = 100
"""Sections inside one another."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one section, where plain YAML keeps the last one, and a
    value that Python has not: a day that there is not, a number of too many digits.
    """

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        self._refuse_depth(self.flow_level)
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        self._refuse_depth(len(self.indents))
        return super().add_indent(column)

    def _refuse_depth(self, depth: int) -> None:
        if depth > _DEEPEST:  # before it takes the square of that to find out
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=self.get_mark())

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            what = f"the value can't be read ({error})"
            raise _wrong(what, node) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _wrong(what: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(problem=what, problem_mark=node.start_mark)


def _plain(text: str) -> Any:
    """What a YAML text holds.

    Raises:
        yaml.YAMLError: It is none, or one that nobody writes by hand.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measured(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    finally:
        loader.dispose()


def _measured(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a node stands for, and how deep they lie. What is named again and again
    stands for as many as it would written out.
    """
    if id(node) in known:
        size, depth = known[id(node)]
        if not size:
            raise _wrong("a section that holds itself", node)
        return size, depth
    if isinstance(node, yaml.ScalarNode):
        if half := re.search("[\ud800-\udfff]", node.value):
            code = half[0].encode("ascii", "backslashreplace").decode()
            what = f"half a character ({code}): the text was cut inside an emoji"
            raise _wrong(what, node)
        return 1, 0
    known[id(node)] = 0, 0
    pairs = isinstance(node, yaml.MappingNode)
    inner = [each for pair in node.value for each in pair] if pairs else node.value
    sizes = [_measured(each, known) for each in inner]
    size, depth = 1 + sum(size for size, _ in sizes), 1 + max((d for _, d in sizes), default=0)
    if size > _MOST_PIECES:
        raise _wrong(f"over {_MOST_PIECES:,} values, those that are named again counted", node)
    if depth > _DEEPEST:
        raise _wrong("nested too deeply", node)
    known[id(node)] = size, depth
    return size, depth


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe file.

    Args:
        path: The YAML file. Paths in it are seen from its folder.
        overrides: `a.b=c` settings that win over the file; the value is read as YAML.

    Raises:
        UserError: The file is missing, is not YAML, or breaks the schema.
    """
    path = Path(path)
    data = read_yaml(path, "recipe")
    if not isinstance(data, dict):
        raise UserError(
            "a recipe is a mapping of keys",
            where=str(path),
            fix="start from `unprompt init PROMPT.txt`",
        )
    data.setdefault("name", path.stem)
    for override in overrides:
        _set(data, override)
    return parse(data, base=path.resolve().parent, where=str(path))


def read_yaml(path: Path, kind: str) -> Any:
    """What a YAML file holds; a key that stands twice is refused.

    Args:
        kind: What the file should be, for messages.

    Raises:
        UserError: It can't be read.
    """
    where, fix = str(path), f"give the path of a YAML {kind}"
    try:
        return _plain(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"there is no such {kind}", where=where, fix=fix) from None
    except IsADirectoryError:
        raise UserError(f"this is a folder, not a {kind}", where=where, fix=fix) from None
    except OSError as error:
        what = f"can't be read: {error.strerror or error}"
        raise UserError(what, where=where, fix=fix) from None
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text ({error.reason})"
        raise UserError(what, where=where, fix="save it as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where, what = f"{path}:{mark.line + 1}" if mark else where, getattr(error, "problem", error)
        raise UserError(f"not YAML: {what}", where=where, fix="mend that line") from None


def parse(data: dict[str, Any], base: Path | None = None, where: str = "recipe") -> Recipe:
    """Check a recipe given as plain data. Errors name the key and the nearest valid one."""
    try:
        return Recipe.model_validate(data, context={"base": base or Path.cwd()})
    except ValidationError as error:
        raise _explain(error, where) from None


def _set(data: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        what = f"--set takes key=value, not '{override}'"
        raise UserError(what, fix="write it as --set train.epochs=3")
    try:
        value = number(_plain(text))
    except yaml.YAMLError:
        what = f"the value is not YAML: {text[:60]}"
        raise UserError(what, where=f"--set {key}", fix="quote it") from None
    *parents, last = key.strip().split(".")
    for depth, part in enumerate(parents):
        nested = data.setdefault(part, {}) if isinstance(data, dict) else None
        if not isinstance(nested, dict):
            what = f"'{'.'.join(parents[: depth + 1])}' is not a section"
            raise UserError(what, where=f"--set {override}", fix="set it as a whole")
        data = nested
    data[last] = value


def _explain(error: ValidationError, where: str) -> UserError:
    """The first problem in one line; the others are counted."""
    problems = [
        problem
        for problem in error.errors()
        if "bool" not in problem["loc"] and not str(problem["loc"][-1:]).startswith('("literal[')
    ]  # of `evaluate: {...} or a bool` and `prompt: a name or a template`, judge what was written
    problems = problems or error.errors()
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    loc = [str(part) for part in first["loc"] if part not in ("Evaluate", "bool")]
    loc = [part for part in loc if "[" not in part]
    key = ".".join(loc) or "recipe"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return UserError(f"unknown key '{key}'{more}", where=where, fix=_meant(loc))
    if first["type"] == "missing":
        return UserError(f"'{key}' is missing{more}", where=where, fix="add it")
    what, _, fix = first["msg"].removeprefix("Value error, ").partition(" -> ")
    value = first.get("input")
    if (
        isinstance(value, (str, int, float, bool))
        and len(str(value)) < 60
        and loc[-1:] not in (["url"], ["api_key_env"])  # someone may have written a key there
    ):
        what = f"{what} (it is {value!r})"
    what = f"'{key}': {what}" if loc else what
    return UserError(f"{what}{more}", where=where, fix=fix or "mend the value")


_ELSEWHERE = {
    **TRAINER_FIELDS,
    "lr": "learning_rate",
    "num_epochs": "epochs",
    "lora_r": "rank",
    "lora_rank": "rank",
    "r": "rank",
    "lora_alpha": "alpha",
    "max_tokens": "max_new_tokens",
    "max_length": "max_new_tokens",
    "temp": "temperature",
    "dataset": "inputs",
    "num_samples": "draws",
    "stop_sequences": "stop",
}
"""Names of other tools -> ours."""
_DEEP = 2
"""Sections inside a section that are looked through."""


def _meant(loc: list[str]) -> str:
    """What may be meant by a key that there is not: one nearly so called in its section, one of
    that name (or of that name in other tools) elsewhere, or else the section's.
    """
    *section, name = loc
    valid, ours = _keys(Recipe, section), _ELSEWHERE.get(name, name)
    if ours not in valid and (near := nearest(name, valid, "", 0.75)):
        return near
    at = [".".join([*section, ours])] if ours in valid else _places(Recipe, ours)
    if at:
        return f"did you mean '{at[0]}'?"
    return nearest(name, valid, f"valid keys: {', '.join(valid)}", 0.5)


def _places(model: type[BaseModel], name: str, ahead: str = "") -> list[str]:
    """Where in the recipe a field is called so, not under a name of the user's; nearest the top
    first.
    """
    found, below = [], []
    for field, info in model.model_fields.items():
        key = f"{ahead}{info.alias or field}"
        if (info.alias or field) == name:
            found.append(key)
        elif ahead.count(".") < _DEEP and field not in ("contexts", "rounds", "systems"):
            for inner in _models(info.annotation):
                below += _places(inner, name, f"{key}.")
    return found + sorted(below, key=lambda place: place.count("."))


def _keys(model: type[BaseModel], loc: list[str]) -> list[str]:
    """Valid keys of the section at `loc`."""
    for parent, part in zip(["", *loc], loc, strict=False):
        info = model.model_fields.get(part)
        if info and parent not in ("contexts", "rounds", "systems"):
            # else the name of a context, round or system, or an index
            model = next(iter(_models(info.annotation)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models(arg)]
