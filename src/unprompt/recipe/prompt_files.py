"""Prompts that stand in files of their own: `{file: system.md}`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationInfo

from unprompt.recipe.names import local_path
from unprompt.recipe.section import from_base


def read(named: Any, info: ValidationInfo) -> tuple[str, Any]:
    """A prompt's file: its path, and what it holds.

    Args:
        named: The path as the recipe says it, seen from the recipe's folder.

    Returns:
        Text, as a Jinja2 template; of a `.json` file a list of messages.

    Raises:
        ValueError: It can't be read, or holds no prompt.
    """
    if not isinstance(named, str):
        raise ValueError("file is a path -> write {file: system.md}")
    path = local_path(from_base(named, info), "file")
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "there is no such prompt file"
        raise ValueError(f"{what} ({path}) -> paths are seen from the recipe's folder")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"not UTF-8 text ({path}) -> save the prompt as UTF-8") from None
    except OSError as error:
        what = f"can't be read: {error.strerror or error} ({path})"
        raise ValueError(f"{what} -> check the file") from None
    if not text.strip():
        raise ValueError(f"the prompt file is empty ({path}) -> put the prompt into it")
    return str(path), _messages(text, path) if path.suffix.lower() == ".json" else text


def _messages(text: str, path: Path) -> list[Any]:
    try:
        messages = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"not JSON ({path}{line}) -> mend that line") from None
    if not (isinstance(messages, list) and messages and all(isinstance(m, dict) for m in messages)):
        raise ValueError(
            f'no list of messages ({path}) -> write [{{"role": "system", "content": "..."}}, ...]'
        )
    return messages
