"""Training: a `transformers.Trainer` with our loss and our collator, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from unprompt import fast, models, rundir
from unprompt.errors import UserError
from unprompt.loss import Batch, batch_kl, collate
from unprompt.progress import bar, say
from unprompt.recipe import Train
from unprompt.records import Lesson

_MEND_TRAINER = "use arguments of transformers.TrainingArguments, and install what they need"


class LessonTrainer(Trainer):
    """Loss = sum of w * KL over the weighted tokens / total weight of the global batch, so that micro-batches do not change the gradient."""

    loss_is_scaled_for_ga = True
    step: fast.Step | None = None
    """The same loss, faster; None where the student or the trainer's settings can't."""

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        total = torch.stack([batch["batch"].weight_N.sum() for batch in batch_samples]).sum().to(device)
        everywhere: Any = self.accelerator.gather(total) if self.args.world_size > 1 else total
        return everywhere.sum()

    def _prepare_input(self, data: Any) -> Any:
        return data.to(self.args.device) if isinstance(data, Batch) else super()._prepare_input(data)

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Weighted KL of a micro-batch in nats, over the global batch's weight (times the processes, since gradients are averaged over them)."""
        batch: Batch = inputs["batch"]
        if self.step is not None:  # noqa: SIM108, the second line is the equation
            loss = self.step(batch)
        else:
            loss = (batch_kl(model, batch) * batch.weight_N).sum()
        return loss / num_items_in_batch * self.args.world_size


def attach_adapter(model: Any, train: Train, seed: int) -> Any:
    """The student before training: the model with a fresh LoRA adapter, or the model itself."""
    if train.adapter is None:
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    adapter: Any
    adapter, kind = train.adapter, "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
    config = LoraConfig(
        r=adapter.rank, lora_alpha=adapter.alpha or 2 * adapter.rank, lora_dropout=adapter.dropout, target_modules=targets, task_type=kind
    )  # fmt: skip
    transformers.set_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(str(error).splitlines()[0], where="train.adapter.targets", fix="name layers that the model has") from None


def train(
    student: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    settings: Train,
    folder: rundir.RunDir,
    *,
    seed: int,
    made_from: str,
    variants: int = 1,
    watch: TrainerCallback | None = None,
) -> None:
    """Train `student` in place and save it.

    Checkpoints go to `checkpoints/`; a killed run goes on from the last whole one, to the same weights. They are removed once the student is saved.
    `train_log.json` holds the steps and the logged losses (nats per weighted token), `train_seconds.json` the measured seconds, restarts included.

    Args:
        made_from: Fingerprint of lessons and settings; checkpoints of another are not resumed.
        variants: Of how many epochs the lessons are, one after the other: equal parts of `lessons`, of which each epoch trains on its own.
        watch: Looks on.
    """
    values = arguments(settings, folder.checkpoints, seed)
    taught = _Epochs(lessons, variants)
    steps = math.ceil(math.ceil(len(taught) / settings.batch_size) * settings.epochs)
    values.logging_steps = min(values.logging_steps, steps)  # a short training logs its end, too
    start = _resumable(folder.checkpoints, made_from)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    decoder_start = student.config.decoder_start_token_id if student.config.is_encoder_decoder else None
    transformers.set_seed(seed)
    try:
        trainer = LessonTrainer(
            student, values, train_dataset=taught,
            data_collator=functools.partial(_as_inputs, pad=pad, decoder_start=decoder_start),
        )  # fmt: skip
    except (RuntimeError, ValueError, ImportError) as error:  # a tracker or a launcher that is not there
        raise UserError(str(error)[:300], where="train.trainer", fix=_MEND_TRAINER) from None
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder.folder / "tensorboard")  # its own default goes with the checkpoints
    clock = _Clock(start)
    trainer.add_callback(clock)
    with contextlib.ExitStack() as undo, bar("training, in steps", steps) as progress:
        if settings.fast:
            shortest = sorted(lessons, key=lambda lesson: len(lesson.input_ids))
            probe = collate([shortest[0], *shortest[:2]], pad, decoder_start).to(values.device)
            reason = _plain_only(trainer) or undo.enter_context(fast.enabled(student, probe))
            if isinstance(reason, str):
                _say_once(f"training takes the plain path: {reason}")
            else:
                trainer.step = reason
        trainer.add_callback(_Progress(progress))
        trainer.add_callback(_NextEpoch(taught))
        if watch is not None:
            trainer.add_callback(watch)
        try:
            with rundir.writing(folder.checkpoints), models.quiet():
                trainer.train(resume_from_checkpoint=start)
        except torch.OutOfMemoryError:
            fix = "lower it and run again: the student is the same whatever it is"
            raise UserError("the GPU's memory is full", where="train.micro_batch_size", fix=fix) from None
    student.eval()
    if values.gradient_checkpointing:
        student.gradient_checkpointing_disable()
    losses = [
        {key: entry[key] for key in ("step", "loss", "learning_rate", "grad_norm")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    with rundir.replacing(folder.student) as partial:
        partial.mkdir()
        with models.quiet():
            student.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    folder.write_text("train_seconds.json", json.dumps(clock.seconds()))
    folder.write_text("train_log.json", json.dumps({"steps": trainer.state.global_step, "losses": losses}))
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _plain_only(trainer: Trainer) -> str | None:
    """Why the trainer has to call the student itself; None if it need not."""
    args = trainer.args
    if args.world_size > 1 or args.n_gpu > 1 or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return "the trainer wraps the model (several devices, FSDP or DeepSpeed)"
    if args.bf16 or args.fp16:
        return "train.trainer asks for mixed precision"
    return "train.trainer asks for torch.compile" if args.torch_compile else None


_say_once = functools.cache(say)


class _Epochs(Dataset[Lesson]):
    """The lessons of the epoch that the training is in."""

    def __init__(self, lessons: Sequence[Lesson], variants: int) -> None:
        self._lessons, self._variants, self.epoch = list(lessons), variants, 0

    def __len__(self) -> int:
        return len(self._lessons) // self._variants

    def __getitem__(self, number: int) -> Lesson:
        return self._lessons[self.epoch % self._variants * len(self) + number]


class _NextEpoch(TrainerCallback):
    """Tells the lessons which epoch it is, after a resumption in the middle of one, too."""

    def __init__(self, lessons: _Epochs) -> None:
        self._taught = lessons

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._taught.epoch = math.floor((state.epoch or 0) + 1e-6)


class _Progress(TrainerCallback):
    """Moves our bar instead of the trainer's."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance, self._seen = advance, 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(state.global_step - self._seen)
        self._seen = state.global_step


class _Clock(TrainerCallback):
    """Seconds of training over all restarts: each checkpoint keeps those until then. What a kill undid is not counted."""

    def __init__(self, checkpoint: str | None) -> None:
        self._before: float | None = 0.0
        if checkpoint:
            try:
                self._before = json.loads(Path(checkpoint, "seconds.json").read_text())
            except (OSError, ValueError):
                self._before = None  # killed just before it was written: nobody knows
        self._began = time.perf_counter()

    def seconds(self) -> float | None:
        return None if self._before is None else self._before + time.perf_counter() - self._began

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            Path(args.output_dir, f"checkpoint-{state.global_step}", "seconds.json").write_text(json.dumps(self.seconds()))


def _as_inputs(lessons: list[Lesson], pad: int, decoder_start: int | None) -> dict[str, Batch]:
    return {"batch": collate(lessons, pad, decoder_start)}


def arguments(settings: Train, folder: Path, seed: int) -> TrainingArguments:
    """What the trainer is told: the recipe's `train`, and what `train.trainer` says on top.

    Raises:
        UserError: `train.trainer` says what `TrainingArguments` does not know.
    """
    micro = settings.micro_batch_size or settings.batch_size
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // micro,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "logging_steps": 5,
        "report_to": "none",
        "remove_unused_columns": False,
        "seed": seed,
        "data_seed": seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "log_level": "error",
        "disable_tqdm": True,
        **({"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}} if settings.checkpointing else {}),
        **settings.trainer,
        "logging_first_step": True,  # so that the log is never empty, however few the steps are
    }
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(str(error)[:300], where="train.trainer", fix=_MEND_TRAINER) from None


def _resumable(folder: Path, made_from: str) -> str | None:
    """The newest whole checkpoint made from the same lessons and settings; everything else there is removed."""
    mark = folder / "made_from.txt"
    if not mark.is_file() or mark.read_text() != made_from:
        shutil.rmtree(folder, ignore_errors=True)
        with rundir.replacing(mark) as partial:
            partial.write_text(made_from)
        return None
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())  # the trainer writes this last
            return str(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint)
    return None


@torch.no_grad()
def mean_kl(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    batch_size: int,
    progress: Callable[[int], object] = lambda n: None,
) -> list[float]:
    """KL(teacher || model) of each lesson, in nats per weighted token."""
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    decoder_start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    model.eval()
    order = sorted(range(len(lessons)), key=lambda i: len(lessons[i].input_ids))
    found = [0.0] * len(lessons)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = collate([lessons[i] for i in chosen], pad, decoder_start).to(model.device)
        kl_N = batch_kl(model, batch) * batch.weight_N
        sums = torch.zeros(len(chosen), device=kl_N.device).index_add(0, batch.row_N, kl_N)
        totals = torch.zeros_like(sums).index_add(0, batch.row_N, batch.weight_N)
        for i, value in zip(chosen, (sums / totals).tolist(), strict=True):
            found[i] = value
        progress(len(chosen))
    return found
