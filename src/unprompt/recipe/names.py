"""What a recipe names by a path: files, `pkg:` files, and `package.module:function`."""

from __future__ import annotations

import importlib.util
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
    where = f"{where} ({path})"
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        fix = f"pip install --no-deps {package.replace('_', '-')}"
        raise UserError(f"the package {package} is not installed", where=where, fix=fix)
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    file = (root / rest).resolve()
    if not file.is_relative_to(root):
        fix = "name a file inside the package"
        raise UserError("the path leaves the package", where=where, fix=fix)
    return file


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
    value = named(dotted, where, folder)
    if not callable(value):
        raise UserError(f"'{dotted}' is not a function", where=where, fix="name a function")
    return value
