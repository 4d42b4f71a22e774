"""Uses one of the worked additions of docs/extend.md in a run of a tiny model.

`additions.py NAME MODEL FOLDER`, with FOLDER/src, a copy of the package that has the addition, as
PYTHONPATH.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

import unprompt
from conftest import byte_tokenizer, decoder, tiny_recipe
from unprompt.engines.tokens import decoded
from unprompt.pipeline import Run
from unprompt.recipe import Data, parse, reference
from unprompt.records import TEACHER, Lesson
from unprompt.stages.check import check
from unprompt.stages.inputs.load import digests
from unprompt.store.tables import read_lessons


def run(recipe: dict[str, Any], folder: Path) -> Run:
    return unprompt.run(parse(recipe), folder / "run")


def lessons(done: Run) -> list[Lesson]:
    return list(read_lessons(done.folder / "lessons.parquet"))


def lesson_texts(done: Run) -> dict[str, tuple[str, str]]:
    """Input -> the student's prompt, and what the student learns to answer, its end left out."""
    tokenizer = byte_tokenizer()
    return {
        lesson.example_id: (
            decoded(tokenizer, lesson.input_ids[: lesson.prompt_length], special=False),
            decoded(tokenizer, lesson.input_ids[lesson.prompt_length :], special=False),
        )
        for lesson in lessons(done)
    }


def metric(recipe: dict[str, Any], folder: Path) -> None:
    """Its mean is that of the answers that were graded."""
    recipe["evaluate"]["metrics"] = ["word_count_match"]
    done = run(recipe, folder)
    for name, system in done.report["contexts"]["colours"]["systems"].items():
        answers = [grade.answer or "" for grade in done.grades if grade.system == name]
        one_word = fmean(len(answer.split()) == 1 for answer in answers)  # as all targets are
        assert system["metrics"]["word_count_match"]["mean"] == one_word, (name, answers)


def label(recipe: dict[str, Any], folder: Path) -> None:
    """A label is the teacher's whole distribution; same weights, same prompt: KL 0 at step 0."""
    recipe["labels"] = {"kind": "exact"}
    recipe["contexts"]["colours"]["teacher"] = recipe["contexts"]["colours"]["student"]
    recipe["teacher_model"] = recipe["model"]  # by name: without it there is nothing to learn
    done = run(recipe, folder)
    assert abs(done.report["rounds"]["after"]["first_loss"]) < 1e-5
    for lesson in lessons(done):
        with torch.no_grad():
            logits = decoder()(torch.tensor([lesson.input_ids])).logits[0]
        answered = slice(lesson.prompt_length - 1, -1)
        probs = logits[answered].softmax(-1).numpy()
        written = lesson.labels.probs.reshape(-1, probs.shape[1])[: len(probs)]
        assert np.allclose(written, probs, atol=1e-5)
    schema_names("exact")


def section(recipe: dict[str, Any], folder: Path) -> None:
    """Its figures stand in report.json, its table in report.md and on the page."""
    done = run(recipe, folder)
    for system, words in done.report["lengths"]["colours"].items():
        lengths = [len(grade.text.split()) for grade in done.grades if grade.system == system]
        assert words == fmean(lengths)
    assert '"lengths"' in (done.folder / "report.json").read_text()
    for page in ("report.md", "report.html"):
        assert "words an answer" in (done.folder / page).read_text()
    runpy.run_module("unprompt.report", run_name="__main__")
    assert '"lengths"' in Path("docs/report.schema.json").read_text()


def source(recipe: dict[str, Any], folder: Path) -> None:
    """Its inputs are what is taught, and the run depends on them."""
    texts = folder / "texts"
    texts.mkdir()
    for name in ("oak", "elm", "ash", "yew"):
        (texts / f"{name}.txt").write_text(f"the {name}\n")
    recipe["contexts"]["colours"]["inputs"] = {"folder": str(texts)}
    taught = lesson_texts(run(recipe, folder))
    assert {name: prompt for name, (prompt, _) in taught.items()} == {
        name: f"the {name}:" for name in ("ash", "elm", "oak", "yew")
    }
    data = Data.model_validate({"folder": str(texts)})
    before = digests(data, "")
    (texts / "fir.txt").write_text("the fir")
    assert digests(data, "") != before
    schema_names("folder")


def engine(recipe: dict[str, Any], folder: Path) -> None:
    """Its answers are the teacher's, and what is learned; `check` counts them as such."""
    recipe["model"] = {"name": recipe["model"], "engine": "echo"}
    recipe["labels"] = {"kind": "hard"}
    recipe["sampling"]["max_new_tokens"] = 8
    parsed = parse(recipe)
    asked, _ = check(parsed).plan.sizes(parsed)[TEACHER]
    assert asked.calls == 8 + 3 + 3  # inputs, those held out, and again by sampling
    done = run(recipe, folder)
    answers = {grade.example_id: grade.text for grade in done.grades if grade.system == "teacher"}
    assert answers == {"h0": "grey:", "h1": "violet:", "h2": "gold:"}
    texts = [each["text"] for each in recipe["contexts"]["colours"]["inputs"]]
    assert list(lesson_texts(done).values()) == [(f"{text}:", f"{text}:") for text in texts]
    schema_names("echo")


def schema_names(word: str) -> None:
    """The generated pages say it, too."""
    reference.main()
    assert f"`{word}`" in Path("docs/reference.md").read_text()
    assert f'"{word}"' in reference.SCHEMA.read_text()


USES = {"metric": metric, "label": label, "section": section, "source": source, "engine": engine}

if __name__ == "__main__":
    name, model, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    assert Path(unprompt.__file__) == folder / "src" / "unprompt" / "__init__.py"
    (folder / "docs").mkdir()
    USES[name](tiny_recipe(model), folder)
