"""Who reads prompts, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unprompt.engines import models, variables, vocabulary
from unprompt.engines.chats import variables_of
from unprompt.engines.server.engine import refuse_content
from unprompt.engines.tokens import Reader, common_prefix, end_ids, refuse_length, refuse_switch
from unprompt.messages import UserError
from unprompt.recipe import Model, Recipe
from unprompt.records import Prompt, Who
from unprompt.stages.prompts.side import Side

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Readers:
    """Who reads a run's prompts.

    Attributes:
        judge: None without a judge.
        writer: Of inputs; None where the teacher writes them.
        pair: How the tokens of a teacher that is another model come to the student; None if the
            student's own model teaches.
    """

    student: Reader
    teacher: Reader
    judge: Reader | None
    writer: Reader | None
    pair: vocabulary.Pair | None

    def of(self, who: Who) -> Reader:
        """Who reads what these weights are asked."""
        if who.role == "judge" and self.judge:
            return self.judge
        if who.role == "writer":
            return self.writer or self.teacher
        return self.teacher if who.role == "teacher" else self.student

    @property
    def tokenizers(self) -> list[PreTrainedTokenizerBase]:
        """Of all who read."""
        everybody = self.student, self.teacher, self.judge, self.writer
        return [each.tokenizer for each in everybody if each]

    def carrying(self, who: Who) -> vocabulary.Pair | None:
        """How this teacher's tokens come to the student, if it is another model."""
        return self.pair if who.role == "teacher" else None


def readers(recipe: Recipe) -> Readers:
    """Tokenizers and windows of the recipe's models. Reads no weights.

    Raises:
        UserError: One can't be read.
    """
    student = _reader(recipe.model, "model")
    teacher, pair = student, None
    if recipe.teacher_model:
        teacher = _reader(recipe.teacher_model, "teacher_model", student.tokenizer)
        pair = _pair(recipe, recipe.teacher_model, student, teacher)
    judge = teacher if recipe.judge else None
    if recipe.judge and recipe.judge.model:
        judge = _reader(recipe.judge.model, "judge.model", student.tokenizer)
    writer = None
    if recipe.writer:
        where, model = recipe.writer
        writer = _reader(model, where, student.tokenizer)
    return Readers(student, teacher, judge, writer, pair)


def _reader(model: Model, where: str, student: PreTrainedTokenizerBase | None = None) -> Reader:
    """Who reads a model's prompts; of a server that names no tokenizer, the student's."""
    if server := model.server:
        assert student
        named = model.server_tokenizer
        own = models.load_tokenizer(named, f"{where}.server.tokenizer") if named else student
        return Reader(own, False, model.window, frozenset(end_ids(own)), server)
    config, tokenizer = models.load_config(model, where), models.load_tokenizer(model, where)
    window = models.window(model, config, tokenizer)
    ends = frozenset(models.ends_of(model, tokenizer, config, where))
    switch = models.rope_switch(config)
    embeddings = int(config.get_text_config().vocab_size)
    return Reader(
        tokenizer,
        config.is_encoder_decoder,
        window,
        ends,
        rope_switch=switch,
        embeddings=embeddings,
    )


def _pair(recipe: Recipe, teacher: Model, student: Reader, reader: Reader) -> vocabulary.Pair:
    """How labels come from the teacher to the student."""
    if teacher.server and not teacher.server.tokenizer:
        return vocabulary.unknown(student.tokenizer, student.window)
    assert student.embeddings is not None
    return vocabulary.pair(
        student.tokenizer,
        reader.tokenizer,
        student.embeddings,
        student.window,
        student.ends,
        reader.ends,
    )


def measure(asked: Sequence[Prompt], reader: Reader, where: str, longest_answer: int) -> Side:
    """Prompts with their lengths in the reader's tokens.

    Raises:
        UserError: One is empty, of a form that the reader can't be asked, or over its window with
            its answer.
    """
    if reader.server:
        for prompt in asked:
            refuse_content(reader.server, prompt.content, where)
    if asked and not (reader.server and not reader.server.tokenizer):
        # a chat endpoint with another tokenizer here has a template that nobody can see
        given = variables_of(asked[0].content)
        variables.refuse(reader.tokenizer, given, f"{where}.chat_template")
    lengths: list[int] = []
    bounds: list[list[list[int]]] = []  # of each rendering: what tells the prefix of those so far
    for prompt in asked:
        ids = [reader.encode(content, where) for content in prompt.renderings]
        for tokens in ids:
            _refuse(prompt, tokens, reader, where, longest_answer)
        lengths.append(sum(map(len, ids)))
        bounds = bounds or [[tokens] for tokens in ids]
        bounds = [_bounds([*own, tokens]) for own, tokens in zip(bounds, ids, strict=True)]
    prefix = tuple(0 if reader.encoder_decoder else common_prefix(own) for own in bounds)
    return Side(asked, lengths, prefix, reader.opened(bounds[0][0]) if bounds else "")


def _bounds(sequences: list[list[int]]) -> list[list[int]]:
    """Those that tell what all begin with: first and last in the dictionary, and the shortest."""
    return [min(sequences), max(sequences), min(sequences, key=len)]


def _refuse(
    prompt: Prompt, tokens: Sequence[int], reader: Reader, where: str, longest_answer: int
) -> None:
    what = f"the prompt of input '{prompt.example_id}'"
    refuse_length(what, len(tokens), longest_answer, reader.window, where)
    refuse_switch(what, len(tokens), longest_answer, reader.rope_switch, where)
    highest = max(tokens, default=0)
    if reader.embeddings and highest >= reader.embeddings:
        token = reader.tokenizer.convert_ids_to_tokens(highest)
        raise UserError(
            f"{what} has the token {token!r} ({highest}) in it, and the model has only"
            f" {reader.embeddings} embeddings",
            where=where,
            fix="take that text out of the data or the template",
        )
    ends = tokens[-1] == reader.tokenizer.eos_token_id
    if ends and isinstance(prompt.content, str) and not reader.encoder_decoder:
        raise UserError(
            "the tokenizer puts an end token behind the prompt",
            where=where,
            fix="set add_eos_token to false in its tokenizer_config.json",
        )
