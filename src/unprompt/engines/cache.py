"""The folder of converted models."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from unprompt.messages import UserError


def cache_dir() -> Path:
    """Where converted models are kept: `$UNPROMPT_CACHE`, else the user's cache folder; of a user
    who has none (a container's number without a name), one among temporary files.
    """
    if named := os.environ.get("UNPROMPT_CACHE"):
        return Path(named)
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return _among_temporary(Path(tempfile.gettempdir(), f"unprompt-{os.getuid()}"))
    return caches / "unprompt"


def _among_temporary(folder: Path) -> Path:
    """A folder where everybody writes, of this user alone: else another could put weights there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        fix = "name a folder of your own in UNPROMPT_CACHE"
        raise UserError("others may write into this cache", where=str(folder), fix=fix)
    return folder
