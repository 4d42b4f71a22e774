"""What is exported loads in plain libraries and answers as the student that was graded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
import yaml

import unprompt
from conftest import seq2seq, tiny_recipe
from unprompt.messages import UserError
from unprompt.recipe import Model, Train, parse
from unprompt.stages import train
from unprompt.store.tables import read_grades
from unprompt.tools import export


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, decoder_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    words = tiny_recipe(decoder_folder)
    words["sampling"]["max_new_tokens"] = 12
    words["train"] = {"epochs": 2, "batch_size": 4, "learning_rate": 3e-2, "adapter": {"rank": 4}}
    words["rounds"] = {
        "lora": {"contexts": ["colours"]},
        "whole": {"contexts": ["colours"], "start": "base", "train": {"adapter": None}},
    }
    unprompt.run(parse(words), folder)
    return folder


def answers(model: Any, folder: Path) -> list[str]:
    """Greedy, with nothing but what lies in the folder."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    found = []
    for text in ("grey:", "violet:", "gold:"):
        asked = tokenizer(text, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**asked)[0, asked.input_ids.shape[1] :]
        found.append(
            tokenizer.decode(
                ids[: -1 if ids[-1] == tokenizer.eos_token_id else None],
                clean_up_tokenization_spaces=False,
            )
        )
    return found


def graded(run: Path, system: str) -> list[str]:
    return [g.text for g in read_grades(run / "grades.parquet") if g.system == system]


@pytest.mark.parametrize(("name", "merge"), [("lora", True), ("lora", False), ("whole", True)])
def test_it_answers_as_the_student_did(run: Path, name: str, merge: bool, tmp_path: Path) -> None:
    said = export.export(run, tmp_path / "out", name, merge=merge)
    kind: Any = transformers.AutoModelForCausalLM if merge else peft.AutoPeftModelForCausalLM
    model = kind.from_pretrained(tmp_path / "out")
    if not merge:
        model.generation_config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert graded(run, name) != graded(run, "before"), "the test proves nothing"
    assert answers(model, tmp_path / "out") == graded(run, name)
    metadata = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert metadata["library_name"] == ("transformers" if merge else "peft")
    assert ("lora" in metadata["tags"]) is not merge
    assert (tmp_path / "out" / "adapter_config.json").is_file() is not merge
    told = "\n".join(said)
    assert ("--enable-lora --max-lora-rank 8 --lora-modules lora=" in told) is not merge
    assert "llama-server" in told
    assert str(tmp_path / "out") in said[0]


def test_what_can_not_be_exported(run: Path, tmp_path: Path) -> None:
    for arguments, merge, said in (
        ((run, tmp_path / "out", "two"), True, "there is no round 'two' -> there are: lora, whole"),
        (
            (run, tmp_path / "out", None),
            False,
            "all weights of 'whole' were trained: it has no adapter",
        ),
        ((run, run, None), True, "there is something here already"),
        ((tmp_path, tmp_path / "out", None), True, "there is no finished run here"),
    ):
        with pytest.raises(UserError, match=said):
            export.export(*arguments, merge=merge)
    assert not (tmp_path / "out").exists()


def test_sampled_answers_are_exported_as_sampled(decoder_folder: Path) -> None:
    from unprompt.engines import models

    words = tiny_recipe(decoder_folder)
    words["evaluate"]["temperature"] = 0.7
    recipe = parse(words)
    model = transformers.AutoModelForCausalLM.from_pretrained(decoder_folder)
    found = export.generation(recipe, models.load_tokenizer(recipe.model, "model"), model)
    assert (found.do_sample, found.temperature, found.top_p, found.top_k, found.eos_token_id) == (
        True,
        0.7,
        1.0,
        0,
        [1],
    )


@pytest.mark.parametrize(
    "targets", [["lm_head"], ["embed_tokens", "v_proj"], ["lm_head", "q_proj"]]
)
@pytest.mark.parametrize("family", ["LlamaForCausalLM", "Qwen2ForCausalLM", "GemmaForCausalLM"])
def test_a_head_that_was_tied_gets_weights_of_its_own(
    family: str, targets: list[str], tmp_path: Path
) -> None:
    """Merged, saved and read again, it gives the student's numbers."""
    kind = getattr(transformers, family)
    config = kind.config_class(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        **({"head_dim": 8} if family.startswith("Gemma") else {}),
    )
    torch.manual_seed(0)
    base, ids = kind(config).eval(), torch.arange(6)[None]
    settings = Train.model_validate({"adapter": {"rank": 2, "targets": targets}})
    student = train.attach_adapter(base, settings, 0).eval()
    for name, weight in student.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5)
    with torch.inference_mode():
        wanted, before = student(ids).logits, base.get_input_embeddings().weight.clone()
    train.merged(student).save_pretrained(tmp_path / "whole")
    found = kind.from_pretrained(tmp_path / "whole").eval()
    with torch.inference_mode():
        torch.testing.assert_close(found(ids).logits, wanted, rtol=1e-4, atol=1e-4)
    kept = torch.equal(found.get_input_embeddings().weight, before)
    assert kept is ("embed_tokens" not in targets), "the test proves nothing"


@pytest.mark.parametrize("target", ["lm_head", "shared"])
def test_an_encoder_decoders_tied_weights_take_no_adapter(target: str) -> None:
    settings = Train.model_validate({"adapter": {"targets": [target, "q"]}})
    with pytest.raises(UserError, match="the head is tied to the embeddings"):
        train.attach_adapter(seq2seq(), settings, 0)


MAKES = """
from conftest import byte_tokenizer, decoder

def make(folder, seed=0):
    decoder(seed).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
"""


@pytest.mark.parametrize("seed", [0, 1])
def test_an_adapter_names_no_folder_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    (tmp_path / "tiny_rule.py").write_text(MAKES)
    monkeypatch.syspath_prepend(tmp_path)
    cache = tmp_path / "cache"
    monkeypatch.setenv("UNPROMPT_CACHE", str(cache))
    words = tiny_recipe(tmp_path)
    words["model"] = {"rule": "tiny_rule:make", "args": {"seed": seed}}
    unprompt.run(parse(words), tmp_path / "run")
    said = export.export(tmp_path / "run", tmp_path / "out", None, merge=False)
    for file in sorted((tmp_path / "out").iterdir()):
        assert str(cache).encode() not in file.read_bytes(), file.name
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "tiny_rule:make"
    told = json.loads((tmp_path / "out" / "unprompt.json").read_text())
    assert told == {"base": {"name": "tiny_rule:make"}}
    assert "`tiny_rule:make`" in (tmp_path / "out" / "README.md").read_text()
    spoken: dict[str, Any] = {}
    exec(said[1].removeprefix("Python:").strip(), spoken)
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    spoken["model"].generation_config = settings
    assert answers(spoken["model"].eval(), tmp_path / "out") == graded(tmp_path / "run", "after")


def test_a_base_is_named_as_others_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("held/a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(name.encode())
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in ("held/a.gguf", "b.gguf")]
    for model, named in (
        ({"gguf": "pkg:held/a.gguf"}, {"name": "pkg:held/a.gguf", "sha256": digests[0]}),
        ({"gguf": str(tmp_path / "b.gguf")}, {"name": "b.gguf", "sha256": digests[1]}),
        ({"name": "org/model", "revision": "v2"}, {"name": "org/model", "revision": "v2"}),
        ({"rule": "a:b"}, {"name": "a:b"}),
    ):
        assert export.base_of(Model.model_validate(model)) == named
