"""The nouns. Nothing else flows between the stages.

`Example` -> `Prompt` -> `Completion` -> `Lesson`, and `Grade` for what is measured. All are
immutable and plain: token ids are tuples of int, soft labels are flat NumPy arrays (compressed
sparse rows).
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Message = dict[str, Any]
"""One turn: `role`, `content` (text, a list of parts, or None beside calls), and where it has them
`tool_calls` (`{id?, type, function: {name, arguments}}`, arguments a dictionary), `tool_call_id`
and `name`.
"""


@dataclass(frozen=True, slots=True)
class Chat(Sequence[Message]):
    """Messages, and what else the model's chat template reads.

    Attributes:
        messages: The turns.
        tools: What may be called, each `{type: function, function: {...}}`.
        variables: Of the template, over those of the model (`enable_thinking`).
    """

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    variables: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, place: int) -> Message: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Message, ...]: ...
    def __getitem__(self, place: int | slice) -> Message | tuple[Message, ...]:
        return self.messages[place]

    @property
    def decides(self) -> dict[str, Any]:
        """All that there is, for fingerprints."""
        beside = {"variables": self.variables} if self.variables else {}
        return {"messages": self.messages, "tools": self.tools, **beside}

    @property
    def plain(self) -> Messages:
        """The turns alone, where there is nothing beside them."""
        return self if self.tools or self.variables else self.messages


Messages = tuple[Message, ...] | Chat
"""A chat: turns alone, where the template reads nothing else."""


def like(messages: tuple[Message, ...], of: Messages) -> Messages:
    """Other messages, with all else that a chat has."""
    return replace(of, messages=messages) if isinstance(of, Chat) else messages


def text_of(content: Any) -> str:
    """The text of a message's content: a text, its text parts a line each, or none."""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", "")) for part in content or ())


def spelled(message: Message) -> str:
    """All that a message says, for people: its text, then each call as JSON in a line."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    texts = [text_of(message["content"])]
    return "\n".join([*filter(None, texts), *(_json(call) for call in calls)])


_json = partial(json.dumps, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Who:
    """Whose weights answer.

    Attributes:
        role: `teacher` (the recipe's), `base` (the student ahead of any round), `judge`, `writer`
            (of inputs), or `student` (a round's).
        round: Of a student, the round that trains it.
    """

    role: Literal["teacher", "base", "judge", "writer", "student"]
    round: str = ""

    def __str__(self) -> str:
        """As tables and reports name it."""
        return self.round or self.role


TEACHER, BASE = Who("teacher"), Who("base")
JUDGE, WRITER = Who("judge"), Who("writer")


def student(round_: str) -> Who:
    """The student of a round."""
    return Who("student", round_)


@dataclass(frozen=True, slots=True)
class System:
    """A row of a table: somebody's weights under some prompt.

    Attributes:
        name: `teacher`, `before`, a round's, that with `_teacher_prompt`, or one of the recipe's
            `systems`.
        shots: How many shots stand ahead of the prompt, and `draw` which draw of them; None without
            shots.
    """

    name: str
    who: Who
    shots: int | None = None
    draw: int | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One raw input x drawn from D, with everything its row held.

    Attributes:
        id: Unique within its data set.
        fields: The row; templates see each key as a variable.
        target: The gold answer, if the data has one. Never shown to a template unless it is also a
            field.
        group: What it belongs to, as a conversation: rows of a group are held out together.
        written: Whether a model wrote it.
    """

    id: str
    fields: dict[str, Any]
    target: Any = None
    group: str | None = None
    written: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered template, T(x): plain text or chat messages.

    Attributes:
        others: Further renderings of the same input, of a prompt ensemble: next-token probabilities
            are averaged over `content` and these.
    """

    example_id: str
    context: str
    content: str | Messages
    others: tuple[str | Messages, ...] = ()

    @property
    def renderings(self) -> tuple[str | Messages, ...]:
        """All of them; one, unless the prompt is an ensemble."""
        return (self.content, *self.others)


def as_text(content: str | Messages) -> str:
    """A prompt for people to read."""
    if isinstance(content, str):
        return content
    tools = content.tools if isinstance(content, Chat) else ()
    lines = [f"[tools] {_json(list(tools))}"] if tools else []
    for message in content:
        answered = message.get("tool_call_id") or message.get("name")
        to = f" {answered}" if message["role"] == "tool" and answered else ""
        lines.append(f"[{message['role']}{to}] {spelled(message)}")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class SoftLabels:
    """What a teacher said about N tokens: for each, some token ids with probabilities.

    Token n's entries are `ids[offsets[n]:offsets[n + 1]]`, the same slice of `probs`.

    Attributes:
        ids: Token ids, int32, shape (entries,).
        probs: Label probability q(v) of each id, float32, shape (entries,); sums to 1 for each
            token.
        offsets: Where each token's entries start, int32, shape (N + 1,).
        teacher_nll: `-sum_v q(v) log p_teacher(v)` of each token in nats, float32, shape (N,): the
            cross-entropy that a student equal to the teacher has. Subtracting it from the student's
            cross-entropy gives an unbiased estimate of KL(teacher || student) when the ids were
            drawn from the teacher, exactly 0 for the teacher itself.
    """

    ids: NDArray[np.int32]
    probs: NDArray[np.float32]
    offsets: NDArray[np.int32]
    teacher_nll: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.teacher_nll)

    def token(self, n: int) -> list[tuple[int, float]]:
        """The (id, probability) pairs of token `n`, most probable first."""
        span = slice(self.offsets[n], self.offsets[n + 1])
        return sorted(
            zip(self.ids[span].tolist(), self.probs[span].tolist(), strict=True),
            key=lambda pair: -pair[1],
        )

    def slice(self, start: int, stop: int) -> SoftLabels:
        """The labels of tokens `start` to `stop` (exclusive)."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        return SoftLabels(
            self.ids[first:last],
            self.probs[first:last],
            self.offsets[start : stop + 1] - self.offsets[start],
            self.teacher_nll[start:stop],
        )

    def then_hard(self, token_id: int) -> SoftLabels:
        """These labels followed by one token that is certain (probability 1, teacher's
        cross-entropy 0).
        """
        return SoftLabels.concat([self, SoftLabels.hard([token_id])])

    @staticmethod
    def hard(
        token_ids: list[int] | tuple[int, ...], teacher_nll: NDArray[np.float32] | None = None
    ) -> SoftLabels:
        """Each token is its own label with probability 1."""
        n = len(token_ids)
        return SoftLabels(
            np.asarray(token_ids, np.int32),
            np.ones(n, np.float32),
            np.arange(n + 1, dtype=np.int32),
            np.zeros(n, np.float32) if teacher_nll is None else teacher_nll,
        )

    @staticmethod
    def concat(parts: list[SoftLabels]) -> SoftLabels:
        """Labels of consecutive tokens, joined."""
        sizes = [np.diff(part.offsets) for part in parts]
        return SoftLabels(
            np.concatenate([p.ids for p in parts]) if parts else np.zeros(0, np.int32),
            np.concatenate([p.probs for p in parts]) if parts else np.zeros(0, np.float32),
            np.concatenate([[0], np.cumsum(np.concatenate(sizes))]).astype(np.int32)
            if parts
            else np.zeros(1, np.int32),
            np.concatenate([p.teacher_nll for p in parts]) if parts else np.zeros(0, np.float32),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """A model's answer to one prompt.

    Attributes:
        text: Decoded tokens, up to a stop string or the end token (both left out).
        token_ids: All tokens generated, the end token or stop string included.
        stop: Why it ended: `end` (the model's end token), `stop` (a stop string), `length`
            (max_new_tokens), `filtered` (a server withheld it: it is empty), or `given` (nobody
            wrote it, it was scored).
        prompt_tokens: Length of the prompt in the model's tokens; of an ensemble, of all its
            prompts.
        labels: One soft label for each of `token_ids`; None if none were asked for.
        opened: The thought that its prompt opened ahead of it (`<think>`), in which it begins;
            empty: none. The prompt says it, so no store keeps it.
    """

    example_id: str
    context: str
    text: str
    token_ids: tuple[int, ...]
    stop: str
    prompt_tokens: int
    labels: SoftLabels | None = None
    opened: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """The one kind of training item.

    Attributes:
        input_ids: Prompt and target, T tokens.
        prompt_length: How many of them are the prompt (an encoder-decoder model reads those in its
            encoder).
        weights: Weight of predicting each token, float32, shape (T,); 0 = context only. Weights lie
            behind the prompt.
        labels: One label for each token whose weight is not 0, in order.
        loss_weight: Factor of its loss. A step's loss is divided by `weights` and not by this, so
            that it is the same factor whatever else is in the step.
    """

    example_id: str
    context: str
    input_ids: tuple[int, ...]
    prompt_length: int
    weights: NDArray[np.float32]
    labels: SoftLabels
    loss_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Grade:
    """One system's answer to one held-out example, and what it is worth.

    Attributes:
        system: `teacher`, `before`, a round's name, that with `_teacher_prompt`, or one of the
            recipe's `systems`.
        answer: The extracted answer; None if extraction failed (then `failure` says why).
        metrics: Metric name -> value.
        group: What the recipe's `evaluate.group` names; examples of one group are one observation.
        lenient_answer: What `evaluate.lenient` extracts; None if it is not asked for, or finds
            nothing.
        shots: How many shots stood ahead of the prompt, and `draw` which draw of them; None without
            shots.
        cut: Whether `max_new_tokens` cut what is graded. What it cuts behind that does no harm.
    """

    example_id: str
    context: str
    system: str
    text: str
    answer: str | None
    target: Any
    prompt_tokens: int
    completion_tokens: int
    failure: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    group: str | None = None
    lenient_answer: str | None = None
    shots: int | None = None
    draw: int | None = None
    cut: bool = False

    @property
    def row(self) -> str:
        """Name of its row; `after@4/2` is `after` behind 4 shots, second draw."""
        return self.system if self.shots is None else f"{self.system}@{self.shots}/{self.draw}"

    @property
    def shown(self) -> str:
        """What people and judges rate: the extracted answer; where extraction failed, all that was
        written, which is what a user would have got.
        """
        return self.text if self.answer is None else self.answer


@dataclass(frozen=True, slots=True)
class TokenKL:
    """KL(teacher || system) on answers of the teacher, token by token.

    Attributes:
        example_ids: Whose answers; those that could not be extracted are left out.
        pieces: For each answer the text of each token; the tokens of one character stand together
            in the first of them.
        nats: For each answer KL of each token in nats, estimated from the label's draws (so a small
            one may be under 0).
    """

    example_ids: list[str]
    pieces: list[list[str]]
    nats: list[list[float]]

    def means(self) -> list[float]:
        """Nats per token of each answer."""
        return [float(np.mean(values)) for values in self.nats]

    def sums(self) -> list[float]:
        """Nats of each answer."""
        return [float(np.sum(values)) for values in self.nats]


_Item = TypeVar("_Item", covariant=True)


class Lookup(Sequence[_Item]):
    """Items that are read, or put together, when they are asked for, and kept nowhere."""

    @abstractmethod
    def at(self, place: int) -> _Item:
        """The item at a place, from 0 on."""

    @overload
    def __getitem__(self, place: int) -> _Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[_Item]: ...
    def __getitem__(self, place: int | slice) -> _Item | list[_Item]:
        places = range(len(self))[place]
        return self.at(places) if isinstance(places, int) else [self.at(n) for n in places]
