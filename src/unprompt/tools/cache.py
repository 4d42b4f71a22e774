"""`unprompt cache`: converted models in the user's cache, and how they go."""

from __future__ import annotations

import re
import shutil
from datetime import datetime
from pathlib import Path

from unprompt.engines.cache import cache_dir
from unprompt.store.files import disk_error, folder_size

Table = tuple[str, list[str], list[list[str]], list[str]]
_OURS = re.compile(r"\.?.+-[0-9a-f]{8}(\.\d+)?(\.partial)?")
"""Names of converted models, and of conversions that were killed."""


def listed() -> Table:
    """What lies there, the largest first: title, columns, rows, and lines beneath."""
    folder = _folder()
    found = sorted(((folder_size(each), each) for each in _ours(folder)), reverse=True)
    rows = [
        [
            each.name,
            f"{size / 1e6:,.1f} MB",
            datetime.fromtimestamp(each.lstat().st_mtime).astimezone().strftime("%Y-%m-%d"),
        ]
        for size, each in found
    ]
    if not rows:
        return "", [], [], [f"no converted models in {folder}"]
    total = sum(size for size, _ in found) / 1e6
    lines = [
        f"{_models(len(rows))} in {folder}, {total:,.1f} MB; `unprompt cache --clear` makes room,"
        " and a run that needs one converts it again"
    ]
    return "Converted models", ["model", "size", "since"], rows, lines


def clear() -> list[str]:
    """Remove them; what else lies there stays. Gives lines that say what went.

    Raises:
        UserError: The disk refuses.
    """
    folder = _folder()
    found, size = _ours(folder), sum(map(folder_size, _ours(folder)))
    for each in found:
        try:
            shutil.rmtree(each)
        except OSError as error:
            raise disk_error(error, each) from None
    others = len(list(folder.iterdir())) if folder.is_dir() else 0
    kept = f"; not ours, and kept: {others}" if others else ""
    return [f"removed {_models(len(found))} from {folder}, {size / 1e6:,.1f} MB{kept}"]


def _models(count: int) -> str:
    return "1 converted model" if count == 1 else f"{count} converted models"


def _folder() -> Path:
    return cache_dir() / "models"


def _ours(folder: Path) -> list[Path]:
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        each
        for each in there
        if _OURS.fullmatch(each.name) and each.is_dir() and not each.is_symlink()
    ]
