"""The recipe's reference and its JSON schema are what the docstrings say now, and the schema takes
every recipe that the check takes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import jsonschema
import pytest
import yaml

from conftest import tiny_recipe
from unprompt import UserError, parse
from unprompt.recipe import load, reference, rules
from unprompt.tools import starter

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
EDITOR = jsonschema.Draft202012Validator(json.loads(reference.SCHEMA.read_text("utf-8")))


def flags(words: Any) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in EDITOR.iter_errors(words)]


def accepted(words: dict[str, Any], base: Path) -> bool:
    try:
        parse(words, base)
    except UserError:
        return False
    return True


def test_both_files_are_as_the_docstrings_say() -> None:
    anew = f"write both files anew: {reference.COMMAND}"
    assert reference.PAGE.read_text("utf-8") == reference.page(), anew
    assert json.loads(reference.SCHEMA.read_text("utf-8")) == reference.json_schema(), anew


def test_every_field_is_explained() -> None:
    page = reference.page()
    for name, section in reference.sections().items():
        part = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key}"
            assert f"- **`{field.alias or key}`**: " in part
    anchors = {title.lower() for title in re.findall(r"^## (\w+)$", page, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(\w+)\)", page)) <= anchors


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(reference.json_schema())


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT / "recipes")))
def test_our_recipes_are_not_flagged(path: Path) -> None:
    words = yaml.safe_load(path.read_text("utf-8"))
    if "contexts" not in words:
        pytest.skip("no recipe")
    assert accepted(words, path.parent)
    assert flags(words) == []


ROW = {"text": "a"}
CONTEXT = {"inputs": "in.jsonl", "teacher": "long {{ text }}", "student": "{{ text }}"}
IN_ORDER: dict[str, dict[str, Any]] = {
    "bare texts": {
        "model": "someone/small",
        "contexts": {"a": {**CONTEXT, "extract": "last_line"}},
    },
    "bare lists": {
        "contexts": {
            "a": {
                "inputs": [ROW],
                "examples": [ROW],
                "teacher": [{"role": "user", "content": "x"}, {"turns": "history"}],
                "student": [{"role": "user", "content": "x"}],
            }
        },
        "lessons": {"kind": "shots", "n": 2, "weights": [0.5, 1]},
    },
    "examples: a file": {"contexts": {"a": {**CONTEXT, "examples": "pool.csv"}}},
    "examples: rows of a file": {"contexts": {"a": {**CONTEXT, "examples": {"file": "pool.csv"}}}},
    "examples: an ensemble": {
        "contexts": {"a": {**CONTEXT, "examples": {"pool": [ROW], "per_prompt": 1, "prompts": 2}}}
    },
    "extract: json": {"contexts": {"a": {**CONTEXT, "extract": {"json": "answer"}}}},
    "library": {"contexts": {"a": {"library": "nli", "inputs": "in.jsonl"}}, "sampling": None},
    "library with fields": {
        "contexts": {"a": {"library": {"task": "nli", "form": "text"}, "inputs": [ROW]}}
    },
    "a round as the recipe": {
        "rounds": {"first": {"contexts": ["colours"], "train": None, "lessons": None}}
    },
    "numbers as text": {"train": {"learning_rate": "5e-4", "epochs": "2", "batch_size": "16"}},
    "whole numbers as floats": {"seed": 3.0, "train": {"batch_size": 16.0, "adapter": None}},
    "truth values as text": {"train": {"fast": "yes", "checkpointing": "Off"}, "seed": True},
    "truth values as numbers": {"train": {"fast": 0}},
    "not evaluated": {"contexts": {"a": {**CONTEXT, "evaluate": False}}},
    "evaluated its own way": {"contexts": {"a": {**CONTEXT, "evaluate": {"data": [ROW]}}}},
    "systems": {
        "evaluate": {"data": [ROW]},
        "systems": {"x": {"prompt": "teacher"}, "y": {"prompt": "{{ text }}!", "model": "after"}},
    },
    "a mixture": {
        "contexts": {
            "a": {
                **CONTEXT,
                "inputs": {"mix": [{"data": [ROW], "share": 1}, {"data": "b.csv", "share": "2"}]},
            }
        }
    },
    "a server": {
        "teacher_model": {
            "server": {"url": "http://localhost:1/v1", "model": "m", "tokenizer": "someone/small"}
        }
    },
    "tune": {
        "tune": {
            "context": "colours",
            "data": [ROW],
            "settings": {"sampling.temperature": [0, 1.0]},
            "variants": {"own": None, "other": "{{ text }}"},
        }
    },
}


@pytest.mark.parametrize("name", IN_ORDER)
def test_what_the_check_takes_is_not_flagged(name: str, tmp_path: Path) -> None:
    words = {**tiny_recipe(Path("/models/tiny")), **IN_ORDER[name]}
    assert accepted(words, tmp_path)
    assert flags(words) == []
    resolved = yaml.safe_load(parse(words, tmp_path).to_yaml())
    assert flags(resolved) == []


WRONG: dict[str, dict[str, Any]] = {
    "an unknown key": {"model_name": "x"},
    "an unknown key inside": {"train": {"epoch": 2}},
    "a wrong word": {"labels": {"kind": "topk"}},
    "too small": {"train": {"batch_size": 0}},
    "no number": {"train": {"epochs": "many"}},
    "no truth value": {"train": {"fast": "perhaps"}},
    "nothing to begin with": {"contexts": {"a": {"inputs": "in.jsonl", "teacher": "x"}}},
    "a list where a section stands": {"sampling": [1]},
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_flagged(name: str, tmp_path: Path) -> None:
    words = {**tiny_recipe(Path("/models/tiny")), **WRONG[name]}
    assert not accepted(words, tmp_path)
    assert flags(words) != []


@pytest.mark.parametrize("text", ["  two\n one", "bell \x07", "line\u2028end", "a {text} b\n"])
def test_the_starter_holds_what_a_block_of_yaml_can_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "prompt.txt").write_text(text)
    (tmp_path / "in.jsonl").write_text('{"text": "x"}')
    wanted = starter.Wanted(tmp_path / "prompt.txt", inputs=tmp_path / "in.jsonl", measure=False)
    starter.write(wanted, tmp_path / "recipe.yaml")
    teacher = load(tmp_path / "recipe.yaml").contexts["main"].teacher
    assert teacher
    assert teacher.messages
    assert (
        str(teacher.messages[0].content).rstrip() == text.replace("{text}", "{{ text }}").rstrip()
    )


def test_the_starter_tells_editors_where_the_schema_is(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Answer in one word: {{ text }}")
    (tmp_path / "in.jsonl").write_text('{"text": "x"}')
    wanted = starter.Wanted(tmp_path / "prompt.txt", inputs=tmp_path / "in.jsonl", measure=False)
    starter.write(wanted, tmp_path / "recipe.yaml")
    written = (tmp_path / "recipe.yaml").read_text("utf-8")
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", written.splitlines()[0])
    assert found
    url = urlparse(found[1])
    assert url.scheme == "file"
    assert Path(url2pathname(url.path)) == reference.SCHEMA
    assert reference.SCHEMA.is_file()
    assert flags(yaml.safe_load(written)) == []


def test_every_rule_is_in_the_list() -> None:
    """A rule that is not tried is no rule."""
    written = {
        name
        for name, rule in vars(rules).items()
        if callable(rule) and getattr(rule, "__module__", "") == rules.__name__ and name[0] != "_"
    }
    assert written == {rule.__name__ for rule in rules.RULES}
    assert len(rules.RULES) == len(written)
