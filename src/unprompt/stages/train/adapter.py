"""The LoRA adapter of a student, and whole weights made of the two."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
import transformers

from unprompt.messages import UserError
from unprompt.recipe import Train


def attach_adapter(model: Any, train: Train, seed: int) -> Any:
    """The student before training: the model with a fresh LoRA adapter, or the model itself.

    Raises:
        UserError: The model has no such layers, or none that could be merged.
    """
    adapter: Any = train.adapter
    if adapter is None:
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,
        lora_dropout=adapter.dropout,
        target_modules=adapter.targets
        if isinstance(adapter.targets, str)
        else list(adapter.targets),
        task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    transformers.set_seed(seed)
    where = "train.adapter.targets"
    try:
        student = get_peft_model(model, config)
    except ValueError as error:
        what = str(error).splitlines()[0]
        raise UserError(what, where=where, fix="name layers that the model has") from None
    if model.config.is_encoder_decoder and _on_tied(student):
        raise UserError(
            "the head is tied to the embeddings, and this model answers otherwise once they are"
            " apart: an adapter on one of the two can't be merged into whole weights",
            where=where,
            fix="name other layers",
        )
    return student


def merged(student: Any) -> Any:
    """Whole weights that answer as the student with its adapter. A head that was tied to the
    embeddings gets weights of its own where the adapter changes one of the two.
    """
    if _on_tied(student):
        model = student.get_base_model()
        head = model.get_output_embeddings()
        head = getattr(head, "base_layer", head)
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    return student.merge_and_unload()


def _on_tied(student: Any) -> bool:
    """Whether an adapter lies on weights that head and embeddings share."""
    modules, whole = list(student.modules()), (torch.nn.Linear, torch.nn.Embedding)
    owners = Counter(id(each.weight) for each in modules if isinstance(each, whole))
    return any(owners[id(m.base_layer.weight)] > 1 for m in modules if hasattr(m, "base_layer"))
