"""What SECURITY.md says stands between what is not trusted and the user."""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import unprompt
from conftest import byte_tokenizer, decoder, tiny_recipe
from endpoint import NAME, Asked, Sent, serving
from unprompt.engines import models
from unprompt.messages import UserError
from unprompt.pipeline import run
from unprompt.recipe import Model, Template, load, parse
from unprompt.records import Example
from unprompt.stages.templates import sandbox
from unprompt.stages.templates.render import render, render_all

SOURCE = Path(unprompt.__file__).parent
KEY = "sk-planted-9876543210"

# -- templates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        (
            "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
            "over 1,000 turns of loops",
        ),
        ("{% for i in range(2000) %}{% set x = i %}{% endfor %}", "over 1,000 turns of loops"),
        (
            "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
            "RecursionError|over 1,000 turns",
        ),
        (
            (
                "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{"
                " f(60) }}"
            ),
            "over 1,000 turns of loops",
        ),
        ("{% for x in b recursive %}{{ loop(b) }}{% endfor %}", "RecursionError|over 1,000 turns"),
        ("{{ 'a' * 10**9 }}", "a product of over"),
        ("{{ 10**9 * 'a' }}", "a product of over"),
        ("{{ [0] * 10**9 }}", "a product of over"),
        ("{{ 10 ** (10**8) }}", "a number of over"),
        (
            (
                "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{%"
                " endfor %}{{ n.x }}"
            ),
            "a number of over",
        ),
        ("{% for i in range(999) %}{{ 'a' * 100000 }}{% endfor %}", "over 16,777,216 letters"),
        ("{{ 'a'.ljust(10**11) }}", "too much memory"),
        ("{{ 'a'|center(10**11) }}", "too much memory"),
        ("{{ '%100000000000d' % 1 }}", "too much memory"),
        ("{{ '{:100000000000}'.format(1) }}", "too much memory"),
        ("{{ ('a' * 10**7).replace('a', 'b' * 10**6)|length }}", "too much memory"),
        ("{{ ''.join(['a' * 10**7] * 10000)|length }}", "too much memory"),
        ("{{ [1]|batch(10**11, 0)|list }}", "too much memory"),
        ("{{ lipsum(n=10**9) }}", "undefined"),
        ("{{ [1]|slice(10**10)|list }}", "No filter named 'slice'"),
    ],
)
def test_a_template_ends(template: str, match: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "TURNS", 1_000)
    monkeypatch.setattr(sandbox, "SECONDS", 3600.0)
    with pytest.raises(UserError, match=match) as caught:
        render(Template(text=template), "c", Example("1", {"a": "text", "b": [1, 2]}), None, "t")
    assert "\n" not in str(caught.value)


def test_a_template_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.0)
    with pytest.raises(UserError, match="it took over 0 s"):
        render(
            Template(text="{% for i in b %}{{ i }}{% endfor %}"),
            "c",
            Example("1", {"b": [1, 2]}),
            None,
            "t",
        )


def test_limits_are_taken_back_and_count_anew_for_each_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import resource

    monkeypatch.setattr(sandbox, "TURNS", 30)
    rows = [Example(str(n), {"b": list(range(20))}) for n in range(10)]
    before = resource.getrlimit(resource.RLIMIT_AS)
    found = render_all(
        "c",
        Template(text="{% for i in b %}{{ i * 2 }} {% endfor %}{{ 'ab' * 2 }}"),
        "teacher",
        rows,
        [None],
    )
    assert {p.content for p in found} == {" ".join(str(2 * n) for n in range(20)) + " abab"}
    assert resource.getrlimit(resource.RLIMIT_AS) == before


# -- code that comes with data ---------------------------------------------------------------------


REFUSED = (
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "joblib.load",
    "np.load",
    "os.system",
)
FAMILIES = (
    "pickle.",
    "dill.",
    "marshal.",
    "shelve.",
    "subprocess.",
    "shutil.unpack",
    "tarfile.",
    "zipfile.",
)
WORKERS = {"stages/cluster.py", "engines/vllm/engine.py", "engines/vllm/worker.py"}


def test_our_source_reads_no_pickle_and_runs_no_text() -> None:
    """By name, so that a reader can check each exception: `pickle` is imported for the error that
    refuses one, and between a run and workers that it started itself, on pipes that hand over the
    same way whatever we do (Ray, vLLM); nothing of it comes from a file.
    """
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            refused = called in REFUSED or called.startswith(FAMILIES)
            if refused and not (
                called.startswith("pickle.") and str(path.relative_to(SOURCE)) in WORKERS
            ):
                found.append(f"{path.name}: {called}")
            if (
                called in ("yaml.load", "yaml.load_all")
                and isinstance(node, ast.Call)
                and ast.unparse(node.args[1]) != "_Loader"
            ):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_pickle_of_weights_is_refused_unread(name: str, tmp_path: Path) -> None:
    decoder().config.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(_bomb(tmp_path / "ran"))
    with pytest.raises(UserError, match=rf"{name} is a pickle, which can run any code") as caught:
        models.load_weights(Model(name=str(tmp_path)), "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def _bomb(path: Path) -> bytes:
    return pickle.dumps(_Bomb(path))


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_is_not_run(
    name: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the list of the checkpoint's files was changed with it."""
    from transformers import Trainer

    from unprompt.stages.train import checkpoints

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trainer, "_maybe_log_save_evaluate", _stops_after_two(Trainer._maybe_log_save_evaluate)
        )
        with pytest.raises(KeyboardInterrupt):
            run(_saving(tiny), tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-2"
    assert (checkpoint / name).is_file()
    torch.save(_Bomb(tmp_path / "ran"), checkpoint / name)
    listed = json.loads((checkpoint / "files.json").read_text())
    (checkpoint / "files.json").write_text(
        json.dumps(listed | {name: checkpoints.stamp(checkpoint / name)})
    )
    with pytest.raises(UserError, match="holds what no training of ours writes, and was not read"):
        run(_saving(tiny), tmp_path / "run")
    assert not (tmp_path / "ran").exists()


def _saving(tiny: Any) -> Any:
    """A checkpoint at each step."""
    return tiny(train={"epochs": 2, "batch_size": 4, "save_every": 1, "adapter": {"rank": 4}})


def _stops_after_two(method: Any) -> Any:
    def stopping(self: Any, *rest: Any, **options: Any) -> Any:
        found = method(self, *rest, **options)
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return found

    return stopping


def test_a_checkpoint_that_was_cut_is_passed_over(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import Trainer

    whole = run(_saving(tiny), tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Trainer, "_maybe_log_save_evaluate", _stops_after_two(Trainer._maybe_log_save_evaluate)
        )
        with pytest.raises(KeyboardInterrupt):
            run(_saving(tiny), tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "checkpoint-2" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-100])
    run(_saving(tiny), tmp_path / "run")
    assert f"BROKEN FILE: {path} is not as it was written" in capsys.readouterr().err
    weights = [
        (folder / "student" / "adapter_model.safetensors").read_bytes()
        for folder in (whole.folder, tmp_path / "run")
    ]
    assert weights[0] == weights[1]


def test_code_of_a_model_is_run_only_if_the_recipe_says_so_and_loudly(
    decoder_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models._warn.cache_clear()
    models.load_config(Model(name=str(decoder_folder)), "model")
    assert "WARNING" not in capsys.readouterr().err
    models.load_config(Model(name=str(decoder_folder), trust_remote_code=True), "model")
    assert (
        "WARNING: model.trust_remote_code is true: Python code that comes with"
        in capsys.readouterr().err
    )


def test_code_of_a_model_is_not_run_unasked(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    auto = {"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.Other"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": auto}))
    (tmp_path / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    with pytest.raises(UserError, match="the model can't be loaded"):
        models.load_config(Model(name=str(tmp_path)), "model")
    assert not (tmp_path / "ran").exists()


# -- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../out", "/etc/x", "a/b", "..", ".hidden", "a\\b", "", "a\nb", "x" * 200]
)
def test_a_name_stays_in_its_folder(name: str, decoder_folder: Path) -> None:
    with pytest.raises(UserError, match="name"):
        parse(tiny_recipe(decoder_folder) | {"name": name})
    with pytest.raises(UserError):
        parse(tiny_recipe(decoder_folder) | {"rounds": {name: {}}})


@pytest.mark.parametrize("path", ["pkg:unprompt/../../../etc/passwd", "pkg:unprompt//etc/passwd"])
def test_a_path_stays_in_its_package(path: str) -> None:
    from unprompt.recipe.names import local_path

    with pytest.raises(UserError, match="the path leaves the package"):
        local_path(path, "inputs")


@pytest.mark.parametrize(
    "bad",
    [
        "!!python/object/apply:os.mkdir [ran]",
        "&a [*a]",
        "{a: &x [1], b: *x, c: !!python/name:os.system }",
    ],
)
def test_a_recipe_is_plain_data(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(f"name: {bad}\n")
    with pytest.raises(UserError):
        load(tmp_path / "r.yaml")
    assert not (tmp_path / "ran").exists()


# -- the key ---------------------------------------------------------------------------------------


def test_the_key_is_in_nothing_that_a_run_with_faults_leaves(
    decoder_folder: Path, tmp_path: Path
) -> None:
    """A server that says the key back wherever it can, and a run that is started until it is
    through.
    """
    echoes: list[Any] = [
        Sent({"error": f"bad key {KEY}"}, 429, {"Retry-After": KEY, "X-Key": KEY}),
        Sent(f"<html>{KEY}</html>".encode(), 500, {"Date": KEY}),
        Sent(b'{"model": "' + KEY.encode()),
        Sent(b"x", headers={"Content-Length": "70", "Server": KEY}),
        Sent(b"\xff" + KEY.encode(), headers={"Content-Encoding": "gzip"}),
        Sent(b"", 302, {"Location": f"http://127.0.0.1:1/{KEY}"}),
        Sent({"error": {"message": KEY, "key": KEY}}, 401),
        Sent({"model": KEY, "choices": []}),
        Sent({"error": KEY}),
        Sent({"model": NAME, "choices": [{"text": KEY, "finish_reason": KEY}]}),
    ]
    good = {
        "model": NAME,
        "choices": [{"index": 0, "text": "yes", "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 3},
    }

    def answer(asked: Asked, number: int) -> Any:
        assert asked.headers["Authorization"] == f"Bearer {KEY}"
        return echoes.pop(0) if number % 3 == 1 and echoes else Sent(good)

    with serving(answer) as (url, _):
        section = {
            "url": url,
            "model": NAME,
            "api": "completions",
            "concurrency": 1,
            "retries": 1,
            "api_key_env": "UNPROMPT_TEST_KEY",
        }
        words = tiny_recipe(decoder_folder) | {
            "teacher_model": {"server": section},
            "labels": {"kind": "hard"},
            "batch_size": 1,
        }
        words["contexts"]["colours"]["inputs"] = [
            {"id": f"i{n}", "text": f"colour {n}"} for n in range(20)
        ]
        (tmp_path / "keyed.yaml").write_text(yaml.safe_dump(words))
        code = f"""
import os, sys, logging
os.environ["UNPROMPT_TEST_KEY"] = {KEY!r}
logging.basicConfig(level=logging.DEBUG)
from unprompt import cli
from unprompt.engines.server import http
http.random.uniform = lambda low, high: 0.001
sys.argv = ["unprompt", "run", {str(tmp_path / "keyed.yaml")!r}, "--out", {str(tmp_path / "run")!r}]
said = 0
for _ in range(12):
    try:
        cli.main()
    except SystemExit as end:
        said += end.code == 2
        if not end.code:
            break
print("REFUSED", said)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert echoes == []
    refused = int(done.stdout.split("REFUSED")[1])
    assert refused >= 4
    assert "Traceback" not in done.stderr
    assert KEY not in done.stdout + done.stderr
    assert "***" in done.stderr
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"report.html", "report.json", "report.md", "recipe.yaml", "asked-teacher.jsonl"} <= {
        path.name for path in written
    }
    assert [
        path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ] == []
