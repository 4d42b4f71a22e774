"""How a teacher's tokens come to a student of its own family, or of another. Pure; tokenizers are
only read.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from unprompt.messages import UserError
from unprompt.records import Completion, SoftLabels

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pair:
    """A teacher and a student that are two models.

    Attributes:
        by: `id`: every id that both tokenizers have is the same token to both, so labels are
            carried across as they are. `text`: the tokenizers differ; only text can be carried
            across, and is tokenised anew.
        why: Of a pair `by` text, in words: where the tokenizers differ first.
        teacher, student: Their tokenizers.
        known: Whether the student has a token of this id, shape (ids,).
        window: Longest sequence that the student reads, in its tokens; None: no limit.
        ends: Ids that end an answer of the teacher's but not the student's: they stand for the
            student's own end token.
    """

    by: Literal["id", "text"]
    why: str
    teacher: PreTrainedTokenizerBase
    student: PreTrainedTokenizerBase
    known: NDArray[np.bool_]
    window: int | None
    ends: frozenset[int]

    def anew(self) -> dict[str, Any]:
        """What `lessons.build` needs to know where text is carried across: who wrote it, and how
        much the student reads.
        """
        return {"writer": self.teacher, "window": self.window} if self.by == "text" else {}

    def carried(self, completions: Sequence[Completion]) -> list[Completion]:
        """The teacher's completions in the student's ids, its end token and all; unchanged where it
        is text that is carried across.

        Raises:
            UserError: A token, or a label's token, that the student does not have.
        """
        return [self._carry(each) if self.by == "id" else each for each in completions]

    def _carry(self, completion: Completion) -> Completion:
        eos = self.student.eos_token_id
        assert isinstance(eos, int)
        labels = completion.labels and _renamed(completion.labels, self.ends, eos)
        ids = tuple(eos if id_ in self.ends else id_ for id_ in completion.token_ids)
        for id_ in (*ids, *(labels.ids.tolist() if labels else ())):
            if id_ >= len(self.known) or not self.known[id_]:
                token = self.teacher.convert_ids_to_tokens(id_)
                raise UserError(
                    f"the teacher's answer to input '{completion.example_id}' has the token {id_}"
                    f" ({token or 'padding'!r}) in it or in its labels, which the student's"
                    " vocabulary does not have",
                    where="teacher_model",
                    fix="name a teacher whose vocabulary is the student's; the answers are kept",
                )
        return replace(completion, token_ids=ids, labels=labels)


def pair(
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    embeddings: int,
    window: int | None,
    student_ends: Set[int],
    teacher_ends: Set[int],
) -> Pair:
    """Compare two tokenizers.

    Args:
        embeddings: Ids that the student's embeddings have, padding among them.
        window: Longest sequence that the student reads, in its tokens; None: no limit.
        student_ends: Ids at which the student's answers end.
        teacher_ends: Ids at which the teacher's answers end.
    """
    ours = {id_: token for token, id_ in student.get_vocab().items()}
    theirs = {id_: token for token, id_ in teacher.get_vocab().items()}
    differ = [id_ for id_ in ours.keys() & theirs.keys() if ours[id_] != theirs[id_]]
    why = ""
    if differ:
        id_ = min(differ)
        why = f"id {id_} is {theirs[id_]!r} to the teacher and {ours[id_]!r} to the student"
    known = np.zeros(max(ours) + 1, bool)
    known[[id_ for id_ in ours if id_ < embeddings]] = True
    ends = frozenset[int]() if why else frozenset(teacher_ends - student_ends)
    return Pair("text" if why else "id", why, teacher, student, known, window, ends)


def unknown(student: PreTrainedTokenizerBase, window: int | None) -> Pair:
    """Of a teacher whose tokenizer nobody named: its text is counted and cut by the student's, and
    tokenised anew.
    """
    why, nothing = "the teacher's is not named", np.zeros(0, bool)
    return Pair("text", why, student, student, nothing, window, frozenset())


def describe(pair: Pair, teacher_embeddings: int = 0, student_embeddings: int = 0) -> list[str]:
    """What was aligned, in lines for the terminal. Embeddings are told where both models' are
    known.
    """
    if pair.by == "text":
        return [
            f"  note: teacher and student have different tokenizers ({pair.why}): the teacher's"
            " answers are tokenised anew for the student, each token its own label"
        ]
    theirs = set(pair.teacher.get_vocab().values())
    ours = set(np.flatnonzero(pair.known).tolist())
    counts = {"teacher": len(theirs - ours), "student": len(ours - theirs)}
    more = [f", {count} only the {who}'s" for who, count in counts.items() if count]
    padded = f"; embeddings {teacher_embeddings} and {student_embeddings}"
    lines = [
        f"  labels are carried from teacher to student by id: {len(theirs & ours)} tokens"
        f" shared{''.join(more)}{padded if teacher_embeddings != student_embeddings else ''}"
    ]
    if pair.ends:
        ends = pair.teacher.convert_ids_to_tokens(sorted(pair.ends))
        lines.append(
            f"  note: the teacher ends its answers with {' or '.join(map(repr, ends))}, the student"
            f" learns its own: {pair.student.eos_token!r}"
        )
    return lines


def _renamed(labels: SoftLabels, ends: frozenset[int], eos: int) -> SoftLabels:
    """Labels in which the probability of every id of `ends` is that of `eos`."""
    hit = np.isin(labels.ids, list(ends))
    if not hit.any():
        return labels
    ids = np.where(hit, eos, labels.ids)
    token = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
    # the end token may have been there, too
    entries, at = np.unique(np.stack([token, ids]), axis=1, return_inverse=True)
    probs = np.zeros(entries.shape[1], np.float32)
    np.add.at(probs, at.ravel(), labels.probs)
    offsets = np.searchsorted(entries[0], np.arange(len(labels) + 1)).astype(np.int32)
    return SoftLabels(entries[1].astype(np.int32), probs, offsets, labels.teacher_nll)
