"""A GGUF file in the Hugging Face layout."""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from unprompt.engines.cache import DIGESTS
from unprompt.engines.tokens import adds_start
from unprompt.store.digests import broken_seals, write_seals
from unprompt.store.files import aside

VERSION = 2
"""Of the conversion: what an older one made is made anew."""


def last(weights: bool) -> str:
    """A file without which a conversion has not got so far."""
    return "weights.done" if weights else "config.json"


def convert(file: Path, target: Path, *, weights: bool) -> None:
    """Write configuration and tokenizer, or later the weights, dequantised into safetensors
    (float32). Files are written aside and moved.

    Raises:
        OSError, ValueError, KeyError: The file can't be read, or the folder not be written.
    """
    partial = aside(target)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        # the converter has bars of its own
        with _read_once(file), contextlib.redirect_stderr(io.StringIO()):
            if weights:
                config = AutoConfig.from_pretrained(target)
                model: Any = AutoModelForCausalLM.from_pretrained(
                    file.parent, gguf_file=file.name, config=config, dtype=torch.float32
                )
                # plain numbers now
                for owner, name in ((model, "hf_quantizer"), (model.config, "quantization_config")):
                    if hasattr(owner, name):
                        delattr(owner, name)
                model.save_pretrained(partial)
                (partial / last(weights)).touch()
                _reader.cache_clear()
            else:
                tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
                if (wanted := _adds_start(_reader_of(file))) != adds_start(tokenizer):
                    tokenizer.add_bos_token = wanted  # the converter pays it no heed
                tokenizer.save_pretrained(partial)
                config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
                config.save_pretrained(partial)
        target.mkdir(exist_ok=True)
        names = sorted(each.name for each in partial.iterdir())
        if not weights and "config.json" not in (broken_seals(target / DIGESTS) or ["config.json"]):
            names.remove("config.json")  # that of the weights says more
        for name in names:
            (partial / name).replace(target / name)
        # without its mark the conversion of the weights is made again
        again = [last(True)] if not weights and "config.json" in names else []
        for name in again:
            (target / name).unlink(missing_ok=True)
        write_seals(target / DIGESTS, names, again)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Reader(gguf.GGUFReader):
    """Cuts its hundred thousand pieces from a plain array; from `numpy.memmap` that takes more than
    twice as long.
    """

    data = property(
        lambda self: self._plain, lambda self, mapped: setattr(self, "_plain", np.asarray(mapped))
    )


@functools.lru_cache(maxsize=1)
def _reader(path: Path, size: int, changed: int) -> _Reader:
    """A GGUF file, read: both conversions of a run use it."""
    return _Reader(path)


def _reader_of(path: Path) -> _Reader:
    stat = path.stat()
    return _reader(path, stat.st_size, stat.st_mtime_ns)


_STARTING = ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "lfm2"]
_STARTING += ["midm-2.0", "tekken", "chameleon"]
"""Byte-pair vocabularies to which llama.cpp adds a start token where the file does not say
(llama-vocab.cpp).
"""


def _adds_start(reader: gguf.GGUFReader) -> bool:
    """Whether plain text gets the start token ahead, as llama.cpp reads the file."""

    def said(key: str) -> Any:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        return None if field is None else field.contents()

    if said("bos_token_id") is None:
        return False
    if (given := said("add_bos_token")) is not None:
        return bool(given)
    return said("model") == "llama" or said("pre") in _STARTING


@contextlib.contextmanager
def _read_once(path: Path) -> Iterator[None]:
    """Transformers reads a GGUF file's 100,000 words of vocabulary four times over, and makes the
    map of tensor names once for each module of the model: inside, both are remembered.
    """
    reader = _reader_of(path)
    names = functools.cache(gguf.get_tensor_name_map)
    with (
        mock.patch.object(gguf, "GGUFReader", return_value=reader),
        mock.patch.object(gguf, "get_tensor_name_map", names),
    ):
        yield
