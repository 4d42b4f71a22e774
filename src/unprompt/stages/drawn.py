"""Inputs that a model writes, asked for and put into files; from then on they are read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unprompt.engines.tokens import Reader
from unprompt.messages import say
from unprompt.recipe import FromPrompt, Recipe, Sample, Sampling
from unprompt.records import TEACHER, WRITER, Completion, Example, Prompt, Who
from unprompt.stages import inputs
from unprompt.stages.inputs import draw, sieve, written
from unprompt.stages.prompts import Prompts, measure
from unprompt.stages.questions import Question
from unprompt.stages.weights import Weights
from unprompt.store.answers import Answers
from unprompt.store.files import FORMAT, file_digest, fingerprint

Rows = tuple[list[dict[str, Any]], dict[str, int]]
"""Inputs, and how many draws came to what."""


@dataclass(frozen=True)
class Drawn:
    """What became of one source's draws.

    Attributes:
        file: Where in the run's folder its rows are.
        counts: `kept`, and each reason for throwing one away -> draws.
        answers: What was asked, for its cost.
        coverage: Which of its prompt's instructions it exercises (`stages/coverage.py`).
    """

    file: str
    counts: dict[str, int]
    answers: list[tuple[Question, Answers]] = field(default_factory=list)
    coverage: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Source:
    """One source that a model writes.

    Attributes:
        decided: All that decides its rows.
        rows: Draws them, with who asks the model.
    """

    decided: list[object]
    rows: Callable[[_Asker], Rows]


class _Asker:
    """Asks one source's prompts, and notes what was asked."""

    def __init__(self, weights: Weights, who: Who, reader: Reader, where: str) -> None:
        self._weights, self._who, self._reader, self._where = weights, who, reader, where
        self.answers: list[tuple[Question, Answers]] = []

    def ask(self, what: str, sampling: Sampling, asked: list[Prompt]) -> Sequence[Completion]:
        side = measure(asked, self._reader, self._where, sampling.max_new_tokens)
        question = Question(self._who, side, sampling)
        answers = self._weights.collect(f"{self._where}: {what}", question)
        self.answers.append((question, answers))
        return answers


def draw_inputs(weights: Weights, prompts: Prompts) -> tuple[Recipe, dict[str, Drawn]]:
    """Have the inputs written that the recipe wants of a model. Gives the recipe that reads them,
    and each source's draws.

    Args:
        prompts: Of what was read so far; held-out examples among it, which no input may copy
            (other contexts may be proven on them).

    Raises:
        UserError: Too few draws are new inputs.
    """
    recipe, files = weights.recipe, weights.files
    held = _held(prompts)
    drawn = dict[str, Drawn]()
    for where, settings in recipe.drawn.items():
        if isinstance(settings, Sample):
            who, source = TEACHER, _sampled(weights, where, settings, held)
        else:
            who, source = WRITER, _from_prompt(weights, prompts, where, settings, held)
        key = fingerprint(*source.decided)
        target, counted = f"inputs/{key}.json", f"inputs/{key}.counts.json"
        asker = _Asker(weights, who, prompts.readers.of(who), where)
        if files.read(target) is None or files.read(counted) is None or recipe.cost:
            # what was drawn is in its store: for its cost it is only counted again
            say(f"{where}: sampling {settings.count} inputs")
            rows, counts = source.rows(asker)
            files.keep(counted, json.dumps(counts))
            files.keep(target, json.dumps(rows, ensure_ascii=False, indent=0))
        drawn[where] = Drawn(target, files.read(counted), asker.answers)
        counts = ", ".join(f"{count} {what}" for what, count in drawn[where].counts.items())
        say(f"{where}: {counts}")
    if not drawn:
        (files.folder / "resolved.yaml").unlink(missing_ok=True)
        files.notes.drop("resolved.yaml")
        return recipe, {}
    if recipe.writer:
        weights.forget_engines()  # it is not needed now
    return resolve(weights, drawn), drawn


def topped_up(
    weights: Weights,
    prompts: Prompts,
    where: str,
    settings: FromPrompt,
    drawn: Drawn,
    rules: list[str],
) -> Drawn:
    """The same with more inputs behind, which are written for instructions that none exercises.

    Args:
        rules: Those, as `written.rule` says them.
    """
    recipe, files, name = weights.recipe, weights.files, where.split(".")[1]
    assert settings.covered
    rows, wanted = files.read(drawn.file), settings.topped_up(len(rules))
    few, brief = written.alone(settings, wanted), _brief(recipe, prompts, name, settings)
    cases = [
        case for case in written.cases(few, brief, []) if any(case.about.endswith(r) for r in rules)
    ]
    reader = prompts.readers.of(WRITER)
    asker = _Asker(weights, WRITER, reader, where)
    held = sieve.texts(_held(prompts), settings.field)
    known = [row[settings.field] for row in rows]
    key = fingerprint(FORMAT, drawn.file, settings.model_dump(mode="json"), rules, held)
    target, counted = f"inputs/{key}.json", f"inputs/{key}.counts.json"
    if files.read(target) is None or files.read(counted) is None or recipe.cost:

        def answer(asked: list[Prompt]) -> Sequence[Completion]:
            return asker.ask("draws for instructions", Sampling(**settings.settings), asked)

        more, counts = written.draw(
            few,
            brief,
            cases,
            held,
            answer,
            reader,
            recipe.seed,
            where,
            known,
            settings.draws,
        )
        files.keep(counted, json.dumps(Counter(drawn.counts) + Counter(counts)))
        files.keep(target, json.dumps([*rows, *more], ensure_ascii=False, indent=0))
    if recipe.writer:
        weights.forget_engines()  # it is not needed now
    return Drawn(target, files.read(counted), [*drawn.answers, *asker.answers])


def resolve(weights: Weights, drawn: Mapping[str, Drawn]) -> Recipe:
    """The recipe that reads what was drawn; the run's folder keeps it."""
    files = weights.files
    paths = {where: str((files.folder / each.file).resolve()) for where, each in drawn.items()}
    resolved = draw.resolved(weights.recipe, paths)
    files.keep("resolved.yaml", resolved.to_yaml())
    return resolved


def _sampled(weights: Weights, where: str, sample: Sample, held: Sequence[Example]) -> _Source:
    """Inputs that the teacher writes from seeds."""
    recipe = weights.recipe
    seeds = inputs.load(sample.seeds, f"{where}.sample.seeds", recipe.modules)
    decided = [
        FORMAT,
        where,
        weights.identity(TEACHER),
        sample.model_dump(mode="json"),
        recipe.seed,
        [example.fields for example in seeds],
        [example.fields for example in held],
    ]

    def rows(asker: _Asker) -> Rows:
        def answer(asked: list[Prompt]) -> Sequence[Completion]:
            return asker.ask("draws", Sampling(**sample.settings), asked)

        return draw.draw(sample, seeds, held, answer, recipe.seed, where)

    return _Source(decided, rows)


def _from_prompt(
    weights: Weights, prompts: Prompts, where: str, settings: FromPrompt, held: Sequence[Example]
) -> _Source:
    """Inputs that a writer makes up from the teacher's prompt."""
    recipe, name = weights.recipe, where.split(".")[1]
    brief = _brief(recipe, prompts, name, settings)
    copies = sieve.texts(held, settings.field)
    decided = [
        FORMAT,
        where,
        weights.identity(WRITER),
        settings.model_dump(mode="json", exclude={"writer", "coverage"}),
        recipe.seed,
        asdict(brief),
        file_digest(written.OURS),
        copies,
    ]

    def rows(asker: _Asker) -> Rows:
        def answer(asked: list[Prompt]) -> Sequence[Completion]:
            return asker.ask("draws", Sampling(**settings.settings), asked)

        reader, listed = prompts.readers.of(WRITER), written.lists(settings, brief, where)
        asked = written.as_read([each for _, each in listed], reader)
        told = asker.ask("cases", written.listing(settings), asked)
        cases = written.cases(
            settings, brief, [(case, of) for (case, _), of in zip(listed, told, strict=True)]
        )
        say(f"{where}: {written.described(cases)}")
        return written.draw(settings, brief, cases, copies, answer, reader, recipe.seed, where)

    return _Source(decided, rows)


def _brief(recipe: Recipe, prompts: Prompts, name: str, settings: FromPrompt) -> written.Brief:
    return written.brief(recipe.contexts[name], settings.field, prompts.inputs.shown[name][0])


def _held(prompts: Prompts) -> list[Example]:
    """Held-out examples, which no input may copy."""
    return [
        example
        for examples in prompts.inputs.held_out.values()
        for example in examples
        if not example.written  # else it is a stand-in
    ]
