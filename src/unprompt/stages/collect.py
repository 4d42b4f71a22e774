"""Ask a model all prompts, once. What is answered is on disk and never asked again.

A store is a folder of Parquet parts named by everything that decides an answer but the prompt
(weights, sampling, labels, seed); each row carries its prompt's fingerprint. So a run that was
killed, one with another `train` section, and one with more inputs all ask only what is missing.
Prompts are cut into parts in a fixed order, and a part is named by the prompts in it: the parts
after a kill are the parts without one, whichever were written by then, and several processes may
write into one store. A part holds prompts that stand near each other, so answers can be read in the
prompts' order with a few parts in memory. Until a part is whole its answers lie in a journal
(`store/journal.py`); a stop makes a part of those, and the rest is cut anew.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unprompt.engines import Engine
from unprompt.recipe import Labels, Sampling
from unprompt.records import Completion, Prompt, SoftLabels
from unprompt.stages.questions import Question
from unprompt.store.answers import Answers, Parts, Times
from unprompt.store.journal import Journal, fold, part_name, write_part
from unprompt.store.places import Place, put

BATCHES_A_PART = 2
MOST_PARTS = 200
"""Of a big job; its parts hold more answers, up to `LARGEST_PART`."""
LARGEST_PART = 4096
"""Answers of a part: what a worker that is lost, or a broken file, costs."""
PARTS_A_WINDOW = 16
"""Prompts of so many parts, one behind the other, are sorted by length, so that those of like
length are answered together."""
_NOTED_EVERY = 10.0
"""Seconds between two notes of the time that asking takes: behind a network, a note takes as long
as a part of many workers."""


class Missing(NamedTuple):
    """A prompt that has no answer yet.

    Attributes:
        key: Its fingerprint.
        length: In tokens.
        given: A continuation (text, token ids) to score with hard labels, instead of writing one.
    """

    key: str
    prompt: Prompt
    length: int
    given: tuple[str, Sequence[int]] | None


class Part(NamedTuple):
    """A part that was written: its file's name, the fingerprints of the prompts it answers, and the
    seconds that took.
    """

    name: str
    keys: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class Asking:
    """How the prompts of a store are asked: what is the same for all of them, wherever they are
    asked.

    Attributes:
        store: Folder of the parts.
        prefix_tokens: Length of the prefix that all prompts share; one number for each prompt of an
            ensemble.
    """

    store: Place
    sampling: Sampling
    labels: Labels | None
    seed: int
    batch_size: int | None
    prefix_tokens: Sequence[int]

    def parts(self, missing: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
        """Which prompts each part answers: those of like length together, as far as they stand
        near each other.

        Args:
            missing: Places of prompts that have no answer, in order.
            lengths: Of all prompts of the job, in tokens.
        """
        size = self.size(len(lengths))
        found = []
        for _, near in itertools.groupby(missing, lambda place: place // (size * PARTS_A_WINDOW)):
            ordered = sorted(near, key=lambda place: -lengths[place])
            found += [ordered[start : start + size] for start in range(0, len(ordered), size)]
        return found

    def size(self, total: int) -> int:
        """Prompts of a part, of a job of `total`."""
        return max(
            (self.batch_size or 64) * BATCHES_A_PART, min(-(-total // MOST_PARTS), LARGEST_PART)
        )

    def ask(
        self,
        engine: Engine,
        asked: Sequence[Missing],
        progress: Callable[[int], object] = lambda n: None,
    ) -> Part:
        """Ask what a part answers, and write it; what comes in is kept as it comes."""
        began, keys = time.perf_counter(), [each.key for each in asked]
        with Journal(self.store, part_name(keys)) as journal:
            left = [each for each in asked if each.key not in journal.answers]
            progress(len(asked) - len(left))
            if left:
                answers = self._answers(engine, left, journal, progress)
                journal.answers.update(zip((each.key for each in left), answers, strict=True))
            took = time.perf_counter() - began
            name = write_part(self.store, [(key, journal.answers[key]) for key in keys])
        return Part(name, keys, took)

    def _answers(
        self,
        engine: Engine,
        asked: Sequence[Missing],
        journal: Journal,
        progress: Callable[[int], object],
    ) -> Sequence[Completion]:
        prompts = [each.prompt for each in asked]
        given = [each.given for each in asked if each.given is not None]
        if not given:

            def done(answers: dict[int, Completion]) -> None:
                journal.add([(asked[n].key, answer) for n, answer in sorted(answers.items())])

            return engine.generate(
                prompts,
                self.sampling,
                self.labels,
                seed=self.seed,
                prefix_tokens=self.prefix_tokens,
                batch_size=self.batch_size,
                progress=progress,
                done=done,
            )

        def scored(labels: dict[int, SoftLabels]) -> None:
            found = sorted(labels.items())
            journal.add([(asked[n].key, _scored(asked[n], label)) for n, label in found])

        labels = engine.score(
            prompts,
            [ids for _, ids in given],
            Labels(kind="hard"),
            seed=self.seed,
            prefix_tokens=self.prefix_tokens,
            batch_size=self.batch_size,
            progress=progress,
            scored=scored,
        )
        return [_scored(each, label) for each, label in zip(asked, labels, strict=True)]


def _scored(asked: Missing, label: SoftLabels) -> Completion:
    """A given continuation with what the model says about it."""
    assert asked.given
    (text, ids), prompt = asked.given, asked.prompt
    return Completion(
        prompt.example_id, prompt.context, text, tuple(ids), "given", asked.length, label
    )


Ask = Callable[[Asking, Iterator[list[Missing]], Callable[[int], object]], Iterator[Part]]
"""Asks what all parts answer, in any order, and tells of each part that is written. A part's
prompts are put together when it is asked for: all of them may be more than memory holds.
"""


def here(engine: Callable[[], Engine]) -> Ask:
    """Asks one part after the other in this process; the engine is made only if something has to be
    asked.
    """

    def ask(
        asking: Asking, parts: Iterator[list[Missing]], progress: Callable[[int], object]
    ) -> Iterator[Part]:
        for part in parts:
            yield asking.ask(engine(), part, progress)

    return ask


def fill(
    ask: Ask,
    store: Place,
    question: Question,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Answers:
    """Ask what the store has no completion of.

    Args:
        ask: Who asks.
        store: Folder of the answers to just this question, and those that differ in prompts alone.
        progress: Told how many prompts were answered since the last call.

    Returns:
        One completion for each prompt, in the prompts' order.
    """
    asking = Asking(
        store, question.sampling, question.labels, seed, batch_size, question.side.prefix
    )
    fold(store)
    parts, keys = Parts(store), question.keys()
    prompts, lengths, given = question.side.prompts, question.side.lengths, question.given
    missing = [n for n, key in enumerate(keys) if key not in parts.places]
    asked = (
        [Missing(keys[n], prompts[n], lengths[n], given[n] if given else None) for n in part]
        for part in asking.parts(missing, lengths)
    )
    progress(len(prompts) - len(missing))
    times, noted = _times(store), -math.inf
    try:
        for part in ask(asking, asked, progress) if missing else ():
            parts.add(store / part.name, part.keys)
            times[part.name] = len(part.keys), part.seconds
            if time.perf_counter() > noted + _NOTED_EVERY:
                _note(store, times)
                noted = time.perf_counter()
    finally:
        if missing and times:
            _note(store, times)
    window = asking.size(len(prompts)) * PARTS_A_WINDOW
    return Answers(
        store,
        parts,
        keys,
        window=window,
        asked=len(missing),
        times=times,
        opened=question.side.opened,
    )


def _times(store: Place) -> Times:
    """What is noted of a store; nothing, where that is lost: the report then has no seconds."""
    try:
        found = json.loads((store / "seconds.json").read_text())
        return {name: (calls, seconds) for name, (calls, seconds) in found.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _note(store: Place, times: Times) -> None:
    """Others may have noted theirs meanwhile."""
    put(store / "seconds.json", json.dumps(_times(store) | times).encode())
