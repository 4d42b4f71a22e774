"""The Hugging Face hub where it can't be reached, or refuses: one line, at once. The hubs are
servers of this process.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from unprompt.engines import hub, models
from unprompt.messages import UserError
from unprompt.recipe import Data, Model
from unprompt.stages import inputs

ID = "someone/a-model-of-theirs"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The network is there, as far as the environment says; the cache is empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "_known", {})
    monkeypatch.setattr(hub, "_PATIENCE", 0.5)


@pytest.fixture
def closed() -> Iterator[Callable[[], int]]:
    """A port where nobody listens: how often anyone knocked can't be seen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield lambda: taken.getsockname()[1]


@pytest.fixture
def silent() -> Iterator[tuple[int, list[Any]]]:
    """A server that takes every connection and never says a word; the connections."""
    came, listening = list[Any](), socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        while True:
            try:
                came.append(listening.accept())
            except OSError:
                return

    threading.Thread(target=take, daemon=True).start()
    yield listening.getsockname()[1], came
    listening.close()


@pytest.fixture
def serving() -> Iterator[Callable[[Callable[[str], tuple[int, dict[str, str]]]], str]]:
    """Starts a hub that answers every path with a status and headers: its address."""
    servers = list[ThreadingHTTPServer]()

    def start(answer: Callable[[str], tuple[int, dict[str, str]]]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers = answer(self.path)
                self.send_response(status)
                for name, value in ({"Content-Length": "0"} | headers).items():
                    self.send_header(name, value)
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def loads() -> list[Callable[[], object]]:
    model = Model(name=ID)
    return [
        lambda: models.load_config(model, "model"),
        lambda: models.load_tokenizer(model, "teacher_model"),
        lambda: models.load_weights(model, "model"),
    ]


def test_no_network_is_one_line_that_names_the_id(
    closed: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{closed()}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    for load in loads():
        said = refused(load)
        assert f"model ({ID}): the hub can't be reached ({address}: " in said
        assert said.endswith("-> check the network and HF_ENDPOINT, or give a folder")
    said = refused(lambda: inputs.load(Data(hub="someone/colours"), "inputs"))
    assert f"inputs (someone/colours): the hub can't be reached ({address}: " in said
    assert said.endswith("-> check the network and HF_ENDPOINT, or give a file")
    assert not constants.HF_HUB_OFFLINE, "a network that comes back is used"


def test_a_hub_that_is_silent_is_asked_once(
    silent: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, came = silent
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    for load in loads():
        assert "the hub can't be reached" in refused(load)
    assert "can't be reached" in refused(lambda: inputs.load(Data(hub=ID), "inputs"))
    assert len(came) == 1


def test_a_broken_hub(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()

    def answer(path: str) -> tuple[int, dict[str, str]]:
        asked.append(path)
        return 503, {}

    monkeypatch.setattr(constants, "ENDPOINT", serving(answer))
    for load in loads():
        assert "status 503" in refused(load)
    assert len(asked) == 1


def test_what_is_in_the_cache_is_used_and_said(
    closed: Callable[[], int],
    decoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed()}")
    cached, commit = tmp_path / "hub" / f"models--{ID.replace('/', '--')}", "0123456789" * 4
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    shutil.copytree(decoder_folder, cached / "snapshots" / commit)
    models.load_tokenizer(Model(name=ID), "model")
    models.load_weights(Model(name=ID), "model")
    noted = " ".join(capsys.readouterr().err.split())
    assert f"): {ID} is the one in its cache" in noted
    assert noted.count("note: ") == 1


def test_offline_by_choice_asks_nobody(
    silent: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent[0]}")
    for load in loads():
        said = refused(load)
        assert f"({ID}): HF_HUB_OFFLINE is set, and the hub's cache lacks this model" in said
        assert said.endswith("-> unset HF_HUB_OFFLINE, or give a folder")
    assert silent[1] == []


def test_no_id_of_the_hub_asks_nobody(
    silent: tuple[int, list[Any]], decoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent[0]}")
    monkeypatch.chdir(decoder_folder.parent)
    models.load_tokenizer(Model(name=decoder_folder.name), "model")
    assert "can't be loaded" in refused(
        lambda: models.load_tokenizer(Model(name="no such/model of/anyone"), "model")
    )
    assert silent[1] == []


REFUSALS = {
    "gated": (401, {"X-Error-Code": "GatedRepo"}, "its owner lets only some people read this"),
    "not-yours": (403, {"X-Error-Code": "GatedRepo"}, "its owner lets only some people read this"),
    "misspelt": (404, {"X-Error-Code": "RepoNotFound"}, "there is no such "),
    "private": (401, {}, "there is no such "),
    "no-revision": (404, {"X-Error-Code": "RevisionNotFound"}, "has no such revision on the hub"),
    "bad-token": (403, {}, "the hub refuses the token (403)"),
}
SCRIPT = """
import json, sys
from unprompt.engines import models
from unprompt.messages import UserError
from unprompt.recipe import Data, Model
from unprompt.stages import inputs
said = {}
for name in sys.argv[1:]:
    for kind, load in (
        ("model", lambda: models.load_tokenizer(Model(name="someone/" + name), "model")),
        ("data set", lambda: inputs.load(Data(hub="someone/" + name), "inputs")),
    ):
        try:
            load()
        except UserError as error:
            said[f"{name} {kind}"] = str(error)
print(json.dumps(said))
"""


def test_refusals_of_the_hub_are_told_apart(serving: Any, tmp_path: Path) -> None:
    """In a process of its own: the hub's address is read when its package is imported."""
    asked = list[str]()

    def answer(path: str) -> tuple[int, dict[str, str]]:
        asked.append(path)
        name = next((name for name in REFUSALS if f"someone/{name}" in path), None)
        return REFUSALS[name][:2] if name else (200, {})

    environment = {
        **{name: value for name, value in os.environ.items() if name != "HF_TOKEN"},
        "HF_ENDPOINT": serving(answer),
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *REFUSALS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    for name, (_, _, what) in REFUSALS.items():
        for kind in ("model", "data set"):
            line = said[f"{name} {kind}"]
            assert f"(someone/{name}): " in line
            assert what in line, line
            assert " -> " in line
    assert asked.count("/") == 1, "reached: that is asked once"
