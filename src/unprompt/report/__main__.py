"""`python -m unprompt.report` writes the JSON schema of report.json, in docs/, anew."""

from __future__ import annotations

import json
from pathlib import Path

from unprompt.report.schema import json_schema

FILE = Path(__file__).parents[3] / "docs" / "report.schema.json"
"""In the project's folder."""

if __name__ == "__main__":
    FILE.write_text(json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n", "utf-8")
