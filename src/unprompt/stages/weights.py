"""Whose weights answer: each model is loaded once, when first needed, and of students one at a time
is in memory.

Whose weights: `teacher` (the recipe's), `base` (the student before any round), `judge`, or a
round's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt.engines import Apart, Engine, Lent, hf, kinds, models
from unprompt.engines.server.ledger import Ledger
from unprompt.messages import UserError, bar, say
from unprompt.recipe import Model, Recipe
from unprompt.recipe.names import search
from unprompt.stages.questions import QUESTION, Question, address
from unprompt.store.answers import Answers
from unprompt.store.folder import RunDir
from unprompt.store.places import put

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unprompt.engines.hf.engine import HFEngine
    from unprompt.stages.collect import Ask


class Weights:
    """The models of one run.

    Args:
        recipe: Names them.
        files: Where rounds save their students, and answers are kept.
        tokenizer: The student's.

    Attributes:
        made_from: Round -> fingerprint of what its student was trained on; to be set ahead of
            asking for it.
        spread: Given how a worker makes its engine, asks by many workers; None: in this process.
    """

    def __init__(self, recipe: Recipe, files: RunDir, tokenizer: PreTrainedTokenizerBase) -> None:
        self.recipe, self.files, self.tokenizer = recipe, files, tokenizer
        self.made_from: dict[str, str] = {}
        self.spread: Callable[[Callable[[], Engine]], Ask] | None = None
        self._student: tuple[str, Any] | None = None
        self._engines: dict[str, Engine] = {}

    @cached_property
    def _base(self) -> Any:
        say("loading the model")
        return models.load_weights(self.recipe.model, "model")

    def identity(self, whose: str) -> list[str]:
        """What fixes these weights, for fingerprints."""
        model, key = self._other_model(whose) or (self.recipe.model, "model")
        if model.server:
            return [models.identity(model, key)]
        found = [
            models.identity(model, key),
            str(models.dtype(model)),
            models.device(model).type,
            *([model.eos_token] if model.eos_token else []),
            *(kinds.settings(model) if self._apart(whose) else []),
        ]
        return [*found, self.made_from[whose]] if whose in self.recipe.plan else found

    def collect(self, title: str, question: Question) -> Answers:
        """Answers in the prompts' order; what was answered before, to whatever end, is not asked.

        Args:
            title: What the terminal calls it.
            question: What is asked of whom.
        """
        from unprompt.stages import collect

        recipe, whose, side = self.recipe, question.whose, question.side
        decided = question.decided_by(self.identity(whose), recipe.seed)
        store = self.files.stores(recipe.store) / address(decided)
        if not (store / QUESTION).exists():
            put(store / QUESTION, json.dumps(decided, indent=1).encode())
        asking = collect.Asking(
            store, question.sampling, question.labels, recipe.seed, recipe.batch_size, side.prefix
        )
        ask = (
            self.spread(self._worker(whose))
            if self.spread
            else collect.here(lambda: self.engine(whose))
        )
        with bar(title, len(side.prompts)) as progress:
            return collect.fill(ask, asking, side.prompts, side.lengths, question.given, progress)

    def _worker(self, whose: str) -> Callable[[], Engine]:
        """Makes the engine in another process, perhaps on another machine."""
        model = (self._other_model(whose) or (self.recipe.model, ""))[0]
        return partial(
            _made_elsewhere,
            self.recipe,
            self.files.folder.resolve(),
            self.tokenizer,
            whose,
            _place(model),
        )

    def engine(self, whose: str) -> Engine:
        """Who answers with these weights; made when first asked for."""
        other = self._other_model(whose)
        if other is None and not self._apart(whose):
            return self.student("base" if whose in ("teacher", "judge") else whose)
        model, key = other or (self.recipe.model, "model")
        name = "judge" if key == "judge.model" else "teacher"
        if name not in self._engines:
            self._engines[name] = kinds.of(model).make(model, key, self._lent(name, model))
        engine = self._engines[name]
        if isinstance(engine, Apart):
            engine.start()
        return engine

    def here(self, whose: str) -> HFEngine:
        """These weights in this process, whoever answers with them; not for a server's."""
        from unprompt.engines.hf.engine import HFEngine

        other = self._other_model(whose)
        if other is None:
            return self.student("base" if whose in ("teacher", "judge") else whose)
        known = self._engines.get(f"{whose} here") if self._apart(whose) else self.engine(whose)
        if not isinstance(known, HFEngine):
            self.forget_engines()  # room for it
            made = hf.make(*other, self._lent(whose, other[0]))
            known = self._engines[f"{whose} here"] = made
        return known

    def student(self, whose: str) -> HFEngine:
        """The model that is trained: `base`, or a round's student."""
        from unprompt.engines.hf.engine import HFEngine

        self._close()  # it takes most of a GPU's memory
        model, known = self._load(None if whose == "base" else whose), self._engines.get(whose)
        if not isinstance(known, HFEngine) or known.model is not model:
            known = self._engines[whose] = HFEngine(model, self.tokenizer)
        return known

    def asked(self) -> dict[str, dict[str, Any]]:
        """What each server was asked by all runs in this folder, for the report."""
        from unprompt.stages import served

        found = {}
        for name in ("teacher", "judge"):
            model, _ = self._other_model(name) or (None, "")
            path = self._ledger(name)
            if model and model.server and path.is_file():
                price, total = served.price(self.recipe, model.server), Ledger(path).total
                dollars = {"dollars": float(round(total.dollars(price), 8))} if price else {}
                found[name] = {
                    "model": model.server.model,
                    "url": model.server.url,
                    **asdict(total),
                    **dollars,
                }
        return found

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
        if settings.adapter and not start:
            student = train.attach_adapter(self._load(None), settings, self.recipe.seed)
        elif settings.adapter:
            student = self._load(start, trainable=True)
        else:
            student = self._fresh(start).requires_grad_(True)
        self._student = (round_, student)
        return student

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

    def _other_model(self, whose: str) -> tuple[Model, str] | None:
        """A model that is not trained, and its key in the recipe; None where the student's
        answers.
        """
        if whose == "judge" and self.recipe.judge and self.recipe.judge.model:
            return self.recipe.judge.model, "judge.model"
        return (
            (self.recipe.teacher_model, "teacher_model")
            if whose in ("teacher", "judge") and self.recipe.teacher_model
            else None
        )

    def _close(self) -> None:
        """The memory of engines outside of this process comes back, until they are asked again."""
        for engine in self._engines.values():
            if isinstance(engine, Apart):
                engine.close()

    def _apart(self, whose: str) -> bool:
        """Whether another engine than the student's answers with these weights."""
        model, _ = self._other_model(whose) or (self.recipe.model, "model")
        return whose in ("teacher", "judge") and model.engine != "hf"

    def _lent(self, role: str, model: Model) -> Lent:
        from unprompt.stages import served

        price = served.price(self.recipe, model.server) if model.server else None
        file = self._ledger(role)
        return Lent(role, self.tokenizer, self.recipe.batch_size, file, price)

    def _ledger(self, name: str) -> Path:
        return self.files.folder / f"asked-{name}.jsonl"

    def _load(self, round_: str | None, *, trainable: bool = False) -> Any:
        """A round's student, or the base model (None). A student's adapter is put onto the base
        model, and taken off again for another's.
        """
        adapter = (
            self.recipe.train.adapter if round_ is None else self.recipe.plan[round_].train.adapter
        )
        if self._student and (self._student[0] != round_ or trainable):
            self.take_off()
        if round_ is None or self._student:
            return self._student[1] if self._student else self._base
        folder = str(self.files.round(round_).student.resolve())
        if adapter:
            from peft import PeftModel
            from safetensors import SafetensorError

            fix = (
                "remove that folder and run the recipe again: it is trained anew, and no answer is"
                " lost"
            )
            if not Path(
                folder, "adapter_model.safetensors"
            ).is_file():  # peft would go on to a pickle
                raise UserError("there is no adapter_model.safetensors", where=folder, fix=fix)
            try:
                model: Any = PeftModel.from_pretrained(self._base, folder, is_trainable=trainable)
            except (SafetensorError, OSError, ValueError) as error:
                raise UserError(
                    f"the student can't be loaded: {str(error)[:200]}", where=folder, fix=fix
                ) from None
            model = model if trainable else model.eval()
        else:
            trained = self.recipe.model.model_copy(
                update={"name": folder, "gguf": None, "rule": None, "revision": None}
            )
            model = models.load_weights(trained, f"rounds.{round_}")
        self._student = (round_, model)
        return model

    def _fresh(self, start: str | None) -> Any:
        """All weights, to be trained: a copy of their own."""
        if self._student:
            self.take_off()
        if start is None:
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
    whose: str,
    place: tuple[str, str],
) -> Engine:
    search(recipe.modules)
    weights = Weights(recipe, RunDir(folder), tokenizer)
    found = _place((weights._other_model(whose) or (recipe.model, ""))[0])
    if found != place:
        raise UserError(
            f"a worker would run the model as {' on '.join(found)}, and the run's completions are"
            f" kept as {' on '.join(place)}",
            where="--ray",
            fix="name dtype and device in the recipe, and use machines of one kind",
        )
    return weights.engine(whose)
