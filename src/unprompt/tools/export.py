"""`unprompt export RUN --to DIR`: a round's student as a folder of its own, for other libraries and
servers.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import recipe as recipe_, report
from unprompt.engines import models
from unprompt.engines.tokens import end_ids
from unprompt.messages import UserError
from unprompt.recipe import Model, Recipe
from unprompt.recipe.names import local_path
from unprompt.records import student
from unprompt.stages.weights import Weights
from unprompt.store.files import file_digest, replacing
from unprompt.store.folder import RunDir
from unprompt.tools.finished import named_round

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


def export(folder: Path, to: Path, round_: str | None, *, merge: bool = True) -> list[str]:
    """Write weights (or the adapter alone), tokenizer with chat template, generation settings and
    model card.

    Args:
        folder: A finished run's.
        to: A new or empty folder.
        round_: Whose student; the last round's unless given.
        merge: Whole weights; else the adapter, which needs the model beside it.

    Returns:
        Lines for the terminal: what was written, and the commands that serve it.

    Raises:
        UserError: No finished run, no such round, no adapter to write alone, or a folder with
            something in it.
    """
    files = RunDir(folder)
    proven, recipe = files.report(), recipe_.load(files.recipe)
    name = named_round(recipe, round_)
    adapter = recipe.plan[name].train.adapter
    if not (merge or adapter):
        raise UserError(
            f"all weights of '{name}' were trained: it has no adapter",
            where="--adapter",
            fix="leave that option out",
        )
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise UserError(
            "there is something here already", where=str(to), fix="give a new folder with --to"
        )
    tokenizer = models.load_tokenizer(recipe.model, "model")
    model: Any = Weights(recipe, files, tokenizer).student(student(name)).model
    with replacing(to) as partial, models.quiet():
        partial.mkdir(parents=True)
        if merge and adapter:
            from unprompt.stages.train import merged

            model = merged(model)
        settings = generation(recipe, tokenizer, model)
        if merge:
            model.generation_config = settings
        for part in (model, settings, tokenizer):
            part.save_pretrained(partial)
        base = base_of(recipe.model)
        if not merge:
            _name_base(partial / "adapter_config.json", recipe.model, base["name"])
        (partial / "unprompt.json").write_text(json.dumps({"base": base}, indent=1), "utf-8")
        card = report.model_card(proven, name, merged=merge, digest=base.get("sha256", ""))
        (partial / "README.md").write_text(card, "utf-8")
    what = "whole weights" if merge or not adapter else f"adapter of rank {adapter.rank}"
    lines = [f"{to}: {what} of '{name}', tokenizer, generation settings, model card"]
    if recipe.sampling.stop:
        stops = ", ".join(map(repr, recipe.sampling.stop))
        lines.append(
            f"note: in the run, answers also ended at {stops}: give a server that as `stop`"
        )
    encoder_decoder = model.config.is_encoder_decoder
    return lines + commands(recipe, name, to, merged=merge, encoder_decoder=encoder_decoder)


VARIABLES = ("--default-chat-template-kwargs", "--jinja --chat-template-kwargs")
"""Flags of vLLM and of llama.cpp that set variables of the chat template."""


def prompting(recipe: Recipe, name: str) -> list[str]:
    """Lines on the variables that a round's student has to be prompted with."""
    served = recipe.served_with(name)
    if not any(served):
        return []
    if len(served) > 1:
        each = "; ".join(
            f"{context}: {json.dumps(recipe.served(context))}"
            for context in recipe.plan[name].learned
        )
        return [f"note: contexts differ in chat_template_kwargs, send them along ({each})"]
    given = ", ".join(f"{key}={value!r}" for key, value in served[0].items())
    return [f"prompt:        tokenizer.apply_chat_template(messages, {given}, ...)"]


def base_of(model: Model) -> dict[str, str]:
    """The model that a student began as, by names that mean the same on other machines: `name` (of
    a file its own name, or its package's and its own), `revision` of a hub id, `sha256` of a GGUF
    file.
    """
    if model.gguf is not None:
        path = local_path(model.gguf, "model")
        packaged = model.gguf.startswith("pkg:")
        name = model.gguf if packaged else path.name
        return {"name": name, "sha256": file_digest(path)}
    named = {"name": model.name or model.rule or ""}
    return named | ({"revision": model.revision} if model.revision else {})


def _name_base(config: Path, model: Model, name: str) -> None:
    """In an adapter's settings: not the folder in this user's cache, which nobody else has. A hub
    id or a folder stays, so that peft finds it.
    """
    if model.name is None:
        settings = json.loads(config.read_text("utf-8"))
        config.write_text(json.dumps(settings | {"base_model_name_or_path": name}, indent=2))


def generation(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, model: Any) -> GenerationConfig:
    """Settings with which a plain `generate` writes as the graded answers were written, stop
    strings aside.
    """
    from transformers import GenerationConfig

    evaluations = filter(None, map(recipe.evaluation, recipe.contexts))
    evaluation = next(evaluations, None)
    sampling = recipe.sampling_of(evaluation)
    chance: dict[str, Any] = {"do_sample": bool(sampling.temperature)}
    if sampling.temperature:
        chance |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        eos_token_id=sorted(end_ids(tokenizer, model.generation_config)),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        max_new_tokens=sampling.max_new_tokens,
        **chance,
    )


def commands(
    recipe: Recipe, name: str, to: Path, *, merged: bool, encoder_decoder: bool
) -> list[str]:
    """Lines that load and serve what lies in `to`."""
    kind = "ForSeq2SeqLM" if encoder_decoder else "ForCausalLM"
    library = "transformers import Auto" if merged else "peft import AutoPeft"
    lines = [
        f"Python:        from {library}Model{kind} as Model; model ="
        f" Model.from_pretrained({str(to)!r})"
    ]
    if not merged and recipe.model.name is None:
        folder = models.folder_of(recipe.model, "model")
        lines = [
            f"Python:        from transformers import AutoModel{kind} as Model; from peft import"
            f" PeftModel; model = PeftModel.from_pretrained(Model.from_pretrained({folder!r}),"
            f" {str(to)!r})",
            f"note: {folder} is the base as it is converted on this machine; elsewhere take it from"
            f" {base_of(recipe.model)['name']} (unprompt.json)",
        ]
    if encoder_decoder:
        return lines  # the servers below serve decoders
    flags, lines = "", lines + prompting(recipe, name)
    if len(served := recipe.served_with(name)) == 1 and served[0]:
        flags = f" {shlex.quote(json.dumps(served[0]))}"
    vllm, llama = (flags and f" {flag}{flags}" for flag in VARIABLES)
    path, adapter = shlex.quote(str(to)), recipe.plan[name].train.adapter
    if merged:
        lines += [
            f"vLLM:          vllm serve {path}{vllm}",
            f"transformers:  transformers serve {path}",
            f"llama.cpp:     python convert_hf_to_gguf.py {path} --outfile {name}.gguf &&"
            f" llama-server -m {name}.gguf{llama}",
        ]
    else:
        assert adapter
        base = shlex.quote(recipe.model.name or models.folder_of(recipe.model, "model"))
        rank = max(8, 1 << (adapter.rank - 1).bit_length())
        lines += [
            f"vLLM:          vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules"
            f" {name}={path}{vllm}",
            f"llama.cpp:     python convert_lora_to_gguf.py {path} --base {base} --outfile"
            f" {name}.gguf && llama-server -m BASE.gguf --lora {name}.gguf{llama}",
            "transformers:  export with --merge: `transformers serve` takes whole weights",
        ]
    chats = any(context.student.messages for context in recipe.contexts.values())
    address = "chat/completions" if chats else "completions"
    lines.append(f"ask:           POST /v1/{address} with the student's prompt (README.md there)")
    return lines
