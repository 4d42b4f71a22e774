"""Inputs that a language model writes from the teacher's prompt alone: it lists what users of the
prompt write about, by kinds, and then writes inputs for each case. What it is told stands in
writer.yaml.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import regex
import yaml

from unprompt.engines.tokens import Reader
from unprompt.recipe import Context, FromPrompt, Kind, Sampling, Template
from unprompt.records import Completion, Example, Message, Messages, Prompt, spelled, text_of
from unprompt.stages.inputs.sieve import Sieve, plain
from unprompt.stages.templates.items import FEWEST, items
from unprompt.stages.templates.render import render

OURS = Path(__file__).with_name("writer.yaml")
"""Kinds, demonstrations and templates."""
PLACE = "[the user's message]"
"""What stands in the prompt that the writer sees where an input would."""
LISTED = 64
"""Tokens of a list of cases, at most."""
_CALM = 0.7
"""Highest temperature of lists."""
_LINES = 4
"""Cases that a list brings, at most."""
_SHOWN = 3
"""Examples of the prompt's own that a writer sees as messages of its users."""
_LONGEST = 160
"""Letters of a case; what is longer is no case, but text that went on."""
_PAIR = regex.compile(
    r"^[ \t>*-]*(?:user|customer|message|input|question|text|query|q)[ \t]*\**:[ \t]*\**(\S.*)$\s+"
    r"^[ \t>*-]*(?:assistant|output|answer|reply|response|label|topic|category|a)[ \t]*\**:",
    regex.I | regex.M,
)
"""An example in a prompt: a line that says what came in, and behind it one that answers."""
_LANGUAGES = regex.compile(
    r"\b(languages?|english|german|french|spanish|italian|portuguese|dutch|polish|russian|turkish"
    r"|arabic|hindi|chinese|japanese|korean|swedish|danish|norwegian|finnish|czech|greek)\b",
    regex.I,
)
_ANY = ("Language", "Languages")
_LABEL = regex.compile(r"(?:user|customer|message|input)\s*:\s*", regex.I)


@dataclass(frozen=True)
class Brief:
    """What a writer is told of a context.

    Attributes:
        prompt: The teacher's prompt: its system messages, else all of it, with `PLACE` in the
            input's place.
        instructions: The items that it lists.
        seeds: Inputs that it shows as examples.
    """

    prompt: str
    instructions: tuple[str, ...]
    seeds: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """What inputs are written about.

    Attributes:
        kind: Its kind's name.
        about: What the writer is told.
    """

    kind: str
    about: str


@functools.cache
def _texts() -> dict[str, Any]:
    return yaml.safe_load(OURS.read_text("utf-8"))


def kinds(settings: FromPrompt, brief: Brief) -> dict[str, Kind]:
    """Kind -> its share and what it is, ours under the recipe's; none whose share is 0, and none
    that the prompt gives no reason for.
    """
    found = {name: Kind(**ours) for name, ours in _texts()["kinds"].items()}
    for name, kind in settings.kinds.items():
        about = kind.about or found[name].about
        found[name] = kind.model_copy(update={"about": about})
    if not brief.instructions:
        found["instruction"] = Kind(share=0)
    if not _LANGUAGES.search(brief.prompt) and "language" not in settings.kinds:
        found["language"] = Kind(share=0)
    return {name: kind for name, kind in found.items() if kind.share}


def brief(context: Context, field: str, shown: Sequence[dict[str, Any]] | None) -> Brief:
    """What there is to tell of a context that has a teacher.

    Args:
        field: Of the input that is to be written.
        shown: The few-shot rows in its prompt.

    Raises:
        UserError: The template names other fields than that.
    """
    assert context.teacher
    example = Example("", {field: PLACE})
    content = render(context.teacher, "", example, shown, "contexts.teacher").content
    seeds = [row[field] for row in shown or () if isinstance(row.get(field), str)]
    if isinstance(content, str):
        prompt = content.strip()
    else:
        system = [text_of(turn["content"]) for turn in content if turn["role"] == "system"]
        prompt = "\n\n".join(system or [spelled(turn) for turn in content]).strip()
        for turn, answer in itertools.pairwise(content):
            asked = turn["role"] == "user" and answer["role"] == "assistant"
            said = text_of(turn["content"])
            seeds += [said] if asked and PLACE not in said else []
    seeds += [found.strip() for found in _PAIR.findall(prompt) if PLACE not in found]
    listed = items(prompt)
    rules = list(map(rule, listed))
    return Brief(
        prompt,
        tuple(dict.fromkeys(rules)) if len(rules) >= FEWEST else (),
        tuple(dict.fromkeys(seeds)),
    )


def rule(item: str) -> str:
    """A listed item of a prompt on one line, without what marks it as one."""
    return regex.sub(r"^(?:[-*•‣–]|\(?\w{1,3}[.)]) ", "", " ".join(item.split()))


def alone(settings: FromPrompt, count: int) -> FromPrompt:
    """The same settings, for `count` inputs that are written for instructions."""
    none = {
        name: Kind(share=0, about=settings.kinds[name].about if name in settings.kinds else None)
        for name in {*_texts()["kinds"], *settings.kinds} - {"instruction"}
    }
    own = settings.kinds.get("instruction", Kind()).model_copy(update={"share": 1.0})
    return settings.model_copy(update={"count": count, "kinds": {**none, "instruction": own}})


def as_read(asked: Sequence[Prompt], reader: Reader) -> list[Prompt]:
    """Conversations as their reader takes them: messages, or, without a chat template, a text that
    it goes on with.
    """
    if reader.chat:
        return list(asked)
    return [replace(each, content=_as_text(each.content)) for each in asked]


def _as_text(turns: str | Messages) -> str:
    """Turns one behind the other; what is begun goes on, else a new turn begins."""
    assert not isinstance(turns, str)
    end = "" if turns[-1]["role"] == "assistant" else "\n\n"
    return "\n\n".join(map(spelled, turns)) + end


def listing(settings: FromPrompt) -> Sampling:
    """How cases are listed."""
    calm = min(settings.temperature, _CALM)
    return Sampling(max_new_tokens=LISTED, stop=("\n\n",), temperature=calm, top_p=settings.top_p)


def described(cases: Sequence[Case]) -> str:
    """How many cases there are of each kind, for the terminal."""
    counts = Counter(case.kind for case in cases)
    named = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"{len(cases)} cases ({named})"


def lists(settings: FromPrompt, brief: Brief, where: str) -> list[tuple[Case, Prompt]]:
    """The prompts that ask what users write about, each with its kind; none of kinds whose cases
    the prompt says itself.
    """
    found, of_kinds = list[tuple[Case, Prompt]](), kinds(settings, brief)
    total = sum(kind.share for kind in of_kinds.values())
    demonstrations = [
        _turns("cases", each["prompt"], [("a message", _bulleted(each["cases"]))])
        for each in _texts()["demonstrations"]
    ]
    for name, kind in of_kinds.items():
        wanted = math.ceil(settings.count * kind.share / total / settings.per_case)
        case = Case(name, kind.about or name)
        for number in range(0 if _said(case, brief) else math.ceil(wanted / _LINES)):
            own = _turns("cases", brief.prompt, [(case.about, None)])
            content = _conversation([*demonstrations, own])
            found.append((case, Prompt(f"list-{name}-{number:03d}", where, content)))
    return found


def _said(case: Case, brief: Brief) -> list[str]:
    """Cases of a kind that the prompt says itself: its instructions, and the languages that it
    names.
    """
    if case.kind == "instruction":
        return [f"{case.about}: {rule}" for rule in brief.instructions]
    if case.kind == "language":
        named = {name.title() for name in _LANGUAGES.findall(brief.prompt)}
        return [f"a message in {name}" for name in sorted(named - {"English", *_ANY})]
    return []


def cases(
    settings: FromPrompt, brief: Brief, listed: Sequence[tuple[Case, Completion]]
) -> list[Case]:
    """What is written about: of each kind what the prompt says, or what the writer listed, each
    once; the kind itself, where it listed nothing.
    """
    of_kinds = {
        name: Case(name, kind.about or name) for name, kind in kinds(settings, brief).items()
    }
    found = {name: _said(case, brief) for name, case in of_kinds.items()}
    known = {plain(case) for each in _texts()["demonstrations"] for case in each["cases"]}
    for case, completion in listed:
        lines = completion.text.splitlines()
        if completion.stop == "length":
            lines = lines[:-1]  # it may go on
        for line in lines[:_LINES]:  # small writers lose the thread further down
            text = line.strip().lstrip('-*•0123456789.) "').rstrip('.:" ')
            if plain(text) not in known and 3 <= len(text) <= _LONGEST:
                known.add(plain(text))
                found[case.kind].append(f"{case.about} about {text}")
    return [
        Case(name, about)
        for name, case in of_kinds.items()
        for about in found[name] or [case.about]
    ]


def in_turns(settings: FromPrompt, brief: Brief, cases: Sequence[Case]) -> Iterator[Case]:
    """Cases without end: kinds in turns by their shares, and in each its cases one after the
    other.
    """
    of_kinds = kinds(settings, brief)
    pools = {name: [case for case in cases if case.kind == name] for name in of_kinds}
    given = Counter[str]()
    while True:
        name = min(of_kinds, key=lambda each: (given[each] + 1) / of_kinds[each].share)
        yield pools[name][given[name] % len(pools[name])]
        given[name] += 1


def opener(settings: FromPrompt, case: Case, number: int, reader: Reader) -> str:
    """How the input of a draw begins; empty where it is left to the writer."""
    openers = _texts()["openers"] if settings.openers is None else settings.openers
    left = reader.server or case.kind == "language" or not openers
    return "" if left else openers[number % len(openers)]


def ask(brief: Brief, case: Case, begun: str, number: int, seed: int, where: str) -> Prompt:
    """The prompt of a draw: one input for the case, some of the prompt's own examples in sight.

    Args:
        begun: What the input begins with.
    """
    few = min(_SHOWN, len(brief.seeds))
    shown = random.Random(f"{seed}:{where}:{number}").sample(brief.seeds, few)
    demonstrations = [
        _turns("inputs", each["prompt"], [(own["about"], own["text"]) for own in each["inputs"]])
        for each in _texts()["demonstrations"]
    ]
    asked = [*(("a message", text) for text in shown), (case.about, None)]
    content = _conversation([*demonstrations, _turns("inputs", brief.prompt, asked)])
    content += ({"role": "assistant", "content": begun},) if begun else ()
    return Prompt(f"draw-{number:06d}", where, content)


def _turns(what: str, prompt: str, asked: Sequence[tuple[str, str | None]]) -> tuple[Message, ...]:
    """Turns about one prompt: what is asked for, and what the writer says to it."""
    turns, ahead = list[dict[str, str]](), _filled("first", prompt=prompt) + "\n\n"
    for about, answer in asked:
        turns.append({"role": "user", "content": ahead + _filled(what, about=about)})
        turns += [] if answer is None else [{"role": "assistant", "content": answer}]
        ahead = ""
    return tuple(turns)


def _conversation(parts: Sequence[Sequence[Message]]) -> tuple[Message, ...]:
    return tuple(itertools.chain(*parts))


def _filled(what: str, **fields: str) -> str:
    row = Example("", dict(fields))
    return str(render(Template(text=_texts()[what]), "", row, None, OURS.name).content)


def _bulleted(texts: Sequence[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def cleaned(completion: Completion, begun: str) -> Completion:
    """A whole text, with what it was begun with, and without the quotation marks or the label that
    a writer puts around it.
    """
    text = _LABEL.sub("", completion.text.strip(), 1)
    if begun and text:
        close = "" if completion.text[0] in ",.?!'" else " "
        text = f"{begun}{close}{text}"
    if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”"), ("'", "'")):
        text = text[1:-1]
    return replace(completion, text=text)


def draw(
    settings: FromPrompt,
    brief: Brief,
    cases: Sequence[Case],
    held_out: Sequence[str],
    answer: Callable[[list[Prompt]], Sequence[Completion]],
    reader: Reader,
    seed: int,
    where: str,
    known: Sequence[str] = (),
    first: int = 0,
) -> tuple[list[dict[str, str]], dict[str, int]]:
    """Draw inputs until there are as many as wanted.

    Args:
        known: Inputs that are there already: fewer than wanted will do, then.
        first: Number of the first draw.
        held_out: Texts that no input may copy.
        answer: Asks the model.
        reader: Who is asked.

    Returns:
        The rows (`id`, the text in its field, `kind`, `case`), and how many draws came to what.

    Raises:
        UserError: Too few after `tries` draws for each wanted.
    """
    told_of = "\n".join([brief.prompt, *(case.about for case in cases)])
    shown = [own["text"] for each in _texts()["demonstrations"] for own in each["inputs"]]
    sieve = Sieve(settings.near, [*brief.seeds, *shown], held_out, told_of)
    sieve.know(known)
    turns, drawn = in_turns(settings, brief, cases), list[tuple[Case, str]]()

    def asked(start: int, count: int) -> list[Prompt]:
        numbers = range(first + start, first + start + count)
        for number, case in zip(numbers, turns, strict=False):
            drawn.append((case, opener(settings, case, number, reader)))
        return as_read([ask(brief, *drawn[n - first], n, seed, where) for n in numbers], reader)

    def told(prompts: list[Prompt]) -> list[Completion]:
        begun = [text for _, text in drawn[-len(prompts) :]]
        return [cleaned(each, text) for each, text in zip(answer(prompts), begun, strict=True)]

    more = None if known else "name a bigger writer"
    sieve.fill(settings, asked, told, f"{where}.from_prompt", more)
    rows = [
        {
            "id": f"draw-{len(known) + n:06d}",
            settings.field: text,
            "kind": drawn[place][0].kind,
            "case": drawn[place][0].about,
        }
        for n, (place, text) in enumerate(zip(sieve.places, sieve.kept, strict=True))
    ]
    return rows, dict(sieve.counts)
