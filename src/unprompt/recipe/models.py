"""Which weights: files, or a server and what it may be asked."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from unprompt.recipe.section import PathText, Section, from_base
from unprompt.recipe.templates import Variables

_SENT = [
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
]
"""What a request to a server says anyway."""
_VLLM_FIELDS = {
    "model": "name",
    "dtype": "dtype",
    "revision": "revision",
    "trust_remote_code": "trust_remote_code",
    "max_model_len": "window",
}
"""Argument of `vllm.LLM` -> the model's field that says the same."""
_VLLM_OURS = [
    "tokenizer",
    "skip_tokenizer_init",
    "logits_processors",
    "worker_extension_cls",
    "async_scheduling",
    "runner",
]
"""Arguments of `vllm.LLM` that Unprompt sets."""


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

    def _wrong(self) -> Iterator[str]:
        if self.tokens is None and self.dollars is None:
            yield "a budget of nothing -> give tokens, dollars, or both"


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
    connection, half an answer or a broken one; waits double each time."""
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
        if "chat_template_kwargs" in extra:
            raise ValueError(
                "variables of the chat template have a field of their own -> write chat_template"
                " beside server"
            )
        for key in extra:
            if key in _SENT:
                raise ValueError(f"'{key}' is set by the recipe -> leave it out")
        try:
            json.dumps(extra, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError(
                "something in it can't be sent as JSON -> write numbers, texts, lists and mappings"
            ) from None
        return extra

    @property
    def renders(self) -> bool:
        """Whether it can be asked with messages."""
        return self.api == "chat" or self.tokenizer is not None

    def _wrong(self) -> Iterator[str]:
        if self.tokenizer and self.tokenizer.server:
            yield "a tokenizer is files, not a server -> give a hub id or a folder"


class Model(Section):
    """Which weights. A bare string is a hub id or a folder."""

    shorthand: ClassVar = {str: "name"}

    name: str | None = None
    """Hub id, or a folder in the Hugging Face layout."""
    gguf: PathText | None = None
    """A GGUF file instead: a path, or `pkg:package/file.gguf` for a file inside an installed Python
    package. Converted to safetensors once, in the user's cache."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the GGUF file, as its makers publish it: another file is refused."""
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
    chat_template: Variables = Field(default_factory=dict)
    """Variables of the chat template, as `enable_thinking: false`; a side's own `chat_template`
    wins. They are written into the student's own template, too. A server gets them as
    `chat_template_kwargs`, which vLLM, SGLang and llama.cpp know."""
    date: datetime.date | None = None
    """Today, to a chat template that writes the date. Unless given, a run keeps its first day."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""

    @property
    def server_tokenizer(self) -> Model | None:
        """Who reads a server's prompts here, with the variables that the server is given; None if
        the recipe names nobody.
        """
        named = self.server and self.server.tokenizer
        return named and named.model_copy(update={"chat_template": self.chat_template})

    def dated(self, day: datetime.date) -> Self:
        """The same, or, of a server, its tokenizer, with `day` for today unless it has a date."""
        if self.server is None:
            return self if self.date else self.model_copy(update={"date": day})
        if self.server.tokenizer is None:
            return self
        read_by = {"tokenizer": self.server.tokenizer.dated(day)}
        return self.model_copy(update={"server": self.server.model_copy(update=read_by)})

    @field_validator("name")
    @classmethod
    def _folder_path(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name and (name.startswith((".", "/", "~")) or Path(from_base(name, info)).is_dir()):
            return from_base(name, info)
        return name

    @field_validator("vllm")
    @classmethod
    def _not_ours(cls, given: dict[str, Any]) -> dict[str, Any]:
        for key in given:
            if key in _VLLM_FIELDS:
                raise ValueError(
                    f"'{key}' is a setting of the model itself -> write {_VLLM_FIELDS[key]} beside"
                    " vllm"
                )
            if key in _VLLM_OURS:
                raise ValueError(f"'{key}' is set by Unprompt -> leave it out")
        return given

    def _wrong(self) -> Iterator[str]:
        if self.vllm and self.engine != "vllm":
            yield "arguments of vLLM, which is not asked -> write engine: vllm, or leave them out"
        if [self.name, self.gguf, self.rule, self.server].count(None) != 3:
            yield (
                "give either a hub id or folder (name), a GGUF file (gguf), a function that makes a"
                " model (rule) or a server"
            )
        if self.sha256 and not self.gguf:
            yield "sha256 is that of a GGUF file -> name the file (gguf), or leave sha256 out"
        here = {"server", "window", "chat_template"}
        more = self.model_dump(exclude_defaults=True, exclude=here)
        if self.server and more:
            yield f"a server has its weights elsewhere -> leave out {', '.join(more)}"
        if self.server and self.server.tokenizer and self.server.tokenizer.chat_template:
            yield "its tokenizer reads what the server does -> write chat_template beside server"
        if self.chat_template and self.server and not self.server.renders:
            yield "plain text passes no chat template -> leave chat_template out, or name tokenizer"
