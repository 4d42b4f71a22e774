"""Runs a script several times, each time in a fork of a process that has imported what is slow to
import, and nothing of ours.

It reads a JSON list from stdin, of `{"script": path, "arguments": [...], "folder": where it runs,
"sources": ahead of all other places of modules}`, and prints a JSON list of how each ended:
`[exit code, what it said]`.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import peft  # noqa: F401
import torch
from peft import PeftModel  # noqa: F401
from transformers import (  # noqa: F401
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
    Trainer,
)


def child(told: dict[str, Any], log: Path) -> None:
    """Run the script; never returns."""
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for fd in (1, 2):
        os.dup2(written, fd)
    code = 1
    try:
        os.chdir(told["folder"])
        sys.path[:0] = told["sources"]
        sys.argv = [told["script"], *told["arguments"]]
        runpy.run_path(told["script"], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    torch.set_num_threads(1)
    assert "unprompt" not in sys.modules
    ended = list[tuple[int, str]]()
    for told in json.load(sys.stdin):
        log = Path(told["folder"], "said.txt")
        if (started := os.fork()) == 0:
            child(told, log)
        status = os.waitpid(started, 0)[1]
        ended.append((os.waitstatus_to_exitcode(status), log.read_text()))
    print(json.dumps(ended))


if __name__ == "__main__":
    main()
