"""Training: the same gradient however a batch is split, and a student that answers without the
prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from conftest import decoder, seq2seq, tiny_recipe
from unprompt import UserError, pipeline, recipe
from unprompt.recipe import Recipe, Train, parse
from unprompt.recipe.training import _WITHOUT_EFFECT
from unprompt.records import Lesson, SoftLabels
from unprompt.stages import train
from unprompt.stages.train.loss import batch_kl, collate
from unprompt.store.folder import RunDir


def ragged_lessons(count: int = 8) -> list[Lesson]:
    """Different lengths, and different numbers and sizes of weights: an average of averages would
    be wrong.
    """
    draw = np.random.default_rng(0)
    found = []
    for n in range(count):
        asked, told = int(draw.integers(2, 9)), int(draw.integers(1, 7))
        ids = draw.integers(3, 259, asked + told).tolist()
        weights = np.concatenate([np.zeros(asked), draw.uniform(0.1, 2, told)]).astype(np.float32)
        found.append(Lesson(str(n), "c", tuple(ids), asked, weights, SoftLabels.hard(ids[asked:])))
    return found


@pytest.mark.parametrize("family", [decoder, seq2seq], ids=["decoder", "encoder-decoder"])
def test_any_split_into_micro_batches_gives_the_same_step(
    family: Callable[[], Any], tokenizer: Any, tmp_path: Path
) -> None:
    lessons = ragged_lessons()
    results: dict[int, dict[str, torch.Tensor]] = {}
    for micro in (8, 4, 2, 1):
        model = family()
        settings = Train(
            adapter=None,
            epochs=1,
            batch_size=8,
            micro_batch_size=micro,
            learning_rate=0.1,
            schedule="constant",
            warmup=0,
            trainer={"optim": "sgd"},
        )
        train.train(
            model,
            tokenizer,
            lessons,
            settings,
            RunDir(tmp_path / str(micro)),
            seed=0,
            made_from="x",
        )
        results[micro] = {name: value.detach().clone() for name, value in model.named_parameters()}
    start = dict(family().named_parameters())
    assert any((results[8][name] - value).abs().max() > 1e-4 for name, value in start.items()), (
        "nothing was learned"
    )
    for micro in (4, 2, 1):
        for name, value in results[8].items():
            torch.testing.assert_close(results[micro][name], value, atol=2e-6, rtol=1e-5)


def test_the_step_is_the_gradient_of_weighted_kl_over_total_weight(
    tokenizer: Any, tmp_path: Path
) -> None:
    lessons, model = ragged_lessons(), decoder()
    batch = collate(lessons, 0)
    ((batch_kl(model, batch) * batch.weight_N).sum() / batch.weight_N.sum()).backward()
    want = {
        name: value.detach() - 0.1 * value.grad
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    trained = decoder()
    settings = Train(
        adapter=None,
        epochs=1,
        batch_size=8,
        micro_batch_size=2,
        learning_rate=0.1,
        schedule="constant",
        warmup=0,
        max_grad_norm=1e9,
        trainer={"optim": "sgd"},
    )
    train.train(trained, tokenizer, lessons, settings, RunDir(tmp_path), seed=0, made_from="x")
    for name, value in trained.named_parameters():
        torch.testing.assert_close(value.detach(), want[name], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("full", [False, True], ids=["adapter", "all-weights"])
@pytest.mark.parametrize("family", ["decoder_folder", "seq2seq_folder"])
def test_four_lessons_are_overfitted_and_the_prompt_is_gone(
    family: str, full: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The teacher answers greedily under a long prompt; the student learns those four answers from
    the short one.
    """
    words = tiny_recipe(request.getfixturevalue(family))
    rows = [
        {"id": f"i{n}", "text": text} for n, text in enumerate(["red", "green", "blue", "yellow"])
    ]
    words["contexts"]["colours"]["inputs"] = rows
    words |= {
        "sampling": {"temperature": 0.0, "max_new_tokens": 5},
        "labels": {"kind": "hard"},
        "train": {
            "epochs": 200,
            "batch_size": 4,
            "learning_rate": 3e-3 if full else 1e-2,
            "save_every": 1000,
            "adapter": None if full else {"rank": 16},
        },
        "evaluate": {"data": {"rows": [{**row, "target": "-"} for row in rows]}, "metrics": []},
    }
    run = pipeline.run(parse(words), tmp_path / "run")
    texts = {
        system: [g.text for g in run.grades if g.system == system]
        for system in ("teacher", "before", "after")
    }
    assert texts["before"] != texts["teacher"]
    assert texts["after"] == texts["teacher"]
    # and the saved student is that student, loaded by plain libraries in the lines that the report
    # prints
    names: dict[str, Any] = {}
    exec("\n".join(run.report["use"]), names)
    ids = names["tokenizer"]("red:", return_tensors="pt").input_ids
    out = (
        names["model"]
        .eval()
        .generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
        )[0]
    )
    answer = names["tokenizer"].decode(
        out[1:] if family == "seq2seq_folder" else out[ids.shape[1] :], skip_special_tokens=True
    )
    assert answer == texts["teacher"][0]


def test_a_changed_train_section_reuses_the_completions(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unprompt.engines.hf.engine import HFEngine

    asked: list[str] = []
    plain = HFEngine.generate

    def counting(self: HFEngine, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        asked.extend(p.example_id for p in prompts)
        return plain(self, prompts, *args, **kwargs)

    monkeypatch.setattr(HFEngine, "generate", counting)
    first = pipeline.run(tiny(), tmp_path)
    assert sum(id_.startswith("i") for id_ in asked) == 8
    assert sum(id_.startswith("h") for id_ in asked) == 15
    asked.clear()
    second = pipeline.run(tiny(train={"epochs": 3, "batch_size": 4}), tmp_path)
    assert sum(id_.startswith("i") for id_ in asked) == 0
    assert sum(id_.startswith("h") for id_ in asked) == 6, (
        "only the new student has to answer again"
    )
    assert second.report["rounds"]["after"]["steps"] == 6
    assert first.report["rounds"]["after"]["steps"] == 4
    asked.clear()
    assert pipeline.run(tiny(train={"epochs": 3, "batch_size": 4}), tmp_path).unchanged
    assert asked == []


def test_more_inputs_ask_only_the_new_ones(
    tiny: Callable[..., Recipe],
    decoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from unprompt.engines.hf.engine import HFEngine

    pipeline.run(tiny(), tmp_path)
    asked: list[str] = []
    plain = HFEngine.generate
    monkeypatch.setattr(
        HFEngine,
        "generate",
        lambda self, prompts, *a, **k: (
            asked.extend(p.example_id for p in prompts),
            plain(self, prompts, *a, **k),
        )[1],
    )
    words = tiny_recipe(decoder_folder)
    words["contexts"]["colours"]["inputs"].append({"id": "i8", "text": "grey"})
    pipeline.run(parse(words), tmp_path)
    assert [id_ for id_ in asked if id_.startswith("i")] == ["i8"]


def test_a_bigger_teacher(tiny: Callable[..., Recipe], tmp_path: Path, tokenizer: Any) -> None:
    folder = tmp_path / "teacher"
    decoder(seed=7, hidden_size=48).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    run = pipeline.run(tiny(teacher_model=str(folder)), tmp_path / "run")
    assert run.report["contexts"]["colours"]["systems"]["before"]["kl_nats_per_token"]["mean"] > 0
    assert {g.system for g in run.grades} == {"teacher", "before", "after", "after_teacher_prompt"}


def test_the_resolved_recipe_is_in_the_run_folder(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    plan = tiny()
    pipeline.run(plan, tmp_path)
    assert recipe.load(tmp_path / "recipe.yaml").model_dump() == plan.model_dump()


def test_a_tracker_gets_the_losses(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    """TensorBoard's files stay when the checkpoints go; trackio and W&B hang on the same
    setting.
    """
    reader: Any = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    settings = {
        "epochs": 1,
        "batch_size": 4,
        "adapter": {"rank": 4},
        "trainer": {"report_to": "tensorboard", "logging_steps": 1},
    }
    run = pipeline.run(tiny(train=settings), tmp_path / "run")
    kept = reader.EventAccumulator(str(run.folder / "tensorboard"))
    kept.Reload()
    losses = [(event.step, event.value) for event in kept.Scalars("train/loss")]
    assert losses == [
        (entry["step"], pytest.approx(entry["loss"], rel=1e-4))
        for entry in run.report["rounds"]["after"]["log"]
    ]
    assert len(losses) == 2


@pytest.mark.parametrize("name", ["eval_strategy", "label_names", "length_column_name"])
def test_arguments_of_the_trainer_that_change_nothing_are_refused(
    tiny: Callable[..., Recipe], name: str
) -> None:
    with pytest.raises(UserError, match=f"{name} has no effect"):
        tiny(train={"trainer": {name: "x"}})


def test_arguments_without_effect_are_transformers_own() -> None:
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {name for names in _WITHOUT_EFFECT.values() for name in names} <= known
