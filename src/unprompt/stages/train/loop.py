"""Training: a `transformers.Trainer` with our loss and our collator, and nothing else."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset, Sampler
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
from unprompt.records import Lesson, SoftLabels
from unprompt.stages import processes
from unprompt.stages.train import fast
from unprompt.stages.train.loss import Batch, batch_kl, collate
from unprompt.store.files import file_digest, read_json, replacing, writing
from unprompt.store.folder import RunDir

_FILES = "files.json"
"""In a checkpoint: what it is made of."""
_READ_AGAIN = 2**30
_TRIED = 256
"""Lessons among which the shortest are looked for, to try the fast step on."""
_MEND_TRAINER = "use arguments of transformers.TrainingArguments, and install what they need"


class LessonTrainer(Trainer):
    """Loss = sum of w * KL over the weighted tokens / total weight of the global batch, so that
    micro-batches do not change the gradient.
    """

    loss_is_scaled_for_ga = True
    step: fast.Step | None = None
    """The same loss, faster; None where the student or the trainer's settings can't."""

    def _get_num_items_in_batch(
        self, batch_samples: list[Any], device: torch.device
    ) -> torch.Tensor:
        total = (
            torch.stack([batch["batch"].weight_N.sum() for batch in batch_samples]).sum().to(device)
        )
        everywhere: Any = self.accelerator.gather(total) if self.args.world_size > 1 else total
        return everywhere.sum()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.world_size == 1 or self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        taught: Any = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return _SharedOrder(
            taught, seed, self.args.per_device_train_batch_size * self.args.world_size
        )

    def _prepare_input(self, data: Any) -> Any:
        return (
            data.to(self.args.device) if isinstance(data, Batch) else super()._prepare_input(data)
        )

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Weighted KL of a micro-batch in nats, over the global batch's weight (times the
        processes, since gradients are averaged over them).
        """
        batch: Batch = inputs["batch"]
        if self.step is not None:
            loss = (
                self.step(batch) if self.args.world_size == 1 else model(fast_batch=batch)
            )  # DDP averages what goes through it
        else:
            loss = (batch_kl(model, batch) * batch.weight_N).sum()
        return loss / num_items_in_batch * self.args.world_size


def attach_adapter(model: Any, train: Train, seed: int) -> Any:
    """The student before training: the model with a fresh LoRA adapter, or the model itself."""
    if train.adapter is None:
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    adapter: Any
    adapter, kind = (
        train.adapter,
        "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM",
    )
    targets = adapter.targets if isinstance(adapter.targets, str) else list(adapter.targets)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha or 2 * adapter.rank,
        lora_dropout=adapter.dropout,
        target_modules=targets,
        task_type=kind,
    )
    transformers.set_seed(seed)
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            str(error).splitlines()[0],
            where="train.adapter.targets",
            fix="name layers that the model has",
        ) from None


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
    watch: TrainerCallback | None = None,
) -> None:
    """Train `student` in place and save it.

    Every process of a run calls it with the same arguments and takes its share of each step's
    lessons; the first one writes.

    Checkpoints go to `checkpoints/`; a killed run goes on from the last whole one, to the same
    weights. They are removed once the student is saved. `train_log.json` holds the steps and the
    logged losses (nats per weighted token), `train_seconds.json` the measured seconds, restarts
    included.

    Args:
        lessons: In memory or not (`stored.StoredLessons`); those of a step are asked for when it is
            their turn.
        made_from: Fingerprint of lessons and settings; checkpoints of another, or of another number
            of processes, are not resumed.
        variants: Of how many epochs the lessons are, one after the other: equal parts of `lessons`,
            of which each epoch trains on its own.
        watch: Looks on.
    """
    values = arguments(settings, folder.checkpoints, seed)
    taught = _Epochs(lessons, variants)
    steps = math.ceil(math.ceil(len(taught) / settings.batch_size) * settings.epochs)
    values.logging_steps = min(values.logging_steps, steps)  # a short training logs its end, too
    kept, values.save_total_limit = (
        values.save_total_limit,
        None,
    )  # the trainer's own goes by the clock, which may jump
    mark = made_from if processes.count() == 1 else f"{made_from} in {processes.count()} processes"
    start = processes.from_first(lambda: _resumable(folder.checkpoints, mark))
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    decoder_start = (
        student.config.decoder_start_token_id if student.config.is_encoder_decoder else None
    )
    transformers.set_seed(seed)
    try:
        trainer = LessonTrainer(
            student,
            values,
            train_dataset=taught,
            data_collator=functools.partial(_as_inputs, pad=pad, decoder_start=decoder_start),
        )
    except (
        RuntimeError,
        ValueError,
        ImportError,
    ) as error:  # a tracker or a launcher that is not there
        started = processes.count() > 1 or "fsdp" not in settings.trainer
        fix = (
            _MEND_TRAINER
            if started
            else "start it with `torchrun --nproc-per-node 8 -m unprompt run RECIPE`"
        )
        raise UserError(str(error)[:300], where="train.trainer", fix=fix) from None
    if values.fsdp and not trainer.is_fsdp_enabled:
        raise UserError(
            "accelerate shards students on GPUs only",
            where="train.trainer.fsdp",
            fix="leave it out on processors",
        )
    trainer.remove_callback(PrinterCallback)
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(
                folder.folder / "tensorboard"
            )  # its own default goes with the checkpoints
    clock = _Clock(start, kept)
    trainer.add_callback(clock)
    with contextlib.ExitStack() as undo, bar("training, in steps", steps) as progress:
        if settings.fast:
            shortest = sorted(lessons[:_TRIED], key=lambda lesson: len(lesson.input_ids))
            probe = collate([shortest[0], *shortest[:2]], pad, decoder_start).to(values.device)
            reason = _plain_only(trainer) or undo.enter_context(fast.enabled(student, probe))
            if isinstance(reason, str):
                _say_once(f"training takes the plain path: {reason}")
            else:
                trainer.step = reason
                if processes.count() > 1:
                    undo.enter_context(fast.called_through(student, reason))
        trainer.add_callback(_Progress(progress))
        trainer.add_callback(_NextEpoch(taught))
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        if watch is not None and sharded:
            say(
                "held-out inputs are not looked at while the student trains: no process has all"
                " of it"
            )
        elif watch is not None:
            trainer.add_callback(watch)
        try:
            with writing(folder.checkpoints), models.quiet():
                trainer.train(resume_from_checkpoint=start)
        except (
            pickle.UnpicklingError
        ):  # PyTorch reads tensors and plain values only, and says so with this
            raise UserError(
                "holds what no training of ours writes, and was not read",
                where=str(start),
                fix=f"remove {folder.checkpoints}, and run again",
            ) from None
        except torch.OutOfMemoryError:
            fix = "lower it and run again: the student is the same whatever it is"
            raise UserError(
                "the GPU's memory is full", where="train.micro_batch_size", fix=fix
            ) from None
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped) if sharded else None
    processes.wait_for_all()  # nobody writes into the checkpoints any more
    if processes.number():
        return
    student.eval()
    if values.gradient_checkpointing:
        student.gradient_checkpointing_disable()
    losses = [
        {key: entry[key] for key in ("step", "loss", "learning_rate", "grad_norm")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    with replacing(folder.student) as partial:
        partial.mkdir()
        with models.quiet():
            student.save_pretrained(partial, **({"state_dict": whole} if sharded else {}))
            tokenizer.save_pretrained(partial)
    folder.write_text("train_seconds.json", json.dumps(clock.seconds()))
    folder.write_text(
        "train_log.json", json.dumps({"steps": trainer.state.global_step, "losses": losses})
    )
    shutil.rmtree(folder.checkpoints, ignore_errors=True)


def _plain_only(trainer: Trainer) -> str | None:
    """Why the trainer has to call the student itself; None if it need not."""
    args = trainer.args
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        return "FSDP or DeepSpeed shards the student"
    if args.n_gpu > 1:
        return "one process has several GPUs (start one for each with torchrun)"
    if args.bf16 or args.fp16:
        return "train.trainer asks for mixed precision"
    return "train.trainer asks for torch.compile" if args.torch_compile else None


_say_once = functools.cache(say)


class _Epochs(Dataset[Lesson]):
    """The lessons of the epoch that the training is in."""

    def __init__(self, lessons: Sequence[Lesson], variants: int) -> None:
        self._lessons, self._variants, self.epoch = lessons, variants, 0

    def __len__(self) -> int:
        return len(self._lessons) // self._variants

    def __getitem__(self, number: int) -> Lesson:
        if number == _NOTHING:
            return Lesson("", "", (0,), 1, np.zeros(1, np.float32), SoftLabels.hard([]))
        return self._lessons[self.epoch % self._variants * len(self) + number]


_NOTHING = -1
"""Number of a lesson that teaches nothing."""


class _SharedOrder(Sampler[int]):
    """The lessons in the order in which one process takes them, then lessons that teach nothing, so
    that every process gets as many micro-batches.

    accelerate deals the micro-batches out in turns, so that a step's are dealt to all processes; it
    would fill up with lessons from the front, which would count twice.

    Args:
        whole: Lessons in one micro-batch of all processes.
    """

    def __init__(self, taught: _Epochs, seed: int, whole: int) -> None:
        self._taught, self._seed, self._whole = taught, seed, whole

    def __len__(self) -> int:
        return math.ceil(len(self._taught) / self._whole) * self._whole

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(
            self._seed + self._taught.epoch
        )  # as accelerate's SeedableRandomSampler
        yield from torch.randperm(len(self._taught), generator=generator).tolist()
        yield from [_NOTHING] * (len(self) - len(self._taught))


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
    """Seconds of training over all restarts: each checkpoint keeps those until then. What a kill
    undid is not counted. And the newest checkpoints are kept, with a list of their files.
    """

    def __init__(self, checkpoint: str | None, kept: int | None = None) -> None:
        self._before: float | None = 0.0
        self._kept = kept
        if checkpoint:
            try:
                self._before = json.loads(Path(checkpoint, "seconds.json").read_text())
            except (OSError, ValueError):
                self._before = None  # killed just before it was written: nobody knows
        self._began = time.perf_counter()

    def seconds(self) -> float | None:
        return None if self._before is None else self._before + time.perf_counter() - self._began

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        processes.wait_for_all()  # each writes its random state
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
            (checkpoint / "seconds.json").write_text(json.dumps(self.seconds()))
            with replacing(
                checkpoint / _FILES
            ) as partial:  # last: it says that the checkpoint is whole
                files = (
                    file
                    for file in checkpoint.rglob("*")
                    if file.is_file() and not file.name.startswith(".")
                )
                partial.write_text(
                    json.dumps({str(file.relative_to(checkpoint)): _stamp(file) for file in files})
                )
            for older in _newest_first(checkpoint.parent)[self._kept :] if self._kept else ():
                shutil.rmtree(older)


def _as_inputs(lessons: list[Lesson], pad: int, decoder_start: int | None) -> dict[str, Batch]:
    return {"batch": collate(lessons, pad, decoder_start)}


def shares(settings: Train, count: int) -> tuple[int, int]:
    """Lessons in a micro-batch of one process, and how many such it reads in a step, so that
    `count` processes together read `batch_size` lessons.

    Raises:
        UserError: The batch can't be divided so.
    """
    own, rest = divmod(settings.batch_size, count)
    micro = min(settings.micro_batch_size or own, own)
    if rest or own % micro:
        what = f"micro-batches of {micro} lessons in " if micro and not rest else ""
        raise UserError(
            f"a batch of {settings.batch_size} lessons can't be divided into {what}{count}"
            " processes",
            where="train.batch_size",
            fix="give a multiple, or start another number of processes",
        )
    return micro, own // micro


def arguments(settings: Train, folder: Path, seed: int) -> TrainingArguments:
    """What the trainer is told: the recipe's `train`, and what `train.trainer` says besides.

    Raises:
        UserError: `train.trainer` says what `TrainingArguments` does not know.
    """
    micro, times = shares(settings, processes.count())
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": times,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": (
            settings.schedule if settings.schedule != "constant" else "constant_with_warmup"
        ),
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": 2,
        "logging_steps": math.gcd(
            5, settings.save_every
        ),  # so that a training which goes on from a checkpoint logs the same means
        "report_to": "none",
        "remove_unused_columns": False,
        "seed": seed,
        "data_seed": seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "log_level": "error",
        "disable_tqdm": True,
        **(
            {"use_cpu": True}
            if processes.count() > 1 and not torch.accelerator.is_available()
            else {}
        ),  # it would not see the others
        **(
            {
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": False},
            }
            if settings.checkpointing
            else {}
        ),
        **settings.trainer,
        "logging_first_step": True,  # so that the log is never empty, however few the steps are
    }
    try:
        return TrainingArguments(**values)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(str(error)[:300], where="train.trainer", fix=_MEND_TRAINER) from None


def _resumable(folder: Path, made_from: str) -> str | None:
    """The newest whole checkpoint made from the same lessons and settings; everything else there is
    removed.
    """
    mark = folder / "made_from.txt"
    if not mark.is_file() or mark.read_text() != made_from:
        if _newest_first(folder):
            say(
                f"the checkpoints in {folder} are of other lessons or settings, or of another"
                " number of processes: training begins anew"
            )
        shutil.rmtree(folder, ignore_errors=True)
        with replacing(mark) as partial:
            partial.write_text(made_from)
        return None
    for checkpoint in _newest_first(folder):
        listed = read_json(checkpoint / _FILES)
        if isinstance(listed, dict) and "trainer_state.json" in listed:
            broken = [
                name
                for name, stamp in listed.items()
                if not (checkpoint / name).exists() or _stamp(checkpoint / name) != stamp
            ]
            if not broken:
                return str(checkpoint)
            say(
                f"BROKEN FILE: {checkpoint / broken[0]} is not as it was written; training goes on"
                " from the checkpoint before"
            )
        shutil.rmtree(checkpoint)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1]))


def _stamp(file: Path) -> list[Any]:
    """A file's size, and what it holds, unless it is so big that reading it again would take longer
    than training it anew.
    """
    size = file.stat().st_size
    return [size, file_digest(file) if size <= _READ_AGAIN else ""]
