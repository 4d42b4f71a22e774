"""A run of every recipe that the project ships asks as often as check says.

The recipes keep their contexts, rounds, systems and settings; models are tiny, data are rows that
hold every field that any of their templates names.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import byte_tokenizer, decoder
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import parse
from unprompt.stages import check

RECIPES = Path(__file__).parents[1] / "recipes"
SOURCES = {"file", "hub", "rule", "rows"}
NOT_EXACT = {"star", "d_inputs", "banking77_prompt"}
"""What they ask hangs on answers: on a filter, and on the sieve of written inputs."""
METRIC = '''
def metric(answer, example):
    """Right for every other input."""
    return float(example.id.endswith(("0", "2")))
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models that read long prompts."""
    folders = {}
    for seed, name in enumerate(("student", "teacher")):
        folder = tmp_path_factory.mktemp(name)
        decoder(seed, max_position_embeddings=16384).save_pretrained(folder)
        tokenizer = byte_tokenizer()
        tokenizer.chat_template = f"{{{{ tools | tojson if tools }}}}{tokenizer.chat_template}"
        tokenizer.save_pretrained(folder)
        folders[name] = str(folder)
    return folders


def names(value: Any) -> set[str]:
    """Words in the templates of a recipe: each may be a field."""
    if isinstance(value, dict):
        return {name for each in value.values() for name in names(each)}
    if isinstance(value, list):
        return {name for each in value for name in names(each)}
    inside = re.findall(r"\{[{%](.*?)[}%]\}", str(value), re.S)
    return {word for text in inside for word in re.findall(r"[A-Za-z_]\w*", text)}


def small(value: Any, fields: set[str], where: str = "") -> Any:
    """The recipe with few rows in the place of each source, and settings that cost little."""
    if isinstance(value, list):
        return [small(each, fields, where) for each in value]
    if not isinstance(value, dict):
        return value
    if SOURCES & value.keys() and {"target", "id"} <= value.keys():
        split = "h" if "evaluate" in where else "p" if "examples" in where else "i"
        known = {*fields, value["target"], "case"} - {"examples"}
        rows = [
            dict.fromkeys(known - {"id"}, f"{split}{n}") | {"id": f"{split}{n}"}
            for n in range(20 if split == "p" or "shots" in where else 2)
        ]
        kept = {"id": value["id"], "target": value["target"]}
        if value.get("sample"):
            ends = {"stop": list("Oadel "), "tries": 30, "count": 3, "max_new_tokens": 30}
            return kept | {"sample": small(value["sample"], fields, "examples") | ends}
        if value.get("from_prompt"):
            ends = {"stop": list("Oadel "), "tries": 90, "count": 3, "max_new_tokens": 30}
            return kept | {"from_prompt": value["from_prompt"] | ends}
        if value.get("mix"):
            return kept | {"mix": small(value["mix"], fields, where), "limit": 4}
        return kept | {"rows": rows}
    made = {key: small(each, fields, f"{where}.{key}") for key, each in value.items()}
    least = {"max_new_tokens": 3, "epochs": 1, "max_failed": 1, "batch_size": 4, "n": 2}
    for key, cheap in least.items():
        if made.get(key):
            made[key] = cheap
    if "keep" in made and "metric" in made:
        made["metric"] = "counted:metric"
    if made.get("extract"):
        made["extract"] = "whole"
    return made


def cheap(path: Path, models: dict[str, str], folder: Path) -> unprompt.Recipe:
    whole = unprompt.load(path).model_dump(mode="json", by_alias=True)
    made = small(whole, names(whole["contexts"]) | names(whole["evaluate"]))
    (folder / "counted.py").write_text(METRIC)
    made |= {"model": models["student"], "modules": str(folder), "batch_size": 4}
    if made["teacher_model"]:
        made["teacher_model"] = models["teacher"]
    for each in made["contexts"].values():  # nothing that a tiny model writes is valid
        if each["filter"] and each["filter"]["keep"] == "valid":
            each["filter"] = None
    evaluations = [made["evaluate"], *(each["evaluate"] for each in made["contexts"].values())]
    for each in evaluations:
        if each and isinstance(each, dict) and not each.get("choices"):
            each["metrics"] = ["counted:metric"] + ["entropy"] * ("entropy" in each["metrics"])
    return parse(made)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_run_asks_as_often_as_check_says(
    path: Path, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = cheap(path, models, tmp_path)
    asked: Counter[str] = Counter()

    def counting(verb: Any) -> Any:
        def ask(self: Any, prompts: Any, *rest: Any, **more: Any) -> Any:
            adapted = hasattr(self.model, "peft_config")
            place = getattr(self.model, "name_or_path", "")
            untrained = place == models["student"] and not adapted
            who = "teacher" if place == models["teacher"] else "base" if untrained else "after"
            asked[who] += len(prompts)
            return verb(self, prompts, *rest, **more)

        return ask

    for verb in ("generate", "score"):
        monkeypatch.setattr(HFEngine, verb, counting(getattr(HFEngine, verb)))
    sizes = check.check(recipe).plan.sizes(recipe)
    unprompt.run(recipe, tmp_path / "run")
    said: Counter[str] = Counter()
    exact = True
    for who, (size, is_exact) in sizes.items():
        said[{"student": "after"}.get(who.role, who.role)] += size.calls
        exact = exact and is_exact
    if exact:
        assert asked == said
    else:
        assert asked.total() <= said.total()
        assert all(asked[who] <= count for who, count in said.items())
    assert exact == (recipe.name not in NOT_EXACT)
