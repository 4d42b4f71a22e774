"""A finished run whose files are damaged where they were made: each damage is named, by `verify`
and by the next run, which makes that again and nothing else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers

from faults.conftest import TABLED, Counts, Warm, Whole, lost, same
from faults.test_disk import blank, cut, flip
from unprompt import pipeline
from unprompt.engines import gguf as conversion, models
from unprompt.messages import UserError
from unprompt.recipe import Model
from unprompt.store.folder import RunDir
from unprompt.tools.compare import compare
from unprompt.tools.export import export
from unprompt.tools.show import show
from unprompt.tools.verify import verify


def other(raw: bytearray, draw: random.Random) -> None:
    """As long, and something else: a digit where it has one."""
    digits = [n for n, byte in enumerate(raw) if 48 <= byte <= 57]
    at = draw.choice(digits or range(len(raw)))
    raw[at] = 48 + (raw[at] - 47) % 10 if digits else raw[at] ^ 255


def gone(raw: bytearray, draw: random.Random) -> None:
    raw.clear()


DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "a bit flipped": flip,
    "cut": cut,
    "64 bytes lost": blank,
    "other content": other,
    "gone": gone,
}


@contextmanager
def damaged(path: Path, damage: str, seed: str = "") -> Iterator[None]:
    """In place; then the file is as it was, but for its times."""
    raw = path.read_bytes()
    hurt, draw = bytearray(raw), random.Random(f"{path.name} {damage} {seed}")
    DAMAGES[damage](hurt, draw)
    while hurt == raw:  # 64 bytes that were 0 are not lost
        other(hurt, draw)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(hurt)
    yield
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


@pytest.fixture(scope="module")
def run(warm: Warm, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("damaged") / "run"
    warm.run(recipe, out)
    (out.parent / "asked.jsonl").unlink()
    return out


def files_of(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file() and path.name != ".lock")


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_every_damage(damage: str, run: Path, counts: Counts) -> None:
    assert verify(run)[1]
    found = files_of(run)
    assert len(found) > 50
    for path in found:
        with damaged(path, damage):
            lines, whole = verify(run)
            word = "MISSING" if damage == "gone" else "DAMAGED"
            assert not whole
            assert f"{word}: {path}" in lines, path
            assert len(lines) == 2
            assert "run its recipe again" in lines[-1]
    assert verify(run)[1], "times alone are no damage"
    counts.note(f"finished run verified: {damage}", len(found))


KINDS = {
    "recipe.yaml": "",
    "state.json": "",
    "copies/state.json": "",
    "copies/train_log.json": "",
    "copies/student/*.json": "",
    "completions/*/part-*.parquet": "asked",
    "completions/*/question.json": "",
    "completions/*/seconds.json": "",
    "kl/*.tokens.json": "",
    "lessons.parquet": "",
    "grades.parquet": "",
    "examples.parquet": "",
    "train_log.json": "",
    "train_seconds.json": "",
    "student/adapter_model.safetensors": "trained",
    "student/adapter_config.json": "",
    "student/tokenizer.json": "",
    "student/tokenizer_config.json": "",
    "student/README.md": "",
    "report.json": "",
    "report.md": "",
    "report.html": "",
}
"""Files of a finished run -> what has to be done again, beside reading and writing."""


@pytest.mark.parametrize("name", KINDS)
def test_a_run_makes_again_what_is_damaged_and_nothing_else(
    name: str, warm: Warm, recipe: Path, whole: Whole, counts: Counts, run: Path
) -> None:
    number, asked = list(KINDS).index(name), run.parent / "asked.jsonl"
    again = 0
    damages = [list(DAMAGES)[number % 5], list(DAMAGES)[(number + 2) % 5]]
    for damage in damages if TABLED else damages[:1]:
        path = sorted(run.glob(name))[0]
        with_it = {p: p.read_bytes() for p in files_of(run)}
        student = (run / "student").stat().st_ino
        asked.write_text("")
        with damaged(path, damage):
            said = warm.run(recipe, run)
            trained = (run / "student").stat().st_ino != student  # it puts a folder of its own
            mended = path.exists()
            assert mended or name.startswith("completions/*/part-")
            assert verify(run)[1]
        assert f"BROKEN FILE: {path} " in said
        assert said.count("BROKEN FILE") == 1
        assert trained == (KINDS[name] == "trained")
        prompts = sum(len(keys) for _, keys in map(json.loads, asked.read_text().splitlines()))
        assert bool(prompts) == (KINDS[name] == "asked")
        again += prompts
        for p in set(files_of(run)) - set(with_it):
            p.unlink()  # a part that was set aside
        assert same(run, whole)
        assert "nothing was done" in warm.run(recipe, run)
    counts.note(
        "finished run: a file damaged",
        2 if TABLED else 1,
        lost=lost(run, whole.folder),
        again=again,
    )


def test_who_reads_a_damaged_file_refuses_it(run: Path, tmp_path: Path, counts: Counts) -> None:
    readers: list[tuple[str, Callable[[], object]]] = [
        ("report.json", lambda: compare([run, run], tmp_path / "c.html")),
        ("report.json", lambda: pipeline.Run.open(run)),
        ("grades.parquet", lambda: pipeline.Run.open(run).grades),
        ("examples.parquet", lambda: pipeline.Run.open(run).examples),
        ("lessons.parquet", lambda: pipeline.Run.open(run).lessons()),
        ("lessons.parquet", lambda: show(run)),
        ("recipe.yaml", lambda: show(run)),
        ("report.json", lambda: export(run, tmp_path / "to", None)),
        ("recipe.yaml", lambda: export(run, tmp_path / "to", None)),
        ("student/adapter_model.safetensors", lambda: export(run, tmp_path / "to", None)),
        ("student/adapter_config.json", lambda: export(run, tmp_path / "to", None)),
        ("student/tokenizer.json", lambda: export(run, tmp_path / "to", None)),
    ]
    for name, verb in readers:
        for damage in ("other content", "gone"):
            with (
                damaged(run / name, damage),
                pytest.raises(UserError, match="run its recipe again") as error,
            ):
                verb()
            assert str(run / name) in str(error.value)
            assert not (tmp_path / "to").exists()
    counts.note("finished run: a damaged file read", 2 * len(readers))


def test_a_state_that_is_older_and_whole(run: Path, warm: Warm, recipe: Path) -> None:
    """A disk that gives back what was there before: its copy knows more."""
    newest = (run / "state.json").read_bytes()
    RunDir(run).notes.drop("report.md")
    RunDir(run).keep("report.md", (run / "report.md").read_text("utf-8"))
    (run / "state.json").write_bytes(newest)
    assert verify(run)[1]
    assert "nothing was done" in warm.run(recipe, run)


# -- the cache of converted models -----------------------------------------------------------------


def gguf_file(path: Path) -> Path:
    """A tiny Llama."""
    words = ["<|pad|>", "<|end|>", "<|begin|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    out, draw, width = gguf.GGUFWriter(path, "llama"), np.random.default_rng(0), 8
    out.add_block_count(1)
    out.add_context_length(64)
    out.add_embedding_length(width)
    out.add_feed_forward_length(width)
    out.add_head_count(2)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(4)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(words)
    out.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    out.add_token_merges(["t h"])
    out.add_eos_token_id(1)
    out.add_bos_token_id(2)
    out.add_pad_token_id(0)
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    tensors = {f"blk.0.{name}.weight": (width, width) for name in square}
    tensors |= {f"blk.0.{name}.weight": (width,) for name in ("attn_norm", "ffn_norm")}
    tensors |= {"output_norm.weight": (width,), "token_embd.weight": (len(words), width)}
    tensors |= {"output.weight": (len(words), width)}
    for name, shape in tensors.items():
        out.add_tensor(name, draw.normal(size=shape).astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def test_converted_models_in_the_cache(
    tmp_path: Path,
    counts: Counts,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))
    model, converted = Model(gguf=str(gguf_file(tmp_path / "m.gguf"))), list[bool]()
    convert = conversion.convert

    def counting(file: Path, target: Path, *, weights: bool) -> None:
        converted.append(weights)
        convert(file, target, weights=weights)

    monkeypatch.setattr(conversion, "convert", counting)

    def loaded() -> tuple[dict[str, torch.Tensor], list[int]]:
        weights = models.load_weights(model, "model").state_dict()
        return weights, models.load_tokenizer(model, "model")("the").input_ids

    expected = loaded()
    assert converted == [False, True]
    folder = models.in_cache(model, "model")
    assert folder
    names = sorted(path.name for path in folder.iterdir() if path.stat().st_size)
    assert {"model.safetensors", "tokenizer.json", "config.json", "digests.json"} <= set(names)
    for number, name in enumerate(names):
        for damage in (list(DAMAGES)[number % 5], list(DAMAGES)[(number + 2) % 5]):
            converted.clear()
            capsys.readouterr()
            with damaged(folder / name, damage):
                found = loaded()
                assert found[1] == expected[1]
                assert all(torch.equal(found[0][key], expected[0][key]) for key in expected[0])
            said = capsys.readouterr().err
            if name == "digests.json":
                assert "no list of digests that is whole" in said
                assert converted == [False, True]
            else:
                assert f"BROKEN FILE: {folder / name} is not as it was written" in said
                both, alone = name == "config.json", cache_weights(name)
                assert converted == ([False, True] if both else [alone])
    counts.note("converted model damaged", 2 * len(names))
    converted.clear()
    loaded()
    assert converted == []


def cache_weights(name: str) -> bool:
    return ".safetensors" in name or name == "generation_config.json"
