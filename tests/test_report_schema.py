"""report.json is what its types and its JSON schema say: no key is missing, none is one more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import unprompt
from conftest import tiny_recipe
from unprompt import report
from unprompt.recipe import parse
from unprompt.report.__main__ import FILE
from unprompt.report.schema import Report, json_schema

POOL = [{"text": f"{n}+{n}", "why": f" {n} twice"} for n in range(1, 5)]
HELD = [
    {"id": f"h{n}", "text": f"{word} {n}", "target": "yes" if n % 3 else "no"}
    for n, word in enumerate(["grey", "violet", "gold"] * 2)
]


def strict(schema: Any) -> Any:
    """The schema with no room for keys that it does not name; for readers it leaves that room."""
    if isinstance(schema, list):
        return [strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**{key: strict(inner) for key, inner in schema.items()}, **closed}


def wrong(found: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(strict(json_schema()))
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(found)]


@pytest.fixture(scope="module")
def rich(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report of a run that has nearly every section."""
    folder = tmp_path_factory.mktemp("rich")
    prices = {
        "big": {"input": 10, "output": 30, "cached_input": 1},
        "small": {"input": 1, "output": 2},
    }
    (folder / "prices.yaml").write_text(yaml.safe_dump({"prices": prices}))
    made: dict[str, Any] = tiny_recipe(decoder_folder)
    one = made["contexts"]["colours"]
    made |= {
        "contexts": {
            "one": {**one, "teacher": "Rules:\n- Be kind.\n- Be short.\n{{ text }}:"},
            "two": {**one, "student": "{{ text }}, two:"},
        },
        "evaluate": {
            "data": {"rows": HELD},
            "metrics": ["accuracy"],
            "lenient": "whole",
            "shots": {"pool": POOL, "counts": [0, 1], "draws": 2, "answer": "{{ why }}"},
        },
        "rounds": {
            "first": {"contexts": ["one"]},
            "second": {"contexts": ["two"], "replay": {"contexts": ["one"], "share": 0.5}},
        },
        "association": ["one", "two"],
        "margins": {f"task {n}": ["one", "two"] for n in range(4)},
        "systems": {"x": {"model": "second", "prompt": "teacher"}},
        "drift": {"inputs": {"rows": [{"text": "a b"}]}, "template": "{{ text }}"},
        "report": {"self_agreement": 3, "instructions": 3},
        "cost": {
            "prices": str(folder / "prices.yaml"),
            "teacher": "big",
            "student": "small",
            "dollars_per_hour": 36,
            "calls": 1000,
        },
    }
    return unprompt.run(parse(made), folder / "run").report


def test_the_file_is_as_the_types_say() -> None:
    written = json.loads(FILE.read_text("utf-8"))
    assert written == json_schema(), "write it anew: python -m unprompt.report"
    jsonschema.Draft202012Validator.check_schema(written)


def test_a_report_is_as_the_schema_says(rich: Any) -> None:
    assert wrong(rich) == []
    assert set(Report.__annotations__) - rich.keys() == {"judge", "servers", "fields"}
    context = rich["contexts"]["one"]
    assert {"instructions", "likeness", "shots", "kl_by_position"} <= context.keys()


def test_what_is_no_report_is_flagged(rich: Any) -> None:
    assert wrong({key: value for key, value in rich.items() if key != "contexts"})
    assert wrong({**rich, "verdict": "ship"})
    assert wrong({**rich, "one_more": 1})
    assert not list(
        jsonschema.Draft202012Validator(json_schema()).iter_errors({**rich, "one_more": 1})
    ), "a later version may write more"


def test_the_page_shows_every_table(rich: Any) -> None:
    """A section's tables are in the terminal, in Markdown and on the page by the same door."""
    page, text = report.page(rich, [], []), report.markdown(rich)
    titles = [table.title for table in report.tables(rich)]
    assert len(titles) == len(set(titles)) > 10
    for title in titles:
        assert f"## {title}\n" in text
        assert f"<h3>{title}</h3>" in page or title in ("Context one", "Context two")
