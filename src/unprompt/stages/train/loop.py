"""Training: a `transformers.Trainer` with our loss and our collator, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations.integration_utils import TensorBoardCallback

from unprompt.engines import models
from unprompt.messages import UserError, bar, say
from unprompt.recipe import Train
from unprompt.records import Lesson
from unprompt.stages import processes
from unprompt.stages.train import fast
from unprompt.stages.train.checkpoints import Clock, resumable
from unprompt.stages.train.epochs import Epochs, Follow, SharedOrder
from unprompt.stages.train.loss import Batch, batch_kl, collator
from unprompt.store.files import replacing, writing
from unprompt.store.folder import RunDir
from unprompt.store.stored import StoredLessons

_TRIED = 256
"""Lessons among which the shortest is looked for, to try the fast step on beside the longest."""
_MEND_TRAINER = "use arguments of transformers.TrainingArguments, and install what they need"
_say_once = functools.cache(say)


class LessonTrainer(Trainer):
    """Loss = sum of w * KL over the weighted tokens / size of the global batch (`Batch.size`), so
    that micro-batches do not change the gradient.
    """

    loss_is_scaled_for_ga = True
    step: fast.Step | None = None
    """The same loss, faster; None where the student or the trainer's settings can't."""

    @property
    def sharded(self) -> bool:
        """Whether no process has the whole student."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _get_num_items_in_batch(
        self, batch_samples: list[Any], device: torch.device
    ) -> torch.Tensor:
        total = torch.stack([each["batch"].size for each in batch_samples]).sum()
        total = total.to(device)
        everywhere: Any = self.accelerator.gather(total) if self.args.world_size > 1 else total
        return everywhere.sum()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args = self.args
        if args.world_size == 1 or args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        taught: Any = self.train_dataset if train_dataset is None else train_dataset
        seed = args.seed if args.data_seed is None else args.data_seed
        return SharedOrder(taught, seed, args.per_device_train_batch_size * args.world_size)

    def _prepare_input(self, data: Any) -> Any:
        ours = isinstance(data, Batch)
        return data.to(self.args.device) if ours else super()._prepare_input(data)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Weighted KL of a micro-batch in nats, over the global batch's size (times the processes,
        since gradients are averaged over them).
        """
        batch: Batch = inputs["batch"]
        if self.step is None:
            loss = (batch_kl(model, batch) * batch.weight_N).sum()
        elif self.args.world_size == 1:
            loss = self.step(batch)
        else:
            loss = model(fast_batch=batch)  # DDP averages what goes through it
        return loss / num_items_in_batch * self.args.world_size


def train(
    student: Any,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    settings: Train,
    folder: RunDir,
    *,
    seed: int,
    made_from: str,
    variants: int = 1,
    reduction: Literal["mean", "sum"] = "mean",
    watch: TrainerCallback | None = None,
) -> None:
    """Train `student` in place and save it.

    Every process of a run calls it with the same arguments and takes its share of each step's
    lessons; the first one writes.

    Checkpoints go to `checkpoints/`; a killed run goes on from the last whole one, to the same
    weights. They are removed once the student is saved, and noted. `train_log.json` holds the steps
    and the logged losses (nats per weighted token, or per lesson), `train_seconds.json` the
    measured seconds, restarts included.

    Args:
        lessons: In memory or not (`stored.StoredLessons`); those of a step are asked for when it is
            their turn.
        made_from: Fingerprint of lessons and settings; checkpoints of another, or of another number
            of processes, are not resumed.
        variants: Of how many epochs the lessons are, one after the other: equal parts of `lessons`,
            of which each epoch trains on its own.
        reduction: Of the loss, as in `lessons`.
        watch: Looks on.
    """
    values, taught = arguments(settings, folder.checkpoints, seed), Epochs(lessons, variants)
    lengths = lengths_of(lessons)
    _refuse_switch(student, lengths, values.per_device_train_batch_size)
    steps = math.ceil(math.ceil(len(taught) / settings.batch_size) * settings.epochs)
    values.logging_steps = min(values.logging_steps, steps)  # a short training logs its end, too
    kept = values.save_total_limit
    values.save_total_limit = None  # the trainer's own goes by the clock, which may jump
    mark = made_from if processes.count() == 1 else f"{made_from} in {processes.count()} processes"
    start = processes.from_first(lambda: resumable(folder.checkpoints, mark))
    transformers.set_seed(seed)
    collated = collator(student, tokenizer, reduction)
    inputs = functools.partial(_inputs, collated)
    trainer = _trainer(student, values, taught, inputs, settings, folder)
    clock = Clock(start, kept)
    trainer.add_callback(clock)
    with contextlib.ExitStack() as undo, bar("training, in steps", steps) as progress:
        if settings.fast:
            longest = lessons[int(np.argmax(lengths))]
            shortest = min(lessons[:_TRIED], key=lambda lesson: len(lesson.input_ids))
            probe = collated([longest, shortest, shortest]).to(values.device)
            trainer.step = _fast_step(trainer, student, probe, undo)
        trainer.add_callback(Follow(taught, progress))
        if watch is not None:
            _look_on(trainer, watch)
        with _refusals(start, folder), writing(folder.checkpoints), models.quiet():
            trainer.train(resume_from_checkpoint=start)
    _save(trainer, student, tokenizer, folder, clock, made_from)


def _no_card(folder: str) -> None:
    """In the place of PEFT's own, which it would write into each checkpoint."""


def _look_on(trainer: LessonTrainer, watch: TrainerCallback) -> None:
    if trainer.sharded:
        say("held-out inputs are not looked at while the student trains: no process has all of it")
    else:
        trainer.add_callback(watch)


def lengths_of(lessons: Sequence[Lesson]) -> NDArray[Any]:
    """Tokens of each lesson, shape (lessons,)."""
    if isinstance(lessons, StoredLessons):
        return lessons.lengths
    return np.array([len(lesson.input_ids) for lesson in lessons])


def _refuse_switch(student: Any, lengths: NDArray[Any], micro: int) -> None:
    """In one batch with a longer lesson a short one would be read with other factors of its
    positions than alone (`models.rope_switch`).
    """
    switch, read = models.rope_switch(student.config), lengths - 1  # the last predicts nothing
    if switch and micro > 1 and (read > switch).any() and (read <= switch).any():
        raise UserError(
            f"{int((read > switch).sum())} of {len(read)} lessons are over the {switch} tokens at"
            " which the model changes the factors of its positions (LongRoPE), for a whole batch",
            where="train.micro_batch_size",
            fix="write 1, so that no lesson is read with another's factors",
        )


def _trainer(
    student: Any,
    values: TrainingArguments,
    taught: Epochs,
    inputs: Callable[[list[Lesson]], dict[str, Batch]],
    settings: Train,
    folder: RunDir,
) -> LessonTrainer:
    try:
        trainer = LessonTrainer(student, values, train_dataset=taught, data_collator=inputs)
    except (RuntimeError, ValueError, ImportError) as error:
        # a tracker or a launcher that is not there
        fix = _MEND_TRAINER
        if processes.count() == 1 and "fsdp" in settings.trainer:
            fix = "start it with `torchrun --nproc-per-node 8 -m unprompt run RECIPE`"
        raise UserError(str(error)[:300], where="train.trainer", fix=fix) from None
    if values.fsdp and not trainer.is_fsdp_enabled:
        raise UserError(
            "accelerate shards students on GPUs only",
            where="train.trainer.fsdp",
            fix="leave it out on processors",
        )
    trainer.remove_callback(PrinterCallback)
    if hasattr(student, "create_or_update_model_card"):  # ours is written at the end
        student.create_or_update_model_card = _no_card
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            # its own default goes with the checkpoints
            callback.logging_dir = str(folder.folder / "tensorboard")
    return trainer


def _inputs(
    collated: Callable[[Sequence[Lesson]], Batch], lessons: list[Lesson]
) -> dict[str, Batch]:
    return {"batch": collated(lessons)}


def _fast_step(
    trainer: LessonTrainer, student: Any, probe: Batch, undo: contextlib.ExitStack
) -> fast.Step | None:
    """The fast step, until `undo` is closed; or it is said why there is none."""
    step = _plain_only(trainer) or undo.enter_context(fast.enabled(student, probe))
    if isinstance(step, str):
        _say_once(f"training takes the plain path: {step}")
        return None
    if processes.count() > 1:
        undo.enter_context(fast.called_through(student, step))
    return step


def _plain_only(trainer: LessonTrainer) -> str | None:
    """Why the trainer has to call the student itself; None if it need not."""
    args = trainer.args
    if trainer.sharded:
        return "FSDP or DeepSpeed shards the student"
    if args.n_gpu > 1:
        return "one process has several GPUs (start one for each with torchrun)"
    if args.bf16 or args.fp16:
        return "train.trainer asks for mixed precision"
    return "train.trainer asks for torch.compile" if args.torch_compile else None


@contextlib.contextmanager
def _refusals(start: str | None, folder: RunDir) -> Iterator[None]:
    """What stops a training and can be mended, in one line.

    Raises:
        UserError: A checkpoint that is not ours, or a GPU's memory that is full.
    """
    try:
        yield
    except pickle.UnpicklingError:
        # PyTorch reads tensors and plain values only, and says so with this
        raise UserError(
            "holds what no training of ours writes, and was not read",
            where=str(start),
            fix=f"remove {folder.checkpoints}, and run again",
        ) from None
    except torch.OutOfMemoryError:
        raise UserError(
            "the GPU's memory is full",
            where="train.micro_batch_size",
            fix="lower it and run again: the student is the same whatever it is",
        ) from None


def _save(
    trainer: LessonTrainer,
    student: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: RunDir,
    clock: Clock,
    made_from: str,
) -> None:
    """By the first process: the student, its log and its seconds; noted, and only then are the
    checkpoints removed.
    """
    whole: dict[str, Any] = {}
    if trainer.sharded:
        whole["state_dict"] = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    processes.wait_for_all()  # nobody writes into the checkpoints any more
    if processes.number():
        return
    student.eval()
    if trainer.args.gradient_checkpointing:
        student.gradient_checkpointing_disable()
    with replacing(folder.student) as partial, models.quiet():
        partial.mkdir()
        student.save_pretrained(partial, **whole)
        tokenizer.save_pretrained(partial)
    folder.keep("train_seconds.json", json.dumps(clock.seconds()), copied=True)
    keys = ("step", "loss", "learning_rate", "grad_norm")
    losses = [{k: row[k] for k in keys} for row in trainer.state.log_history if "loss" in row]
    log = {"steps": trainer.state.global_step, "losses": losses}
    folder.write_text("train_log.json", json.dumps(log))
    folder.notes.add_student(made_from)
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def shares(settings: Train, count: int) -> tuple[int, int]:
    """Lessons in a micro-batch of one process, and how many such it reads in a step, so that
    `count` processes together read `batch_size` lessons.

    Raises:
        UserError: The batch can't be divided so.
    """
    share, rest = divmod(settings.batch_size, count)
    micro = min(settings.micro_batch_size or share, share)
    if rest or share % micro:
        what = f"micro-batches of {micro} lessons in " if micro and not rest else ""
        raise UserError(
            f"a batch of {settings.batch_size} lessons can't be divided into {what}{count}"
            " processes",
            where="train.batch_size",
            fix="give a multiple, or start another number of processes",
        )
    return micro, share // micro


def arguments(settings: Train, folder: Path, seed: int) -> TrainingArguments:
    """What the trainer is told: the recipe's `train`, and what `train.trainer` says besides.

    Raises:
        UserError: `train.trainer` says what `TrainingArguments` does not know.
    """
    micro, times = shares(settings, processes.count())
    constant = settings.schedule == "constant"
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": times,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if constant else settings.schedule,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        # so that a training which goes on from a checkpoint logs the same means
        "logging_steps": math.gcd(5, settings.save_every),
        "report_to": "none",
        "remove_unused_columns": False,
        "seed": seed,
        "data_seed": seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "log_level": "error",
        "disable_tqdm": True,
    }
    if processes.count() > 1 and not torch.accelerator.is_available():
        values["use_cpu"] = True  # it would not see the others
    if settings.checkpointing:
        values["gradient_checkpointing"] = True
        values["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    # so that the log is never empty, however few the steps are
    values |= {**settings.trainer, "logging_first_step": True}
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(str(error)[:300], where="train.trainer", fix=_MEND_TRAINER) from None
