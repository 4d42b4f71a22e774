"""Whose weights answer: each model is loaded once, when first needed, and of students one at a time is in memory.

Whose weights: `teacher` (the recipe's), `base` (the student before any round), `judge`, or a round's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unprompt import models, rundir
from unprompt.engines import Engine
from unprompt.engines.ledger import Ledger
from unprompt.progress import bar, say
from unprompt.prompts import Side
from unprompt.recipe import Labels, Model, Recipe, Sampling, Server
from unprompt.records import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from unprompt.engines.hf import HFEngine
    from unprompt.engines.server import ServerEngine


class Weights:
    """The models of one run.

    Args:
        recipe: Names them.
        files: Where rounds save their students, and answers are kept.
        tokenizer: The student's.

    Attributes:
        made_from: Round -> fingerprint of what its student was trained on; to be set ahead of asking for it.
    """

    def __init__(self, recipe: Recipe, files: rundir.RunDir, tokenizer: PreTrainedTokenizerBase) -> None:
        self.recipe, self.files, self.tokenizer = recipe, files, tokenizer
        self.made_from: dict[str, str] = {}
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
        ]
        return [*found, self.made_from[whose]] if whose in self.recipe.plan else found

    def collect(
        self,
        title: str,
        whose: str,
        side: Side,
        sampling: Sampling,
        labels: Labels | None,
        given: Sequence[tuple[str, list[int]]] | None = None,
    ) -> tuple[list[Completion], Path]:
        """Answers to prompts, in their order, and the folder that keeps them. Only what is missing there is asked.

        Args:
            title: What the terminal calls it, and what keeps these answers apart from those to the same prompts for another purpose.
            given: For each prompt a continuation (text, token ids) to score, instead of writing one.
        """
        from unprompt.collect import collect

        recipe = self.recipe
        parts = [rundir.FORMAT, title, self.identity(whose), sampling.model_dump(exclude={"per_input"}), _kept(labels), recipe.seed]
        store = self.files.completions / rundir.fingerprint(*parts, *([given] if given else []))
        with bar(title, len(side.prompts)) as progress:
            found = collect(
                lambda: self.engine(whose), side.prompts, side.lengths, store, sampling, labels,
                seed=recipe.seed, batch_size=recipe.batch_size, prefix_tokens=side.prefix, given=given, progress=progress,
            )  # fmt: skip
        return found, store

    def engine(self, whose: str) -> Engine:
        """Who answers with these weights; made when first asked for."""
        other = self._other_model(whose)
        if other is None:
            return self.student("base" if whose in ("teacher", "judge") else whose)
        model, key = other
        name = "judge" if key == "judge.model" else "teacher"
        if name not in self._engines:
            self._engines[name] = self._served(name, model.server, key) if model.server else self._loaded(name, model, key)
        return self._engines[name]

    def student(self, whose: str) -> HFEngine:
        """The model that is trained: `base`, or a round's student."""
        from unprompt.engines.hf import HFEngine

        model, known = self._load(None if whose == "base" else whose), self._engines.get(whose)
        if not isinstance(known, HFEngine) or known.model is not model:
            known = self._engines[whose] = HFEngine(model, self.tokenizer)
        return known

    def asked(self) -> dict[str, dict[str, Any]]:
        """What each server was asked by all runs in this folder, for the report."""
        from unprompt import served

        found = {}
        for name in ("teacher", "judge"):
            model, _ = self._other_model(name) or (None, "")
            path = self._ledger(name)
            if model and model.server and path.is_file():
                price, total = served.price(self.recipe, model.server), Ledger(path).total
                dollars = {"dollars": float(round(total.dollars(price), 8))} if price else {}
                found[name] = {"model": model.server.model, "url": model.server.url, **asdict(total), **dollars}
        return found

    def forget_engines(self) -> None:
        """Their caches go, and the weights of models that are not trained."""
        self._engines.clear()

    def to_train(self, round_: str) -> Any:
        """The student that a round trains: the model or an earlier round's student, with an adapter or as a whole."""
        from unprompt import train

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

    def _other_model(self, whose: str) -> tuple[Model, str] | None:
        """A model that is not trained, and its key in the recipe; None where the student's answers."""
        if whose == "judge" and self.recipe.judge and self.recipe.judge.model:
            return self.recipe.judge.model, "judge.model"
        return (self.recipe.teacher_model, "teacher_model") if whose in ("teacher", "judge") and self.recipe.teacher_model else None

    def _loaded(self, name: str, model: Model, key: str) -> HFEngine:
        from unprompt.engines.hf import HFEngine

        say(f"loading the {name}")
        tokenizer = models.load_tokenizer(model, key)
        return HFEngine(models.load_weights(model, key), tokenizer)

    def _served(self, name: str, server: Server, key: str) -> ServerEngine:
        from unprompt import served
        from unprompt.engines.server import ServerEngine

        tokenizer = models.load_tokenizer(server.tokenizer, f"{key}.server.tokenizer") if server.tokenizer else self.tokenizer
        return ServerEngine(server, key, tokenizer, Ledger(self._ledger(name)), served.price(self.recipe, server))

    def _ledger(self, name: str) -> Path:
        return self.files.folder / f"asked-{name}.jsonl"

    def _load(self, round_: str | None, *, trainable: bool = False) -> Any:
        """A round's student, or the base model (None). A student's adapter is put onto the base model, and taken off again for another's."""
        adapter = self.recipe.train.adapter if round_ is None else self.recipe.plan[round_].train.adapter
        if self._student and (self._student[0] != round_ or trainable):
            self.take_off()
        if round_ is None or self._student:
            return self._student[1] if self._student else self._base
        folder = str(self.files.round(round_).student.resolve())
        if adapter:
            from peft import PeftModel

            model: Any = PeftModel.from_pretrained(self._base, folder, is_trainable=trainable)
            model = model if trainable else model.eval()
        else:
            trained = self.recipe.model.model_copy(update={"name": folder, "gguf": None, "rule": None, "revision": None})
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


def _kept(labels: Labels | None) -> Any:
    """The label settings that matter for what is written."""
    if labels is None:
        return None
    settings = {"sampled": [labels.draws], "top_k_tail": [labels.kept, labels.tail], "top_k": [labels.kept], "hard": []}
    return [labels.kind, *settings[labels.kind]]
