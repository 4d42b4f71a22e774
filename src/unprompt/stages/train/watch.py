"""Gap closed on held-out inputs while a student trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback

from unprompt.records import Lesson
from unprompt.stages.train import fast
from unprompt.stages.train.kl import token_kl
from unprompt.store.folder import RunDir


class Watch(TrainerCallback):
    """Measures KL to the teacher on held-out answers at a few steps, evenly spread, and keeps it in
    a file: context -> `inputs`, and `steps`: step -> nats per token.

    It draws no random numbers, so the student is the same with it and without. What was measured
    before a kill is measured again from the checkpoint on.
    """

    def __init__(
        self,
        files: RunDir,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        held: Mapping[str, Sequence[Lesson]],
        times: int,
        batch_size: int,
    ) -> None:
        self._files, self._name = files, name
        self._tokenizer, self._held = tokenizer, held
        self._times, self._batch_size = times, batch_size

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if it is time."""
        now, model = state.global_step, kwargs["model"]
        # the end is the student's own row in the table
        if now not in {round(state.max_steps * k / self._times) for k in range(1, self._times)}:
            return
        curves: dict[str, Any] = self._files.read(self._name) or {}
        training = model.training
        with fast.paused(model):
            for context, lessons in self._held.items():
                nats = token_kl(model, self._tokenizer, lessons, self._batch_size)
                mean = sum(sum(each) / len(each) for each in nats) / len(nats)
                steps = curves.get(context, {}).get("steps", {})
                steps = {step: kl for step, kl in steps.items() if int(step) < now}
                curves[context] = {"inputs": len(lessons), "steps": {**steps, str(now): mean}}
        model.train(training)
        self._files.keep(self._name, json.dumps(curves), copied=True)
