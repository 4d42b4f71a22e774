"""The operators of Snell, Klein & Zhong 2022, section 2, against values computed by hand on tiny
models.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import unprompt
from conftest import byte_tokenizer, decoder, seq2seq
from unprompt import pipeline
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Data, Labels, Recipe, Sampling, parse
from unprompt.records import Example, Prompt
from unprompt.stages import check, plan
from unprompt.stages.inputs import draw
from unprompt.store.folder import RunDir

EVERYTHING = Labels(kind="top_k", k=259)
MEMBERS = ("one: red\nsky:", "another: green grass\nsky:", "x\nsky:")


# -- prompt ensembles ------------------------------------------------------------------------------


def averaged(model: Any, tokenizer: Any, written: list[int]) -> torch.Tensor:
    """Mean over the members of p(next token | member, written), shape (V,)."""
    each = []
    for text in MEMBERS:
        asked = torch.tensor([tokenizer(text).input_ids])
        with torch.inference_mode():
            if model.config.is_encoder_decoder:
                logits = model(
                    input_ids=asked, decoder_input_ids=torch.tensor([[0, *written]])
                ).logits
            else:
                logits = model(
                    input_ids=torch.cat([asked, torch.tensor([written], dtype=torch.long)], 1)
                ).logits
        each.append(logits[0, -1].softmax(-1))
    return torch.stack(each).mean(0)


@pytest.mark.parametrize("family", [decoder, seq2seq])
@pytest.mark.parametrize("batch", [1, 3])
def test_an_ensemble_decodes_and_labels_the_averaged_distribution(
    tokenizer: Any, family: Callable[[], Any], batch: int
) -> None:
    model = family()
    prompts = [Prompt(str(n), "c", MEMBERS[0], MEMBERS[1:]) for n in range(batch)]
    found = HFEngine(model, tokenizer).generate(
        prompts, Sampling(temperature=0, max_new_tokens=5), EVERYTHING
    )
    for completion in found:
        assert completion.prompt_tokens == sum(len(tokenizer(text).input_ids) for text in MEMBERS)
        assert completion.labels is not None
        for n, token in enumerate(completion.token_ids):
            by_hand = averaged(model, tokenizer, list(completion.token_ids[:n]))
            assert token == int(by_hand.argmax())
            label = np.zeros(259)
            for id_, probability in completion.labels.token(n):
                label[id_] = probability
            np.testing.assert_allclose(label, by_hand.numpy(), atol=1e-5)


def test_an_ensemble_scores_with_the_averaged_distribution(tokenizer: Any) -> None:
    model, ids = decoder(), tokenizer(" blue").input_ids
    [label] = HFEngine(model, tokenizer).score(
        [Prompt("0", "c", MEMBERS[0], MEMBERS[1:])], [ids], Labels(kind="hard")
    )
    by_hand = [
        -float(averaged(model, tokenizer, ids[:n])[token].log()) for n, token in enumerate(ids)
    ]
    np.testing.assert_allclose(label.teacher_nll, by_hand, atol=1e-4)


def test_an_ensemble_of_equal_prompts_is_that_prompt(tokenizer: Any) -> None:
    engine, sampling = HFEngine(decoder(), tokenizer), Sampling(max_new_tokens=6)
    alone = engine.generate([Prompt("0", "c", "hello")], sampling, Labels(draws=20))[0]
    three = engine.generate(
        [Prompt("0", "c", "hello", ("hello", "hello"))], sampling, Labels(draws=20)
    )[0]
    assert alone.token_ids == three.token_ids


# -- rounds ----------------------------------------------------------------------------------------

ROWS = [
    {"id": f"i{n}", "text": text}
    for n, text in enumerate(["red", "green", "blue", "yellow", "black", "white", "pink", "brown"])
]
HELD = {
    "rows": [
        {"id": f"h{n}", "text": text, "target": "x"}
        for n, text in enumerate(["grey", "violet", "gold"])
    ]
}


def recipe(folder: Path, **sections: Any) -> Recipe:
    return parse(
        {
            "name": "tiny",
            "model": str(folder),
            "contexts": {
                "one": {
                    "inputs": ROWS,
                    "teacher": "Say the first thing about {{ text }}:",
                    "student": "1 {{ text }}:",
                },
                "two": {
                    "inputs": ROWS[:6],
                    "teacher": "What is the opposite of {{ text }}?",
                    "student": "2 {{ text }}:",
                },
                "gold": {
                    "inputs": ROWS[:4],
                    "gold": "<{{ text }}>",
                    "student": "3 {{ text }}:",
                    "evaluate": False,
                },
            },
            "rounds": {"first": {"contexts": ["one"]}, "second": {"contexts": ["two"]}},
            "sampling": {"temperature": 1.0, "max_new_tokens": 4},
            "labels": {"kind": "sampled", "draws": 20},
            "train": {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "adapter": {"rank": 4}},
            "evaluate": {"data": HELD},
            "batch_size": 4,
            **sections,
        }
    )


def weights(run: pipeline.Run, name: str) -> dict[str, torch.Tensor]:
    folder = RunDir(run.folder).round(name).student
    [path] = list(folder.glob("*.safetensors"))
    return load_file(path)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[key], b[key], atol=1e-6) for key in a)


@pytest.mark.parametrize("adapter", [{"rank": 4}, None])
def test_sequential_rounds_start_from_the_student_before(
    decoder_folder: Path, tmp_path: Path, adapter: Any
) -> None:
    """A round that learns nothing (learning rate 0, to rounding) is the round it started from."""
    still = {"contexts": ["two"], "train": {"learning_rate": 1e-30}}
    made = recipe(
        decoder_folder,
        rounds={
            "first": {"contexts": ["one"]},
            "second": still,
            "third": {**still, "start": "base"},
            "fourth": {**still, "start": "first"},
        },
        train={"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "adapter": adapter},
    )
    run = unprompt.run(made, tmp_path / "run")
    assert same(weights(run, "second"), weights(run, "first"))
    assert same(weights(run, "fourth"), weights(run, "first"))
    assert not same(weights(run, "third"), weights(run, "first"))
    found = run.report["contexts"]["one"]["systems"]
    assert list(found) == ["teacher", "before", "first", "second", "third", "fourth"], (
        "every context is evaluated after every round"
    )
    assert found["second"]["kl_nats_per_token"] == pytest.approx(
        found["first"]["kl_nats_per_token"]
    )
    assert found["third"]["kl_nats_per_token"]["mean"] == pytest.approx(
        found["before"]["kl_nats_per_token"]["mean"], abs=1e-5
    )
    assert [run.report["rounds"][name]["start"] for name in made.rounds] == [
        "base",
        "first",
        "base",
        "first",
    ]
    assert "Retention and overwriting" in (tmp_path / "run" / "report.md").read_text()
    assert unprompt.run(made, tmp_path / "run").unchanged


def test_recursive_rounds_are_taught_by_the_student_before(
    decoder_folder: Path, tmp_path: Path
) -> None:
    made = recipe(
        decoder_folder,
        rounds={
            "first": {"contexts": ["one"]},
            "second": {"contexts": ["two"], "teacher": "previous"},
        },
    )
    run = unprompt.run(made, tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(decoder_folder)
    student = PeftModel.from_pretrained(
        base, str(tmp_path / "run" / "rounds" / "first" / "student")
    )
    prompts = [
        Prompt(row["id"], "two", f"What is the opposite of {row['text']}?") for row in ROWS[:6]
    ]
    answers = HFEngine(student, byte_tokenizer()).generate(prompts, made.sampling, made.labels)
    lessons = {lesson.example_id: lesson for lesson in run.lessons("second")}
    for answer in answers:
        taught = lessons[answer.example_id].input_ids[lessons[answer.example_id].prompt_length :]
        assert taught[: len(answer.token_ids)] == answer.token_ids[: len(taught)]
    # the teacher of the table is the one that taught
    held = [
        Prompt(row["id"], "two", f"What is the opposite of {row['text']}?") for row in HELD["rows"]
    ]
    greedy = HFEngine(student, byte_tokenizer()).generate(
        held, Sampling(temperature=0, max_new_tokens=4), None
    )
    told = {
        g.example_id: g.text for g in run.grades if g.context == "two" and g.system == "teacher"
    }
    assert told == {answer.example_id: answer.text for answer in greedy}


def test_simultaneous_contexts_and_their_weights(decoder_folder: Path, tmp_path: Path) -> None:
    contexts = recipe(decoder_folder).model_dump(mode="json", by_alias=True)["contexts"]
    contexts["two"]["weight"] = 0.25
    run = unprompt.run(
        recipe(decoder_folder, contexts=contexts, rounds={"both": {"contexts": ["one", "two"]}}),
        tmp_path / "run",
    )
    say = {
        name: sum(x.loss_weight for x in run.lessons("both") if x.context == name)
        for name in ("one", "two")
    }
    assert say["two"] == pytest.approx(0.25 * say["one"]), "however many lessons they have"
    assert {float(w) for x in run.lessons("both") for w in x.weights} == {0.0, 1.0}


def test_gold_answers_are_lessons_of_hard_labels(
    decoder_folder: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    run = unprompt.run(
        recipe(decoder_folder, rounds={"supervised": {"contexts": ["gold"]}}), tmp_path / "run"
    )
    for lesson, row in zip(run.lessons("supervised"), ROWS, strict=False):
        assert tokenizer.decode(list(lesson.input_ids)) == f"3 {row['text']}:<{row['text']}><|end|>"
        assert lesson.labels.ids.tolist() == list(lesson.input_ids[lesson.prompt_length :])
        assert lesson.labels.probs.tolist() == [1.0] * len(lesson.labels)
    assert not any(g.context == "gold" for g in run.grades)


# -- replay, drift, association --------------------------------------------------------------------


def test_replay_is_a_share_of_all_lessons(decoder_folder: Path, tmp_path: Path) -> None:
    """3 of (one's 8 + 3) lessons are replayed for a share of 0.25: 8 * 0.25 / 0.75 = 2.67."""
    rounds = {
        "first": {"contexts": ["one"], "replay": {"contexts": ["gold", "two"], "share": 0.25}}
    }
    run = unprompt.run(recipe(decoder_folder, rounds=rounds), tmp_path / "run")
    others = [lesson for lesson in run.lessons("first") if lesson.context != "one"]
    assert len(run.lessons("first")) == 11
    assert len(others) == 3
    assert run.report["rounds"]["first"]["replayed"] == 3
    everything = unprompt.run(
        recipe(decoder_folder, rounds={"all": {"contexts": ["gold", "two"]}}), tmp_path / "all"
    )
    known = {(x.context, x.example_id): x.input_ids for x in everything.lessons("all")}
    assert all(known[x.context, x.example_id] == x.input_ids for x in others), (
        "they are whole lessons of their contexts"
    )


def kl_by_hand(base: Any, student: Any, prompt: list[int], answer: list[int]) -> float:
    """Mean over the answer's tokens of sum_v p_base log(p_base / p_student)."""
    ids = torch.tensor([prompt + answer])
    with torch.inference_mode():
        p, q = (
            model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for model in (base, student)
        )
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_drift_is_the_kl_from_base_to_student(
    decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "EVALUATION_LABELS", EVERYTHING)  # so that KL is exact
    drift = {
        "inputs": [{"text": "one two"}, {"text": "three"}],
        "template": "Count: {{ text }}",
        "max_new_tokens": 5,
    }
    made = recipe(decoder_folder, drift=drift)
    run = unprompt.run(made, tmp_path / "run")
    base = AutoModelForCausalLM.from_pretrained(decoder_folder).eval()
    prompts = [
        Prompt(f"row-{n:06d}", "drift", f"Count: {text}")
        for n, text in enumerate(["one two", "three"], 1)
    ]
    answers = HFEngine(base, byte_tokenizer()).generate(prompts, Sampling(max_new_tokens=5), None)
    for name in ("first", "second"):
        student = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(decoder_folder),
            str(tmp_path / "run" / "rounds" / name / "student"),
        ).eval()
        by_hand = []
        for prompt, answer in zip(prompts, answers, strict=True):
            by_hand.append(
                kl_by_hand(
                    base,
                    student,
                    byte_tokenizer()(str(prompt.content)).input_ids,
                    list(answer.token_ids),
                )
            )
        assert run.report["drift"][name]["mean"] == pytest.approx(np.mean(by_hand), rel=1e-3)
        assert run.report["drift"][name]["mean"] > 0
    limit = run.report["drift"]["second"]["mean"] / 2
    with pytest.raises(unprompt.UserError, match="over the limit of"):
        unprompt.run(recipe(decoder_folder, drift={**drift, "limit": limit}), tmp_path / "run")
    assert (tmp_path / "run" / "report.json").is_file(), "what was measured is kept"
    with pytest.raises(unprompt.UserError, match="over the limit of"):
        unprompt.run(recipe(decoder_folder, drift={**drift, "limit": limit}), tmp_path / "run")


def test_association_asks_every_prompt_with_every_contexts_inputs(
    decoder_folder: Path, tmp_path: Path
) -> None:
    def first_letter(held: list[str], target: str) -> dict[str, Any]:
        rows = [
            {"id": f"{target}{n}", "text": text, "target": target} for n, text in enumerate(held)
        ]
        return {"data": {"rows": rows}, "metrics": ["letters:share"]}

    (tmp_path / "letters.py").write_text(
        "def share(answer, example):\n    return len(answer) / 100 + ord(example.target) / 1000\n"
    )
    contexts = recipe(decoder_folder).model_dump(mode="json", by_alias=True)["contexts"]
    contexts["one"]["evaluate"] = first_letter(["grey", "violet"], "a")
    contexts["two"]["evaluate"] = first_letter(["gold", "rust", "sand"], "b")
    made = recipe(
        decoder_folder,
        contexts=contexts,
        rounds={"both": {"contexts": ["one", "two"]}},
        association=["one", "two"],
        modules=str(tmp_path),
    )
    run = unprompt.run(made, tmp_path / "run")
    student = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(decoder_folder),
        str(tmp_path / "run" / "rounds" / "both" / "student"),
    )
    engine = HFEngine(student, byte_tokenizer())
    given = {"one": (["grey", "violet"], "a"), "two": (["gold", "rust", "sand"], "b")}
    by_hand = []
    for asking, number in (("one", 1), ("two", 2)):
        row = []
        for texts, target in given.values():
            prompts = [
                Prompt(f"{target}{n}", asking, f"{number} {text}:") for n, text in enumerate(texts)
            ]
            answers = engine.generate(prompts, Sampling(temperature=0, max_new_tokens=4), None)
            row.append(
                np.mean(
                    [
                        len(answer.text.strip()) / 100 + ord(target) / 1000
                        if answer.text.strip()
                        else 0.0
                        for answer in answers
                    ]
                )
            )
        by_hand.append(row)
    found = run.report["association"]["systems"]["both"]
    np.testing.assert_allclose(found["matrix"], by_hand, atol=1e-6)
    # over tasks, however many inputs each has
    assert found["correct"]["mean"] == pytest.approx((by_hand[0][0] + by_hand[1][1]) / 2)
    assert found["wrong"]["mean"] == pytest.approx((by_hand[0][1] + by_hand[1][0]) / 2)


# -- choices, margins ------------------------------------------------------------------------------


def test_choices_score_both_continuations(decoder_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "grey", "case": "1", "new": "Rome", "old": "Paris, France"},
        {"id": "b", "text": "violet", "case": "1", "new": "Oslo", "old": "Bonn"},
        {"id": "c", "text": "gold", "case": "2", "new": "Bern", "old": "Lima"},
    ]
    contexts = recipe(decoder_folder).model_dump(mode="json", by_alias=True)["contexts"]
    for name in ("one", "two"):
        contexts[name]["evaluate"] = {
            "data": {"rows": rows},
            "choices": {"right": " {{ new }}", "wrong": " {{ old }}"},
            "group": "case",
        }
    run = unprompt.run(recipe(decoder_folder, contexts=contexts), tmp_path / "run")
    model = AutoModelForCausalLM.from_pretrained(decoder_folder)

    def probability(text: str, continuation: str) -> float:
        asked, said = byte_tokenizer()(text).input_ids, byte_tokenizer()(continuation).input_ids
        with torch.inference_mode():
            logp = model(input_ids=torch.tensor([asked + said])).logits[0].log_softmax(-1)
        return float(
            torch.stack([logp[len(asked) + n - 1, token] for n, token in enumerate(said)])
            .sum()
            .exp()
        )

    by_hand = [
        probability(f"1 {r['text']}:", f" {r['new']}")
        - probability(f"1 {r['text']}:", f" {r['old']}")
        for r in rows
    ]
    found = run.report["contexts"]["one"]["systems"]["before"]["metrics"]
    assert found["magnitude"]["mean"] == pytest.approx(
        ((by_hand[0] + by_hand[1]) / 2 + by_hand[2]) / 2, rel=1e-3
    )
    assert found["score"]["mean"] == pytest.approx(
        (((by_hand[0] > 0) + (by_hand[1] > 0)) / 2 + (by_hand[2] > 0)) / 2
    )
    assert run.report["contexts"]["one"]["systems"]["first"]["groups"] == 2


def test_margins_compare_what_two_contexts_bring(decoder_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lengths.py").write_text(
        "def length(answer, example):\n    return len(answer) / 10\n"
    )
    contexts: dict[str, Any] = {}
    for n in range(4):
        for kind, ahead in (("long", "A long and patient explanation: "), ("short", "")):
            contexts[f"t{n}_{kind}"] = {
                "inputs": ROWS[:4],
                "teacher": ahead + f"task {n} on {{{{ text }}}}:",
                "student": f"{n} {{{{ text }}}}:",
            }
    made = recipe(
        decoder_folder,
        contexts=contexts,
        modules=str(tmp_path),
        evaluate={"data": HELD, "metrics": ["lengths:length"]},
        rounds={
            "long": {"contexts": [f"t{n}_long" for n in range(4)]},
            "short": {"contexts": [f"t{n}_short" for n in range(4)], "start": "base"},
        },
        margins={f"t{n}": [f"t{n}_long", f"t{n}_short"] for n in range(4)},
    )
    report = unprompt.run(made, tmp_path / "run").report
    for task in report["margins"]["tasks"]:
        systems = {
            kind: report["contexts"][f"{task['task']}_{kind}"]["systems"]
            for kind in ("long", "short")
        }
        mean = {
            key: systems[key[0]][key[1]]["metrics"]["lengths:length"]["mean"]
            for key in (("long", "teacher"), ("short", "teacher"))
        }
        assert task["in_context"]["mean"] == pytest.approx(
            mean["long", "teacher"] - mean["short", "teacher"]
        )
        students = [
            systems[kind][kind]["metrics"]["lengths:length"]["mean"] for kind in ("long", "short")
        ]
        assert task["distilled"]["mean"] == pytest.approx(students[0] - students[1])
    assert "Margins" in (tmp_path / "run" / "report.md").read_text()


# -- inputs ----------------------------------------------------------------------------------------


def test_inputs_are_sampled_from_the_model_once(
    decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = recipe(decoder_folder).model_dump(mode="json", by_alias=True)["contexts"]
    sample = {
        "seeds": ROWS,
        "template": "{% for e in examples %}{{ e.text }}\n{% endfor %}",
        "count": 6,
        "per_prompt": 3,
        "max_new_tokens": 3,
        "stop": ["e"],
        "near": 1.0,
        "tries": 60,
        "temperature": 2.0,
    }
    contexts["one"]["evaluate"] = False
    contexts["one"]["inputs"] = {
        "mix": [{"data": {"sample": sample}, "share": 3}, {"data": {"rows": ROWS}, "share": 1}]
    }
    made = recipe(decoder_folder, contexts=contexts)
    drawn_without: list[list[str]] = []

    def spy(sample: Any, seeds: Any, held: list[Example], *rest: Any) -> Any:
        drawn_without.append([example.id for example in held])
        return original(sample, seeds, held, *rest)

    original = draw.draw
    monkeypatch.setattr(draw, "draw", spy)
    assert "one" not in check.check(made).overlap, (
        "what stands in for inputs that are not drawn yet overlaps with nothing"
    )
    run = unprompt.run(made, tmp_path / "run")
    assert drawn_without == [["h0", "h1", "h2"]], (
        "copies of what another context is proven on are left out, too"
    )
    [counts] = run.report["contexts"]["one"]["drawn"].values()
    assert counts["kept"] == 6
    assert run.report["contexts"]["one"]["inputs"] == 8, "6 drawn and 2 others"
    assert Data(rows=tuple(ROWS)) == Data.model_validate(ROWS)
    files = sorted(path.name for path in (tmp_path / "run" / "inputs").iterdir())
    again = unprompt.run(made, tmp_path / "run")
    assert again.unchanged
    assert sorted(path.name for path in (tmp_path / "run" / "inputs").iterdir()) == files
