"""Gap closed on held-out inputs while a student trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from unprompt.records import Lesson
from unprompt.stages.train import fast
from unprompt.stages.train.kl import token_kl
from unprompt.store.files import read_json, replacing


class Watch(TrainerCallback):
    """Measures KL to the teacher on held-out answers at a few steps, evenly spread, and keeps it in
    a file: context -> `inputs`, and `steps`: step -> nats per token.

    It draws no random numbers, so the student is the same with it and without. What was measured
    before a kill is measured again from the checkpoint on.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: PreTrainedTokenizerBase,
        held: Mapping[str, Sequence[Lesson]],
        times: int,
        batch_size: int,
    ) -> None:
        self._path, self._tokenizer, self._held, self._times, self._batch_size = (
            path,
            tokenizer,
            held,
            times,
            batch_size,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if it is time."""
        due = {
            round(state.max_steps * k / self._times) for k in range(1, self._times)
        }  # the end is the student's own row in the table
        if state.global_step not in due:
            return
        found: dict[str, Any] = read_json(self._path) or {}
        model = kwargs["model"]
        training = model.training
        for context, lessons in self._held.items():
            with fast.paused(model):
                values = [
                    sum(own) / len(own)
                    for own in token_kl(model, self._tokenizer, lessons, self._batch_size)
                ]
            kept = {
                step: value
                for step, value in found.get(context, {}).get("steps", {}).items()
                if int(step) < state.global_step
            }
            found[context] = {
                "inputs": len(lessons),
                "steps": {**kept, str(state.global_step): sum(values) / len(values)},
            }
        model.train(training)
        with replacing(self._path) as partial:
            partial.write_text(json.dumps(found))
