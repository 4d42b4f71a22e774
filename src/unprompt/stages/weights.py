"""Whose weights answer: each model is loaded once, when first needed, and of students one at a time
is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.engines import Apart, Engine, Lent, hf, kinds, models
from unprompt.engines.server.ledger import Ledger
from unprompt.messages import UserError, bar, say
from unprompt.recipe import Model, Recipe
from unprompt.recipe.names import join
from unprompt.records import BASE, JUDGE, TEACHER, WRITER, Who
from unprompt.stages.estimate import price
from unprompt.stages.questions import QUESTION, Question, address, answered_by
from unprompt.store.answers import Answers
from unprompt.store.folder import RunDir
from unprompt.store.places import Place, put

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unprompt.engines.hf.engine import HFEngine
    from unprompt.stages.collect import Ask

_SERVED = {"teacher": TEACHER, "judge": JUDGE, "writer": WRITER}
"""Who may be a server."""


class Weights:
    """The models of one run.

    Args:
        recipe: Names them.
        files: Where rounds save their students, and answers are kept.
        tokenizer: The student's.

    Attributes:
        stores: Folders of all answers that were asked for.
        spread: Given how a worker makes its engine, asks by many workers; None: in this process.
    """

    def __init__(self, recipe: Recipe, files: RunDir, tokenizer: PreTrainedTokenizerBase) -> None:
        self.recipe, self.files, self.tokenizer = recipe, files, tokenizer
        self.spread: Callable[[Callable[[], Engine]], Ask] | None = None
        self.stores = set[Place]()
        self._student: tuple[str, Any] | None = None
        self._engines: dict[str, Engine] = {}

    @cached_property
    def _base(self) -> Any:
        say("loading the model")
        return models.load_weights(self.recipe.model, "model")

    def identity(self, who: Who) -> list[str]:
        """What fixes these weights, for fingerprints; of a student what it was trained on."""
        model, key = self._named(who)
        if model.server:
            return [models.identity(model, key)]
        fixed = [models.identity(model, key), str(models.dtype(model)), models.device(model).type]
        if model.eos_token:
            fixed.append(model.eos_token)
        if model.chat_template:
            fixed.append(json.dumps(model.chat_template, sort_keys=True))
        if model.date:
            fixed.append(str(model.date))
        if self._apart(who):
            fixed += kinds.settings(model)
        if who.role == "student":
            fixed.append(self.files.round(who.round).notes.read()["train"])
        return fixed

    def collect(self, title: str, question: Question) -> Answers:
        """Answers in the prompts' order; what was answered before, to whatever end, is not asked.

        Args:
            title: What the terminal calls it.
            question: What is asked of whom.
        """
        from unprompt.stages import collect

        recipe, who, side = self.recipe, question.who, question.side
        decided = question.decided_by(self.identity(who), recipe.seed)
        store = self.files.stores(recipe.store) / address(decided)
        self.stores.add(store)
        if not (store / QUESTION).exists():
            put(store / QUESTION, json.dumps(decided, indent=1).encode())
        ask = collect.here(lambda: self.engine(who))
        if self.spread:
            ask = self.spread(self._worker(who))
        with bar(title, len(side.prompts)) as progress:
            return collect.fill(
                ask,
                store,
                question,
                seed=recipe.seed,
                batch_size=recipe.batch_size,
                progress=progress,
            )

    def _worker(self, who: Who) -> Callable[[], Engine]:
        """Makes the engine in another process, perhaps on another machine."""
        return partial(
            _made_elsewhere,
            self.recipe,
            self.files.folder.resolve(),
            self.tokenizer,
            who,
            _place(self._named(who)[0]),
        )

    def engine(self, who: Who) -> Engine:
        """Who answers with these weights; made when first asked for."""
        if self._other_model(who) is None and not self._apart(who):
            return self.student(who)
        model, key = self._named(who)
        known = {"judge.model": "judge", "model": "teacher", "teacher_model": "teacher"}
        name = known.get(key, "writer")
        if name not in self._engines:
            self._engines[name] = kinds.of(model).make(model, key, self._lent(name, model))
        engine = self._engines[name]
        if isinstance(engine, Apart):
            engine.start()
        return engine

    def here(self, who: Who) -> HFEngine:
        """These weights in this process, whoever answers with them; not for a server's."""
        from unprompt.engines.hf.engine import HFEngine

        other = self._other_model(who)
        if other is None:
            return self.student(who)
        name = f"{who} here"
        engine = self._engines.get(name) if self._apart(who) else self.engine(who)
        if not isinstance(engine, HFEngine):
            self.forget_engines()  # room for it
            engine = self._engines[name] = hf.make(*other, self._lent(str(who), other[0]))
        return engine

    def student(self, who: Who) -> HFEngine:
        """The model that is trained: a round's student, else as it was before."""
        from unprompt.engines.hf.engine import HFEngine

        self._close()  # it takes most of a GPU's memory
        name = who.round or "base"
        model, engine = self._load(who), self._engines.get(name)
        if not isinstance(engine, HFEngine) or engine.model is not model:
            engine = self._engines[name] = HFEngine(model, self.tokenizer)
        return engine

    def asked(self) -> dict[str, dict[str, Any]]:
        """What each server was asked by all runs in this folder, for the report."""
        servers = {}
        for who in _SERVED.values():
            server, path = self._named(who)[0].server, self._ledger(str(who))
            if server and path.is_file():
                known, total = price(self.recipe, server), Ledger(path).total
                dollars = {"dollars": float(round(total.dollars(known), 8))} if known else {}
                facts = {"model": server.model, "url": server.url, **asdict(total), **dollars}
                servers[str(who)] = facts
        return servers

    def forget_engines(self) -> None:
        """Their caches go, and the weights of models that are not trained."""
        self._close()
        self._engines.clear()

    def to_train(self, round_: str) -> Any:
        """The student that a round trains: the model or an earlier round's student, with an adapter
        or as a whole.
        """
        from unprompt.stages import train

        start, settings = self.recipe.start_of(round_), self.recipe.plan[round_].train
        self.forget_engines()  # they are not needed now
        if settings.adapter and start == BASE:
            model = train.attach_adapter(self._load(start), settings, self.recipe.seed)
        elif settings.adapter:
            model = self._load(start, trainable=True)
        else:
            model = self._fresh(start).requires_grad_(True)
        self._student = (round_, model)
        return model

    def take_off(self) -> None:
        """The student in memory goes; the base model is as it was."""
        assert self._student
        name, model = self._student
        unload = getattr(model, "unload", None)
        if unload is not None:
            unload()
        self._engines.pop(name, None)
        self._student = None

    def forget(self) -> None:
        """All weights go; they are loaded again when they are needed."""
        self._student = None
        self._engines.clear()
        self.__dict__.pop("_base", None)

    def _other_model(self, who: Who) -> tuple[Model, str] | None:
        """A model that is not trained, and its key in the recipe; None where the student's
        answers.
        """
        recipe = self.recipe
        if who.role == "judge" and recipe.judge and recipe.judge.model:
            return recipe.judge.model, "judge.model"
        if who.role == "writer" and recipe.writer:
            where, model = recipe.writer
            return model, where
        if who.role in ("teacher", "judge", "writer") and recipe.teacher_model:
            return recipe.teacher_model, "teacher_model"
        return None

    def _named(self, who: Who) -> tuple[Model, str]:
        """The model with these weights (of a student, the one that is trained), and its key."""
        return self._other_model(who) or (self.recipe.model, "model")

    def _close(self) -> None:
        """The memory of engines outside of this process comes back, until they are asked again."""
        for engine in self._engines.values():
            if isinstance(engine, Apart):
                engine.close()

    def _apart(self, who: Who) -> bool:
        """Whether another engine than the student's answers with these weights."""
        return who.role in _SERVED and self._named(who)[0].engine != "hf"

    def _lent(self, role: str, model: Model) -> Lent:
        lent = Lent(role, self.tokenizer, self.recipe.batch_size, self._ledger(role))
        if not model.server:
            return lent
        kept = self._kept(role) if model.server.budget else (0, 0)
        return replace(lent, kept=kept, price=price(self.recipe, model.server))

    def _kept(self, role: str) -> tuple[int, int]:
        """Tokens of prompts and of answers of a server that this folder has, and that its other
        role has not paid for. Of a store outside nobody knows whose budget paid.
        """
        own = self.identity(_SERVED[role])
        found = np.array(answered_by(own, self.files.completions))
        for other in _SERVED.keys() - {role}:
            who = _SERVED[other]
            if self._named(who)[0].server and self.identity(who) == own:
                spent = Ledger(self._ledger(other)).spent
                found -= (spent.prompt_tokens, spent.completion_tokens)
        prompt, answer = found.clip(min=0).tolist()
        return prompt, answer

    def _ledger(self, name: str) -> Path:
        return self.files.folder / f"asked-{name}.jsonl"

    def _load(self, who: Who, *, trainable: bool = False) -> Any:
        """A round's student, or the model as it was before. A student's adapter is put onto that
        model, and taken off again for another's.
        """
        round_ = who.round
        if self._student and (self._student[0] != round_ or trainable):
            self.take_off()
        if self._student:
            return self._student[1]
        if not round_:
            return self._base
        self.files.round(round_).notes.prove_student()
        folder, settings = self.files.round(round_).student.resolve(), self.recipe.plan[round_]
        if settings.train.adapter:
            model = self._with_adapter(folder, trainable=trainable)
        else:
            own = {"name": str(folder)} | dict.fromkeys(["gguf", "sha256", "rule", "revision"])
            model = models.load_weights(
                self.recipe.model.model_copy(update=own), f"rounds.{round_}"
            )
        self._student = (round_, model)
        return model

    def _with_adapter(self, folder: Path, *, trainable: bool) -> Any:
        from peft import PeftModel

        fix = "remove that folder and run the recipe again: it is trained anew, and no answer is"
        fix += " lost"
        if not (folder / "adapter_model.safetensors").is_file():  # peft would go on to a pickle
            raise UserError("there is no adapter_model.safetensors", where=str(folder), fix=fix)
        try:
            model: Any = PeftModel.from_pretrained(self._base, str(folder), is_trainable=trainable)
        except Exception as error:  # adapter_config.json may hold anything
            raise UserError(
                f"the student can't be loaded: {str(error)[:200]}", where=str(folder), fix=fix
            ) from None
        return model if trainable else model.eval()

    def _fresh(self, start: Who) -> Any:
        """All weights, to be trained: a copy of their own."""
        if self._student:
            self.take_off()
        if start == BASE:
            return models.load_weights(self.recipe.model, "model")
        model = self._load(start)
        self._student = None
        return model


def _place(model: Model) -> tuple[str, str]:
    """Number format and kind of device, which completions are kept apart by."""
    return str(models.dtype(model)), models.device(model).type


def _made_elsewhere(
    recipe: Recipe,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    who: Who,
    place: tuple[str, str],
) -> Engine:
    join(recipe.modules, recipe.functions)
    weights = Weights(recipe, RunDir(folder), tokenizer)
    found = _place(weights._named(who)[0])
    if found != place:
        raise UserError(
            f"a worker would run the model as {' on '.join(found)}, and the run's completions are"
            f" kept as {' on '.join(place)}",
            where="--ray",
            fix="name dtype and device in the recipe, and use machines of one kind",
        )
    return weights.engine(who)
