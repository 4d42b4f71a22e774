"""A finished run's systems, ready to answer new inputs: what `unprompt chat` and the page Try talk
to.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from unprompt import recipe as recipe_
from unprompt.messages import UserError
from unprompt.recipe import Template
from unprompt.records import BASE, TEACHER, Example, Prompt, student
from unprompt.report import cost
from unprompt.stages import check
from unprompt.stages.prompts import measure, rendered
from unprompt.stages.templates.render import render_all, variables
from unprompt.stages.weights import Weights
from unprompt.store.folder import RunDir


@dataclass(frozen=True, slots=True)
class Reply:
    """One system's answer to a new input.

    Attributes:
        text: The whole answer.
        prompt_tokens: Of an ensemble, of all its prompts.
        tokens: How many were written, the end token included.
        seconds: From the prompt to the last token; loading weights is not counted.
        stop: Why it ended, as in `Completion`.
        dollars: What the call costs without a prompt cache; None if the recipe has no `cost`.
    """

    text: str
    prompt_tokens: int
    tokens: int
    seconds: float
    stop: str
    dollars: Decimal | None

    @property
    def figures(self) -> str:
        """One line."""
        cut = ", cut at max_new_tokens" if self.stop == "length" else ""
        dollars = "" if self.dollars is None else f" · ${self.dollars.normalize():f}"
        return (
            f"{self.prompt_tokens:,} prompt tokens · {self.tokens:,} written{cut} ·"
            f" {self.seconds:.2f} s{dollars}"
        )


@dataclass(frozen=True, slots=True)
class Conversation:
    """How a context's inputs hold a conversation.

    Attributes:
        turns: The field with the turns so far.
        line: The field with the newest line of the user; None: it is the last of the turns.
        answered: The data's turns end with the answer, which the templates leave out.
    """

    turns: str
    line: str | None
    answered: bool = False

    def typed(self, before: Sequence[Mapping[str, str]], line: str) -> dict[str, str]:
        """A line behind these turns, as fields are typed."""
        turns = [*before] if self.line else [*before, {"role": "user", "content": line}]
        turns += [{"role": "assistant", "content": "."}] if self.answered else []
        typed = {self.turns: json.dumps(turns, ensure_ascii=False)}
        return typed | {self.line: line} if self.line else typed


class Live:
    """The systems of a run. One answer is written at a time, so that its seconds are its own.

    Args:
        folder: A finished run's.

    Raises:
        UserError: There is no finished run, or what its recipe names is no longer there.
    """

    def __init__(self, folder: Path) -> None:
        files = RunDir(folder)
        self.name = str(files.report()["name"])
        found = recipe_.load(files.recipe)
        # the weights are in this process anyway, for the students; vLLM would take a minute to
        # start
        self.recipe = found.model_copy(
            update={"model": found.model.model_copy(update={"engine": "hf", "vllm": {}})}
        )
        self.prompts, self._prices = rendered(self.recipe), check.costs(self.recipe)
        self.contexts = list(self.recipe.contexts)
        self._weights = Weights(self.recipe, files, self.prompts.readers.student.tokenizer)
        self._busy = threading.Lock()

    def context(self, name: str | None) -> str:
        """A context's name; the first one unless given.

        Raises:
            UserError: There is no such context.
        """
        if name is not None and name not in self.contexts:
            raise UserError(
                f"there is no context '{name}'",
                where="--context",
                fix=f"there are: {', '.join(self.contexts)}",
            )
        return name or self.contexts[0]

    def systems(self, context: str) -> list[str]:
        """Who can be asked: `teacher` (where the context has one), `before`, and each round's
        student.
        """
        teacher = ["teacher"] if self.recipe.contexts[context].teacher else []
        return [*teacher, "before", *self.recipe.plan]

    def fields(self, context: str) -> list[str]:
        """What an input of this context is made of."""
        of = self.recipe.contexts[context]
        named = [
            name
            for template in (of.student, of.teacher)
            if template
            for name in variables(template)
        ]
        pool = {"examples"} if of.examples else set[str]()
        return [name for name in dict.fromkeys(named) if name not in pool]

    def conversation(self, context: str) -> Conversation | None:
        """Where the turns of a conversation stand, and where its newest line does: last among them,
        or in a message of the user's behind. None, where the student's prompt holds no turns, or
        it is not plain where a line goes.
        """
        messages = self.recipe.contexts[context].student.messages or ()
        places = [n for n, message in enumerate(messages) if message.turns is not None]
        if len(places) != 1:
            return None
        turns = re.fullmatch(r"(?:input\.)?(\w+)(\[:-1\])?", messages[places[0]].turns or "")
        behind = messages[places[0] + 1 :]
        line = variables(Template(messages=behind)) if behind else []
        plain = all(message.role == "user" for message in behind) and len(behind) <= 1
        if not turns or not plain or len(line) != len(behind) or turns[1] in line:
            return None
        return Conversation(turns[1], line[0] if line else None, answered=bool(turns[2]))

    def examples(self, context: str) -> dict[str, dict[str, str]]:
        """Held-out examples (training inputs, if there are none), their fields as one would type
        them.
        """
        rows = self.prompts.inputs.of(context)
        return {
            row.id: {name: _typed(row.fields.get(name, "")) for name in self.fields(context)}
            for row in rows
        }

    def prompt(self, context: str, system: str, typed: Mapping[str, str]) -> Prompt:
        """What the system is asked.

        Raises:
            UserError: A field that holds no text in the data is typed as no JSON, or the template
                fails.
        """
        known = self.prompts.inputs.of(context)
        values = {
            name: _value(name, text, known[0].fields.get(name, "") if known else "")
            for name, text in typed.items()
        }
        of, example = self.recipe.contexts[context], Example("typed", values)
        if system == "teacher" and of.teacher:
            shown = self.prompts.inputs.shown[context]
            return render_all(context, of.teacher, "teacher", [example], shown)[0]
        pool = self.prompts.inputs.pools[context]
        return render_all(context, of.student, "student", [example], [pool])[0]

    def reply(
        self,
        context: str,
        system: str,
        typed: Mapping[str, str],
        heard: Callable[[str], object] | None = None,
    ) -> Reply:
        """Ask one system, with the sampling that its held-out answers were written with.

        Args:
            system: One of `systems`.
            typed: Field -> text.
            heard: Told the answer so far.

        Raises:
            UserError: No such system, an input that the template can't use, or a prompt over the
                window.
        """
        if system not in self.systems(context):
            raise UserError(
                f"there is no system '{system}'",
                where=context,
                fix=f"there are: {', '.join(self.systems(context))}",
            )
        recipe = self.recipe
        sampling = recipe.sampling_of(recipe.evaluation(context))
        who = recipe.taught_by(context)[0] if system == "teacher" else student(system)
        who = BASE if system == "before" else who
        asked, where = self.prompt(context, system, typed), f"contexts.{context}.{system}"
        reader = self.prompts.readers.of(who)
        length = measure([asked], reader, where, sampling.max_new_tokens).lengths[0]
        template = "teacher" if system == "teacher" else "student"
        seen = self.prompts.side(context, template, held_out=True)
        with self._busy:
            engine = self._weights.engine(who)
            began = time.perf_counter()
            found = engine.generate(
                [asked],
                sampling,
                None,
                seed=recipe.seed,
                prefix_tokens=seen.prefix if seen else None,
                heard=(lambda _, text: heard(text)) if heard else None,
            )[0]
            seconds = time.perf_counter() - began
        price = self._prices.get("teacher" if who == TEACHER else "student")
        dollars = cost.dollars(price, length, len(found.token_ids)) if price else None
        return Reply(found.text, length, len(found.token_ids), seconds, found.stop, dollars)

    def stream(
        self, context: str, system: str, typed: Mapping[str, str]
    ) -> Generator[str | Reply, None, None]:
        """The answer so far, again and again, and at last the `Reply`. Whoever stops listening
        stops the writing, too.
        """
        said: queue.SimpleQueue[str | Reply | BaseException] = queue.SimpleQueue()
        left = threading.Event()

        def heard(text: str) -> None:
            if left.is_set():
                raise _NobodyListens
            said.put(text)

        def work() -> None:
            try:
                said.put(self.reply(context, system, typed, heard))
            except BaseException as error:  # the listener raises it
                said.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            item = said.get()
            while isinstance(item, str):
                while isinstance(item, str) and not said.empty():
                    item = said.get()
                if isinstance(item, str):
                    yield item
                    item = said.get()
        finally:
            left.set()
        if isinstance(item, BaseException):
            raise item
        yield item


class _NobodyListens(Exception):
    pass


def _typed(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _value(name: str, text: str, like: object) -> object:
    """What was typed, as the data has it: text, or else JSON."""
    if isinstance(like, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(
            f"'{name}' is no JSON",
            where="input",
            fix=f"write it as the data does, like {json.dumps(like)[:80]}",
        ) from None
