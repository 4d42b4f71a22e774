"""Ask a model all prompts, once. What is answered is on disk and never asked again.

A store is a folder of Parquet parts named by everything that decides an answer but the prompt (weights, sampling, labels, seed); each row
carries its prompt's fingerprint. So a run that was killed, one with another `train` section, and one with more inputs all ask only
what is missing. Prompts are sorted by length and cut into parts in a fixed order, so the parts after a kill are the parts without one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unprompt import rundir
from unprompt.engines import Engine, Unfinished
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt

BATCHES_A_PART = 2


def key_of(prompt: Prompt) -> str:
    """Fingerprint of one prompt."""
    return rundir.fingerprint(prompt.example_id, prompt.context, prompt.content, *prompt.others)


def missing(prompts: Sequence[Prompt], store: Path) -> list[Prompt]:
    """The prompts that the store has no completion of."""
    done = rundir.read_completions(store)
    return [prompt for prompt in prompts if key_of(prompt) not in done]


def collect(
    engine: Callable[[], Engine],
    prompts: Sequence[Prompt],
    lengths: Sequence[int],
    store: Path,
    sampling: Sampling,
    labels: Labels | None,
    *,
    seed: int,
    batch_size: int | None,
    prefix_tokens: Sequence[int],
    given: Sequence[tuple[str, Sequence[int]]] | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> list[Completion]:
    """One completion for each prompt, in the prompts' order.

    Args:
        engine: Gives the engine; called only if something has to be asked.
        lengths: Each prompt's length in tokens; prompts of like length are answered together.
        store: Folder of the parts.
        prefix_tokens: Length of the prefix that all prompts share; one number for each prompt of an ensemble.
        given: For each prompt a continuation (text, token ids) to score with hard labels, instead of writing one.
        progress: Told how many prompts were answered since the last call.
    """
    done = rundir.read_completions(store)
    keys = [key_of(prompt) for prompt in prompts]
    todo = sorted((i for i, key in enumerate(keys) if key not in done), key=lambda i: (-lengths[i], i))
    progress(len(prompts) - len(todo))
    part = 1 + max((int(path.stem[len("part-") :]) for path in store.glob("part-*.parquet")), default=-1)
    size = (batch_size or 64) * BATCHES_A_PART
    for start in range(0, len(todo), size):
        began = time.perf_counter()
        batch = todo[start : start + size]
        asked = [prompts[i] for i in batch]
        if given is None:
            try:
                found = engine().generate(
                    asked, sampling, labels, seed=seed, prefix_tokens=prefix_tokens, batch_size=batch_size, progress=progress
                )
            except Unfinished as stopped:
                if stopped.answered:
                    kept = [(keys[batch[n]], completion) for n, completion in sorted(stopped.answered.items())]
                    rundir.write_completions(store / f"part-{part:05d}.parquet", kept)
                raise
        else:
            texts = [given[i] for i in batch]
            said = engine().score(
                asked, [ids for _, ids in texts], Labels(kind="hard"), seed=seed, prefix_tokens=prefix_tokens, batch_size=batch_size, progress=progress
            )  # fmt: skip
            found = [
                Completion(p.example_id, p.context, text, tuple(ids), "given", lengths[i], label)
                for i, p, (text, ids), label in zip(batch, asked, texts, said, strict=True)
            ]
        answered = [(keys[i], completion) for i, completion in zip(batch, found, strict=True)]
        took = time.perf_counter() - began
        rundir.write_completions(store / f"part-{part:05d}.parquet", answered)
        _note_time(store, len(answered), took)
        done.update(answered)
        part += 1
    return [done[key] for key in keys]


def seconds_a_call(store: Path) -> float | None:
    """Measured seconds for one prompt, batching and prefix cache included; None before the first part."""
    calls, seconds = _times(store)
    return seconds / calls if calls else None


def _times(store: Path) -> tuple[int, float]:
    try:
        calls, seconds = json.loads((store / "seconds.json").read_text())
        return calls, seconds
    except (FileNotFoundError, ValueError):
        return 0, 0.0


def _note_time(store: Path, calls: int, seconds: float) -> None:
    before = _times(store)
    with rundir.replacing(store / "seconds.json") as partial:
        partial.write_text(json.dumps([before[0] + calls, before[1] + seconds]))
