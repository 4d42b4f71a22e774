"""A sieve for what a model writes: what is a new input is kept, what is none is counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import regex

from unprompt.messages import UserError
from unprompt.recipe import FromPrompt, Sample
from unprompt.records import Completion, Example, Prompt

_ANSWERS = regex.compile(
    r"(assistant|answer|response|reply|output|bot)\s*:"
    r"|(sure|certainly|of course|absolutely)[,!.] (here|i )"
    r"|(as an? (ai|assistant|language model)|here (is|are) )\b"
    r"|(i('m| am) (sorry|afraid)[,.!]? (but )?)?i('m| am) (only |just )?an? "
    r"(ai\b(?! \w)|(ai |virtual |digital )(assistant|model|language)|language model|chatbot)"
    r"|i('m| am) (sorry|afraid)[,.!]? (but )?(as|i('m| am)) (only |just )?an? (ai|assistant)\b"
    r"|(how )?(can|may) i (help|assist) you"
    r"|i('m| am) (sorry|afraid),? (but )?i('m| am)? (can|could|not|unable|do)",
    regex.I,
)
"""How an assistant begins, and no user does."""
_COPIED = 16
"""Letters of the prompt that are no chance: a topic's name in it may be somebody's message."""
_LEAST_KEPT = 0.25
"""Share of draws that is expected to be kept, at least."""


class Sieve:
    """Keeps what is a new input, and counts what is not, by reason.

    Args:
        near: Similarity from which two texts are near duplicates.
        seeds, held_out: Texts that no input may copy.
        prompt: What the writer was shown, if it is to write neither that nor an answer to it.

    Attributes:
        kept: The inputs.
        places: Which text each of them was, counted from 0.
        counts: `kept`, and each reason -> texts.
    """

    def __init__(
        self, near: float, seeds: Sequence[str], held_out: Sequence[str], prompt: str | None = None
    ) -> None:
        self.near = near
        self.kept: list[str] = []
        self.places: list[int] = []
        self.counts: Counter[str] = Counter()
        self._prompt = None if prompt is None else plain(prompt)
        lines = [] if prompt is None else [plain(line) for line in prompt.splitlines()]
        self._like: dict[str, list[str]] = {
            "copy of a seed": [plain(text) for text in seeds],
            "copy of a held-out input": [plain(text) for text in held_out],
            "copy of the prompt": [line for line in lines if line],
            "near duplicate": [],
        }

    def know(self, texts: Sequence[str]) -> None:
        """Inputs that are there already, of which no other is to be a duplicate."""
        self._like["near duplicate"] += map(plain, texts)

    def add(self, completion: Completion) -> None:
        """Judge one text."""
        reason = self._why_not(completion)
        if reason is None:
            self.places.append(self.counts.total())
            self.kept.append(completion.text.strip())
            self._like["near duplicate"].append(plain(completion.text))
        self.counts[reason or "kept"] += 1

    def fill(
        self,
        settings: Sample | FromPrompt,
        ask: Callable[[int, int], list[Prompt]],
        answer: Callable[[list[Prompt]], Sequence[Completion]],
        where: str,
        more: str | None,
    ) -> None:
        """Draw inputs until there are as many as wanted: all that are missing at once, by the share
        that was kept so far.

        Args:
            ask: The first draw's number and how many -> their prompts.
            answer: Asks the model.
            where: The source's key in the recipe, for messages.
            more: What gives more, for them; None: fewer will do.

        Raises:
            UserError: Too few after `tries` draws for each wanted.
        """
        most, asked = settings.draws, 0
        while len(self.kept) < settings.count and asked < most:
            share = max(_LEAST_KEPT, len(self.kept) / asked) if asked else 1
            missing = settings.count - len(self.kept)
            count = min(math.ceil(missing / share), most - asked)
            for completion in answer(ask(asked, count)):
                if len(self.kept) < settings.count:
                    self.add(completion)
                else:
                    self.counts["not needed"] += 1
            asked += count
        if len(self.kept) < settings.count and more:
            lost = {why: count for why, count in self.counts.most_common() if why != "kept"}
            why = ", ".join(f"{count} {reason}" for reason, count in lost.items())
            raise UserError(
                f"{asked} draws gave only {len(self.kept)} of {settings.count} inputs ({why})",
                where=where,
                fix=f"{more}, a higher temperature or more tries, or want fewer; what was drawn is"
                " kept",
            )

    def _why_not(self, completion: Completion) -> str | None:
        text = plain(completion.text)
        if completion.stop == "length":
            return "cut at max_new_tokens"
        if not text:
            return "empty"
        if text in self._like["near duplicate"]:
            return "exact duplicate"
        if self._prompt is not None:
            if _ANSWERS.match(text):
                return "an answer, no input"
            if len(text) >= _COPIED and text in self._prompt:
                return "copy of the prompt"
        reasons = (why for why, texts in self._like.items() if _alike(text, texts, self.near))
        return next(reasons, None)


def texts(examples: Sequence[Example], field: str) -> list[str]:
    """What examples hold in a field, where that is a text."""
    return [value for each in examples if isinstance(value := each.fields.get(field), str)]


def plain(text: str) -> str:
    """A text without letter case and spare blanks."""
    return " ".join(text.casefold().split())


def _alike(text: str, others: Sequence[str], near: float) -> bool:
    from rapidfuzz import process
    from rapidfuzz.distance import Levenshtein

    scorer = Levenshtein.normalized_similarity
    return process.extractOne(text, others, scorer=scorer, score_cutoff=near) is not None
