"""What people's machines, data and prompts are like: nothing of it ends in a traceback, and nothing
good is refused.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import byte_tokenizer, decoder, reads, tiny_recipe
from endpoint import HELD, Asked, Sent, serving
from unprompt.engines import cache
from unprompt.engines.server.http import Endpoint
from unprompt.messages import UserError
from unprompt.recipe import Data, Extract, Recipe, Server, Template, load
from unprompt.records import Completion, Example, Prompt, SoftLabels
from unprompt.stages import check, inputs, lessons
from unprompt.stages.templates import sandbox
from unprompt.stages.templates.render import render, render_all
from unprompt.tools import starter

DIGITS = "7" * 5000


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("column", ["text", "page"])
def test_a_cell_of_any_length(suffix: str, separator: str, column: str, tmp_path: Path) -> None:
    cells = {"text": "short", "page": "short"} | {column: "x" * 300_000}
    path = tmp_path / f"d.{suffix}"
    path.write_text(f"{separator.join(cells)}\n{separator.join(cells.values())}\n")
    [example] = inputs.load(Data(file=str(path)), "inputs")
    assert example.fields == cells


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("value", [DIGITS, f"-{DIGITS}", f'[1, {{"n": {DIGITS}}}]'])
def test_a_number_of_any_length(suffix: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / f"d.{suffix}"
    row = f'{{"text": "a", "key": {value}}}'
    path.write_text(f"[{row}]" if suffix == "json" else row)
    [example] = inputs.load(Data(file=str(path)), "inputs")
    assert render(Template(text="{{ text }}"), "c", example, None, "t").content == "a"
    shown = str(render(Template(text="{{ key }}"), "c", example, None, "t").content)
    assert DIGITS in shown
    assert shown.replace('"', "") == value.replace('"', "")


@pytest.mark.parametrize("count", [300, 700])
def test_long_prompts_together(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes little memory; all of them take more than one template may."""
    monkeypatch.setattr(sandbox, "_ROOM", 2**28)
    rules = "Answer politely. " * (2**20 // 17)
    rows = [Example(str(n), {"text": str(n)}) for n in range(count)]
    found = render_all("c", Template(text=rules + "{{ text }}"), "teacher", rows, [None])
    assert [str(prompt.content)[-3:].strip(" .") for prompt in found[:2]] == ["0", "1"]
    assert len(found) == count
    with pytest.raises(UserError, match=r"over [0-9,]+ letters"):
        render(Template(text="{{ 'x' * 10**8 }}{{ text }}"), "c", rows[0], None, "t")


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [["<picture>"], ["<picture>", "<sound>"]])
def test_tokens_without_an_embedding(
    more: list[str], tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    """As of gemma-3-1b-it: the tokenizer is that of a family of which some see."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(more, special_tokens=True)
    decoder().save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    recipe = tiny(model=str(tmp_path / "m"))
    notes = [line for line in check.check(recipe).lines if "no embeddings" in line]
    assert len(notes) == 1
    assert all(token in notes[0] for token in more)
    named = recipe.contexts["colours"].model_copy(update={"student": Template(text=f"{more[-1]}!")})
    with pytest.raises(UserError, match=f"input 'i0' has the token '{more[-1]}'"):
        check.check(recipe.model_copy(update={"contexts": {"colours": named}}))
    answer = Completion("a", "c", more[0], (259, 1), "end", 3, SoftLabels.hard([259, 1]))
    reader = reads(tokenizer)._replace(embeddings=259)
    built, drops = lessons.build(
        [Prompt("a", "c", "Say:")], [answer], reader, Extract(), end_token=True
    )
    assert not built
    assert "no embedding" in drops.failed["a"]


# -- machines --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "socks4://proxy:1", "nonsense://x"])
def test_a_proxy_that_can_not_be_used(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)
    for host in ("127.0.0.1:9", "localhost:9", "[::1]:9"):
        made(f"http://{host}/v1")
    with pytest.raises(UserError, match="the proxy that the environment names"):
        made("https://models.example/v1")
    monkeypatch.setenv("NO_PROXY", "other.example,models.example")
    made("https://models.example/v1")


def made(url: str) -> Endpoint:
    return Endpoint(Server(url=url, model="m"), "teacher_model.server", asyncio.sleep)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nowhere() -> Any:
        raise RuntimeError("Could not determine home directory.")

    for name in ("UNPROMPT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = cache.cache_dir()
    assert found == tmp_path / f"unprompt-{os.getuid()}"
    assert found.stat().st_mode & 0o777 == 0o700
    found.chmod(0o777)
    with pytest.raises(UserError, match="others may write into this cache"):
        cache.cache_dir()
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.cache_dir() == Path("/caches/unprompt")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_that_lacks_a_letter(encoding: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", "check", str(tmp_path / "été-東京.yaml")],
        capture_output=True,
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding},
        check=False,
    )
    said = done.stderr.decode(encoding)
    assert done.returncode == 2, said
    assert said.startswith("error: ")
    assert "\\u6771\\u4eac" in said


@pytest.mark.parametrize(
    ("behind", "sent"),
    [
        ([], signal.SIGINT),
        # as a script's `&` starts it
        (["sh", "-c", 'trap "" INT; exec "$@"', "sh"], signal.SIGTERM),
    ],
)
def test_a_stop_says_how_to_go_on(
    behind: list[str], sent: signal.Signals, decoder_folder: Path, tmp_path: Path
) -> None:
    """From a shell; `collect` and each signal: faults/test_stops.py."""
    came = threading.Event()

    def held(asked: Asked, before: int) -> Sent:
        came.set()
        return Sent({}, after=HELD)

    with serving(held) as (url, _):
        words = tiny_recipe(decoder_folder) | {
            "teacher_model": {"server": {"url": url, "model": "m", "api": "completions"}},
            "labels": {"kind": "hard"},
        }
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(words))
        started = subprocess.Popen(
            [*behind, sys.executable, "-m", "unprompt", "run", "r.yaml", "--out", "r"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert came.wait(120)
        started.send_signal(sent)
        _, said = started.communicate(timeout=60)
    assert started.returncode == 130, said
    assert said.splitlines()[-1] == "stopped; run the same command again to go on"
    assert "Traceback" not in said


# -- prompts ---------------------------------------------------------------------------------------


def started(text: str, fields: list[str], tmp_path: Path) -> tuple[Template, list[str]]:
    """The teacher's template, and what is said."""
    (tmp_path / "p.txt").write_text(text, "utf-8")
    (tmp_path / "in.jsonl").write_text(json.dumps(dict.fromkeys(fields, "x")))
    wanted = starter.Wanted(tmp_path / "p.txt", inputs=tmp_path / "in.jsonl", measure=False)
    said = starter.write(wanted, tmp_path / "recipe.yaml")
    return load(tmp_path / "recipe.yaml").contexts["main"].teacher, said  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "prompt", "fields"),
    [
        ("Say {text}, then {text}:", "Say TEXT, then TEXT:", ["text"]),
        ("{question} and {question}", "TEXT and TEXT", ["text"]),
        ("C: {context}\nQ: {question}", "C: CONTEXT\nQ: QUESTION", ["context", "question"]),
        ("{{ text }} or {{text}}", "TEXT or TEXT", ["text"]),
        ('Write {{"a": 1}} for {text}', 'Write {"a": 1} for TEXT', ["text"]),
        ('Give {"a": {"b": 1}} for {text}', 'Give {"a": {"b": 1}} for TEXT', ["text"]),
        ('Write {"a": 1} for <input>, <input>', 'Write {"a": 1} for TEXT, TEXT', ["text"]),
        ("{% if %} is Jinja2's; {text}", "{% if %} is Jinja2's; TEXT", ["text"]),
        ("\ufeffOnly a prompt", "Only a prompt\n\nTEXT", ["text"]),
        ("\ufeff{a} {b}\r\n{c}", "A B\nC", ["a", "b", "c"]),
    ],
)
def test_every_place_of_a_prompt_is_filled(
    text: str, prompt: str, fields: list[str], tmp_path: Path
) -> None:
    teacher, said = started(text, fields, tmp_path)
    example = Example("1", {name: name.upper() for name in fields})
    messages = render(teacher, "main", example, None, "t").content
    found = "\n\n".join(message["content"] for message in messages if isinstance(message, dict))
    assert found.replace("\r\n", "\n").rstrip("\n") == prompt
    assert any("places of the prompt" in line or "system message" in line for line in said)


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_recipe_with_a_byte_order_mark(
    suffix: str, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    path = tmp_path / f"r.{suffix}"
    path.write_text("\ufeff" + tiny().to_yaml(), "utf-8")
    assert load(path).contexts == tiny().contexts


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("epochs", "train.epochs"),
        ("train.lr", "train.learning_rate"),
        ("lr", "train.learning_rate"),
        ("train.rank", "train.adapter.rank"),
        ("sampling.max_tokens", "sampling.max_new_tokens"),
        ("temperature", "sampling.temperature"),
        ("evaluates", "evaluate"),
    ],
)
def test_a_key_in_the_wrong_place_is_named_where_it_belongs(
    key: str, meant: str, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("model: m\ncontexts: {}\n")
    with pytest.raises(UserError, match=rf"unknown key '{key}' .*-> did you mean '{meant}'"):
        load(tmp_path / "r.yaml", [f"{key}=1"])
