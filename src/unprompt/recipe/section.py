"""What all sections of a recipe share.

The docstring under each field is its reference documentation: docs/reference.md and
recipe.schema.json are written from it (reference.py).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
    model_validator,
)


class Section(BaseModel):
    """A part of the recipe: strict, immutable, documented field by field."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        serialize_by_alias=True,
    )

    shorthand: ClassVar[dict[type, str]] = {}
    """What may stand for the whole section: `{str: "name"}`, a bare text is its `name`; so lists,
    and whole numbers.
    """

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, data: Any) -> Any:
        kind = list if isinstance(data, tuple) else type(data)
        return {cls.shorthand[kind]: data} if kind in cls.shorthand else data

    def _wrong(self) -> Iterator[str]:
        """What in it does not go together, as `what -> how to mend it`; the first is said."""
        yield from ()

    @model_validator(mode="after")
    def _nothing_wrong(self) -> Self:
        for line in self._wrong():
            raise ValueError(line)
        return self


def sections(value: Any) -> Iterator[Section]:
    """A section, and all sections in it."""
    if isinstance(value, Section):
        yield value
        value = dict(value)
    inner = value.values() if isinstance(value, dict) else value
    for each in inner if isinstance(inner, (tuple, type({}.values()))) else ():
        yield from sections(each)


def number(value: Any) -> Any:
    """A number that YAML 1.1 reads as text, as 5e-4."""
    form = r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"
    return float(value) if isinstance(value, str) and re.fullmatch(form, value) else value


def from_base(path: str, info: ValidationInfo) -> str:
    """A path of the recipe, seen from the recipe's own folder; `pkg:` paths and addresses stay as
    they are.
    """
    if path.startswith("pkg:") or "://" in path:
        return path
    base = Path((info.context or {}).get("base", "."))
    try:
        found = (base / Path(path).expanduser()).resolve()
        found.exists()
    except (OSError, RuntimeError) as error:  # over 255 letters; a user that there is not
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"this can't be a path ({why}) -> shorten or mend it") from None
    return str(found)


PathText = Annotated[str, AfterValidator(from_base)]
"""A path, seen from the recipe's own folder."""


def json_from_file(value: Any, info: ValidationInfo) -> Any:
    """What `{file: PATH}` names, read as JSON: what it holds stands in the recipe in its place. Any
    other value as it is.
    """
    if (
        not isinstance(value, dict)
        or value.keys() != {"file"}
        or not isinstance(value["file"], str)
    ):
        return value
    path = from_base(value["file"], info)
    try:
        return json.loads(Path(path).read_text("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}) -> mend the path") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}) -> mend that file") from None


FromFile = BeforeValidator(json_from_file)
"""A JSON value, or `{file: PATH}` of one that lies in a file."""


def nearest(name: str, names: Iterable[str], otherwise: str, cutoff: float = 0.6) -> str:
    """How to mend a name that there is not: by the nearest one (at least so like it), or else."""
    near = difflib.get_close_matches(name, list(names), 1, cutoff)
    return f"did you mean '{near[0]}'?" if near else otherwise


def known(name: str, names: Iterable[str], where: str, kind: str) -> None:
    """Refuse a name that there is not.

    Args:
        name: As the recipe says it.
        names: Those that there are.
        where: The field that says it.
        kind: What it should name.

    Raises:
        ValueError: With the nearest name.
    """
    names = list(names)
    if name not in names:
        fix = nearest(name, names, f"there are: {', '.join(names) or 'none'}")
        raise ValueError(f"{where} names '{name}', which is no {kind} -> {fix}")
