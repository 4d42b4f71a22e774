"""Tiny random models and a byte-level tokenizer, in the Hugging Face layout, so that a whole run
takes seconds.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of all that a script starts with `&`
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests send it to what they start
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads only get in each other's way

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from unprompt.engines.tokens import Reader, end_ids
from unprompt.recipe import Recipe, parse

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}{% if"
    " add_generation_prompt %}<assistant>{% endif %}"
)


LONGEST = (
    "test_quickstart.py",
    "faults",
    "test_contract.py",
    "test_docs.py",
    "test_recipes.py",
    "test_processes.py",
    "test_extend.py",
)
"""Where the longest tests are."""


def _group(file: str) -> str:
    return (
        "faults" if "/faults/" in file or file.endswith("test_ray.py") else file.rpartition("/")[2]
    )


def pytest_collection_finish() -> None:
    """What is imported by now is not looked through at each collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest begin first."""
    groups = {item: _group(item.nodeid.partition("::")[0]) for item in items}
    items.sort(
        key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST)
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """In several processes (`pytest -n`) a file's tests stay in one, as do those of faults/, which
    count together, and those of Ray, which share a cluster.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid.partition("::")[0])

    return ByFile(config, log)


SNELL = Path(__file__).parents[1] / "recipes" / "papers" / "snell2022"


def beside_recipes(name: str) -> Any:
    """A module that lies beside the recipes of Snell et al., which are no package."""
    spec = importlib.util.spec_from_file_location(name, SNELL / f"{name}.py")
    assert spec
    assert spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reads(tokenizer: Any) -> Reader:
    """A decoder without a limit, which ends its answers as its tokenizer says."""
    return Reader(tokenizer, False, None, frozenset(end_ids(tokenizer)))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and three special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|pad|>": 0, "<|end|>": 1, "<|begin|>": 2} | {
        letter: n + 3 for n, letter in enumerate(alphabet)
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", bos_token="<|begin|>"
    )
    fast.chat_template = CHAT
    return fast


def decoder(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    size = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 1,
        "bos_token_id": 2,
        "pad_token_id": 0,
        "initializer_range": 0.2,
        **changes,
    }
    return LlamaForCausalLM(LlamaConfig(**size)).eval()


def writes_ascii(seed: int = 0) -> Any:
    """A tiny model with heads of a size that vLLM has, which writes letters that stand alone, and
    ends now and then: text says which tokens it was.
    """
    model, letters = (
        decoder(seed, hidden_size=128, intermediate_size=128),
        byte_tokenizer().get_vocab(),
    )
    plain = [letters[letter] for letter in "abcdefghijklmnopqrstuvwxyz0123456789.,;:!?"]
    with (
        torch.no_grad()
    ):  # the first number is the same behind every token, and speaks against all others
        model.model.embed_tokens.weight[:, 0] = 8.0
        layers: Any = model.model.layers
        for layer in layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight[:, 0] = -30.0
        model.lm_head.weight[plain, 0] = 0.0
        model.lm_head.weight[1] = (
            1.02 * model.lm_head.weight[letters["v"]]
        )  # it ends where it would write a v
    return model


def seq2seq(seed: int = 0) -> T5ForConditionalGeneration:
    torch.manual_seed(seed)
    size: dict[str, Any] = {
        "vocab_size": 259,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
        "initializer_factor": 1.0,
        "tie_word_embeddings": False,
    }
    model = T5ForConditionalGeneration(T5Config(**size)).eval()
    torch.nn.init.normal_(model.shared.weight, std=1.0)
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)  # so that answers vary
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    decoder().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def seq2seq_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seq2seq")
    seq2seq().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser, where this machine has one."""
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (extra dev)"
    )
    path = next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (found := shutil.which(name))
        ),
        None,
    )
    if path is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the PATH")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tiny(decoder_folder: Path) -> Callable[..., Recipe]:
    """A whole recipe for a tiny model; keyword arguments replace top-level sections."""

    def make(**sections: Any) -> Recipe:
        return parse(tiny_recipe(decoder_folder) | sections)

    return make


def tiny_recipe(folder: Path) -> dict[str, Any]:
    texts = ["red", "green", "blue", "yellow", "black", "white", "pink", "brown"]
    return {
        "name": "tiny",
        "model": str(folder),
        "contexts": {
            "colours": {
                "inputs": [{"id": f"i{n}", "text": text} for n, text in enumerate(texts)],
                "teacher": "A long instruction that the student never sees. {{ text }}:",
                "student": "{{ text }}:",
                "extract": "whole",
            }
        },
        "sampling": {"temperature": 1.0, "max_new_tokens": 4},
        "labels": {"kind": "sampled", "draws": 20},
        "train": {
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "save_every": 4,
            "adapter": {"rank": 4},
        },
        "evaluate": {
            "data": {
                "rows": [
                    {"id": f"h{n}", "text": text, "target": "x"}
                    for n, text in enumerate(["grey", "violet", "gold"])
                ]
            }
        },
        "batch_size": 2,
    }
