"""From a prompt to a student on the quickstart, against TRL's `SDFTTrainer`: seconds, memory and
held-out accuracy.

    python benchmarks/sdft.py [--inputs 336] [--heldout 200] [--epochs 3] [--threads N] [--set
    train.checkpointing=true]

Needs the group `bench`. Both start from the same weights, prompts, inputs, LoRA rank, batch and
epochs, and both teachers write the completions (temperature 1, at most 8 new tokens). TRL's cut of
prompts at 512 tokens is taken off, since the teacher's prompt is longer. Seconds are those of a
whole process without the evaluation: labels, training and saving, for ours imports and checks, too.
Afterwards both saved students answer the held-out messages in the same way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from turns import resident

import unprompt
from unprompt.engines import models
from unprompt.recipe import Recipe, Sampling
from unprompt.stages import inputs
from unprompt.stages.templates.render import render

RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.yaml"
GOAL = "goals: at least 15x less time, at most 0.5 of the memory, accuracy within 2 points"


def recipe(given: argparse.Namespace, *, evaluated: bool = False) -> Recipe:
    """The quickstart of the asked size; without its evaluation unless that is what is wanted."""
    made = unprompt.load(RECIPE, [f"train.epochs={given.epochs}", *given.set])
    context = made.contexts["hotel"]
    assert context.inputs
    context = context.model_copy(
        update={"inputs": context.inputs.model_copy(update={"limit": given.inputs})}
    )
    changes: dict[str, Any] = {"contexts": {"hotel": context}}
    return made.model_copy(update=changes if evaluated else {**changes, "evaluate": None})


def ours(given: argparse.Namespace, folder: Path) -> Path:
    """A run of ours; where the student is."""
    unprompt.run(recipe(given), folder / "run")
    return folder / "run" / "student"


def sdft(given: argparse.Namespace, folder: Path) -> Path:
    """TRL's trainer with the settings of the recipe; where the student is."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl.experimental import sdft as trl  # pyright: ignore[reportMissingImports]

    made = recipe(given)
    context, settings = made.contexts["hotel"], made.train
    assert context.inputs
    assert settings.adapter
    rows = inputs.load(context.inputs, "inputs", made.modules)
    teacher, student = sides(made)
    asked = [str(student(row).content) for row in rows]
    long = [str(teacher(row).content) for row in rows]
    before = [text.removesuffix(own) for text, own in zip(long, asked, strict=True)]
    assert all(len(a) < len(b) for a, b in zip(before, long, strict=True)), (
        "the teacher's prompt does not end with the student's"
    )
    data = Dataset.from_list(
        [{"prompt": p, "privileged_context": c} for p, c in zip(asked, before, strict=True)]
    )
    model, tokenizer = (
        models.load_weights(made.model, "model"),
        models.load_tokenizer(made.model, "model"),
    )
    config = trl.SDFTConfig(
        str(folder / "trl"),
        max_prompt_length=None,
        max_completion_length=made.sampling.max_new_tokens,
        num_generations=1,
        temperature=1.0,
        generate_from_teacher=True,
        teacher_prompt_template="{privileged_context}{prompt}",
        distillation_alpha=0.0,
        per_device_train_batch_size=settings.batch_size,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=model.device.type == "cpu",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=settings.adapter.rank,
        lora_alpha=2 * settings.adapter.rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = trl.SDFTTrainer(
        model, config, train_dataset=data, processing_class=tokenizer, peft_config=lora
    )
    trainer.train()
    trainer.save_model(str(folder / "trl"))
    return folder / "trl"


def sides(made: Recipe) -> tuple[Any, Any]:
    """What renders the teacher's and the student's prompt of a row."""
    context = made.contexts["hotel"]
    assert context.teacher
    assert context.examples
    assert context.examples.pool
    shown = [row.fields for row in inputs.load(context.examples.pool, "examples", made.modules)]
    teacher, student = context.teacher, context.student
    return (
        lambda row: render(teacher, "hotel", row, shown, "teacher"),
        lambda row: render(student, "hotel", row, shown, "student"),
    )


def accuracy(given: argparse.Namespace, folder: Path) -> float:
    """Share of held-out messages that a saved student sorts as the gold answer says: the first line
    of its greedy answer.
    """
    from peft import PeftModel

    from unprompt.engines.hf.engine import HFEngine

    made = recipe(given, evaluated=True)
    evaluation = made.evaluation("hotel")
    assert evaluation
    assert evaluation.data
    rows = inputs.load(evaluation.data, "evaluate", made.modules)[: given.heldout]
    tokenizer = models.load_tokenizer(made.model, "model")
    student: Any = PeftModel.from_pretrained(
        models.load_weights(made.model, "model"), str(folder)
    ).eval()
    asked = [sides(made)[1](row) for row in rows]
    sampling = Sampling(
        temperature=0.0, max_new_tokens=made.sampling.max_new_tokens, stop=made.sampling.stop
    )
    answers = HFEngine(student, tokenizer).generate(asked, sampling, None, seed=0)
    return sum(
        a.text.strip().splitlines()[:1] == [str(row.target)]
        for a, row in zip(answers, rows, strict=True)
    ) / len(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=336)
    parser.add_argument("--heldout", type=int, default=10**6)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", action="append", default=[], help="of the recipe, for ours")
    parser.add_argument("--do", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.do:
        name, folder = given.do
        began = time.perf_counter()
        student = {"ours": ours, "sdft": sdft}[name](given, Path(folder))
        print(
            "@"
            + json.dumps(
                {
                    "seconds": time.perf_counter() - began,
                    "peak": resident("VmHWM"),
                    "student": str(student),
                }
            )
        )
        return
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("ours", "sdft"):
            sizes = (
                f"--inputs {given.inputs} --epochs {given.epochs} --threads {given.threads}".split()
            )
            sizes += [word for said in given.set for word in ("--set", said)]
            done = subprocess.run(
                [sys.executable, __file__, *sizes, "--do", name, folder],
                text=True,
                stdout=subprocess.PIPE,
                check=True,
            )
            found[name] = json.loads(
                next(line[1:] for line in done.stdout.splitlines() if line.startswith("@"))
            )
            found[name]["accuracy"] = accuracy(given, Path(found[name]["student"]))
    print(f"{given.inputs} inputs, {given.epochs:g} epochs, {given.threads} threads; {GOAL}\n")
    print("| | seconds | peak memory, MB | held-out accuracy |\n|---|---|---|---|")
    for name, values in found.items():
        print(
            f"| {name} | {values['seconds']:.1f} | {values['peak']:.0f} |"
            f" {values['accuracy']:.1%} |"
        )
    one, two = found["ours"], found["sdft"]
    print(
        f"\n{two['seconds'] / one['seconds']:.1f}x less time at {one['peak'] / two['peak']:.2f} of"
        " the memory"
    )


if __name__ == "__main__":
    main()
