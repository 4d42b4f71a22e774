"""The training step made fast. A reader may leave this room out: what is computed is `batch_kl` in
`loss.py`, weighted and summed.

Here the same number and the same gradients come from fewer operations: lessons stand in one row
without padding (`packing.py`), logits exist for weighted tokens only, a chunk at a time
(`head.py`), and a LoRA layer is a few matrix products (`adapter.py`). What a model has that is not
known here shows when it is tried: then training takes the plain path, and says so.
"""

from unprompt.stages.train.fast.step import Step, called_through, enabled, paused

__all__ = ["Step", "called_through", "enabled", "paused"]
