"""Lessons of several pairs (AICD, Liu 2024) against values computed by hand, and questions behind
shots.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM

import unprompt
from conftest import byte_tokenizer, decoder, reads, writes_ascii
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Extract, Labels, Lessons, Recipe, Sampling, parse
from unprompt.records import Grade, Lesson, Prompt, SoftLabels
from unprompt.stages import lessons as lessons_
from unprompt.stages.lessons import select, shots
from unprompt.stages.train.loop import LessonTrainer
from unprompt.stages.train.loss import batch_kl, collate
from unprompt.store.tables import read_grades, write_grades

QUESTIONS = {"a": "1+1=", "b": "2+3 is", "c": "sum 4 4:", "d": "9-1?", "e": "7 times 1,"}
ANSWERS = {"a": " two", "b": " five!", "c": " 8", "d": " it is 8", "e": " 7"}
TWICE = {"a": "a", "a/2": "a", "b": "b", "c": "c", "d": "d", "e": "e"}


def gold(tokenizer: Any, ids: str = "abcde") -> list[Lesson]:
    asked = [Prompt(id_, "sums", QUESTIONS[id_]) for id_ in ids]
    completions = lessons_.gold_completions(asked, [ANSWERS[id_] for id_ in ids], tokenizer)
    return lessons_.build(asked, completions, reads(tokenizer), Extract(), end_token=True)[0]


def packed(
    found: list[Lesson], tokenizer: Any, epochs: int = 1, window: int | None = None, **settings: Any
) -> shots.Packed:
    texts = {x.example_id: QUESTIONS[x.example_id[0]] for x in found}
    made = Lessons.model_validate(
        {"kind": "shots", "separator": "\n", "select": "fixed", **settings}
    )
    return shots.pack(
        found,
        texts,
        {id_: id_[0] for id_ in texts},
        reads(tokenizer)._replace(window=window),
        made,
        epochs=epochs,
        seed=0,
    )


def text_of(lesson: Lesson) -> str:
    return str(byte_tokenizer().decode(list(lesson.input_ids)))


def loss(model: Any, lessons: list[Lesson]) -> torch.Tensor:
    """Sum of weight times KL, as the trainer has it before it divides by the step's whole
    weight.
    """
    batch = collate(lessons, 0)
    return (batch_kl(model, batch) * batch.weight_N).sum()


def nll(model: Any, context: str, answer: str, *, end: bool) -> torch.Tensor:
    """-log p(answer | context) by torch alone."""
    before, said = (
        byte_tokenizer()(context).input_ids,
        [*byte_tokenizer()(answer).input_ids, *([1] if end else [])],
    )
    logp = model(torch.tensor([before + said])).logits[0].log_softmax(-1)
    return -sum((logp[len(before) - 1 + n, token] for n, token in enumerate(said)), torch.zeros(()))


# -- weights and layout ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ({"shots": 0.1}, [0.1, 0.1, 0.1, 1]),
        ({"shots": 0.1, "schedule": "linear"}, [0.1, 0.4, 0.7, 1]),
        ({"shots": 0.125, "schedule": "exponential"}, [0.125, 0.25, 0.5, 1]),
        ({"shots": 1, "last": 0.25, "schedule": "linear"}, [1, 0.75, 0.5, 0.25]),
        ([0, 3, 0, 2], [0, 3, 0, 2]),
    ],
)
def test_weights(weights: Any, wanted: list[float]) -> None:
    made = Lessons.model_validate({"kind": "shots", "n": 4, "weights": weights})
    np.testing.assert_allclose(shots.answer_weights(made), wanted)
    assert Lessons.model_validate(made.model_dump()) == made
    assert shots.answer_weights(made.model_copy(update={"n": 1}))[-1] == wanted[-1]


def test_the_layout(tokenizer: Any) -> None:
    [epoch] = packed(gold(tokenizer), tokenizer, n=3).epochs
    assert [text_of(x) for x in epoch[:3]] == [
        "2+3 is five!\nsum 4 4: 8\n1+1= two<|end|>",
        "1+1= two\nsum 4 4: 8\n2+3 is five!<|end|>",
        "1+1= two\n2+3 is five!\nsum 4 4: 8<|end|>",
    ]
    weights = "".join({0.0: "-", 0.1: "s", 1.0: "L"}[round(float(w), 3)] for w in epoch[0].weights)
    assert weights == "-" * 6 + "s" * 6 + "-" * 9 + "s" * 2 + "-" * 5 + "L" * 5
    assert (epoch[0].prompt_length, len(epoch[0].labels)) == (6, 13)


def test_special_tokens_stand_at_the_front_once() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 2)]
    )
    [epoch] = packed(gold(tokenizer), tokenizer, n=3).epochs
    assert text_of(epoch[0]) == "<|begin|>2+3 is five!\nsum 4 4: 8\n1+1= two<|end|>"


def test_soft_labels_are_carried_over(tokenizer: Any) -> None:
    asked = [Prompt(id_, "sums", text) for id_, text in QUESTIONS.items()]
    said = HFEngine(writes_ascii(), tokenizer).generate(
        asked, Sampling(max_new_tokens=4), Labels(draws=9)
    )
    single, _ = lessons_.build(asked, said, reads(tokenizer), Extract(), end_token=True)
    [epoch] = packed(single, tokenizer, n=2, weights=[0.5, 1]).epochs
    of = {x.example_id: x for x in single}
    first, last = of["a"], of["e"]
    kept = len(first.labels) - (first.input_ids[-1] == 1)
    wanted = SoftLabels.concat([first.labels.slice(0, kept), last.labels])
    for name in ("ids", "probs", "offsets", "teacher_nll"):
        assert getattr(epoch[4].labels, name).tolist() == getattr(wanted, name).tolist()
    alone = packed(single, tokenizer, n=2, weights=[0, 1]).epochs[0][4]
    assert alone.labels.ids.tolist() == last.labels.ids.tolist(), "what has no weight has no label"


# -- the objectives, by hand -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [{"shots": 0.1}, {"shots": 0.5, "last": 2, "schedule": "linear"}, [0.3, 0, 1], {"shots": 0}],
)
def test_aicd_is_the_weighted_sum_of_conditional_losses(tokenizer: Any, weights: Any) -> None:
    """Sum over i of w_i * -log p(y_i | x_1, y_1, ..., x_i) (Liu 2024); MetaICL is weight 0 but for
    the last. So are the gradients, in one pass.
    """
    model, found = decoder(), packed(gold(tokenizer, "abc"), tokenizer, n=3, weights=weights)
    w = shots.answer_weights(Lessons.model_validate({"kind": "shots", "n": 3, "weights": weights}))
    one = loss(model, [found.epochs[0][2]])
    parts = [
        nll(model, "1+1=", " two", end=False),
        nll(model, "1+1= two\n2+3 is", " five!", end=False),
        nll(model, "1+1= two\n2+3 is five!\nsum 4 4:", " 8", end=True),
    ]
    several = sum((weight * part for weight, part in zip(w, parts, strict=True)), torch.zeros(()))
    torch.testing.assert_close(one, several, rtol=1e-5, atol=1e-5)
    parameters = list(model.parameters())
    whole = torch.autograd.grad(one, parameters)
    each = [torch.autograd.grad(part, parameters) for part in parts]  # n backward passes
    for n, gradient in enumerate(whole):
        by_hand = sum(
            (weight * own[n] for weight, own in zip(w, each, strict=True)), torch.zeros(())
        )
        torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-5)


def test_p_icl_is_the_plain_loss_of_a_language_model(tokenizer: Any) -> None:
    model = decoder()
    lesson = packed(
        gold(tokenizer, "abc"), tokenizer, n=3, loss_on="all", weights={"shots": 0}
    ).epochs[0][2]
    ids = torch.tensor([[*tokenizer("1+1= two\n2+3 is five!\nsum 4 4: 8").input_ids, 1]])
    plain = torch.nn.functional.cross_entropy(
        model(ids).logits[0, :-1], ids[0, 1:], reduction="sum"
    )
    torch.testing.assert_close(loss(model, [lesson]), plain, rtol=1e-5, atol=1e-5)
    assert lesson.prompt_length == 1
    assert set(lesson.weights[1:].tolist()) == {1.0}


def test_step_by_step_is_label_loss_and_lambda_times_rationale_loss(
    decoder_folder: Path, tmp_path: Path
) -> None:
    """Hsieh et al. 2023, as two contexts of which one has a weight, and as one step of the trainer
    has it.
    """
    rows = [
        {"id": "a", "text": "1+1", "answer": "2", "why": "one more is 2"},
        {"id": "b", "text": "2+2", "answer": "4", "why": "twice 2"},
    ]
    made = parse(
        {
            "name": "steps",
            "model": str(decoder_folder),
            "contexts": {
                "label": {"inputs": rows, "student": "[label] {{ text }}", "gold": " {{ answer }}"},
                "rationale": {
                    "inputs": rows,
                    "student": "[rationale] {{ text }}",
                    "gold": " {{ why }}",
                    "weight": 0.4,
                },
            },
            "train": {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3},
        }
    )
    run, model = unprompt.run(made, tmp_path / "run"), decoder()
    lessons = run.lessons()
    with torch.inference_mode():
        label = sum(
            float(nll(model, f"[label] {r['text']}", f" {r['answer']}", end=True)) for r in rows
        )
        rationale = sum(
            float(nll(model, f"[rationale] {r['text']}", f" {r['why']}", end=True)) for r in rows
        )
        [factor] = {x.loss_weight for x in lessons if x.context == "label"}
        assert float(loss(model, lessons)) == pytest.approx(
            factor * (label + 0.4 * rationale), rel=1e-5
        )
    tokens: dict[str, float] = {"label": 0.0, "rationale": 0.0}
    for lesson in lessons:
        tokens[lesson.context] += float(lesson.weights.sum())
    weight = tokens["label"] + 0.4 * tokens["rationale"]
    assert run.report["rounds"]["after"]["first_loss"] == pytest.approx(
        (label + 0.4 * rationale) / weight, rel=1e-3
    )


# -- which shots -----------------------------------------------------------------------------------


def ahead(lesson: Lesson) -> list[str]:
    """Ids of the questions ahead of the last."""
    lines = text_of(lesson).split("\n")
    return [
        next(id_ for id_, question in QUESTIONS.items() if line.startswith(question))
        for line in lines[:-1]
    ]


@pytest.mark.parametrize("select", ["random", "fixed", "nearest"])
def test_a_lesson_never_has_its_own_input_as_a_shot(tokenizer: Any, select: str) -> None:
    found = gold(tokenizer)
    second = Lesson(
        "a/2",
        *(
            getattr(found[0], name)
            for name in ("context", "input_ids", "prompt_length", "weights", "labels")
        ),
    )
    for n in (1, 2, 5):
        for epoch in packed([*found, second], tokenizer, epochs=3, n=n, select=select).epochs:
            for lesson in epoch:
                assert len(set(ahead(lesson))) == n - 1, "all of other inputs, each once"
                assert lesson.example_id[0] not in ahead(lesson)


def test_random_shots_are_others_in_every_epoch_and_the_same_for_a_seed(tokenizer: Any) -> None:
    first, again = (
        packed(gold(tokenizer), tokenizer, epochs=3, n=3, select="random").epochs for _ in range(2)
    )
    assert len(first) == 3
    told = [[ahead(x) for x in epoch] for epoch in first]
    assert told == [[ahead(x) for x in epoch] for epoch in again]
    assert told[0] != told[1] != told[2]
    assert len({id_ for epoch in told for own in epoch for id_ in own}) == 5
    for how in ("fixed", "nearest"):
        assert len(packed(gold(tokenizer), tokenizer, epochs=3, n=3, select=how).epochs) == 1


def test_nearest_shots_are_the_nearest_by_tf_idf() -> None:
    texts = ["red apple pie", "green apple", "a fast car", "a fast red car", "sky"]
    near = select._nearest(texts, 2)
    assert near[2][-1] == 3, "the nearest stands last, beside the question"
    assert near[1][-1] == 0
    from sklearn.feature_extraction.text import TfidfVectorizer

    words: Any = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform(texts)
    likeness = (words @ words.T).toarray() - 2 * np.eye(5)
    assert [own[::-1] for own in near] == [
        np.argsort(-row, kind="stable")[:2].tolist() for row in likeness
    ]


def test_a_sequence_over_the_window_drops_shots_from_the_front(tokenizer: Any) -> None:
    whole = packed(gold(tokenizer), tokenizer, n=4, weights=[4, 3, 2, 1])
    assert (whole.dropped, whole.short, whole.sequences) == (0, 0, 5)
    longest = max(len(x.input_ids) for x in whole.epochs[0])
    assert packed(gold(tokenizer), tokenizer, n=4, window=longest).dropped == 0
    cut = packed(gold(tokenizer), tokenizer, n=4, weights=[4, 3, 2, 1], window=30)
    assert cut.short == 5
    assert cut.dropped == sum(3 - len(ahead(x)) for x in cut.epochs[0]) > 5
    for before, after in zip(whole.epochs[0], cut.epochs[0], strict=True):
        assert len(after.input_ids) <= 30
        assert text_of(before).endswith(text_of(after))
        own = after.weights[after.weights > 0].tolist()
        assert own == before.weights[before.weights > 0].tolist()[-len(own) :], (
            "those that stay keep their weights"
        )


# -- whole runs ------------------------------------------------------------------------------------

POOL = [{"text": f"{n}+{n}", "why": f" {n} twice is {2 * n}"} for n in range(1, 7)]
HELD = [
    {"id": f"h{n}", "text": text, "target": "x"} for n, text in enumerate(["7+7", "3+3", "8+8"])
]


def recipe(folder: Path, **sections: Any) -> Recipe:
    return parse(
        {
            "name": "sums",
            "model": str(folder),
            "contexts": {"sums": {"inputs": POOL, "student": "Q {{ text }}", "gold": "{{ why }}"}},
            "sampling": {"max_new_tokens": 6},
            "lessons": {"kind": "shots", "n": 3, "separator": "\n"},
            "train": {
                "epochs": 3,
                "batch_size": 4,
                "learning_rate": 1e-2,
                "save_every": 1,
                "adapter": {"rank": 4, "dropout": 0.1},
            },
            "batch_size": 4,
            **sections,
        }
    )


SHOTS = {"pool": POOL, "counts": [0, 1, 3], "draws": 2, "answer": "{{ why }}", "separator": "\n"}


def test_objectives_side_by_side_and_behind_shots(decoder_folder: Path, tmp_path: Path) -> None:
    rounds = {
        "aicd": {"contexts": ["sums"], "lessons": {"weights": {"shots": 0.3}}},
        "meta_icl": {"contexts": ["sums"], "start": "base", "lessons": {"weights": {"shots": 0}}},
        "p_icl": {"contexts": ["sums"], "start": "base", "lessons": {"loss_on": "all"}},
        "fine_tuning": {"contexts": ["sums"], "start": "base", "lessons": {"kind": "single"}},
    }
    (tmp_path / "lengths.py").write_text(
        "def length(answer, example):\n    return len(answer) / 10\n"
    )
    evaluate = {"data": {"rows": HELD}, "metrics": ["lengths:length"], "shots": SHOTS}
    made = recipe(decoder_folder, rounds=rounds, evaluate=evaluate, modules=str(tmp_path))
    run = unprompt.run(made, tmp_path / "run")
    assert {name: r["steps"] for name, r in run.report["rounds"].items()} == dict.fromkeys(
        rounds, 6
    ), "ceil(6 / 4) * 3, whatever the shots are"
    assert {name: r["lessons"] for name, r in run.report["rounds"].items()} == dict.fromkeys(
        rounds, 6
    )
    assert [len(run.lessons(name)) for name in rounds] == [18, 18, 18, 6]
    assert {round(float(w), 2) for x in run.lessons("aicd") for w in x.weights} == {0, 0.3, 1}
    # the systems' own table is without shots
    assert set(run.report["contexts"]["sums"]["systems"]) == {"before", *rounds}
    behind = run.report["contexts"]["sums"]["shots"]
    assert {system: list(counts) for system, counts in behind.items()} == {
        s: ["0", "1", "3"] for s in ("before", *rounds)
    }
    drawn = {(g.system, g.shots, g.draw) for g in run.grades}
    assert drawn >= {("before", 0, 1), ("aicd", 1, 1), ("aicd", 1, 2), ("p_icl", 3, 2)}
    assert ("aicd", 0, 2) not in drawn
    assert {g.row for g in run.grades} >= {"aicd", "before@0/1", "p_icl@3/2"}
    # by hand: the second draw behind three shots
    order = np.random.default_rng([0, 2]).permutation(len(POOL))
    student = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(decoder_folder),
        str(tmp_path / "run" / "rounds" / "p_icl" / "student"),
    )
    asked = []
    for row in HELD:
        chosen = [POOL[n] for n in order if POOL[n]["text"] != row["text"]][:3]
        asked.append(
            Prompt(
                row["id"],
                "sums",
                "".join(f"Q {r['text']}{r['why']}\n" for r in chosen) + f"Q {row['text']}",
            )
        )
    said = HFEngine(student, byte_tokenizer()).generate(
        asked, Sampling(temperature=0, max_new_tokens=6, stop=("\n",)), None
    )
    own = [g.text for g in run.grades if (g.system, g.shots, g.draw) == ("p_icl", 3, 2)]
    assert own == [c.text for c in said]
    found = behind["p_icl"]["3"]["lengths:length"]
    assert found["draws"][1] == pytest.approx(np.mean([len(c.text.strip()) / 10 for c in said]))
    assert found["mean"] == pytest.approx(np.mean(found["draws"]))
    assert found["sd"] == pytest.approx(np.std(found["draws"], ddof=1))
    assert behind["before"]["0"]["lengths:length"]["sd"] is None
    page = (tmp_path / "run" / "report.md").read_text()
    assert "Context sums: lengths:length behind shots" in page
    assert "| system | 0 shots | 1 shot | 3 shots |" in page
    assert unprompt.run(made, tmp_path / "run").unchanged


def test_an_example_is_never_its_own_shot(decoder_folder: Path, tmp_path: Path) -> None:
    made = recipe(
        decoder_folder, evaluate={"data": {"rows": HELD}, "shots": {**SHOTS, "counts": [5]}}
    )
    from unprompt.stages import check

    asks = check.check(made).plan.of("held-out")
    behind = [ask.question.side for ask in asks if ask.question and ask.system and ask.system.shots]
    assert behind
    for side in behind:
        by_id = {p.example_id: str(p.content) for p in side.prompts}
        assert by_id["h1"].count("Q 3+3") == 1
        assert by_id["h0"].count("Q ") == 6


def test_dropped_shots_are_reported(decoder_folder: Path, tmp_path: Path) -> None:
    run = unprompt.run(
        recipe(
            decoder_folder, model={"name": str(decoder_folder), "window": 45}, train={"epochs": 2}
        ),
        tmp_path / "run",
    )
    told = run.report["rounds"]["after"]["shots"]
    assert told["sequences"] == 12
    assert told["dropped"] == sum(2 - text_of(x).count("\n") for x in run.lessons()) > 0
    assert told["short"] == sum(text_of(x).count("\n") < 2 for x in run.lessons())
    assert (
        f"{told['dropped']} shots were dropped from the front of {told['short']} of 12 sequences"
        in (tmp_path / "run" / "report.md").read_text()
    )


def test_each_epoch_trains_on_its_own_shots_after_a_stop_too(
    decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second of three epochs, the training goes on to the same weights, on the same
    lessons.
    """
    steps: list[list[tuple[int, ...]]] = []
    compute = LessonTrainer.compute_loss

    def noting(trainer: Any, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        batch = inputs["batch"]
        steps.append([tuple(ids.tolist()) for ids in batch.ids_S.split(batch.lengths)])
        if stop_at == len(steps):
            raise KeyboardInterrupt
        return compute(trainer, model, inputs, *rest, **options)

    monkeypatch.setattr(LessonTrainer, "compute_loss", noting)
    made, stop_at = recipe(decoder_folder), 0
    whole = unprompt.run(made, tmp_path / "whole")
    epochs = [{ids for step in steps[n : n + 2] for ids in step} for n in (0, 2, 4)]
    lessons = [x.input_ids[:-1] for x in whole.lessons()]  # the last predicts nothing
    assert epochs == [set(lessons[n : n + 6]) for n in (0, 6, 12)]
    straight, steps, stop_at = steps, [], 4
    with pytest.raises(KeyboardInterrupt):
        unprompt.run(made, tmp_path / "stopped")
    done, steps, stop_at = steps[:3], [], 0
    unprompt.run(made, tmp_path / "stopped")
    assert [*done, *steps] == straight
    weights = [
        load_file(tmp_path / folder / "student" / "adapter_model.safetensors")
        for folder in ("whole", "stopped")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_grades_of_older_runs_are_read(tmp_path: Path) -> None:
    """They name a system behind shots in one word, and have no columns of their own for it."""
    new = [
        Grade("h0", "c", "after", "two", "two", ["x"], 3, 4, None, {"m": 0.5}),
        Grade("h0", "c", "after", "two", None, None, 3, 4, "no", {"m": 0.0}, shots=4, draw=2),
    ]
    write_grades(tmp_path / "new.parquet", new)
    assert read_grades(tmp_path / "new.parquet") == new
    table = pq.read_table(tmp_path / "new.parquet").drop_columns(["shots", "draw"])
    names = pa.array(["after", "after@4/2"])
    table = table.set_column(table.column_names.index("system"), "system", names)
    pq.write_table(table, tmp_path / "old.parquet")
    assert read_grades(tmp_path / "old.parquet") == new
    pq.write_table(table.drop_columns(["text"]), tmp_path / "other.parquet")
    with pytest.raises(unprompt.UserError, match="not those that were written"):
        read_grades(tmp_path / "other.parquet")
