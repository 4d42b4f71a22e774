"""From the recipe's `model:` to a folder, a configuration, a tokenizer, and at last weights. Only
`load_weights` costs memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.messages import UserError
from unprompt.recipe import Model
from unprompt.recipe.names import function, local_path
from unprompt.store.files import module_digest, replacing

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def cache_dir() -> Path:
    """Where converted models are kept: `$UNPROMPT_CACHE`, else the user's cache folder."""
    home = (
        os.environ.get("UNPROMPT_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unprompt"
    )
    return Path(home)


def identity(model: Model, where: str) -> str:
    """A string that changes when the weights do: path, sizes and times of local files, or hub id
    and revision; of a server, its address and what it is asked for. Reads no weights.
    """
    if model.server is not None:
        server = model.server
        read_by = (
            identity(server.tokenizer, f"{where}.server.tokenizer") if server.tokenizer else ""
        )
        return json.dumps(
            [server.url, server.model, server.api, read_by, server.extra], sort_keys=True
        )
    if model.gguf is not None:
        path = local_path(model.gguf, where)
        if not path.is_file():
            raise UserError(
                "there is no such model file", where=f"{where} ({model.gguf})", fix="check the path"
            )
        return f"{model.gguf}:{path.stat().st_size}"
    if model.rule is not None:
        source = module_digest(model.rule, "")
        return f"{model.rule}:{source}:{json.dumps(model.args, sort_keys=True)}"
    assert model.name is not None
    folder = Path(model.name)
    if folder.is_dir():
        files = sorted(
            file for file in folder.iterdir() if file.suffix in (".safetensors", ".json")
        )
        listing = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return f"{folder}:{hashlib.sha256(repr(listing).encode()).hexdigest()[:16]}"
    return f"{model.name}@{model.revision}"


def folder_of(model: Model, where: str) -> str:
    """A folder (or hub id) that `from_pretrained` loads. A GGUF file's configuration and tokenizer
    are converted into the cache first, and a rule called, once.
    """
    if model.rule is not None:
        return str(_made(model, where))
    if model.gguf is None:
        assert model.name is not None
        if model.name.startswith("/") and not Path(model.name, "config.json").is_file():
            raise UserError(
                "there is no model in this folder (no config.json)",
                where=f"{where} ({model.name})",
                fix="check the path",
            )
        return model.name
    target = _converted(model, where)
    if not (target / "config.json").is_file():
        _convert(model, target, where, weights=False)
    return str(target)


def _made(model: Model, where: str) -> Path:
    """The folder that a rule wrote; the rule is called if there is none yet."""
    assert model.rule is not None
    digest = hashlib.sha256(identity(model, where).encode()).hexdigest()[:8]
    target = cache_dir() / "models" / f"{model.rule.partition(':')[2]}-{digest}"
    if not (target / "config.json").is_file():
        make = function(model.rule, where)
        with replacing(target) as partial, quiet():
            partial.mkdir()
            try:
                make(partial, **model.args)
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"the rule failed: {type(error).__name__}: {error}",
                    where=f"{where} ({model.rule})",
                    fix="mend the function or its args",
                ) from error
    return target


def _converted(model: Model, where: str) -> Path:
    """Where a GGUF file's conversion lies in the cache."""
    assert model.gguf is not None
    path = local_path(model.gguf, where)
    key = hashlib.sha256(f"{path.name}:{identity(model, where)}".encode()).hexdigest()[:8]
    return cache_dir() / "models" / f"{path.stem}-{key}"


def _convert(model: Model, target: Path, where: str, *, weights: bool) -> None:
    """Bring a GGUF file into the Hugging Face layout, once: configuration and tokenizer, and later
    the weights, dequantised into safetensors (float32).

    Files are written aside and moved; `config.json` and `weights.done` come last, so a conversion
    that was killed starts again.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from unprompt.messages import say

    assert model.gguf is not None
    gguf = local_path(model.gguf, where)
    say(f"converting the {'weights' if weights else 'tokenizer'} of {gguf.name}, once")
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    last = "weights.done" if weights else "config.json"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with (
            quiet(),
            _read_once(gguf),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # the converter's own bars
            if weights:
                config = AutoConfig.from_pretrained(target)
                loaded = AutoModelForCausalLM.from_pretrained(
                    gguf.parent, gguf_file=gguf.name, config=config, dtype=torch.float32
                )
                for owner, name in (
                    (loaded, "hf_quantizer"),
                    (loaded.config, "quantization_config"),
                ):  # plain numbers now
                    if hasattr(owner, name):
                        delattr(owner, name)
                loaded.save_pretrained(partial)
                (partial / last).touch()
                _gguf.cache_clear()
            else:
                AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(
                    partial
                )
                AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(
                    partial
                )
        target.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir(), key=lambda file: file.name == last):
            file.replace(target / file.name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the GGUF file can't be converted: {error}",
            where=f"{where} ({gguf})",
            fix="check the file and the disk",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@functools.lru_cache(maxsize=1)
def _gguf(path: Path, size: int, changed: int) -> Any:
    """A GGUF file, read: both conversions of a run use it."""
    import gguf

    class Reader(gguf.GGUFReader):
        """Cuts its hundred thousand pieces from a plain array; from `numpy.memmap` that takes more
        than twice as long.
        """

        data = property(
            lambda self: self._plain,
            lambda self, mapped: setattr(self, "_plain", np.asarray(mapped)),
        )

    return Reader(path)


@contextlib.contextmanager
def _read_once(path: Path) -> Iterator[None]:
    """Transformers reads a GGUF file's 100,000 words of vocabulary four times over, and makes the
    map of tensor names once for each module of the model: inside, both are remembered.
    """
    import gguf

    stat = path.stat()
    read = _gguf(path, stat.st_size, stat.st_mtime_ns)
    instead = {
        "GGUFReader": lambda *given: read,
        "get_tensor_name_map": functools.cache(gguf.get_tensor_name_map),
    }
    plain = {name: getattr(gguf, name) for name in instead}
    try:
        for name, work in instead.items():
            setattr(gguf, name, work)
        yield
    finally:
        for name, work in plain.items():
            setattr(gguf, name, work)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and notes that transformers prints while loading."""
    import transformers
    from transformers.utils import logging

    before, bars = transformers.logging.get_verbosity(), logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def load_config(model: Model, where: str) -> PretrainedConfig:
    """The architecture, without weights."""
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, model, where)


def load_tokenizer(model: Model, where: str) -> PreTrainedTokenizerBase:
    """The tokenizer, without weights."""
    from transformers import AutoTokenizer

    tokenizer = _from_pretrained(AutoTokenizer, model, where)
    if model.eos_token is not None:
        if model.eos_token not in tokenizer.get_vocab():
            raise UserError(
                f"the tokenizer has no token {model.eos_token!r}",
                where=f"{where}.eos_token",
                fix=f"its own end token is {tokenizer.eos_token!r}",
            )
        tokenizer.eos_token = model.eos_token
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end token (EOS)",
            where=where,
            fix="set eos_token beside the model's name",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def ends_of(
    model: Model, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, where: str
) -> set[int]:
    """Token ids at which the model will end its answers, without weights. Settings that are in no
    file of their own are those of `config.json`.
    """
    generation = load_generation(model, where)
    return end_ids(tokenizer, config if generation is None else generation)


def load_generation(model: Model, where: str) -> Any:
    """The model's generation settings, or None if it has none of its own."""
    from transformers import GenerationConfig

    try:
        return _from_pretrained(GenerationConfig, model, where, code=False)
    except UserError:
        return None


def load_weights(model: Model, where: str) -> PreTrainedModel:
    """The model in evaluation mode, on its device."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = load_config(model, where)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    target = device(model)
    ready_weights(model, where)
    if (
        model.name
        and (folder := Path(model.name)).is_dir()
        and not any(folder.glob("*.safetensors"))
    ):
        pickles = sorted(
            file.name
            for file in folder.iterdir()
            if file.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")
        )
        if pickles:
            raise UserError(
                f"{pickles[0]} is a pickle, which can run any code when it is read",
                where=f"{where} ({folder})",
                fix="save the model as safetensors, somewhere you would run its author's code",
            )
    loaded = _from_pretrained(kind, model, where, dtype=dtype(model), use_safetensors=True)
    if model.eos_token is not None:  # a student saved whole stops there in any library
        ends = end_ids(load_tokenizer(model, where), loaded.generation_config)
        loaded.generation_config.eos_token_id = sorted(ends)
    return loaded.to(target).eval()


def ready_weights(model: Model, where: str) -> None:
    """Have the weights in `folder_of`: those of a GGUF file are converted, once."""
    if model.gguf is not None and not (_converted(model, where) / "weights.done").is_file():
        folder_of(model, where)
        _convert(model, _converted(model, where), where, weights=True)


def _from_pretrained(
    kind: Any, model: Model, where: str, *, code: bool = True, **options: Any
) -> Any:
    from safetensors import SafetensorError

    if code:
        options["trust_remote_code"] = model.trust_remote_code
    folder = folder_of(model, where)
    if code and model.trust_remote_code:
        _warn(
            f"WARNING: {where}.trust_remote_code is true: Python code that comes with {folder} is"
            " run, with all your rights"
        )
    try:
        with quiet():
            return kind.from_pretrained(folder, revision=model.revision or "main", **options)
    except SafetensorError as error:
        fix = "fetch them again; a file of a few lines is a Git LFS pointer"
        raise UserError(
            f"the weights are broken: {error}", where=f"{where} ({folder})", fix=fix
        ) from None
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        first = next(
            (line for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        raise UserError(
            f"the model can't be loaded: {first[:200]}",
            where=f"{where} ({folder})",
            fix="give a hub id, a folder or a GGUF file that exists",
        ) from None


@functools.cache
def _warn(line: str) -> None:
    """Once a process."""
    from unprompt.messages import say

    say(line)


def device(model: Model) -> torch.device:
    """Where the weights go."""
    import torch

    if model.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(model.device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device '{model.device}' can't be used: {str(error).splitlines()[0][:80]}",
            where=f"device of {model.name or model.gguf}",
            fix="write auto, cpu, cuda or cuda:N for a GPU that is there",
        ) from None
    return found


def dtype(model: Model) -> torch.dtype:
    """Number format of the weights."""
    import torch

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    good = device(model).type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if good else torch.float32


def positions(config: PretrainedConfig) -> int | None:
    """Longest sequence in tokens that the architecture has places for; None if it has no limit, or
    does not say.
    """
    if config.is_encoder_decoder:
        return None
    named = (
        getattr(config, name, None)
        for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    )
    return next((int(size) for size in named if size), None)


def window(
    model: Model, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """Longest sequence in tokens that the model can read, or may (`Model.window`); None if it has
    no limit (relative positions, as T5).
    """
    own = positions(config)
    if own is None and not config.is_encoder_decoder and tokenizer.model_max_length < 10**9:
        own = tokenizer.model_max_length
    return min(own, model.window) if own and model.window else own or model.window


def end_ids(tokenizer: PreTrainedTokenizerBase, generation: Any = None) -> set[int]:
    """Token ids that end an answer: the tokenizer's EOS and those of the generation settings."""
    eos: Any = getattr(generation, "eos_token_id", None)
    more = eos if isinstance(eos, (list, tuple)) else [eos]
    return {int(id_) for id_ in [tokenizer.eos_token_id, *more] if id_ is not None}
