"""Code runs only where a recipe names it, and weights are read only from what may be read."""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import byte_tokenizer, decoder, tiny_recipe
from unprompt.engines import models
from unprompt.messages import UserError
from unprompt.recipe import Model, names, parse
from unprompt.recipe.names import function, join
from unprompt.store.files import file_digest, module_digest


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(names, "_joined", [])
    before = set(sys.modules)
    yield
    for name in [
        each for each in sys.modules if each.startswith("unnamed_") and each not in before
    ]:
        del sys.modules[name]


# -- functions beside a recipe ---------------------------------------------------------------------

INSTALLED = ("transformers", "scipy", "torch", "numpy", "datasets", "peft", "json", "regex")
LACKING = ("flash_attn", "apex", "unnamed_stray")


def _strays(folder: Path, ran: Path, modules: tuple[str, ...]) -> None:
    for name in modules:
        code = f"import os; os.makedirs({str(ran / name)!r}, exist_ok=True)\n"
        (folder / f"{name}.py").write_text(code)


def test_check_runs_no_code_that_the_recipe_does_not_name(
    decoder_folder: Path, tmp_path: Path
) -> None:
    """Neither in place of an installed package, nor, where no function is named, of one that is
    not installed. A named function runs, with what it imports from its own folder.
    """
    plain, named, ran = tmp_path / "plain", tmp_path / "named", tmp_path / "ran"
    recipe = tiny_recipe(decoder_folder)
    for folder in (plain, named):
        folder.mkdir()
        _strays(folder, ran, INSTALLED)
    _strays(plain, ran, LACKING)
    (named / "unnamed_beside.py").write_text("def score(answer, example): return 1.0\n")
    (named / "unnamed_mine.py").write_text("from unnamed_beside import score\n")
    (plain / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    recipe["evaluate"]["metrics"] = ["unnamed_mine:score"]
    (named / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code = f"""
import sys
sys.path.remove("")
from unprompt.recipe import load
from unprompt.stages import check
for folder in ({str(plain)!r}, {str(named)!r}):
    check.check(load(folder + "/recipe.yaml"))
    print(folder in sys.path)
for name in {LACKING!r}:
    try:
        __import__(name)
    except ImportError:
        print("not found")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:2] == ["False", "True"]
    assert done.stdout.count("not found") == len(LACKING)
    assert not ran.exists()


def test_the_recipes_folder_is_searched_last(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / f"unnamed_{folder.name}.py").write_text("def f(): return __file__\n")
    before = list(sys.path)
    join(str(first), [])
    assert sys.path == before, "no function is named"
    join(str(first), ["unnamed_first:f"])
    assert sys.path == [*before, str(first)]
    assert str(second) in function("unnamed_second:f", "metrics", str(second))()
    assert sys.path == [*before, str(second), str(first)], "the latest recipe's before others'"
    join(str(first), ["unnamed_first:f"])
    assert sys.path == [*before, str(first), str(second)]


@pytest.mark.parametrize("name", ["statistics", "wave", "yaml"])
def test_two_modules_of_one_name_are_said(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("def mean(values): return 0\n")
    with pytest.raises(UserError, match=rf"two modules '{name}': .*{name}\.py, and .*{name}") as it:
        function(f"{name}:mean", "evaluate.metrics", str(tmp_path))
    assert str(it.value).endswith(f"rename {name}.py, and write its new name here")


def test_a_module_of_another_recipe_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    """Nor what it imports from beside itself."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "unnamed_below.py").write_text(f"WHERE = {folder!r}\n")
        same = "from unnamed_below import WHERE\ndef f(): return WHERE\n"
        (tmp_path / folder / "unnamed_same.py").write_text(same)
    for folder in ("a", "b", "b", "a"):
        assert function("unnamed_same:f", "metrics", str(tmp_path / folder))() == folder


def test_the_digest_is_of_the_module_that_is_run(tmp_path: Path) -> None:
    package = tmp_path / "unnamed_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for path in (tmp_path / "unnamed_alone.py", tmp_path / "statistics.py", package / "inner.py"):
        path.write_text(f"# {path.name}\n")
    folder = str(tmp_path)
    assert module_digest("statistics:mean", folder) == file_digest(Path(statistics.__file__))
    assert module_digest("unnamed_alone:f", folder) == file_digest(tmp_path / "unnamed_alone.py")
    inner = module_digest("unnamed_package.inner:f", folder)
    assert inner == file_digest(package / "inner.py"), "and nothing of it is imported for that"
    assert module_digest("unnamed_package:f", folder) == file_digest(package / "__init__.py")
    assert module_digest("unnamed_nowhere:f", folder) == "missing"
    assert module_digest("sys:exit", folder) == "missing"


def test_a_recipe_knows_the_functions_that_it_names(decoder_folder: Path) -> None:
    words: dict[str, Any] = tiny_recipe(decoder_folder) | {"model": {"rule": "a.b:model"}}
    words["contexts"]["colours"] |= {
        "extract": "c:extract",
        "filter": {"metric": "d:keep"},
        "inputs": {"rows": [{"text": "a", "target": "b", "keep": "no:function", "rule": "no:r"}]},
    }
    words["evaluate"] = {"data": {"rule": "e:rows"}, "metrics": ["accuracy", "f:metric"]}
    assert parse(words).functions == ["a.b:model", "c:extract", "d:keep", "e:rows", "f:metric"]


# -- a model's folder ------------------------------------------------------------------------------


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    decoder().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def _config(folder: Path, **more: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def _index(folder: Path, name: str, part: str) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    weights = {"lm_head.weight": "part.safetensors", "model.norm.weight": part}
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weights}))


def _bombs(folder: Path) -> None:
    """Under every name that is tried, as pickle's own file and as PyTorch's."""
    ran = folder.parent / "ran"
    for name in ("adapter_model.bin", "weights.bin", "part.pt", "part.ckpt", "pytorch_model.bin"):
        torch.save(_Bomb(ran), folder / name)
    for path in (folder / "part.pth", folder.parent / "outside.safetensors"):
        path.write_bytes(pickle.dumps(_Bomb(ran)))


@pytest.mark.parametrize(
    ("index", "explicit", "part", "match"),
    [
        ("", "adapter_model.bin", "", r"adapter_model\.bin is a pickle"),
        ("", "weights.bin", "", r"weights\.bin is a pickle"),
        ("", "../outside.safetensors", "", "a file outside of the model's folder"),
        ("", "weights", "", "transformers_weights of config.json names weights"),
        ("", 7, "", "names 7 as a file"),
        ("model.safetensors.index.json", None, "part.pt", r"part\.pt is a pickle"),
        ("model.safetensors.index.json", None, "part.pth", r"part\.pth is a pickle"),
        ("model.safetensors.index.json", None, "../outside.safetensors", "outside of the model's"),
        ("model.safetensors.index.json", None, "/outside.safetensors", "outside of the model's"),
        ("model.safetensors.index.json", None, "part.npz", "names part.npz as weights"),
        ("my.safetensors.index.json", "my.safetensors.index.json", "part.ckpt", "is a pickle"),
    ],
)
def test_weights_that_may_not_be_read_are_refused_unread(
    index: str, explicit: Any, part: str, match: str, model_folder: Path
) -> None:
    _bombs(model_folder)
    if index:
        _index(model_folder, index, part)
    if explicit is not None:
        _config(model_folder, transformers_weights=explicit)
    for load in (models.load_config, models.load_weights):
        with pytest.raises(UserError, match=match) as caught:
            load(Model(name=str(model_folder)), "model")
        assert "\n" not in str(caught.value)
    assert not (model_folder.parent / "ran").exists()


def test_weights_in_several_files_are_read(model_folder: Path) -> None:
    whole = models.load_weights(Model(name=str(model_folder)), "model").state_dict()
    (model_folder / "model.safetensors").unlink()
    decoder().save_pretrained(model_folder, max_shard_size="20KB")
    assert (model_folder / "model.safetensors.index.json").is_file()
    parts = models.load_weights(Model(name=str(model_folder)), "model").state_dict()
    assert all(torch.equal(parts[name], value) for name, value in whole.items())
    _config(model_folder, transformers_weights="model.safetensors.index.json")
    assert models.load_weights(Model(name=str(model_folder)), "model")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("model.safetensors.index.json", "{"),
        ("model.safetensors.index.json", "[" * 100_000),
        ("model.safetensors.index.json", '{"metadata": {}}'),
        ("model.safetensors.index.json", '{"metadata": 3, "weight_map": {"a": "b.safetensors"}}'),
        ("model.safetensors.index.json", '{"weight_map": {"a": ["b.safetensors"]}}'),
        ("model.safetensors.index.json", '{"weight_map": []}'),
        ("config.json", "[]"),
        ("config.json", "\ud800"),
        ("config.json", '{"model_type": ' + "[" * 100_000),
    ],
)
def test_a_broken_index_or_configuration_is_one_line(
    name: str, text: str, model_folder: Path
) -> None:
    (model_folder / "model.safetensors").rename(model_folder / "part.safetensors")
    (model_folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=name.partition(".")[0]) as caught:
        models.load_config(Model(name=str(model_folder)), "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pickled", [False, True])
def test_an_adapter_beside_whole_weights_is_said(pickled: bool, model_folder: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    student = get_peft_model(decoder(), LoraConfig(target_modules="all-linear"))
    assert isinstance(student, PeftModel)
    student.save_pretrained(str(model_folder))
    if pickled:
        (model_folder / "adapter_model.safetensors").unlink()
        torch.save(_Bomb(model_folder.parent / "ran"), model_folder / "adapter_model.bin")
    for load in (models.load_config, models.load_weights):
        with pytest.raises(UserError, match="an adapter lies beside the weights"):
            load(Model(name=str(model_folder)), "model")
    assert not (model_folder.parent / "ran").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_kernels_from_elsewhere_are_refused(key: str, model_folder: Path) -> None:
    _config(model_folder, **{key: "somebody/attention"})
    with pytest.raises(UserError, match="code that you did not name"):
        models.load_config(Model(name=str(model_folder)), "model")
    _config(model_folder, **{key: "sdpa"})
    assert models.load_config(Model(name=str(model_folder)), "model")
