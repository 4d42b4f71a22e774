"""Places where files are kept: a folder of this machine, or an address that fsspec reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from unprompt.messages import UserError
from unprompt.store.files import first_line, replacing, writing

if TYPE_CHECKING:
    from upath import UPath

Place: TypeAlias = "Path | UPath"
"""A folder or file of this machine, or one behind an address that fsspec reads."""


def place(text: str, where: str) -> Place:
    """A folder, or what an address like `s3://bucket/folder` stands for.

    Raises:
        UserError: No such kind of address, or the package that reads it is missing.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath
    except ImportError:
        what = "an address needs the package universal_pathlib"
        raise UserError(what, where=where, fix="pip install 'unprompt[ray]'") from None
    try:
        address = UPath(text, use_listings_cache=False)  # others write there, too
        # a file's is made atomic by `replacing`
        return Path(address.path) if address.protocol == "file" else address
    except (ImportError, ValueError) as error:
        # fsspec names the package: "Install s3fs to access S3"
        fix = "install what reads it, or check the address"
        raise UserError(f"{text}: {error}", where=where, fix=fix) from None


def put(path: Place, data: bytes) -> None:
    """Write a file whole or not at all. An object store shows an object only once it is all there,
    so there it is simply put.
    """
    if isinstance(path, Path):
        with replacing(path) as partial:
            partial.write_bytes(data)
    else:
        reached(path, path.write_bytes, data)


def move(path: Place, suffix: str) -> Place:
    """Give a file another suffix; gives its new path."""
    to = path.with_suffix(suffix)
    if isinstance(path, Path):
        with writing(path):
            path.replace(str(to))
    else:
        reached(path, path.rename, to)
    return to


def reached(path: Place, verb: Callable[..., Any], *given: Any) -> Any:
    """What `verb` gives; whatever error a kind of store has of its own (no bucket, no key, no
    network), in one line.
    """
    try:
        return verb(*given)
    except Exception as error:
        what = f"can't be reached: {first_line(error)}"
        fix = "check the address and your rights there"
        raise UserError(what, where=str(path), fix=fix) from None
