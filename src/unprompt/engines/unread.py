"""What of a model's files is refused before any of them is read: what could run code, what lies
elsewhere, and what would change the weights without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from unprompt.engines import hub
from unprompt.messages import UserError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SAFE = (".safetensors", ".safetensors.index.json")
_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_KERNELS = re.compile("_?attn_implementation")

Find = Callable[[str], Path | None]
"""The path of one of a model's files; None if it has no such file."""


def finder(name: str, revision: str) -> Find:
    """Finds files in a model's folder, or on the hub."""
    if Path(name).is_dir():
        return lambda file: path if (path := Path(name, file)).is_file() else None
    from transformers.utils.hub import cached_file

    def find(file: str) -> Path | None:
        with hub.reading("model", name, name, "a folder"):
            path = cached_file(
                name,
                file,
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_connection_errors=False,
            )
        return None if path is None else Path(path)

    return find


def refuse(name: str, where: str, find: Find) -> None:
    """Look at the small files of a model that decide what else of it is read.

    Args:
        name: The model's folder, or hub id.
        where: The recipe's key, for messages.
        find: Finds its files.

    Raises:
        UserError: Something in it is a pickle, lies elsewhere, can't be read, or is an adapter.
    """
    place = f"{where} ({name})"
    config = _json(find, "config.json", place)
    for key, value in config.items():
        if _KERNELS.fullmatch(key) and isinstance(value, str) and "/" in value:
            what = f"config.json wants its attention from {value}: code that you did not name"
            raise UserError(what, where=place, fix=f"remove {key} from config.json")
    weights = config.get("transformers_weights")
    if weights is not None:
        _refuse_file(weights, "transformers_weights of config.json", place)
        if not weights.endswith(_SAFE):
            what = f"transformers_weights of config.json names {weights}"
            raise UserError(what, where=place, fix="name a .safetensors file")
    named = weights if weights and weights.endswith(_SAFE[1]) else None
    for index in filter(None, {_INDEX: 0, named: 0}):
        for part in _parts(find, index, place):
            _refuse_file(part, index, place)
    if find(_ADAPTER):
        raise UserError(
            f"an adapter lies beside the weights ({_ADAPTER}), and would be put into them when"
            " they are loaded",
            where=place,
            fix="move the adapter_* files elsewhere, or name a folder of whole weights (`unprompt"
            " export` writes a student's)",
        )
    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        for pickle in sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES):
            raise _pickle(pickle, place)


def _parts(find: Find, index: str, place: str) -> Iterator[Any]:
    """The files that an index of weights names."""
    read = _json(find, index, place)
    if not read:
        return
    parts = read.get("weight_map")
    if not (isinstance(parts, dict) and parts and isinstance(read.get("metadata", {}), dict)):
        what, fix = f"{index} does not say which file holds which weights", "fetch the model again"
        raise UserError(what, where=place, fix=fix)
    yield from {str(each): each for each in parts.values()}.values()


def _refuse_file(name: Any, said_by: str, place: str) -> None:
    if not isinstance(name, str) or not name:
        what, fix = f"{said_by} names {json.dumps(name)[:80]} as a file", "fetch the model again"
        raise UserError(what, where=place, fix=fix)
    path = PurePosixPath(name.replace("\\", "/"))
    if path.suffix in PICKLES:
        raise _pickle(name, place)
    if path.is_absolute() or ".." in path.parts:
        what = f"{said_by} names a file outside of the model's folder: {name}"
        raise UserError(what, where=place, fix="put it into the folder, and name it there")
    if not said_by.startswith("transformers") and path.suffix != _SAFE[0]:
        what = f"{said_by} names {name} as weights"
        raise UserError(what, where=place, fix="save the model as safetensors")


def _pickle(name: str, place: str) -> UserError:
    return UserError(
        f"{name} is a pickle, which can run any code when it is read",
        where=place,
        fix="save the model as safetensors, somewhere you would run its author's code",
    )


def _json(find: Find, name: str, place: str) -> dict[str, Any]:
    """What a JSON file of the model holds; nothing of one that is not there."""
    path = find(name)
    if path is None:
        return {}
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise UserError(f"{name} is not JSON of an object", where=place, fix="fetch it again")
    return read
