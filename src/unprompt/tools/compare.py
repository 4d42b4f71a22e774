"""`unprompt compare RUN RUN ...`: several finished runs on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unprompt import report
from unprompt.messages import UserError, say
from unprompt.store.files import replacing
from unprompt.store.folder import RunDir


def compare(folders: Sequence[Path], out: Path) -> Path:
    """Write the page, and say what is not compared.

    Raises:
        UserError: One is no finished run, or an older version made it.
    """
    reports: dict[str, Any] = {}
    for folder in folders:
        numbers = RunDir(folder).report()
        schema = numbers.get("schema")
        if schema != report.SCHEMA:
            raise UserError(
                f"report.json has schema {schema}, this version writes {report.SCHEMA}",
                where=str(folder),
                fix="run its recipe again: only the report is made anew",
            )
        name = folder.resolve().name
        reports[name if name not in reports else str(folder)] = numbers
    if len(reports) < 2:
        raise UserError(
            "there is nothing to compare",
            where="unprompt compare",
            fix="give the folders of two runs or more",
        )
    with replacing(out) as partial:
        partial.write_text(report.compare(reports), "utf-8")
    say(*report.not_compared(reports))
    return out
