"""Which of a teacher's completions become lessons: those whose answer is correct, or what most of
the input's completions say. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from unprompt import metrics
from unprompt.messages import UserError
from unprompt.metrics import Metric
from unprompt.metrics.json_answers import json_schema, json_valid, refuse_schema
from unprompt.recipe import Extract, Filter
from unprompt.records import Completion, Example
from unprompt.stages.lessons import extract as extract_

KEPT, WRONG, MINORITY, NO_ANSWER = "kept", "wrong", "minority", "no answer found"
NO_JSON, OFF_SCHEMA = "no JSON", "breaks the schema"
"""What a filter says of a completion."""


def check(
    rule: Filter, examples: Sequence[Example], per_input: int, name: str, modules: str
) -> None:
    """Before any money is spent: the metric is there, and so is what it needs.

    Raises:
        UserError: An unknown metric or one that does not look at an answer, an input without a gold
            answer, or a majority of one completion.
    """
    where = f"contexts.{name}.filter"
    if rule.keep == "valid":
        if rule.schema_ is not None:
            refuse_schema(rule.schema_, f"{where}.schema")
        return
    metric = metrics.find(rule.metric, f"{where}.metric", modules)
    if metric.reads != "answer" or not metric.needs_gold:
        raise UserError(
            f"'{rule.metric}' does not say whether an answer is correct",
            where=f"{where}.metric",
            fix="use accuracy, say",
        )
    if metric.check:
        metric.check(f"{where}.metric")
    if rule.keep == "majority" and per_input == 1:
        raise UserError(
            "of one completion there is no majority",
            where=f"{where}.keep",
            fix="raise sampling.per_input, to 3 say",
        )
    lacking = next((e for e in examples if e.target is None), None)
    if rule.keep == "correct" and lacking is not None:
        raise UserError(
            f"input '{lacking.id}' has no gold answer to be correct by",
            where=where,
            fix=(
                f"name the field that holds it in contexts.{name}.inputs.target (the data has:"
                f" {', '.join(lacking.fields)}), or keep: majority"
            ),
        )


def with_gold(example: Example) -> Example:
    """An input whose gold answer a template may show, as `target`."""
    if example.target is None:
        return example
    return replace(example, fields={**example.fields, "target": example.target})


def judge(
    rule: Filter,
    extract: Extract,
    examples: Sequence[Example],
    completions: Sequence[Completion],
    per_input: int,
    name: str = "",
    modules: str | None = None,
) -> list[str]:
    """What becomes of each completion: `kept`, `wrong`, `minority`, `no JSON`, `breaks the schema`
    or `no answer found`.

    Args:
        rule: The context's filter.
        extract: f, where the filter has no extraction of its own.
        examples: The inputs.
        completions: `per_input` of each input, in the inputs' order.
        name: The context's, for messages.

    Raises:
        UserError: The metric fails.
    """
    where = f"contexts.{name}.filter"
    metric = metrics.find(rule.metric, f"{where}.metric", modules)

    def answer(completion: Completion) -> str | None:
        text, wanted = completion.text, rule.extract or extract
        span = extract_.extract(
            wanted, text, completion.stop, f"{where}.extract", modules, opened=completion.opened
        )
        return None if isinstance(span, str) else text[span.start : span.end].strip()

    def right(answer: str, example: Example) -> bool:
        try:
            return float(metric.function(answer, example)) >= 1
        except Exception as error:
            raise UserError(
                f"metric '{rule.metric}' failed on input '{example.id}': {type(error).__name__}:"
                f" {error}",
                where=where,
                fix="mend it",
            ) from error

    verdicts: list[str] = []
    for n, example in enumerate(examples):
        answers = [answer(c) for c in completions[n * per_input : (n + 1) * per_input]]
        if rule.keep == "majority":
            verdicts += _vote([a if _usable(metric, a) else None for a in answers], example, right)
            continue
        if rule.keep == "valid":
            verdicts += [NO_ANSWER if each is None else _valid(rule, each) for each in answers]
            continue
        for each in answers:
            verdict = NO_ANSWER if each is None else KEPT if right(each, example) else WRONG
            verdicts.append(verdict)
    return verdicts


def _valid(rule: Filter, answer: str) -> str:
    if not json_valid(answer):
        return NO_JSON
    kept = rule.schema_ is None or json_schema(answer, rule.schema_)
    return KEPT if kept else OFF_SCHEMA


def _usable(metric: Metric, answer: str | None) -> bool:
    """Whether others can be compared with it; `numeric_match`, say, wants a number."""
    if answer is not None and metric.refuses_gold:
        try:
            metric.function("", Example("", {}, answer))
        except ValueError:
            return False
    return True


def _vote(
    answers: Sequence[str | None], example: Example, agree: Callable[[str, Example], bool]
) -> list[str]:
    """Self-consistency (Wang et al. 2022): what most say is kept, of equals the first."""
    sides: list[str] = []
    chosen: list[int | None] = []
    for answer in answers:
        if answer is None:
            chosen.append(None)
            continue
        same = (n for n, other in enumerate(sides) if agree(answer, replace(example, target=other)))
        side = next(same, len(sides))
        if side == len(sides):
            sides.append(answer)
        chosen.append(side)
    votes = Counter(side for side in chosen if side is not None)
    winner = min(votes, key=lambda side: (-votes[side], side), default=None)
    return [NO_ANSWER if side is None else KEPT if side == winner else MINORITY for side in chosen]


def unkept(verdicts: Sequence[str], per_input: int) -> list[int]:
    """Numbers of the inputs of which nothing was kept."""
    count = len(verdicts) // per_input
    return [n for n in range(count) if KEPT not in verdicts[n * per_input : (n + 1) * per_input]]


def counts(rule: Filter, verdicts: Sequence[str], hinted: Sequence[str] | None) -> dict[str, int]:
    """Completions by what became of them; with a hint, its completions' verdicts, too."""
    times = Counter(verdicts)
    lost = {"correct": [WRONG], "majority": [MINORITY], "valid": [NO_JSON, OFF_SCHEMA]}[rule.keep]
    kinds = (KEPT, *lost, NO_ANSWER)
    asked_again = {}
    if hinted is not None:
        asked_again = {"asked with the hint": len(hinted), "hinted": list(hinted).count(KEPT)}
    return {kind: times[kind] for kind in kinds} | asked_again


def refuse_nothing(kept: int, filtered: dict[str, int], name: str) -> None:
    """Stop ahead of training when a filter lets nothing through.

    Raises:
        UserError: With what became of the completions.
    """
    if not kept:
        became = ", ".join(f"{count} {what}" for what, count in filtered.items())
        raise UserError(
            f"the filter keeps none of the teacher's completions ({became})",
            where=f"contexts.{name}.filter",
            fix=(
                "mend its extract, raise sampling.per_input or sampling.max_new_tokens, or add a"
                " hint; the completions are kept"
            ),
        )
