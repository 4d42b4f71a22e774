"""Equal questions have one answer, whatever they are asked for and however that is called."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unprompt import pipeline
from unprompt.engines.hf.engine import HFEngine
from unprompt.recipe import Labels, Recipe, Sampling
from unprompt.records import BASE, TEACHER, Prompt
from unprompt.stages.evaluate import closeness
from unprompt.stages.lessons import transfer_set
from unprompt.stages.prompts import Side
from unprompt.stages.questions import Question, address, key_of
from unprompt.stages.weights import Weights
from unprompt.store.tables import read_completions

SIDE = Side([Prompt("a", "c", "x")], [1], (0,))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[Any, ...]]:
    """(Prompt, how it is answered) -> times that the model was asked."""
    found: Counter[tuple[Any, ...]] = Counter()
    generate = HFEngine.generate

    def counting(self: Any, prompts: Any, sampling: Any, labels: Any, **more: Any) -> Any:
        written = sampling.model_dump_json(), labels and labels.model_dump_json()
        found.update((key_of(prompt), *written, id(self.model)) for prompt in prompts)
        return generate(self, prompts, sampling, labels, **more)

    monkeypatch.setattr(HFEngine, "generate", counting)
    return found


def test_two_systems_with_the_same_question_ask_once(
    tiny: Callable[..., Recipe], tmp_path: Path, asked: Counter[Any]
) -> None:
    pipeline.run(tiny(), tmp_path / "plain")
    alone = asked.total()
    asked.clear()
    twins = {"twin": {"model": "base", "prompt": "student"}}
    report = pipeline.run(tiny(systems=twins), tmp_path / "twins").report
    assert asked.total() == alone
    systems = report["contexts"]["colours"]["systems"]
    assert systems["twin"]["metrics"] == systems["before"]["metrics"]
    assert systems["twin"]["seconds_per_call"] == systems["before"]["seconds_per_call"]


def test_what_the_same_weights_answered_is_not_asked_again_for_replay(
    tiny: Callable[..., Recipe], tmp_path: Path, asked: Counter[Any]
) -> None:
    colours = tiny().model_dump(mode="json")["contexts"]["colours"]
    rounds = {
        "one": {"contexts": ["colours"], "start": "base"},
        "two": {
            "contexts": ["others"],
            "start": "base",
            "replay": {"contexts": ["colours"], "share": 0.5},
        },
    }
    made = tiny(contexts={"colours": colours, "others": colours}, rounds=rounds, evaluate=None)
    pipeline.run(made, tmp_path / "run")
    assert set(asked.values()) == {1}


def test_another_title_asks_nobody(
    tiny: Callable[..., Recipe],
    tmp_path: Path,
    asked: Counter[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = pipeline.run(tiny(), tmp_path / "run").report
    kept = set((tmp_path / "run").rglob("kl/*"))
    asked.clear()
    (tmp_path / "run" / "report.json").unlink()
    collect, kl = Weights.collect, closeness.token_kl
    monkeypatch.setattr(
        Weights, "collect", lambda self, title, question: collect(self, f"new {title}", question)
    )
    monkeypatch.setattr(
        closeness, "token_kl", lambda w, who, asked, title: kl(w, who, asked, f"new {title}")
    )
    assert pipeline.run(tiny(), tmp_path / "run").report == before
    assert not asked
    assert set((tmp_path / "run").rglob("kl/*")) == kept


def test_what_decides_an_answer_decides_its_address() -> None:
    question = Question(BASE, SIDE, Sampling(), Labels())

    def of(question: Question, weights: str = "w", seed: int = 0) -> str:
        return address(question.decided_by([weights], seed))

    others = [
        of(question, weights="v"),
        of(question, seed=1),
        of(Question(BASE, SIDE, Sampling(temperature=0), Labels())),
        of(Question(BASE, SIDE, Sampling(), Labels(draws=7))),
        of(Question(BASE, SIDE, Sampling(), None)),
        of(Question(BASE, SIDE, Sampling(), given=[("y", [1])])),
    ]
    assert len({of(question), *others}) == 1 + len(others)
    assert of(question) == of(Question(TEACHER, SIDE, Sampling(per_input=2), Labels(k=5)))


def test_a_store_says_what_it_was_asked(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    pipeline.run(tiny(), tmp_path / "run")
    for store in (tmp_path / "run" / "completions").iterdir():
        told = json.loads((store / "question.json").read_text())
        assert address(told) == store.name
        assert told["sampling"]["max_new_tokens"] == 4


def test_answers_of_an_older_version_are_counted_and_asked_again(
    tiny: Callable[..., Recipe], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline.run(tiny(), tmp_path / "run")
    assert "before 0.2" not in capsys.readouterr().err
    answers = 0
    for store in list((tmp_path / "run" / "completions").iterdir()):
        answers += len(read_completions(store))
        (store / "question.json").unlink()
        store.rename(store.with_name(f"old{store.name}"))
    pipeline.run(tiny(seed=1), tmp_path / "run")
    said = capsys.readouterr().err
    assert f"note: {answers} answers in" in said
    assert "what is needed is asked again" in said


def test_a_broken_note_of_seconds_is_no_trouble(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    pipeline.run(tiny(), tmp_path / "run")
    for number, path in enumerate((tmp_path / "run").glob("completions/*/seconds.json")):
        path.write_text(("[8, 0.5]", '{"part": 3}', "{", "null")[number % 4])
    shutil.rmtree(tmp_path / "run" / "copies" / "completions")
    (tmp_path / "run" / "report.json").unlink()
    systems = pipeline.run(tiny(), tmp_path / "run").report["contexts"]["colours"]["systems"]
    assert {values["seconds_per_call"] for values in systems.values()} == {None}


def test_work_grows_with_lessons_and_not_with_their_square(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context's inputs are listed once for all its lessons, not once for each."""
    listed: Counter[str] = Counter()
    input_of = transfer_set._input_of

    def counting(recipe: Recipe, prompts: Any, name: str) -> dict[str, str]:
        listed[name] += 1
        return input_of(recipe, prompts, name)

    monkeypatch.setattr(transfer_set, "_input_of", counting)
    run = pipeline.run(tiny(), tmp_path / "run")
    assert len(run.lessons()) == 8
    assert listed == {"colours": 1}
