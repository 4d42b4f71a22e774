"""Collecting the quickstart's labels with each engine: the teacher's answers to all inputs, its
start-up apart.

python benchmarks/engines.py                              # transformers in this process
python benchmarks/engines.py --set model.engine=vllm
python benchmarks/engines.py --set 'teacher_model={server: {...}}'
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from unprompt import recipe
from unprompt.records import TEACHER
from unprompt.stages.prompts import rendered
from unprompt.stages.questions import Question
from unprompt.stages.weights import Weights
from unprompt.store.folder import RunDir


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", action="append", default=[])
    given = parser.parse_args()
    wanted = recipe.load(Path(__file__).parent.parent / "recipes" / "quickstart.yaml", given.set)
    prompts = rendered(wanted)
    with tempfile.TemporaryDirectory() as folder:
        weights = Weights(wanted, RunDir(folder), prompts.readers.student.tokenizer)
        began = time.perf_counter()
        weights.engine(TEACHER)
        ready = time.perf_counter() - began
        found = weights.collect(
            "answers",
            Question(TEACHER, prompts.teacher["hotel"], wanted.sampling, wanted.labels),
        )
        calls, each = len(found), found.seconds_a_call
        assert each
        seconds = calls * each
        tokens = sum(len(each.token_ids) for each in found)
        weights.forget_engines()
    print(
        f"ready after {ready:.0f} s; {calls} inputs in {seconds:.1f} s: {calls / seconds:.1f} a"
        f" second, {tokens / seconds:.0f} tokens a second"
    )


if __name__ == "__main__":
    main()
