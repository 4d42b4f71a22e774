"""Build the transfer set: the student's prompt, then f(y) token for token with the teacher's
labels, then the end token.

Lessons of several contexts are joined in one list; what each context counts in it says `mixing.py`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from unprompt.engines.tokens import Reader, encode, own_end
from unprompt.messages import UserError
from unprompt.recipe import Extract
from unprompt.records import Completion, Lesson, Prompt, SoftLabels
from unprompt.stages.lessons import extract as extract_

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_HALF = "\ufffd"
"""What a part of a character is decoded to."""
_WINDOW = 16
"""Tokens after which no character is waited for any more; one has four bytes at most."""


@dataclass
class Drops:
    """What did not become a lesson, and why; what did, but not whole."""

    failed: dict[str, str] = field(default_factory=dict)
    """Example id -> reason."""
    cut_at_limit: list[str] = field(default_factory=list)
    """Those whose answer `max_new_tokens` cut: taught as far as it goes, with no end token."""
    filtered: dict[str, int] = field(default_factory=dict)
    """What the context's filter said of the completions, ahead of f."""

    def reasons(self) -> dict[str, int]:
        """Reason -> count."""
        return dict(Counter(self.failed.values()))


def token_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Of each token, the characters of the decoded text up to its end, shape (len(ids),)."""
    text = _decode(tokenizer, ids)
    alone = [_decode(tokenizer, [token]) for token in ids]
    if "".join(alone) == text:
        return np.cumsum([len(each) for each in alone], dtype=int).tolist()
    # tokens that decode differently alone (parts of a character, SentencePiece blanks): decode them
    # behind those ahead of them, or, if that does not give the text, every beginning
    ends = _ends_by_neighbours(tokenizer, ids, text)
    return ends or [len(_decode(tokenizer, ids[: n + 1]).rstrip(_HALF)) for n in range(len(ids))]


def _ends_by_neighbours(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str
) -> list[int] | None:
    """As `token_ends`, each token decoded behind the few ahead of it; None if what that gives is
    not the text.
    """
    ends: list[int] = []
    first = behind = 0  # the window: tokens from `first` on; its text is known up to `behind`
    done, known, last = 0, 0, 0  # letters of the text, and of the window, up to there; whole ones
    for n in range(1, len(ids) + 1):
        window = _decode(tokenizer, ids[first:n])
        new = window[known:]
        if not text.startswith(new.rstrip(_HALF), done):
            return None
        last = done + len(new.rstrip(_HALF)) if new.rstrip(_HALF) else last
        ends.append(last)
        whole = bool(new) and not new.endswith(_HALF)
        if whole or n - behind >= _WINDOW:  # of what is no text, or empty, only some is kept
            at = n if whole else n - _WINDOW // 2
            settled = _decode(tokenizer, ids[first:at])
            if not window.startswith(settled) or not text.startswith(settled[known:], done):
                return None
            done += len(settled) - known
            first, behind = (behind, at) if whole else (at, at)
            known = len(_decode(tokenizer, ids[first:behind]))
    return ends if done + len(_decode(tokenizer, ids[first:])) - known == len(text) else None


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    assert isinstance(text, str)
    return text


def token_span(
    tokenizer: PreTrainedTokenizerBase, completion: Completion, span: extract_.Span
) -> tuple[int, int] | str:
    """The tokens of a span of characters, blanks beside it included; or why no whole tokens are."""
    text, ids = completion.text, completion.token_ids
    ends = token_ends(tokenizer, ids)
    kept = text[span.start : span.end]
    first = span.end - len(kept.lstrip())
    last = first + len(kept.strip())
    begins = [0, *ends]
    start = next((n for n, end in enumerate(ends) if end > first), len(ends))
    # tokens of blanks inside the span belong to it, and so do those that hold the first bytes of
    # its first letter
    while start > 0 and (
        begins[start - 1] >= span.start
        or begins[start - 1] == ends[start - 1]
        or len(_decode(tokenizer, ids[:start])) > ends[start - 1]
    ):
        start -= 1
    if not text[last:].strip() and completion.stop != "stop":
        stop = len(ends) - (completion.stop == "end")
    else:
        stop = next((n + 1 for n, end in enumerate(ends) if end >= last), len(ends))
    outside = text[begins[start] : first] + _decode(tokenizer, ids[:stop])[last:]
    return "boundary inside a token" if outside.strip() else (start, stop)


def build(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    reader: Reader,
    rule: Extract,
    *,
    end_token: bool,
    add_end: bool = True,
    where: str = "extract",
    modules: str | None = None,
    writer: PreTrainedTokenizerBase | None = None,
    window: int | None = None,
) -> tuple[list[Lesson], Drops]:
    """Lessons from the teacher's completions.

    Args:
        prompts: The student's prompt for each completion.
        completions: The teacher's, with labels.
        reader: The student's.
        rule: f.
        end_token: Teach the end token after an answer that is finished: the teacher's own, with its
            label, where the teacher itself ended there; else the one that belongs to the prompt
            (`own_end`), certain, since f ends the answer there.
        add_end: With `end_token`, so else; not: only an end that the teacher wrote.
        writer: The tokenizer of a teacher that has another one than the student: the text of the
            tokens that f keeps is tokenised anew, each token its own label.
        window: Longest lesson, of those that are tokenised anew: nobody could know their length
            before; None: no limit.

    Returns:
        The lessons, and what was dropped.
    """
    lessons, drops, tokenizer = [], Drops(), reader.tokenizer
    end_of = functools.cache(lambda chat: own_end(tokenizer, chat=chat))
    for prompt, completion in zip(prompts, completions, strict=True):
        id_ = prompt.example_id
        text, ended, opened = completion.text, completion.stop, completion.opened
        span = extract_.extract(rule, text, ended, where, modules, opened=opened)
        end = end_of(not isinstance(prompt.content, str)) if end_token and add_end else None
        answer = _answer(tokenizer, completion, span, writer, reader.ends, end_token, end)
        if not isinstance(answer, str) and _beyond(answer[0], reader):
            answer = "a token that the student has no embedding for"
        if isinstance(answer, str):
            drops.failed[id_] = answer
            continue
        target, labels, cut = answer
        if cut:
            drops.cut_at_limit.append(id_)
        asked = _student_prompt(tokenizer, prompt)
        if window and len(asked) + len(target) > window:
            drops.failed[id_] = "over the student's window in its own tokens"
            continue
        weights = np.repeat(np.array([0, 1], np.float32), [len(asked), len(target)])
        ids = (*asked, *target)
        lessons.append(Lesson(id_, prompt.context, ids, len(asked), weights, labels))
    return lessons, drops


def _beyond(ids: Sequence[int], reader: Reader) -> bool:
    return reader.embeddings is not None and max(ids, default=0) >= reader.embeddings


def _answer(
    tokenizer: PreTrainedTokenizerBase,
    completion: Completion,
    span: extract_.Span | str,
    writer: PreTrainedTokenizerBase | None,
    ends: Set[int],
    end_token: bool,
    end: int | None,
) -> tuple[tuple[int, ...], SoftLabels, bool] | str:
    """What is learned of a completion, in the student's tokens: ids, labels, and whether
    `max_new_tokens` cut it; or why nothing is.

    Args:
        ends: Ids at which the student's answers end.
        end_token: Whether an end is taught at all.
        end: The one that is taught where the teacher wrote none of them; None: none is, then.
    """
    if isinstance(span, str):
        return span
    tokens = token_span(writer or tokenizer, completion, span)
    if isinstance(tokens, str):
        return tokens
    start, stop = tokens
    assert completion.labels is not None
    ids, labels = completion.token_ids[start:stop], completion.labels.slice(start, stop)
    if writer is not None:
        text = _decode(writer, ids)
        if "�" in text:
            return "half a character"
        ids = tuple(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        if _decode(tokenizer, ids).strip() != text.strip():
            return "the student's tokenizer can't write it"
        labels = SoftLabels.hard(ids)
    if not ends.isdisjoint(ids):
        return "the student's end token inside the answer"
    cut = completion.stop == "length" and span.end >= len(completion.text.rstrip())
    if cut or not end_token:
        return ids, labels, cut
    written = completion.token_ids[stop:]
    if writer is None and len(written) == 1 and written[0] in ends:
        return (*ids, *written), completion.labels.slice(start, stop + 1), cut
    if end is None:
        return ids, labels, cut
    return (*ids, end), labels.then_hard(end), cut


def gold_completions(
    prompts: Sequence[Prompt], texts: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> list[Completion]:
    """Gold answers in the form of a teacher's, for supervised training: hard labels."""
    gold, end_of = [], functools.cache(lambda chat: own_end(tokenizer, chat=chat))
    for prompt, text in zip(prompts, texts, strict=True):
        eos = end_of(not isinstance(prompt.content, str))
        ids = tuple(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        labels = SoftLabels.hard((*ids, eos))
        text = _decode(tokenizer, ids)
        gold.append(
            Completion(prompt.example_id, prompt.context, text, (*ids, eos), "end", 0, labels)
        )
    return gold


def replay_size(lessons: int, share: float) -> int:
    """How many replayed lessons beside `lessons` others make up `share` of all.

    >>> replay_size(90, 0.1)
    10
    """
    return round(lessons * share / (1 - share))


def replayed(lessons: Sequence[Lesson], count: int, seed: int) -> list[Lesson]:
    """`count` of the lessons (or all there are), drawn without replacement, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(lessons))[:count]
    return [lessons[n] for n in sorted(chosen)]


def _student_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    ids = encode(tokenizer, prompt.content, prompt.context)
    if not ids:
        raise UserError(
            "the student's prompt has no tokens",
            where=f"context {prompt.context}, input {prompt.example_id}",
            fix="give the template some text",
        )
    return ids


def refuse_too_many_failures(
    drops: Drops, inputs: int, max_failed: float, context: str, completions: Sequence[Completion]
) -> None:
    """Stop ahead of training when too many answers could not be used.

    Raises:
        UserError: With the commonest reason and an answer as it was.
    """
    if inputs and len(drops.failed) > max_failed * inputs:
        reason, count = Counter(drops.failed.values()).most_common(1)[0]
        id_ = next(id_ for id_, why in drops.failed.items() if why == reason)
        text = next(c.text for c in completions if c.example_id == id_)
        raise UserError(
            f"{len(drops.failed)} of {inputs} answers could not be extracted, more than"
            f" lessons.max_failed allows ({max_failed:.0%}); most often '{reason}' ({count} times),"
            f" as in input '{id_}': {text[:80]!r}",
            where=f"contexts.{context}.extract",
            fix=(
                "change extract, sampling.max_new_tokens or the teacher's prompt; the completions"
                " are kept"
            ),
        )
