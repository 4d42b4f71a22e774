"""The commands; no logic here, and nothing heavy imported until a command needs it."""

from __future__ import annotations

import io
import os
import sys

from unprompt.cli import road, side_doors
from unprompt.cli.app import app
from unprompt.messages import STOPPED, UserError, stop_at_sigterm

__all__ = ["app", "main", "road", "side_doors"]

_STOPPED = 130


def main() -> None:
    """Entry point: a `UserError` becomes one line and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    stop_at_sigterm()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal has not is no end
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # ahead of Typer, or behind it
        _stopped()
    except SystemExit as end:
        if end.code == _STOPPED:  # Typer's code for Ctrl-C
            _stopped()
        raise


def _stopped() -> None:
    print(STOPPED, file=sys.stderr)
    sys.exit(_STOPPED)
