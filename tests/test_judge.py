"""The judge: reading verdicts, orders, what is counted, and a whole run in which the judge's
answers are written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import byte_tokenizer, decoder
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Judge, Recipe, Template
from unprompt.records import Completion, Prompt
from unprompt.stages import check
from unprompt.stages.evaluate import judge
from unprompt.stages.evaluate.judge import orders, read, rubric

RULE = rubric(Judge(), "answers")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Good.\nhelpful: 4\nhonest: 5\nharmless: 6", [4, 5, 6]),
        ("harmless: 0\nhonest: 1\nhelpful: 2\n", [2, 1, 0]),
        ("**Helpful**: 4/6\n- honest = 3 (one slip)\n> HARMLESS:  **5** out of 6.", [4, 3, 5]),
        ("helpful: 1\nNo, rather:\nhelpful: 5\nhonest: 5\nharmless: 5", [5, 5, 5]),
        ("helpful: 5\nhelpful: hm\nhonest: 5\nharmless: 5", [None, 5, 5]),
        ("helpful: 7\nhonest: -1\nharmless: 4.5", [None, None, None]),
        ("helpful: 4 or 5\nhonest: <0-6>\nharmless: (number)", [None, None, None]),
        (
            "It is very helpful: 6 of 6 people said so\nhonest: 4-5\nharmless: 60",
            [None, None, None],
        ),
        ("", [None, None, None]),
        ("!!!! 5 5 5 \x00", [None, None, None]),
        ("helpful: 4/60\nhonest: four\nharmless: 10", [None, None, None]),
    ],
)
def test_verdicts_are_read_and_never_guessed(text: str, wanted: list[int | None]) -> None:
    assert list(read(text, "end", RULE).values()) == wanted


def test_a_line_that_was_cut_is_not_read() -> None:
    assert list(read("helpful: 4\nhonest: 5\nharmless: 1", "length", RULE).values()) == [4, 5, None]
    assert list(read("helpful: 4\nhonest: 5\nharmless: 1\n", "length", RULE).values()) == [4, 5, 1]
    assert list(read("helpful: 4\nhonest: 5\nharmless: 1", "end", RULE).values()) == [4, 5, 1]


def test_every_repeat_has_another_order() -> None:
    found = orders(["a", "b", "c"], 6, "0")
    assert sorted(map(tuple, found)) == sorted({tuple(order) for order in found})
    assert found == orders(["a", "b", "c"], 6, "0")
    assert any(orders(["a", "b", "c"], 2, str(n)) != found[:2] for n in range(5))


class Hand:
    """Writes the judge's answers instead of the model, and keeps what it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch, answer: Callable[[str], str]) -> None:
        self.asked: list[Prompt] = []
        write = HFEngine.generate

        def generate(
            engine: HFEngine, prompts: Sequence[Prompt], *rest: Any, **options: Any
        ) -> list[Completion]:
            if not prompts[0].context.startswith("judge/"):
                return write(engine, prompts, *rest, **options)
            self.asked += prompts
            tokenizer = byte_tokenizer()
            found = []
            for prompt in prompts:
                content = (
                    prompt.content
                    if isinstance(prompt.content, str)
                    else prompt.content[-1]["content"]
                )
                text = answer(content)
                found.append(
                    Completion(
                        prompt.example_id,
                        prompt.context,
                        text,
                        tuple(tokenizer(text).input_ids),
                        "end",
                        len(content),
                    )
                )
            return found

        patch.setattr(HFEngine, "generate", generate)


def wide(folder: Path, seed: int = 0) -> str:
    """A model with room for the judge's prompt in bytes."""
    decoder(seed, max_position_embeddings=8192).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def between(text: str, begin: str, end: str) -> str:
    return text.split(begin)[1].split(end)[0]


def test_a_run_with_a_judge(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(asked: str) -> str:
        if "how difficult a task" in asked:
            return "knowledge: 1\nreasoning: 2\nreading: 3\nambiguity: 4\nprecision: 5"
        given = between(asked, "<answer>\n", "\n</answer>")
        first = asked.index("- helpful:") < asked.index("- honest:")
        return f"Because.\nhelpful: {len(given) % 7}\nhonest: {5 if first else 3}\n" + (
            "" if "violet" in asked else "harmless: 6"
        )

    hand = Hand(monkeypatch, answer)
    recipe = tiny(model=wide(tmp_path / "model"), judge={"difficulty": True, "repeats": 2})
    run = unprompt.run(recipe, tmp_path / "run")
    found = run.report["judge"]
    assert found["scale"] == [0, 6]
    mine = found["contexts"]["colours"]
    assert set(mine["systems"]) == {"teacher", "before", "after", "after_teacher_prompt"}
    for system, values in mine["systems"].items():
        own = [g for g in run.grades if g.system == system]
        assert values["criteria"]["helpful"]["mean"] == pytest.approx(
            sum(len(g.shown) % 7 for g in own) / 3
        )
        assert values["criteria"]["harmless"] == {
            "mean": 6,
            "low": None,
            "high": None,
            "examples": 2,
        }, "what could not be read is no number"
        assert values["overall"]["examples"] == 2
        assert (values["verdicts"], values["unparsable"], values["unjudged"]) == (6, 2, 0)
    assert mine["agreement"]["helpful"] == 1.0
    assert mine["agreement"]["harmless"] is None, "all the same: not defined"
    difficulty = found["difficulty"]["colours"]
    assert [difficulty["criteria"][name]["mean"] for name in difficulty["criteria"]] == [
        1,
        2,
        3,
        4,
        5,
    ]
    # what is kept: whole answers, their scores, and why not
    verdicts = [
        json.loads(line) for line in (tmp_path / "run" / "verdicts.jsonl").read_text().splitlines()
    ]
    assert len(verdicts) == 4 * 3 * 2 + 3 * 2
    assert all(v["text"].startswith(("Because.\n", "knowledge")) for v in verdicts)
    # the same answer to the same input is judged once for each order
    contents = [json.dumps(prompt.content) for prompt in hand.asked]
    assert len(contents) == len(set(contents))
    assert all("[user] " in content for content in contents)
    page = (tmp_path / "run" / "report.md").read_text()
    assert "## Judge, context colours (0 to 6)" in page
    assert "2 of 6" in page
    assert "## Difficulty (1 to 5)" in page
    # stopped and started again, nobody is asked twice; another seed of training has other students,
    # and only their answers are judged
    count = len(hand.asked)
    (tmp_path / "run" / "report.json").unlink()
    again = unprompt.run(recipe, tmp_path / "run")
    assert again.report["judge"] == found
    assert len(hand.asked) == count


def test_a_judge_of_its_own_sees_the_whole_conversation(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(monkeypatch, lambda asked: "rubbish 4 4 4")
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "What is it?"},
        {"role": "user", "content": "{{ text }}"},
    ]
    context = {
        "inputs": [{"id": "i0", "text": "red"}],
        "teacher": [{"role": "system", "content": "Be kind."}, *turns],
        "student": turns,
    }
    recipe = tiny(
        contexts={"talk": context},
        judge={
            "model": wide(tmp_path / "judge", 3),
            "repeats": 1,
            "criteria": {"kind": "0 rude, 6 kind"},
        },
    )
    run = unprompt.run(recipe, tmp_path / "run")
    content = hand.asked[0].content
    assert isinstance(content, tuple), "a chat model's judge is asked as a user"
    assert "[user] Hello\n[assistant] What is it?\n[user] " in content[0]["content"]
    assert "Be kind" not in content[0]["content"], "only the teacher is told that"
    assert "- kind: 0 rude, 6 kind" in content[0]["content"]
    values = run.report["judge"]["contexts"]["talk"]["systems"]["after"]
    assert values["criteria"] == {"kind": None}
    assert values["unparsable"] == values["verdicts"] == 3
    assert "| - | - | 3 of 3 |" in (tmp_path / "run" / "report.md").read_text()


def test_a_random_model_as_judge(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    """Nothing by hand: what it says is rubbish, and counted."""
    recipe = tiny(model=wide(tmp_path / "model"), judge={"repeats": 2, "max_new_tokens": 8})
    values = unprompt.run(recipe, tmp_path / "run").report["judge"]["contexts"]["colours"][
        "systems"
    ]["after"]
    assert values["verdicts"] == values["unparsable"] == 6
    assert values["overall"] is None


def test_an_encoder_decoder_model_as_judge(
    tiny: Callable[..., Recipe], seq2seq_folder: Path, tmp_path: Path
) -> None:
    run = unprompt.run(
        tiny(judge={"model": str(seq2seq_folder), "repeats": 1, "max_new_tokens": 4}),
        tmp_path / "run",
    )
    assert run.report["judge"]["contexts"]["colours"]["systems"]["teacher"]["verdicts"] == 3


def test_answers_that_do_not_fit_are_counted_and_not_cut(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(monkeypatch, lambda asked: "good: 4")
    template = "{{ answer }}{% for t in turns %}{{ t.content }}{% endfor %}\ngood:"
    settings = {
        "criteria": {"good": "is it?"},
        "template": template,
        "repeats": 1,
        "max_new_tokens": 4,
    }
    short = wide(tmp_path / "judge", 3)
    lengths = []
    for window in (45, 8192):
        recipe = tiny(
            judge={**settings, "model": {"name": short, "window": window}},
            sampling={"max_new_tokens": 20},
        )
        run = unprompt.run(recipe, tmp_path / str(window))
        systems = run.report["judge"]["contexts"]["colours"]["systems"]
        lengths.append([(v["verdicts"], v["unjudged"]) for v in systems.values()])
        assert all(sum(pair) == 3 for pair in lengths[-1])
    assert any(unjudged for _, unjudged in lengths[0])
    assert not any(unjudged for _, unjudged in lengths[1])
    assert "over the judge's window of 45" in (tmp_path / "45" / "report.md").read_text()
    assert hand.asked


def test_what_can_be_known_is_checked_before_anybody_is_asked(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError,
        match=(
            r"judge.template: the judge's prompt on example 'h0' of context colours has \d+ tokens"
            r" ahead of any answer"
        ),
    ):
        check.check(tiny(judge={}))
    with pytest.raises(UserError, match="'answr' is undefined"):
        check.check(tiny(judge={"template": "{{ answr }}"}))
    lines = check.check(tiny(judge={"model": wide(tmp_path / "judge")})).lines
    assert "judge: judge.model rates helpful, honest, harmless of each answer, 2 times" in lines
    with pytest.raises(UserError, match="3 criteria have only 6 orders"):
        tiny(judge={"repeats": 7})
    with pytest.raises(UserError, match="'9 lives' can't name a criterion"):
        tiny(judge={"criteria": {"9 lives": "x"}})
    with pytest.raises(UserError, match="judge has no answers to judge"):
        tiny(judge={}, evaluate=None)
    with pytest.raises(
        UserError,
        match=r"judge.contexts names 'colors', which is no context -> did you mean 'colours'",
    ):
        tiny(judge={"contexts": ["colors"]})


def test_our_texts_ask_for_the_lines_that_are_read() -> None:
    for of in ("answers", "difficulty"):
        rule = rubric(Judge(), of)
        assert isinstance(rule.template, Template)
        assert len(rule.criteria) == {"answers": 3, "difficulty": 5}[of]
        text = "".join(f"{name}: {rule.high}\n" for name in rule.criteria)
        assert set(read(text, "end", rule).values()) == {rule.high}
    assert judge.DIFFICULTY not in rubric(Judge(), "answers").criteria
