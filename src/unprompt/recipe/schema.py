"""What a user writes: one YAML file (or the same names from Python) under a strict schema.

The docstring under each field is its reference documentation.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from unprompt.recipe import library


class Section(BaseModel):
    """A part of the recipe: strict, immutable, documented field by field."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def number(value: Any) -> Any:
    """A number that YAML 1.1 reads as text, as 5e-4."""
    return (
        float(value)
        if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", value)
        else value
    )


def _from_base(path: str, info: ValidationInfo) -> str:
    """A path of the recipe, seen from the recipe's own folder; `pkg:` paths stay as they are."""
    if path.startswith("pkg:"):
        return path
    base = Path((info.context or {}).get("base", "."))
    return str((base / Path(path).expanduser()).resolve())


class TokenPrice(Section):
    """Dollars per million tokens."""

    input: Annotated[float, Field(ge=0)]
    """Of prompts."""
    output: Annotated[float, Field(ge=0)]
    """Of answers."""


class Budget(Section):
    """What a server may be asked at most, over all runs in one folder. What is answered by then is
    kept; raise it to go on.
    """

    tokens: Annotated[int, Field(ge=1)] | None = None
    """Of prompts and answers together."""
    dollars: Annotated[float, Field(gt=0)] | None = None
    """By `price`, or the price table."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.tokens is None and self.dollars is None:
            raise ValueError("a budget of nothing -> give tokens, dollars, or both")
        return self


class Server(Section):
    """An OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, `transformers serve`, a hosted API)
    that answers in a model's place.
    """

    url: str
    """Where its API begins, as `http://localhost:8000/v1`."""
    model: str
    """What the server calls the model."""
    api: Literal["chat", "completions"] = "chat"
    """`chat` (`/chat/completions`): prompts are messages, which the server renders. `completions`:
    prompts are plain text, or messages that are rendered here by `tokenizer` and sent as token ids.
    """
    api_key_env: Annotated[str, Field(max_length=100)] | None = None
    """Name of the environment variable that holds the key. The key itself is never written
    anywhere."""
    tokenizer: Model | None = None
    """The model's own tokenizer (a hub id or a folder): prompts are measured with it, and
    `labels.kind: top_k` needs it. Without it lengths are estimated with the student's, and only
    text is taken from the answers."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 16
    """Prompts asked at once."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds for one answer; then it is asked again."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Times that a prompt is asked again after HTTP 408, 409, 429 or 5xx, no answer in time, a cut
    connection or half an answer; waits double each time."""
    budget: Budget | None = None
    """Where to stop."""
    price: TokenPrice | None = None
    """What it costs; the price table's entry of `model`, if there is one, unless given."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the longest answer."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Anything else for the body of each request, as it is (`return_tokens_as_token_ids: true` with
    vLLM, ...)."""

    @field_validator("url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#@]*)?", url):
            raise ValueError(
                "no plain http(s) address -> write it as http://localhost:8000/v1; a key belongs in"
                " the environment (api_key_env)"
            )
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError(
                "not the name of an environment variable, in capitals -> put the key there, and"
                " write its name here"
            )
        return name

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, extra: dict[str, Any]) -> dict[str, Any]:
        ours = (
            "model",
            "messages",
            "prompt",
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "seed",
            "stop",
            "logprobs",
            "top_logprobs",
            "stream",
            "n",
            "echo",
        )
        taken = next((key for key in extra if key in ours), None)
        if taken:
            raise ValueError(f"'{taken}' is set by the recipe -> leave it out")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                "something in it can't be sent as JSON -> write numbers, texts, lists and mappings"
            ) from None
        return extra

    @model_validator(mode="after")
    def _weights_elsewhere(self) -> Self:
        if self.tokenizer and self.tokenizer.server:
            raise ValueError("a tokenizer is files, not a server -> give a hub id or a folder")
        return self


class Model(Section):
    """Which weights. A bare string is a hub id or a folder."""

    name: str | None = None
    """Hub id, or a folder in the Hugging Face layout."""
    gguf: str | None = None
    """A GGUF file instead: a path, or `pkg:package/file.gguf` for a file inside an installed Python
    package. Converted to safetensors once, in the user's cache."""
    rule: str | None = None
    """`package.module:function` instead: called once as `function(folder, **args)`, writes a model
    and a tokenizer in the Hugging Face layout into the folder, in the user's cache."""
    server: Server | None = None
    """An endpoint instead, which is asked and can't be trained: for `teacher_model` and
    `judge.model`."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for `rule`."""
    engine: Literal["hf", "vllm"] = "hf"
    """Who runs it where it teaches or judges: transformers in this process, or vLLM (extra `vllm`).
    Students are always trained and evaluated by transformers."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """Arguments of `vllm.LLM` by vLLM's own names (`tensor_parallel_size`,
    `gpu_memory_utilization`, `quantization`, ...)."""
    revision: str | None = None
    """Git revision on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights. `auto`: bfloat16 on a GPU that has it, else float32."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, ... `auto`: the first GPU, else the processor."""
    window: Annotated[int, Field(ge=1)] | None = None
    """Longest prompt and answer in tokens that you allow; the model's own window unless given. What
    is longer is refused, never cut."""
    eos_token: str | None = None
    """Token that ends an answer, beside those at which the model stops anyway; the student learns
    it. The tokenizer's own unless given."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @field_validator("gguf")
    @classmethod
    def _gguf_path(cls, path: str | None, info: ValidationInfo) -> str | None:
        return _from_base(path, info) if path else path

    @field_validator("name")
    @classmethod
    def _folder_path(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name and (name.startswith((".", "/", "~")) or Path(_from_base(name, info)).is_dir()):
            return _from_base(name, info)
        return name

    @field_validator("vllm")
    @classmethod
    def _not_ours(cls, given: dict[str, Any]) -> dict[str, Any]:
        elsewhere = {
            "model": "name",
            "dtype": "dtype",
            "revision": "revision",
            "trust_remote_code": "trust_remote_code",
            "max_model_len": "window",
        }
        ours = (
            "tokenizer",
            "skip_tokenizer_init",
            "logits_processors",
            "worker_extension_cls",
            "async_scheduling",
            "runner",
        )
        for key in given:
            if key in elsewhere:
                raise ValueError(
                    f"'{key}' is a setting of the model itself -> write {elsewhere[key]} beside"
                    " vllm"
                )
            if key in ours:
                raise ValueError(f"'{key}' is set by Unprompt -> leave it out")
        return given

    @model_validator(mode="after")
    def _vllm_asked(self) -> Self:
        if self.vllm and self.engine != "vllm":
            raise ValueError(
                "arguments of vLLM, which is not asked -> write engine: vllm, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (
            sum(source is not None for source in (self.name, self.gguf, self.rule, self.server))
            != 1
        ):
            raise ValueError(
                "give either a hub id or folder (name), a GGUF file (gguf), a function that makes a"
                " model (rule) or a server"
            )
        if self.server and (
            more := self.model_dump(exclude_defaults=True, exclude={"server", "window"})
        ):
            raise ValueError(f"a server has its weights elsewhere -> leave out {', '.join(more)}")
        return self


class Part(Section):
    """One part of a mixture."""

    data: Data
    """Its rows."""
    share: Annotated[float, Field(gt=0)]
    """Its share of the mixture, relative to the other parts' shares."""


class Sample(Section):
    """Inputs that a language model (the teacher's weights) writes from a few examples (Snell et al.
    2022, section 2.1).
    """

    seeds: Data
    """Pool of seed inputs. Each draw's prompt shows a random few of them."""
    template: Template
    """The prompt; `examples` are the seeds shown."""
    count: Annotated[int, Field(ge=1)]
    """Inputs wanted, after duplicates and copies are taken out."""
    per_prompt: Annotated[int, Field(ge=1)] = 4
    """Seeds shown in each prompt."""
    field: str = "text"
    """Field of the input that the written text becomes; copies are looked for in the same field of
    seeds and held-out examples."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature of the draws."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: keep the most probable tokens up to this mass."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest input in tokens; a text that gets so far without ending is thrown away."""
    stop: tuple[str, ...] = ("\n",)
    """Texts that end an input."""
    near: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Texts at least so similar (1 - normalised edit distance of letters) are near duplicates; 1
    keeps all but exact ones."""
    tries: Annotated[float, Field(ge=1)] = 4.0
    """Draws at most, for each input wanted."""


class Data(Section):
    """Rows from a file, an inline list, the hub or a rule, sampled from a language model, or a
    mixture of these. A bare string is a file, a bare list is the rows.
    """

    file: str | None = None
    """JSONL (.jsonl, .ndjson), JSON list (.json), CSV (.csv, .tsv) or Parquet (.parquet), seen from
    the recipe's folder."""
    rows: tuple[dict[str, Any], ...] | None = None
    """The rows themselves."""
    hub: str | None = None
    """A data set on the Hugging Face hub, read with `datasets`."""
    rule: str | None = None
    """`package.module:function`: called with `args`, returns the rows (dictionaries)."""
    mix: Annotated[tuple[Part, ...], Field(min_length=2)] | None = None
    """Several data sets with shares; as many rows as they allow, or `limit`."""
    sample: Sample | None = None
    """Inputs written by the teacher's model from seeds."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for `rule`, or for `datasets.load_dataset` with `hub`."""
    split: str = "train"
    """Split of a hub data set."""
    id: str = "id"
    """Field that holds the row's id. Rows without it are numbered."""
    target: str = "target"
    """Field that holds the gold answer, where there is one."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Take only the first so many rows."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"file": data}
        return {"rows": data} if isinstance(data, (list, tuple)) else data

    @field_validator("file")
    @classmethod
    def _file_path(cls, path: str | None, info: ValidationInfo) -> str | None:
        return _from_base(path, info) if path else path

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (
            sum(
                source is not None
                for source in (self.file, self.rows, self.hub, self.rule, self.mix, self.sample)
            )
            != 1
        ):
            raise ValueError("give exactly one of file, rows, hub, rule, mix, sample")
        return self


class Message(Section):
    """One chat message of a template, or the turns of a conversation that the input holds."""

    role: str | None = None
    """`system`, `user`, `assistant`, or any role the model's chat template knows."""
    content: str | None = None
    """Jinja2 template of the message's text."""
    turns: str | None = None
    """Instead of both: the field of the row (or a Jinja2 expression, as `input.history`) that holds
    a list of {role, content}. Its turns stand here as they are; it may be empty."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.role is None, self.content is None) != ((self.turns is not None),) * 2:
            raise ValueError(
                "a message has a role and a content, or stands for turns -> write {role, content}"
                " or {turns: field}"
            )
        return self

    @model_serializer
    def _as_written(self) -> dict[str, str]:
        return (
            {"role": self.role, "content": self.content}
            if self.role is not None and self.content is not None
            else {"turns": str(self.turns)}
        )


class Template(Section):
    """T: a Jinja2 text (a bare string) or a list of chat messages, in any roles. Each field of the
    input is a variable; `examples` is the few-shot pool.
    """

    text: str | None = None
    """Jinja2 template of a plain-text prompt."""
    messages: tuple[Message, ...] | None = None
    """Chat messages, rendered with the model's own chat template."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"text": data}
        return {"messages": data} if isinstance(data, (list, tuple)) else data

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.text is None) == (not self.messages):
            raise ValueError("a template is a text or a list of {role, content} messages")
        return self

    @model_serializer
    def _as_written(self) -> Any:
        return (
            self.text
            if self.messages is None
            else [message.model_dump() for message in self.messages]
        )


class Extract(Section):
    """f: which part of the teacher's completion the student learns."""

    keep: str = "whole"
    """`whole`, `first_line`, `last_line`, or `package.module:function` (text -> the part to keep,
    or None)."""
    after: str | None = None
    """Keep what follows the last occurrence of this text."""
    regex: str | None = None
    """Keep the first group (or all) of the first match."""
    json_field: str | None = Field(default=None, alias="json")
    """Keep the value of this key of the first JSON object."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return {"keep": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _known(self) -> Self:
        if sum(rule is not None for rule in (self.after, self.regex, self.json_field)) > 1:
            raise ValueError("give one of after, regex, json")
        if self.keep not in ("whole", "first_line", "last_line") and ":" not in self.keep:
            near = difflib.get_close_matches(self.keep, ["whole", "first_line", "last_line"], 1)
            hint = f" -> did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"not whole, first_line, last_line or package.module:function{hint}")
        if self.regex is not None:
            import regex

            try:
                regex.compile(self.regex)
            except regex.error as error:
                raise ValueError(f"not a regular expression: {error}") from None
        return self

    @model_serializer
    def _as_written(self) -> Any:
        for name, value in (
            ("after", self.after),
            ("regex", self.regex),
            ("json", self.json_field),
        ):
            if value is not None:
                return {name: value}
        return self.keep


class Examples(Section):
    """A few-shot pool, and how much of it stands in one prompt. Anything without `pool` is the pool
    itself, all of it in one prompt.
    """

    pool: Data
    """The rows."""
    per_prompt: Annotated[int, Field(ge=1)] | None = None
    """Rows in one prompt, drawn with the recipe's seed; all of them unless given."""
    prompts: Annotated[int, Field(ge=1)] = 1
    """Prompt ensemble: so many prompts with different rows for each input; their next-token
    probabilities are averaged (Snell et al. 2022, hypothesis 5: more examples than a window holds).
    """

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return data if isinstance(data, dict) and "pool" in data else {"pool": data}

    @model_validator(mode="after")
    def _ensemble_of_subsets(self) -> Self:
        if self.prompts > 1 and self.per_prompt is None:
            raise ValueError(
                "an ensemble needs per_prompt -> say how many examples each of its prompts shows"
            )
        return self


class Choices(Section):
    """Two continuations of which the right one should be the more probable: nothing is
    generated.
    """

    right: str
    """Jinja2 template of the continuation that should win."""
    wrong: str
    """Jinja2 template of the other."""


class Shots(Section):
    """Answers behind 0 to n (question, answer) pairs of a pool, laid out as lessons of `kind:
    shots` are (Liu 2024, AICD).
    """

    pool: Data
    """Where the shots come from. An example is never its own shot."""
    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2, 4)
    """Shots ahead of the question."""
    draws: Annotated[int, Field(ge=1)] = 3
    """Seeded draws of the shots; mean and deviation over them are reported."""
    answer: str = "{{ rationale }}"
    """Jinja2 template of a shot's answer, behind the student's prompt for it; write the blank
    between the two if there is to be one."""
    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    """Text between a shot's answer and the next question. An answer ends where it begins."""

    @field_validator("counts")
    @classmethod
    def _once(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(counts))


class Evaluate(Section):
    """What the systems are measured on."""

    data: Data
    """Held-out examples, with gold answers if a metric needs them."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Names of metrics, or `package.module:name` of a function or a `Metric`."""
    choices: Choices | None = None
    """Instead of writing answers: score two continuations. The metrics are then `score`, 1 if
    P(right) > P(wrong), and `magnitude`, P(right) - P(wrong)."""
    group: str | None = None
    """Field by which rows belong together: intervals take the mean of each group for one
    observation."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Temperature of the answers that are graded."""
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    """Longest graded answer in tokens; as in `sampling` unless given."""
    extract: Extract | None = None
    """f of an answer that is graded; the context's `extract` unless given."""
    lenient: Extract | None = None
    """A second extraction. What the metrics make of it stands beside the strict figures, as
    `METRIC_lenient`."""
    source: str | None = None
    """Field (or Jinja2 expression of the fields, as `input.document`) with the text that an answer
    is about; `entity_density` and metrics that read the source look there."""
    shots: Shots | None = None
    """Answers behind 0 to n shots, of the untrained student and of every round's."""

    @model_validator(mode="after")
    def _written_answers(self) -> Self:
        for key in ("extract", "lenient", "shots"):
            if self.choices and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} is for answers that are written, but choices are only scored -> give"
                    " one of the two"
                )
        return self


class Filter(Section):
    """Which of the teacher's completions become lessons; the others are counted."""

    keep: Literal["correct", "majority"] = "correct"
    """`correct`: those whose answer is the input's gold answer. `majority`: those whose answer is
    what most completions of the input say (self-consistency); of equals, the answer sampled first.
    """
    extract: Extract | None = None
    """The answer in a completion; the context's `extract` unless given."""
    metric: str = "accuracy"
    """Name of a metric, or `package.module:function`, which is 1 for an answer that is correct, or
    for two that agree."""


class Library(Section):
    """A task of the prompt library (`unprompt library` lists them). A bare string is its name."""

    task: str
    """Its name."""
    form: Literal["chat", "text"] = "chat"
    """`chat`: messages, for instruct models. `text`: plain text, for models without a chat
    template."""
    fields: dict[str, str] = Field(default_factory=dict)
    """The task's field -> the row's field, or a Jinja2 expression of its fields (`question:
    input.question`); fields of the same name need none."""
    teacher: Literal["elaborate", "plain"] = "elaborate"
    """The teacher's prompt. `plain`: the student's own, for a bigger teacher that is to be asked no
    more than the student."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return {"task": data} if isinstance(data, str) else data


class Context(Section):
    """The four components of a context (Snell et al. 2022, section 2.1): D, T_teacher, T_student,
    f. One without `teacher` and `gold` is only evaluated.
    """

    library: Library | None = None
    """Task of the prompt library that gives `teacher` (its elaborate prompt), `student` (its plain
    prompt), `extract`, and defaults of `evaluate` and `sampling`; what is written here beside it
    wins, key by key. A resolved recipe has it all written out, and no library."""
    inputs: Data | None = None
    """D: the raw inputs the teacher practises on. No labels needed."""
    examples: Examples | None = None
    """Few-shot pool: the rows templates see as `examples`."""
    teacher: Template | None = None
    """T_teacher: the long prompt."""
    gold: str | None = None
    """Jinja2 template of the answer to learn, where no teacher is asked: supervised training on
    gold examples."""
    student: Template
    """T_student: the short prompt, or just the input."""
    extract: Extract = Extract()
    """f: the part of the teacher's completion that the student learns, and of an answer that is
    graded."""
    filter: Filter | None = None
    """Which of the teacher's completions are used; all of them unless given."""
    hint: Template | None = None
    """Prompt that an input of which the filter keeps nothing is asked with again; it may show the
    gold answer, `{{ target }}` (STaR's rationalization, Zelikman et al. 2022). The lesson has the
    student's own prompt all the same."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor of this context's loss in the sum of equation 2."""
    evaluate: Evaluate | bool = True
    """How this context is proven: as the recipe's `evaluate` says (true), not at all (false), or
    its own way."""

    @model_validator(mode="after")
    def _filter_of_answers(self) -> Self:
        if self.filter and (self.teacher is None or self.gold is not None):
            raise ValueError(
                "filter is for a teacher's completions, but no teacher is asked here -> give"
                " teacher and no gold, or no filter"
            )
        if self.hint and not self.filter:
            raise ValueError("hint is for inputs of which a filter keeps nothing -> add filter")
        return self

    @property
    def teaches(self) -> bool:
        """Whether there are lessons in it."""
        return self.inputs is not None and (self.teacher is not None or self.gold is not None)


class System(Section):
    """A further system that is measured on held-out examples, beside teacher, before and the
    rounds: some weights under some prompt.
    """

    model: str = "base"
    """Whose weights: `teacher` (the recipe's), `base` (the student before any round), or a round's
    name."""
    prompt: Literal["teacher", "student"] | Template = "student"
    """Which prompt: the context's `teacher` or `student`, or a template of its own (`examples` are
    those that the teacher's prompts show)."""
    contexts: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Where it is measured; in every evaluated context unless given."""

    @field_validator("prompt")
    @classmethod
    def _a_prompt(cls, prompt: Any) -> Any:
        if isinstance(prompt, Template) and prompt.text is not None and "{" not in prompt.text:
            raise ValueError(
                "a template that shows nothing of the input -> write teacher, student or a template"
                " with a field of the data"
            )
        return prompt


class Sampling(Section):
    """How the teacher writes its completions."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy. Soft labels are always the model's own distribution at temperature 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: keep the most probable tokens up to this mass."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest completion in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion (left out of it)."""
    per_input: Annotated[int, Field(ge=1)] = 1
    """Completions of each input, each a lesson of its own. The second of input `a` has the id
    `a/2`."""

    @model_validator(mode="after")
    def _several_differ(self) -> Self:
        if self.per_input > 1 and self.temperature == 0:
            raise ValueError(
                f"per_input is {self.per_input}, but at temperature 0 all of them are the same ->"
                " raise temperature"
            )
        return self


class Labels(Section):
    """How a soft label is written down."""

    kind: Literal["sampled", "top_k_tail", "top_k", "hard"] = "sampled"
    """`sampled`: an empirical distribution of draws (Snell et al. 2022; unbiased). `top_k_tail`:
    the k most probable tokens with their own probabilities, and draws from the rest that share what
    is left (unbiased, less noise). `top_k`: the k most probable tokens, renormalised (biased: it
    cuts the tail). `hard`: the token that was sampled; the only kind that a teacher with another
    tokenizer can give."""
    draws: Annotated[int, Field(ge=1, le=65535)] = 100
    """Draws for each token, with `sampled`."""
    k: Annotated[int, Field(ge=1)] | None = None
    """Tokens kept: 50 with `top_k`, 16 with `top_k_tail` unless given."""
    tail: Annotated[int, Field(ge=1)] = 8
    """Draws from the rest, with `top_k_tail`."""

    @property
    def kept(self) -> int:
        """Tokens kept, with `top_k` and `top_k_tail`."""
        return self.k or (50 if self.kind == "top_k" else 16)


class Weights(Section):
    """Weights of the n answers in a lesson of `kind: shots` (w_i of AICD, Liu 2024). A bare list is
    one for each answer.
    """

    shots: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the answers ahead of the last (with a schedule that rises: of the first). 0 is
    MetaICL."""
    last: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the last answer."""
    schedule: Literal["constant", "linear", "exponential"] = "constant"
    """`constant`: `shots` for all but the last. `linear`, `exponential`: from `shots` to `last` in
    equal steps, or by equal factors."""
    each: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    """Or one for each answer."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, data: Any) -> Any:
        return {"each": data} if isinstance(data, (list, tuple)) else data

    @model_validator(mode="after")
    def _last_counts(self) -> Self:
        if self.each is not None and not (self.each and self.each[-1]):
            raise ValueError(
                "the last answer has no weight, but it is what the lesson is for -> give it one"
                " over 0"
            )
        if self.schedule == "exponential" and not self.shots:
            raise ValueError(
                "no factor leads from 0 to another weight -> give shots a weight over 0, or write"
                " linear"
            )
        return self


class Lessons(Section):
    """How completions become lessons."""

    kind: Literal["single", "shots"] = "single"
    """`single`: one input, one lesson. `shots`: n pairs of student's prompt and answer in one
    sequence, each answer learned behind the pairs ahead of it (AICD, Liu 2024). Lessons that are
    replayed stay single."""
    n: Annotated[int, Field(ge=1)] = 4
    """Pairs in one sequence."""
    weights: Weights = Weights()
    """Weights of the answers: shots, last, schedule, or a list of n numbers. A sequence that is
    short of shots lacks the first ones."""
    loss_on: Literal["answers", "all"] = "answers"
    """`all`: every token of the sequence but the first has weight 1, questions and separators too
    (P-ICL, the plain loss of a language model)."""
    select: Literal["random", "fixed", "nearest"] = "random"
    """Shots of a lesson: others in each epoch (seeded), the same ones for all, or the inputs
    nearest by TF-IDF of the student's prompts. Never the input itself."""
    separator: Annotated[str, Field(min_length=1)] = "\n\n"
    """Text between an answer and the next question. The end token stands behind the last answer
    only."""
    end_token: bool = True
    """Teach the end-of-answer token after the extracted part, so that the student stops."""
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of inputs whose extraction may fail before the run stops, ahead of training."""

    @model_validator(mode="after")
    def _a_weight_each(self) -> Self:
        if (
            self.kind == "shots"
            and self.weights.each is not None
            and len(self.weights.each) != self.n
        ):
            raise ValueError(
                f"n is {self.n}, but there are {len(self.weights.each)} weights -> give one for"
                " each answer"
            )
        return self


class Adapter(Section):
    """A LoRA adapter on every linear layer (peft)."""

    rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the update."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the update; twice the rank unless given."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    targets: str | tuple[str, ...] = "all-linear"
    """Names of the layers to adapt."""


class Train(Section):
    """Training, on `transformers.Trainer`."""

    adapter: Adapter | None = Adapter()
    """LoRA settings; `null` trains all weights."""
    epochs: Annotated[float, Field(gt=0)] = 2.0
    """Passes over the lessons."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Lessons in one step of the optimiser, of all processes together."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """Lessons in memory at once, in each process; the gradient is the same whatever this is. The
    process's share of `batch_size` unless given."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """Highest learning rate (AdamW)."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Longest gradient."""
    save_every: Annotated[int, Field(ge=1)] = 50
    """Steps between checkpoints."""
    fast: bool = True
    """Lessons packed into one row, logits at weighted tokens only, LoRA layers in few products.
    Same gradient; where a model can't, the plain path is taken and said."""
    checkpointing: bool = False
    """Recompute each layer in the backward pass instead of keeping what it computed: less memory,
    about a third more time."""
    trainer: dict[str, Any] = Field(default_factory=dict)
    """Anything else for `transformers.TrainingArguments`, as it is (trackers, FSDP, DeepSpeed,
    ...)."""

    @field_validator("trainer")
    @classmethod
    def _trainer_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {key: number(value) for key, value in values.items()}

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size"
                f" {self.micro_batch_size}"
            )
        return self


class Replay(Section):
    """Lessons of other contexts mixed into a round against forgetting: gold answers, or what the
    weights that the round starts from answer.
    """

    contexts: Annotated[tuple[str, ...], Field(min_length=1)]
    """Where they come from."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Their share of all the round's lessons."""


class Round(Section):
    """One training of one student, on one or several contexts (equation 2). Rounds in a row are
    sequential distillation (equation 3).
    """

    contexts: Annotated[tuple[str, ...], Field(min_length=1)]
    """What is taught, by name; losses are summed."""
    start: str = "previous"
    """Weights it starts from: `previous` (the student of the round before; in the first round the
    model), `base` (the model), or a round's name."""
    teacher: str = "base"
    """Who answers the teacher's prompts: `base` (the recipe's teacher), `previous` (recursive
    distillation), or a round's name."""
    replay: Replay | None = None
    """Other lessons mixed in."""
    train: Train = Train()
    """What differs from the recipe's `train`."""
    lessons: Lessons = Lessons()
    """What differs from the recipe's `lessons`."""


class Drift(Section):
    """How far students move where they should not: KL(base || student) on inputs that have nothing
    to do with the contexts.
    """

    inputs: Data
    """Unrelated inputs."""
    template: Template = Template(text="{{ text }}")
    """Their prompt."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens of the base model's answer on which KL is measured."""
    limit: Annotated[float, Field(gt=0)] | None = None
    """Highest drift of the last round's student, in nats per token; above it the run fails."""


_TUNABLE = {
    "teacher": ("sampling", ("temperature", "top_p", "max_new_tokens", "stop")),
    "student": ("evaluate", ("temperature", "max_new_tokens")),
}
"""Who is tuned -> the section whose settings are tried, and these."""


class Tune(Section):
    """What `unprompt tune` tries on an evaluation split: sampling settings (Shirgaonkar et al.
    2024, equation 3) and variants of a prompt (equation 5).
    """

    context: str
    """Name of the context whose prompt is asked."""
    data: Data
    """The evaluation split, with gold answers. Never the data that the recipe's `evaluate` holds
    out."""
    metric: str = "accuracy"
    """What is highest for the best combination: the name of a metric, or `package.module:function`.
    Answers are read as in the context's evaluation."""
    who: Literal["teacher", "student"] = "teacher"
    """Whose prompt and weights: the teacher's, or the untrained student's."""
    settings: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Setting -> the values to try. Of the teacher `sampling.temperature`, `sampling.top_p`,
    `sampling.max_new_tokens`, `sampling.stop`; of the student `evaluate.temperature`,
    `evaluate.max_new_tokens`. What is not named stays as the recipe says."""
    variants: dict[str, Template | None] = Field(default_factory=dict)
    """Templates to try by name; null is the context's own. Only that one unless given."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Combinations tried: all of them unless given; of more than that, those that Optuna's TPE
    sampler picks."""

    @model_validator(mode="after")
    def _settings_that_exist(self) -> Self:
        section, names = _TUNABLE[self.who]
        for key, values in self.settings.items():
            _known(
                key,
                [f"{section}.{name}" for name in names],
                "tune.settings",
                f"setting of the {self.who} to tune",
            )
            for value in values:
                try:
                    Sampling.model_validate({key.partition(".")[2]: value})
                except ValidationError as error:
                    raise ValueError(
                        f"tune.settings.{key} can't be {value!r}: {error.errors()[0]['msg']}"
                    ) from None
            if any(value in values[:n] for n, value in enumerate(values)):
                raise ValueError(f"tune.settings.{key} names a value twice -> leave one out")
        if not self.settings and not self.variants:
            raise ValueError("there is nothing to choose among -> give settings, variants, or both")
        return self


class Judge(Section):
    """A language model rates the graded answers, from 0 to 6 on each criterion. `judge: {}` is
    enough.
    """

    model: Model | None = None
    """Who judges; the teacher unless given. A model tends to like its own answers: name another one
    where you can."""
    contexts: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Whose answers are judged; those of all evaluated contexts that write answers unless given."""
    criteria: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """Criterion -> what 0 and what 6 means; `helpful`, `honest` and `harmless` (judge.yaml) unless
    given."""
    template: Template | None = None
    """The judge's prompt; judge.yaml's unless given. It sees `turns` (role, content), `answer`,
    `criteria` (name, text), `low`, `high`, and the example's `fields` and `target`, and has to ask
    for a line `name: number` for each criterion."""
    repeats: Annotated[int, Field(ge=1)] = 2
    """Times each answer is judged, every time with the criteria in another order; how far the
    repeats agree is reported."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest verdict in tokens."""
    difficulty: bool = False
    """Also rate how difficult each held-out example is, from 1 to 5 on five criteria (judge.yaml).
    """

    @field_validator("criteria")
    @classmethod
    def _names_of_a_line(cls, criteria: dict[str, str] | None) -> dict[str, str] | None:
        for name in criteria or ():
            if not re.fullmatch(r"[^\W\d]([\w -]*\w)?", name):
                raise ValueError(
                    f"'{name}' can't name a criterion -> begin with a letter, and use letters,"
                    " digits, blanks, - and _"
                )
        return criteria

    @model_validator(mode="after")
    def _enough_orders(self) -> Self:
        count = 3 if self.criteria is None else len(self.criteria)
        if self.repeats > math.factorial(count):
            raise ValueError(
                f"{count} criteria have only {math.factorial(count)} orders, fewer than repeats ->"
                " lower repeats"
            )
        return self


class Cost(Section):
    """What a call costs with each system, and after how many calls distilling has paid for
    itself.
    """

    teacher: str
    """The teacher's name in the price table."""
    student: str
    """The student's name in the price table."""
    prices: str | None = None
    """Your own price table (YAML, laid out as prices.yaml); it wins over our examples."""
    dollars_per_hour: Annotated[float, Field(ge=0)]
    """What the machine that trains costs."""
    calls: Annotated[int, Field(ge=1)] | None = None
    """Calls you expect; the report then has the total for them, one-time cost included."""

    @field_validator("prices")
    @classmethod
    def _prices_path(cls, path: str | None, info: ValidationInfo) -> str | None:
        return _from_base(path, info) if path else path


class Report(Section):
    """What the report's verdict is held to, and what is measured for the report alone."""

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How much worse than the teacher the student may be on the first metric: 0.05 is 5 points of
    100."""
    failures: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the student's answers that may fail extraction, and of the teacher's that may be
    cut, before the verdict is `look closer`."""
    instructions: Annotated[int, Field(ge=0)] = 32
    """Held-out examples of each context on which every bulleted or numbered instruction of the
    teacher's prompt is left out in turn: one pass of the teacher over these examples for each
    instruction. 0: none."""
    watch: Annotated[int, Field(ge=0)] = 4
    """Parts of the training behind each of which gap closed is measured on held-out inputs (on at
    most 32 of each context). 0: only at the end."""
    self_agreement: Annotated[int, Field(ge=0)] = 0
    """Held-out examples of each context that the teacher answers twice as `sampling` says, to see
    how often it agrees with itself. 0: none."""


class Recipe(Section):
    """All a run needs to know."""

    name: str = "run"
    """Name of the run; names its folder."""
    model: Model
    """The student's weights, and the teacher's unless `teacher_model` is given."""
    teacher_model: Model | None = None
    """A bigger teacher: of the student's family, or of any other with `labels.kind: hard`."""
    contexts: Annotated[dict[str, Context], Field(min_length=1)]
    """What is distilled, by name."""
    sampling: Sampling = Sampling()
    """How the teacher writes."""
    labels: Labels = Labels()
    """How soft labels are kept. Unless given, 100 draws; of a teacher behind a server, which sends
    neither draws nor all probabilities, its 20 most probable tokens (`top_k`) if `server.tokenizer`
    is named, else `hard`."""
    lessons: Lessons = Lessons()
    """How completions become lessons."""
    train: Train = Train()
    """How the student is trained."""
    rounds: dict[str, Round] = Field(default_factory=dict)
    """Trainings in order, by name; unless given there is one, named `after`, of every context that
    has something to teach."""
    evaluate: Evaluate | None = None
    """How it is proven; without it there is no table."""
    systems: dict[str, System] = Field(default_factory=dict)
    """Further systems in the tables, by name."""
    drift: Drift | None = None
    """What must not change."""
    association: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Contexts whose student prompts are asked with each other's held-out examples (Snell et al.
    2022, hypothesis 3): on its own examples a prompt should be right (correct association), on
    another context's it should not do that context's task (wrong association)."""
    margins: Annotated[dict[str, tuple[str, str]], Field(min_length=4)] | None = None
    """Task -> two contexts, with and without something in the teacher's prompt: does what it brings
    to the teacher come to the student (hypothesis 2)?"""
    tune: Tune | None = None
    """What `unprompt tune` chooses; a run pays no heed to it."""
    judge: Judge | None = None
    """A language model that rates the graded answers."""
    cost: Cost | None = None
    """Dollars a call, and the break-even."""
    report: Report = Report()
    """The verdict's margin, and what is measured for the report alone."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random."""
    batch_size: Annotated[int, Field(ge=1)] | None = None
    """Prompts answered at once; None: as many as fit into memory, up to where more are no faster.
    """
    store: str | None = None
    """Where completions are kept: a folder, or an address that fsspec reads (`s3://bucket/folder`,
    `gs://...`), which many machines and runs may share; `completions` in the run's folder unless
    given. Keys of its own a store finds in the environment."""
    modules: str = "."
    """Folder searched first for `package.module:function` names; the recipe's own folder unless
    given."""

    @field_validator("name")
    @classmethod
    def _in_its_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[^\W_][^/\\\x00-\x1f]{0,99}", name):
            raise ValueError(
                f"'{name[:40]}' can't name a folder -> begin with a letter or a number, at most 100"
                " of them, without slashes"
            )
        return name

    @field_validator("modules")
    @classmethod
    def _modules_path(cls, path: str, info: ValidationInfo) -> str:
        return _from_base(path, info)

    @field_validator("store")
    @classmethod
    def _store_path(cls, path: str | None, info: ValidationInfo) -> str | None:
        return path if path is None or "://" in path else _from_base(path, info)

    @model_validator(mode="after")
    def _modules_default(self, info: ValidationInfo) -> Self:
        if "modules" not in self.model_fields_set:
            object.__setattr__(self, "modules", _from_base(".", info))
        return self

    @model_validator(mode="before")
    @classmethod
    def _rounds_differ(cls, data: Any) -> Any:
        """A round's `train` and `lessons` say only what differs."""
        if not (isinstance(data, dict) and isinstance(data.get("rounds"), dict)):
            return data
        rounds = dict(data["rounds"])
        for key in ("train", "lessons"):
            common = data.get(key) or {}
            for name, round_ in rounds.items() if isinstance(common, dict) else ():
                if isinstance(round_, dict) and isinstance(round_.get(key) or {}, dict):
                    rounds[name] = {**round_, key: {**common, **(round_.get(key) or {})}}
        return {**data, "rounds": rounds}

    @model_validator(mode="before")
    @classmethod
    def _library(cls, data: Any) -> Any:
        """What contexts take from the prompt library, written out."""
        return library.merged(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _files_to_train(self) -> Self:
        if self.model.server:
            raise ValueError(
                "a server's weights can't be trained -> name files as model, and the server as"
                " teacher_model or judge.model"
            )
        return self

    @model_validator(mode="after")
    def _engine_is_asked(self) -> Self:
        if self.model.engine != "hf" and self.teacher_model:
            raise ValueError(
                "model.engine is for a model that teaches, but teacher_model does -> write"
                " teacher_model.engine"
            )
        return self

    @model_validator(mode="after")
    def _names_that_exist(self) -> Self:
        for where, names in (
            ("association", self.association or ()),
            *((f"margins.{t}", pair) for t, pair in (self.margins or {}).items()),
        ):
            for name in names:
                _known(name, self.contexts, where, "context")
                evaluation = self.evaluation(name)
                if evaluation is None or not (evaluation.metrics or evaluation.choices):
                    raise ValueError(
                        f"{where} names context '{name}', which is not evaluated -> give it an"
                        " evaluate section"
                    )
                if where == "association" and evaluation.choices:
                    raise ValueError(
                        f"association names context '{name}', which is evaluated by choices -> it"
                        " needs answers that are written"
                    )
        if self.tune:
            _known(self.tune.context, self.contexts, "tune.context", "context")
            if self.tune.who == "teacher" and self.contexts[self.tune.context].teacher is None:
                raise ValueError(
                    f"tune names context '{self.tune.context}', which has no teacher -> give it"
                    " one, or write who: student"
                )
            if self.tune.who == "student" and self.evaluation(self.tune.context) is None:
                raise ValueError(
                    f"tune names context '{self.tune.context}', which is not evaluated -> give it"
                    " an evaluate section"
                )
        for name in (self.judge and self.judge.contexts) or ():
            _known(name, self.contexts, "judge.contexts", "context")
            evaluation = self.evaluation(name)
            if evaluation is None or evaluation.choices:
                raise ValueError(
                    f"judge.contexts names context '{name}', which writes no answers that are"
                    " graded -> leave it out"
                )
        if self.judge and not self.judged:
            raise ValueError("judge has no answers to judge -> give evaluate data")
        if self.cost and not any(self.evaluation(name) for name in self.contexts):
            raise ValueError("cost needs systems that are measured -> give evaluate data")
        if not self.rounds and not self.plan["after"].contexts:
            raise ValueError(
                "no context has anything to teach -> give one inputs and a teacher (or gold)"
            )
        earlier: list[str] = []
        for name, round_ in self.rounds.items():
            where = f"rounds.{name}"
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in (
                "teacher",
                "before",
                "base",
                "previous",
            ):
                raise ValueError(
                    f"'{name}' can't name a round -> use letters, digits, - and _, and not teacher,"
                    " before, base or previous"
                )
            for context in (*round_.contexts, *(round_.replay.contexts if round_.replay else ())):
                _known(context, self.contexts, where, "context")
                if not self.contexts[context].teaches:
                    raise ValueError(
                        f"{where} names context '{context}', which has nothing to teach -> give it"
                        " inputs and a teacher (or gold)"
                    )
            for key, said in (("start", round_.start), ("teacher", round_.teacher)):
                if said == "previous" and key == "teacher" and not earlier:
                    raise ValueError(
                        f"{where}.teacher is 'previous', but there is no round before the first ->"
                        " write base"
                    )
                if said not in ("base", "previous"):
                    _known(said, earlier, f"{where}.{key}", "earlier round")
            start = self.start_of(name)
            if start and self.rounds[start].train.adapter != round_.train.adapter:
                raise ValueError(
                    f"{where} starts from round '{start}', which has another train.adapter -> use"
                    " the same, or start: base"
                )
            earlier.append(name)
        for name, system in self.systems.items():
            where = f"systems.{name}"
            taken = (
                "teacher",
                "before",
                "base",
                "previous",
                *self.plan,
                *(f"{round_}_teacher_prompt" for round_ in self.plan),
            )
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in taken:
                raise ValueError(
                    f"'{name}' can't name a system -> use letters, digits, - and _, and not"
                    " teacher, before, base, previous or a round"
                )
            if system.model not in ("teacher", "base"):
                _known(system.model, self.plan, f"{where}.model", "round (nor teacher or base)")
            for context in system.contexts or ():
                _known(context, self.contexts, where, "context")
                if self.evaluation(context) is None:
                    raise ValueError(
                        f"{where} names context '{context}', which is not evaluated -> give it an"
                        " evaluate section"
                    )
            lacking = next(
                (
                    c
                    for c in self.systems_contexts(name)
                    if system.prompt == "teacher" and not self.contexts[c].teacher
                ),
                None,
            )
            if lacking:
                raise ValueError(
                    f"{where} needs a teacher's prompt, which context '{lacking}' has not -> name"
                    " its contexts"
                )
            if not self.systems_contexts(name):
                raise ValueError(f"{where} is measured nowhere -> evaluate a context")
        for task, pair in (self.margins or {}).items():
            for name in pair:
                if (
                    sum(name in round_.contexts for round_ in self.plan.values()) != 1
                    or self.contexts[name].teacher is None
                ):
                    raise ValueError(
                        f"margins.{task} needs context '{name}' taught by a teacher in exactly one"
                        " round -> mend rounds"
                    )
        return self

    @model_validator(mode="after")
    def _labels_of_a_server(self) -> Self:
        server = self.teacher_model and self.teacher_model.server
        if (
            server
            and self.asks_teacher
            and not {"kind", "draws", "tail"} & self.labels.model_fields_set
        ):
            known = (
                {"kind": "top_k", "k": self.labels.k or 20}
                if server.tokenizer
                else {"kind": "hard"}
            )
            object.__setattr__(self, "labels", self.labels.model_copy(update=known))
        return self

    @property
    def asks_teacher(self) -> bool:
        """Whether the recipe's teacher, not only rounds' students, gives the answers to some
        context's prompts.
        """
        return any(
            context.teacher and None in self.taught_by(name)
            for name, context in self.contexts.items()
        )

    @property
    def plan(self) -> dict[str, Round]:
        """The rounds, in order."""
        taught = tuple(name for name, context in self.contexts.items() if context.teaches)
        return self.rounds or {
            "after": Round.model_construct(
                contexts=taught,
                start="previous",
                teacher="base",
                replay=None,
                train=self.train,
                lessons=self.lessons,
            )
        }

    @property
    def used(self) -> set[str]:
        """Contexts whose lessons some round learns."""
        return {
            name
            for r in self.plan.values()
            for name in (*r.contexts, *(r.replay.contexts if r.replay else ()))
        }

    def per_input(self, context: str) -> int:
        """Lessons that an input of a context can give: one of a gold answer, else one of each
        completion.
        """
        return 1 if self.contexts[context].gold is not None else self.sampling.per_input

    def start_of(self, name: str) -> str | None:
        """The round whose student a round starts from; None: the model itself."""
        return self._earlier(name, self.plan[name].start)

    def teacher_of(self, name: str) -> str | None:
        """The round whose student teaches in a round; None: the recipe's teacher."""
        return self._earlier(name, self.plan[name].teacher)

    def taught_by(self, context: str) -> list[str | None]:
        """Whose answers a context's teacher prompts get, the first teacher first: a round's
        student, or None for the recipe's teacher.
        """
        found = [
            self.teacher_of(name)
            for name, round_ in self.plan.items()
            if context in round_.contexts
        ]
        return list(dict.fromkeys(found)) or [None]

    def replayed_by(self, context: str) -> list[str]:
        """Whose answers stand for a context where it is replayed: a round's student, or `base`, the
        untrained model.
        """
        rounds = [
            name
            for name, round_ in self.plan.items()
            if round_.replay and context in round_.replay.contexts
        ]
        return [self.start_of(name) or "base" for name in rounds]

    def _earlier(self, name: str, said: str) -> str | None:
        names = list(self.plan)
        before = names[: names.index(name)]
        if said == "previous":
            return before[-1] if before else None
        return None if said == "base" else said

    @property
    def judged(self) -> tuple[str, ...]:
        """Contexts whose answers the judge rates."""
        if self.judge is None:
            return ()
        return self.judge.contexts or tuple(
            name for name in self.contexts if (found := self.evaluation(name)) and not found.choices
        )

    def evaluation(self, context: str) -> Evaluate | None:
        """How a context is evaluated; None: not at all."""
        own = self.contexts[context].evaluate
        return own if isinstance(own, Evaluate) else self.evaluate if own else None

    def systems_contexts(self, name: str) -> list[str]:
        """Where one of `systems` is measured."""
        return [
            context
            for context in self.systems[name].contexts or self.contexts
            if self.evaluation(context)
        ]

    def to_yaml(self) -> str:
        """The resolved recipe, every field written out; `load` reads it back."""
        return yaml.safe_dump(
            self.model_dump(mode="json", by_alias=True),
            sort_keys=False,
            allow_unicode=True,
            width=110,
        )


def _known(name: str, names: Iterable[str], where: str, kind: str) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        there = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(names) or 'none'}"
        raise ValueError(f"{where} names '{name}', which is no {kind} -> {there}")
