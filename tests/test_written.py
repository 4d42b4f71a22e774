"""Inputs that a model writes from the teacher's prompt alone: what it is told, what is kept, and a
run whose writer's answers are written by hand.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import unprompt
from conftest import byte_tokenizer, decoder, reads
from unprompt import cli
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.recipe import Context, FromPrompt, Recipe, Server, load
from unprompt.records import WRITER, Completion, Prompt, as_text
from unprompt.stages import check
from unprompt.stages.inputs import written
from unprompt.stages.inputs.sieve import Sieve
from unprompt.tools import starter

SYSTEM = """You are the help desk of a ferry. Reply in German if asked in German.
- Dogs travel free.
- Never promise a seat.
  Seats are given out on board.

Customer: When does the last ferry leave?
Answer: At ten.
"""


def context(teacher: Any) -> Context:
    return Context.model_validate({"teacher": teacher, "student": "{{ text }}"})


def chat(system: str = SYSTEM) -> Context:
    shown = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    last = {"role": "user", "content": "{{ text }}"}
    return context([{"role": "system", "content": system}, *shown, last])


def settings(**changes: Any) -> FromPrompt:
    return FromPrompt.model_validate({"count": 40, **changes})


def said(text: str, stop: str = "end") -> Completion:
    return Completion("d", "c", text, (), stop, 0)


def test_a_brief_holds_prompt_instructions_and_examples() -> None:
    brief = written.brief(chat(), "text", None)
    assert brief.prompt == SYSTEM.strip(), "the system message alone"
    assert brief.instructions == (
        "Dogs travel free.",
        "Never promise a seat. Seats are given out on board.",
    )
    assert brief.seeds == ("Hi", "When does the last ferry leave?")
    rows = [{"text": "Is there wifi?", "topic": "wifi"}, {"other": 3}]
    shown = "{% for e in examples %}{{ e.text }} {% endfor %}Sort: {{ text }}\nTopic:"
    plain = written.brief(context(shown), "text", rows[:1])
    assert plain.prompt == f"Is there wifi? Sort: {written.PLACE}\nTopic:"
    assert (plain.instructions, plain.seeds) == ((), ("Is there wifi?",))


def test_kinds_are_ours_under_the_recipes() -> None:
    brief = written.brief(chat(), "text", None)
    own = {"angry": {"about": "an angry message"}, "long": 0, "short": {"share": 9}}
    found = written.kinds(settings(kinds=own), brief)
    assert set(found) == set(written.kinds(settings(), brief)) - {"long"} | {"angry"}
    assert (found["short"].share, found["short"].about) == (9, "a very short message")
    bare = written.kinds(settings(), written.brief(chat("Be kind."), "text", None))
    assert not {"instruction", "language"} & set(bare), "nothing in the prompt speaks of them"


def test_cases_are_listed_once_or_stand_in_the_prompt() -> None:
    brief, how = written.brief(chat(), "text", None), settings()
    asked = written.lists(how, brief, "w")
    kinds = Counter(case.kind for case, _ in asked)
    assert kinds["ordinary"] == 1
    assert not kinds["instruction"] + kinds["language"], "the prompt says these itself"
    assert "Dogs travel free" in as_text(asked[0][1].content)
    answer = said("- a lost bag\n- A lost  bag\n2. the price of a car.\n- cut", "length")
    found = written.cases(how, brief, [(case, answer) for case, _ in asked[:1]])
    about = {kind: [case.about for case in found if case.kind == kind] for kind in kinds}
    assert about["ordinary"] == ["a message about a lost bag", "a message about the price of a car"]
    assert about["edge"] == ["an unusual message"], "where nothing is listed, the kind itself"
    rules = [case.about for case in found if case.kind == "instruction"]
    assert rules[0] == "a message for which this rule matters: Dogs travel free."
    assert [case.about for case in found if case.kind == "language"] == ["a message in German"]


def test_kinds_take_turns_by_their_shares() -> None:
    brief = written.brief(chat("Be kind."), "text", None)
    own = dict.fromkeys(["edge", "short", "long", "off_topic", "breaking"], 0)
    how = settings(kinds={**own, "ordinary": 3, "rude": {"about": "a rude message"}})
    cases = [written.Case("ordinary", "a"), written.Case("ordinary", "b")]
    turns = written.in_turns(how, brief, [*cases, written.Case("rude", "c")])
    found = [case.about for case in itertools.islice(turns, 16)]
    assert Counter(found) == {"a": 6, "b": 6, "c": 4}
    assert Counter(found[:4]) == {"a": 2, "b": 1, "c": 1}


def test_draws_are_told_apart_and_cleaned() -> None:
    brief = written.brief(chat(), "text", None)
    cases = [written.Case("ordinary", "a message"), written.Case("edge", "an unusual message")]
    how = settings(
        count=4,
        tries=3,
        kinds=dict.fromkeys(set(written.kinds(settings(), brief)) - {"ordinary", "edge"}, 0),
        openers=[],
    )
    texts = iter(
        [
            '"Where is my bag?"',
            "User: Can I bring a bike?",
            "How can I help you today?",
            "Seats are given out on board.",
            "hi",
            "Do you have anything I can eat with celiac disease",
            "Is the bar open?",
            "cut",
            "is the BAR open?",
            "How long is the trip?",
            "left over",
            "left over",
        ]
    )
    asked: list[Prompt] = []

    def answer(prompts: list[Prompt]) -> list[Completion]:
        asked.extend(prompts)
        found = [next(texts) for _ in prompts]
        return [said(text, "length" if text == "cut" else "end") for text in found]

    reader = reads(byte_tokenizer())
    rows, counts = written.draw(how, brief, cases, [], answer, reader, 0, "w")
    assert [row["text"] for row in rows] == [
        "Where is my bag?",
        "Can I bring a bike?",
        "Is the bar open?",
        "How long is the trip?",
    ]
    assert rows[0] == {
        "id": "draw-000000",
        "text": "Where is my bag?",
        "kind": "ordinary",
        "case": "a message",
    }
    assert counts == {
        "kept": 4,
        "an answer, no input": 1,
        "copy of the prompt": 1,
        "copy of a seed": 2,
        "cut at max_new_tokens": 1,
        "exact duplicate": 1,
        "not needed": 1,  # all that are missing are asked for at once: 4, then 4, then 3
    }
    alone = written.ask(brief, cases[0], "", 3, 0, "w")
    assert asked[3].content == alone.content, "a draw does not depend on the batch"
    assert {row["kind"] for row in rows} == {"ordinary", "edge"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("I'm sorry, I'm an AI and can't look that up.", "an answer, no input"),
        ("I am sorry, but as an AI I have no orders", "an answer, no input"),
        ("I'm just a language model.", "an answer, no input"),
        ("I'm an AI researcher and need an invoice", "kept"),
        ("I'm sorry, I forgot my password", "kept"),
        ("I am a virtual member of your club?", "kept"),
    ],
)
def test_what_an_assistant_says_is_no_input(text: str, why: str) -> None:
    sieve = Sieve(0.9, [], [], "You are an assistant.")
    sieve.add(said(text))
    assert dict(sieve.counts) == {why: 1}


def test_who_has_no_chat_template_goes_on_with_a_text() -> None:
    brief = written.brief(chat(), "text", None)
    asked = [written.ask(brief, written.Case("ordinary", "a message"), "", 0, 0, "w")]
    tokenizer = byte_tokenizer()
    assert written.as_read(asked, reads(tokenizer)) == asked
    tokenizer.chat_template = None
    [text] = written.as_read(asked, reads(tokenizer))
    assert isinstance(text.content, str)
    assert text.content.endswith("Write a message that a user sends to it.\n\n")


def test_inputs_are_begun_in_a_users_voice() -> None:
    brief, reader = written.brief(chat(), "text", None), reads(byte_tokenizer())
    case, foreign = written.Case("ordinary", "a message"), written.Case("language", "in German")
    how = settings(openers=["How do I", "Hi,"])
    begun = [written.opener(how, case, n, reader) for n in range(3)]
    assert begun == ["How do I", "Hi,", "How do I"]
    assert written.opener(settings(), case, 0, reader), "ours unless given"
    assert not written.opener(how, foreign, 0, reader)
    assert not written.opener(settings(openers=[]), case, 0, reader)
    served = Server.model_validate({"url": "http://localhost:1/v1", "model": "m"})
    assert not written.opener(how, case, 0, reader._replace(server=served))
    prompt = written.ask(brief, case, "How do I", 0, 0, "w")
    assert prompt.content[-1] == {"role": "assistant", "content": "How do I"}
    whole = [written.cleaned(said(text), "How do I").text for text in (" pay?", "", ", say, pay")]
    assert whole == ["How do I pay?", "", "How do I, say, pay"]
    bare = reader.tokenizer
    bare.chat_template = None
    [text] = written.as_read([prompt], reader)
    assert str(text.content).endswith("\n\nHow do I")


def test_a_topic_of_the_prompt_may_be_a_message() -> None:
    sieve = Sieve(0.9, [], [], "Topics are refund, exchange rate and card.")
    for text in ("refund", "exchange rate and card"):
        sieve.add(said(text))
    assert sieve.counts == {"kept": 1, "copy of the prompt": 1}


# -- in a run --------------------------------------------------------------------------------------


class Hand:
    """Writes the writer's answers instead of the model, and keeps what it was asked."""

    def __init__(self, patch: pytest.MonkeyPatch, answer: Callable[[Prompt], str]) -> None:
        self.asked: list[Prompt] = []
        write = HFEngine.generate

        def generate(
            engine: HFEngine, prompts: Sequence[Prompt], *rest: Any, **options: Any
        ) -> list[Completion]:
            if ".inputs" not in prompts[0].context:
                return write(engine, prompts, *rest, **options)
            self.asked += prompts
            texts = [answer(prompt) for prompt in prompts]
            return [
                Completion(p.example_id, p.context, text, tuple(text.encode()), "end", 9)
                for p, text in zip(prompts, texts, strict=True)
            ]

        patch.setattr(HFEngine, "generate", generate)


def wide(folder: Path, seed: int = 0) -> str:
    """A model with room for a writer's prompt in bytes."""
    decoder(seed, max_position_embeddings=8192).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def contexts(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "colours": {
            "inputs": source,
            "teacher": "Say what the colour is like.\n- Be short.\n- Be kind.\n{{ text }}:",
            "student": "{{ text }}:",
            **more,
        }
    }


def by_number(prompt: Prompt) -> str:
    """A new colour for each draw, and for each list a case."""
    if prompt.example_id.startswith("list"):
        return "- something warm"
    return "colour " + 3 * "abcdefghijklmnopqrstuvwxyz"[int(prompt.example_id[-2:])]


def test_a_run_from_a_prompt_alone(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(monkeypatch, by_number)
    source = {"from_prompt": {"count": 5, "max_new_tokens": 20}}
    recipe = tiny(model=wide(tmp_path / "model"), contexts=contexts(source))
    lines = check.check(recipe).lines
    assert any("contexts.colours.inputs are yet to be written" in line for line in lines)
    asked = next(line for line in lines if line.startswith("answers, if none is stored"))
    assert "at most" in asked
    assert "colours" not in check.check(recipe).overlap
    run = unprompt.run(recipe, tmp_path / "run")
    entry = run.report["contexts"]["colours"]
    assert entry["drawn"]["contexts.colours.inputs"]["kept"] == 5
    assert entry["inputs"] == 5
    [path] = [p for p in (tmp_path / "run" / "inputs").iterdir() if "counts" not in p.name]
    rows = json.loads(path.read_text("utf-8"))
    assert {"ordinary", "instruction"} <= {row["kind"] for row in rows}
    count = len(hand.asked)
    assert unprompt.run(recipe, tmp_path / "run").unchanged
    (tmp_path / "run" / "report.json").unlink()
    path.unlink()
    again = unprompt.run(recipe, tmp_path / "run")
    assert len(hand.asked) == count, "what was drawn is kept"
    assert again.report["contexts"]["colours"]["drawn"] == entry["drawn"]


def test_inputs_alone_to_read_and_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hand = Hand(monkeypatch, by_number)
    monkeypatch.chdir(tmp_path)
    Path("desk.md").write_text("Say what the colour is like.\n- Be short.\n- Be kind.\n")
    models = ("--model", wide(tmp_path / "model"), "--writer", wide(tmp_path / "writer", 3))

    def said(code: int) -> str:
        arguments = ["unprompt", "inputs", "desk.md", "--count", "5", *models]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert (end.value.code or 0) == code
        return capsys.readouterr().err

    assert f"desk.md --model {models[1]} --inputs desk-inputs.jsonl" in said(0)
    path = Path("desk-inputs.jsonl")
    whole = path.read_text("utf-8")
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [set(row) for row in rows] == [{"id", "text", "kind", "case"}] * 5
    assert load("desk-inputs.draws/recipe.yaml").writer
    assert "the file is there already" in said(2)
    path.rename("before.jsonl")
    count = len(hand.asked)
    said(0)
    assert path.read_text("utf-8") == whole
    assert len(hand.asked) == count, "what was drawn is kept"
    wanted = starter.Wanted(Path("desk.md"), models[1], inputs=path, measure=False)
    starter.write(wanted, Path("recipe.yaml"))
    assert len(check.check(load("recipe.yaml")).prompts.inputs.taught["main"]) == 4


def test_a_writer_of_its_own(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand(monkeypatch, by_number)
    writer = wide(tmp_path / "writer", 3)
    written_ = {"from_prompt": {"count": 4, "writer": writer, "max_new_tokens": 20}}
    mixed = {
        "mix": [
            {"data": written_, "share": 2},
            {"data": {"rows": [{"text": "red"}, {"text": "green"}]}, "share": 1},
        ]
    }
    recipe = tiny(contexts=contexts(mixed))
    key = "contexts.colours.inputs.mix.0.data.from_prompt.writer"
    assert recipe.writer
    assert recipe.writer[0] == key
    assert set(recipe.models) == {"model", key}
    asks = check.check(recipe).plan.of("draws")
    assert {ask.who for ask in asks} == {WRITER}
    run = unprompt.run(recipe, tmp_path / "run")
    assert hand.asked
    assert run.report["contexts"]["colours"]["inputs"] == 6


@pytest.mark.parametrize(
    ("source", "more", "what"),
    [
        ({"from_prompt": {"count": 4, "kinds": {"ordinry": 2}}}, {}, "did you mean 'ordinary'"),
        ({"from_prompt": {"count": 0}}, {}, "count"),
        ({"from_prompt": {"count": 4}}, {"teacher": None, "gold": "x"}, "no prompt to write from"),
    ],
)
def test_what_can_not_be_written(
    tiny: Callable[..., Recipe], source: Any, more: dict[str, Any], what: str
) -> None:
    with pytest.raises(UserError, match=what):
        tiny(contexts=contexts(source, **more))


def test_only_inputs_to_practise_on_are_written(tiny: Callable[..., Recipe]) -> None:
    held = {"data": {"from_prompt": {"count": 4}}}
    with pytest.raises(UserError, match="a model writes only contexts' inputs"):
        tiny(evaluate=held)
    two = [
        {"data": {"from_prompt": {"count": 4, "writer": name}}, "share": 1} for name in ("a", "b")
    ]
    with pytest.raises(UserError, match="different writers"):
        tiny(contexts=contexts({"mix": two}))


def test_too_few_are_said_ahead_of_all_else(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hand(monkeypatch, lambda prompt: "the same again")
    source = {"from_prompt": {"count": 3, "tries": 2, "openers": []}}
    recipe = tiny(model=wide(tmp_path / "model"), contexts=contexts(source))
    with pytest.raises(UserError, match=r"6 draws gave only 1 of 3 inputs \(5 exact duplicate\)"):
        unprompt.run(recipe, tmp_path / "run")
    small = tiny(contexts=contexts(source))
    with pytest.raises(UserError, match="window"):
        check.check(small)


def test_a_share_of_what_is_written_proves(
    tiny: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Hand(monkeypatch, by_number)
    source = {"from_prompt": {"count": 9, "max_new_tokens": 20}}
    recipe = tiny(
        model=wide(tmp_path / "model"),
        contexts=contexts(source),
        evaluate={"hold_out": 0.4, "metrics": []},
    )
    run = unprompt.run(recipe, tmp_path / "run")
    entry = run.report["contexts"]["colours"]
    held = entry["held_out"]["examples"]
    assert 0 < held < 9
    assert entry["inputs"] == 9 - held
    gain = entry["context_gain"]
    assert gain["examples"] == sum(gain["counts"]) == held
    assert gain["nothing"] == gain["counts"][0]
    assert "Context gain" in (tmp_path / "run" / "report.md").read_text("utf-8")


def test_inputs_in_the_prompts_own_field_are_distilled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Hand(monkeypatch, by_number)
    monkeypatch.chdir(tmp_path)
    model = wide(tmp_path / "model")
    Path("prompt.md").write_text("Sort it.\n- Be short.\n- Be kind.\n\nMail: {email}\nTopic:")

    def said(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["unprompt", *arguments, "--model", model])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr().err
        assert not end.value.code, told
        return told

    said("inputs", "prompt.md", "--count", "6", "--out", "mails.jsonl")
    rows = [json.loads(line) for line in Path("mails.jsonl").read_text("utf-8").splitlines()]
    assert [list(row) for row in rows] == [["id", "email", "kind", "case"]] * 6
    changes = ["sampling.max_new_tokens=4", "lessons.max_failed=1", "train.epochs=1"]
    few = (word for change in changes for word in ("--set", change))
    said("distill", "prompt.md", "--inputs", "mails.jsonl", "--no-measure", *few)
    entry = unprompt.Run.open("distilled/prompt/run").report["contexts"]["main"]
    assert entry["inputs"] + entry["held_out"]["examples"] == 6
