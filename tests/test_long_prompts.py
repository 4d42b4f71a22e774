"""Prompts whose texts would together be longer than memory: what they share is kept once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from unprompt.messages import UserError
from unprompt.recipe import Sampling, Template
from unprompt.records import TEACHER, Completion, Example, Prompt
from unprompt.stages.collect import fill, here
from unprompt.stages.prompts import Side, measure, several
from unprompt.stages.questions import Question
from unprompt.stages.templates.render import render, render_all

RULES = "Answer politely and never promise a refund. " * 2300  # 100 KB
ROWS = [Example(str(n), {"text": f"message {n}"}) for n in range(1500)]
LONG: dict[str, tuple[Any, list[Any]]] = {
    "rules ahead": (RULES + "{{ text }}", [None]),
    "rules behind": ("{{ text }}\n" + RULES, [None]),
    "a chat": (
        [
            {"role": "system", "content": RULES},
            {"role": "user", "content": "{{ text }} of {{ text }}"},
        ],
        [None],
    ),
    "an ensemble": (
        "{% for e in examples %}{{ e.text }}{% endfor %}{{ text }}",
        [[{"text": RULES[:50_000]}], [{"text": RULES[:40_000]}]],
    ),
}


class Reader:
    """Reads a text as a few numbers, so that prompts alone take memory."""

    server, encoder_decoder, window, rope_switch, embeddings = None, False, 10**9, None, None

    class tokenizer:
        eos_token_id = -1

    def encode(self, content: Any, where: str) -> list[int]:
        text = content if isinstance(content, str) else content[-1]["content"]
        return [len(text), *text[:8].encode(), *text[-5:].encode()]

    def opened(self, prompt: Any) -> str:
        return ""


@pytest.mark.parametrize("kind", LONG)
def test_memory_holds_what_differs(kind: str) -> None:
    source, shown = LONG[kind]
    template, reader = Template.model_validate(source), Reader()
    tracemalloc.start()
    found = render_all("c", template, "teacher", ROWS, shown)
    side = measure(found, reader, "c", 1).times(2)  # type: ignore[arg-type]
    letters = sum(len(str(prompt.renderings)) for prompt in side.prompts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(side.prompts) == 2 * len(ROWS)
    assert letters > 2 * 1500 * 80_000
    assert peak < 60_000_000 < letters / 4  # a part of 64 at once, and what each part shares


SHAPES: dict[str, tuple[Any, Callable[[int], dict[str, Any]]]] = {
    "text": ("a {{ text }} b {{ text }} a", lambda n: {"text": "ab" * (n % 3)}),
    "all the same": ("a {{ text }}", lambda n: {"text": "x"}),
    "nothing the same": ("{{ text }}", lambda n: {"text": f"{n}{n * 7919 % 10}"}),
    "one begins another": ("{{ text }}", lambda n: {"text": "aaa"[: 1 + n % 3]}),
    "beyond ASCII": ("é{{ text }}é", lambda n: {"text": "é\U0001f600"[n % 2] * (n % 4 + 1)}),
    "turns": (
        [{"turns": "turns"}, {"role": "user", "content": "{{ text }}"}],
        lambda n: {"text": str(n), "turns": [{"role": "user", "content": "hi"}] * (n % 3)},
    ),
    "roles": (
        [{"turns": "turns"}, {"role": "user", "content": "{{ text }}"}],
        lambda n: {
            "text": "t",
            "turns": [{"role": ["user", "system"][n % 2], "content": "hi"}],
        },
    ),
}


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("shape", SHAPES)
def test_prompts_are_what_the_template_gives_for_each_input(shape: str, count: int) -> None:
    source, fields = SHAPES[shape]
    template = Template.model_validate(source)
    rows = [Example(f"id{n}", fields(n)) for n in range(count)]
    found = render_all("c", template, "teacher", rows, [None])
    plain = [render(template, "c", row, None, "t") for row in rows]
    assert list(found) == plain
    assert found[-1] == plain[-1]
    assert found[1:150:7] == plain[1:150:7]
    with pytest.raises(IndexError):
        found[count]


class Engine:
    """Answers a part at once."""

    def generate(self, prompts: Sequence[Prompt], *_: Any, **__: Any) -> list[Completion]:
        return [Completion(p.example_id, "c", "yes", (1,), "end", 1) for p in prompts]


@pytest.mark.parametrize("kind", ["rules ahead", "a chat"])
def test_a_part_at_a_time_is_asked(kind: str, tmp_path: Path) -> None:
    source, shown = LONG[kind]
    found = render_all("c", Template.model_validate(source), "teacher", ROWS, shown)
    question = Question(TEACHER, Side(found, [9] * len(found), (0,)), Sampling())
    engine: Any = Engine()
    fill(here(lambda: engine), tmp_path, question)  # imports what it needs
    tracemalloc.start()
    answers = fill(here(lambda: engine), tmp_path / "again", question)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answers.asked == len(ROWS)
    assert peak < 60e6  # all of them are 150 MB


@pytest.mark.parametrize("count", [1, 3])
def test_a_prompt_several_times(count: int) -> None:
    asked = [Prompt(f"i{n}", "c", f"text {n}") for n in range(4)]
    found: Sequence[Prompt] = several(asked, count)
    names = [f"i{n}" + (f"/{k}" if k > 1 else "") for n in range(4) for k in range(1, count + 1)]
    assert [prompt.example_id for prompt in found] == names
    assert [prompt.content for prompt in found] == [
        f"text {n}" for n in range(4) for _ in range(count)
    ]
    assert found[-1] == list(found)[-1]
    with pytest.raises(IndexError):
        found[4 * count]


@pytest.mark.parametrize(
    ("sequences", "prefix"),
    [
        ([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3]], 2),
        ([[1, 2], [1, 2, 3]], 1),
        ([[5, 6, 7]] * 3, 2),
        ([[2, 1], [1, 2], [2, 2]], 0),
        ([[1, 1, 5, 1], [1, 1, 2], [1, 1, 9, 9, 9]], 2),
    ],
)
def test_the_shared_prefix_is_found_one_prompt_after_the_other(
    sequences: list[list[int]], prefix: int
) -> None:
    class Given(Reader):
        def encode(self, content: Any, where: str) -> list[int]:
            return sequences[int(content)]

    asked = [Prompt(str(n), "c", str(n)) for n in range(len(sequences))]
    side = measure(asked, Given(), "c", 1)  # type: ignore[arg-type]
    assert (side.prefix, side.lengths) == ((prefix,), [len(own) for own in sequences])


def test_a_template_that_takes_too_much_is_still_refused() -> None:
    template = Template(text="{% for i in range(100000) %}" + "x" * 200 + "{% endfor %}{{ text }}")
    with pytest.raises(UserError, match=r"too much memory|too long|mend the template"):
        render_all("c", template, "teacher", ROWS[:300], [None])
