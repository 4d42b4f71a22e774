"""From the recipe's `model:` to a folder, a configuration, a tokenizer, and at last weights. Only
`load_weights` costs memory.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.engines import cache, contents, hub, unread, variables
from unprompt.engines.tokens import end_ids, writes_date
from unprompt.messages import UserError, say
from unprompt.recipe import Model
from unprompt.recipe.names import local_path
from unprompt.store.files import first_line, module_digest

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_DECIDING = (".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken")
"""Files of a model's folder that decide its answers: weights, settings, chat template, tokenizer.
"""

_TOKENIZERS: dict[tuple[Any, ...], Any] = {}
_KEPT = 4
"""Tokenizers that were read, by folder and files, and how many of them are kept."""


def identity(model: Model, where: str) -> str:
    """A string that changes when the answers may: of a GGUF file what it holds, of a folder its
    files' sizes and times (chat template and tokenizer among them), or hub id and revision; of a
    server, its address and what it is asked for.
    """
    if server := model.server:
        tokenizer = server.tokenizer
        read_by = identity(tokenizer, f"{where}.server.tokenizer") if tokenizer else ""
        asked: list[Any] = [server.url, server.model, server.api, read_by, server.extra]
        asked += [model.chat_template] if model.chat_template else []
        return json.dumps(asked, sort_keys=True)
    if model.gguf is not None:
        path = local_path(model.gguf, where)
        if not path.is_file():
            raise UserError(
                "there is no such model file", where=f"{where} ({model.gguf})", fix="check the path"
            )
        if model.sha256 and model.sha256 != contents.sha256(path):
            raise UserError(
                "this GGUF file is not the one whose SHA-256 the recipe names",
                where=f"{where}.sha256 ({path})",
                fix="get the file anew, or see whether sha256 is right",
            )
        return f"{model.gguf}:{contents.digest(path)}"
    if model.rule is not None:
        source = module_digest(model.rule, "")
        return f"{model.rule}:{source}:{json.dumps(model.args, sort_keys=True)}"
    assert model.name is not None
    folder = Path(model.name)
    if not folder.is_dir():
        return f"{model.name}@{model.revision}"
    files = sorted(file for file in folder.iterdir() if file.suffix in _DECIDING)
    listing = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return f"{folder}:{hashlib.sha256(repr(listing).encode()).hexdigest()[:16]}"


def folder_of(model: Model, where: str) -> str:
    """A folder (or hub id) that `from_pretrained` loads. A GGUF file's configuration and tokenizer
    are converted into the cache first, and a rule called, once.
    """
    if model.rule is not None:
        return str(cache.made(model, identity(model, where), where))
    if model.gguf is not None:
        return str(_converted(model, where, weights=False))
    assert model.name is not None
    if model.name.startswith("/") and not Path(model.name, "config.json").is_file():
        raise UserError(
            "there is no model in this folder (no config.json)",
            where=f"{where} ({model.name})",
            fix="check the path",
        )
    return model.name


def ready_weights(model: Model, where: str) -> None:
    """Have the weights in `folder_of`: those of a GGUF file are converted, once."""
    if model.gguf is not None:
        folder_of(model, where)
        _converted(model, where, weights=True)


def _converted(model: Model, where: str, *, weights: bool) -> Path:
    assert model.gguf is not None
    path = local_path(model.gguf, where)
    return cache.converted(path, identity(model, where), where, weights=weights)


def in_cache(model: Model, where: str) -> Path | None:
    """Where the cache keeps this model's conversion; None of one that needs none."""
    if model.gguf is not None:
        return cache.conversion(local_path(model.gguf, where), identity(model, where))
    return cache.of_rule(model.rule, identity(model, where)) if model.rule is not None else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and notes that transformers prints while loading."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def load_config(model: Model, where: str) -> PretrainedConfig:
    """The architecture, without weights. Of a folder the files that say what else is read are
    looked at first; of a hub id `load_weights` does so.
    """
    from transformers import AutoConfig

    folder = folder_of(model, where)
    if Path(folder).is_dir():
        unread.refuse(folder, where, unread.finder(folder, ""))
    return _from_pretrained(AutoConfig, model, where)


def load_tokenizer(model: Model, where: str) -> PreTrainedTokenizerBase:
    """The tokenizer, without weights. Its chat template has the recipe's variables, and the
    recipe's date for today.
    """
    tokenizer = _read_tokenizer(model, where)
    try:
        tokenizer.decode(tokenizer("a", verbose=False).input_ids)
    except BaseException as error:
        raise_unless_broken(error)
        what = f"the tokenizer can't be used: {first_line(error)}"
        raise UserError(what, where=where, fix="fetch its files again") from None
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
    if model.chat_template:
        variables.refuse(tokenizer, model.chat_template, f"{where}.chat_template")
        tokenizer.chat_template = variables.with_defaults(tokenizer, model.chat_template)
    if model.date and writes_date(tokenizer):  # what is saved of it writes that of its own days
        tokenizer.apply_chat_template = functools.partial(
            tokenizer.apply_chat_template, strftime_now=model.date.strftime
        )
    return tokenizer


def _read_tokenizer(model: Model, where: str) -> PreTrainedTokenizerBase:
    """As its files have it. A run asks for the same one many times, and reading takes more than
    copying: of a folder it is read once while the files stay as they are.
    """
    from transformers import AutoTokenizer

    folder = Path(folder_of(model, where))
    if model.trust_remote_code or not folder.is_dir():
        return _from_pretrained(AutoTokenizer, model, where)
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    files = tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found)
    key = str(folder), files
    if key not in _TOKENIZERS:
        tokenizer = _from_pretrained(AutoTokenizer, model, where)
        if len(_TOKENIZERS) == _KEPT:
            _TOKENIZERS.pop(next(iter(_TOKENIZERS)))
        _TOKENIZERS[key] = tokenizer
    return copy.deepcopy(_TOKENIZERS[key])


def ends_of(
    model: Model, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, where: str
) -> set[int]:
    """Token ids at which the model will end its answers, without weights. Settings that are in no
    file of their own are those of `config.json`.
    """
    from transformers import GenerationConfig

    try:
        generation = _from_pretrained(GenerationConfig, model, where, code=False)
    except UserError:
        if Path(folder_of(model, where), "generation_config.json").is_file():
            raise
        return end_ids(tokenizer, config)
    return end_ids(tokenizer, generation)


def load_weights(model: Model, where: str) -> PreTrainedModel:
    """The model in evaluation mode, on its device."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = load_config(model, where)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    target = device(model)
    ready_weights(model, where)
    if model.name and not Path(model.name).is_dir():
        unread.refuse(model.name, where, unread.finder(model.name, model.revision or "main"))
    loaded = _from_pretrained(kind, model, where, dtype=dtype(model), use_safetensors=True)
    if loaded.generation_config is not None:  # a student saved whole stops there in any library
        ends = end_ids(load_tokenizer(model, where), loaded.generation_config)
        loaded.generation_config.eos_token_id = sorted(ends)
    return loaded.to(target).eval()


def _from_pretrained(
    kind: Any, model: Model, where: str, *, code: bool = True, **options: Any
) -> Any:
    from safetensors import SafetensorError

    folder = folder_of(model, where)
    if code:
        options["trust_remote_code"] = model.trust_remote_code
        if model.trust_remote_code:
            _warn(
                f"WARNING: {where}.trust_remote_code is true: Python code that comes with"
                f" {folder} is run, with all your rights"
            )
    try:
        with quiet(), hub.reading("model", folder, f"{where} ({folder})", "a folder"):
            return kind.from_pretrained(folder, revision=model.revision or "main", **options)
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(
            f"the weights are broken: {error}",
            where=f"{where} ({folder})",
            fix="fetch them again; a file of a few lines is a Git LFS pointer",
        ) from None
    except BaseException as error:
        raise_unless_broken(error)
        raise UserError(
            f"the model can't be loaded: {first_line(error)}",
            where=f"{where} ({folder})",
            fix="give a hub id, a folder or a GGUF file that exists",
        ) from None


def raise_unless_broken(error: BaseException) -> None:
    """Raise what a file can't be blamed for. Readers of files that are not as they should be raise
    errors of every kind, and those that are written in Rust one that is no `Exception`.
    """
    ours = isinstance(error, Exception) and not isinstance(error, MemoryError)
    if not (ours or type(error).__name__ == "PanicException"):
        raise error


@functools.cache
def _warn(line: str) -> None:
    """Once a process."""
    say(line)


def device(model: Model) -> torch.device:
    """Where the weights go."""
    import torch

    if model.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=model.device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"the device '{model.device}' can't be used: {str(error).splitlines()[0][:80]}",
            where=f"device of {model.name or model.gguf}",
            fix="write auto, cpu, cuda or cuda:N for a GPU that is there",
        ) from None


def dtype(model: Model) -> torch.dtype:
    """Number format of the weights."""
    import torch

    if model.dtype != "auto":
        return getattr(torch, model.dtype)
    fast = device(model).type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def positions(config: PretrainedConfig) -> int | None:
    """Longest sequence in tokens that the architecture has places for; None if it has no limit, or
    does not say. Dynamic RoPE has them up to its original length: beyond, every new token rotates
    all others anew, which no cache of theirs can follow. Doge has them up to `keep_window_size`:
    beyond, what it reads depends on the padding of its batch.
    """
    if config.is_encoder_decoder:
        return None
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    most = next((int(size) for name in names if (size := getattr(config, name, None))), None)
    limits = (most, _original_length(config, "dynamic"), getattr(config, "keep_window_size", None))
    return min(filter(None, limits), default=None)


def rope_switch(config: PretrainedConfig) -> int | None:
    """Length in tokens beyond which all of a batch's positions are rotated by other factors
    (LongRoPE: Phi-3 long, Phi-4-mini); None of other models.
    """
    return _original_length(config, "longrope")


def _original_length(config: PretrainedConfig, kind: str) -> int | None:
    """What a model with this RoPE was first trained on; None if it has another."""
    text = config.get_text_config()
    ropes: Any = getattr(text, "rope_parameters", None) or {}
    layers = ropes.values() if all(isinstance(each, dict) for each in ropes.values()) else [ropes]
    name = "original_max_position_embeddings"
    lengths = [
        each.get(name) or getattr(text, name, None) or text.max_position_embeddings
        for each in layers
        if each.get("rope_type") == kind
    ]
    return min(lengths, default=None)


def window(
    model: Model, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> int | None:
    """Longest sequence in tokens that the model can read, or may (`Model.window`); None if it has
    no limit (relative positions, as T5).
    """
    longest = positions(config)
    if longest is None and not config.is_encoder_decoder and tokenizer.model_max_length < 10**9:
        longest = tokenizer.model_max_length
    return min(filter(None, (longest, model.window)), default=None)
