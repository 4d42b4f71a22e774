"""vLLM as an engine, in processes of its own on this machine: continuous batching, paged attention,
several GPUs.

vLLM schedules and runs the model; tokens and labels are drawn in its workers by the functions of
`drawing.py`, from the logits at hand (`worker.py`). So all label kinds are those of `hf/`, nothing
but the labels is brought back, and the same seed draws the same up to rounding. Given answers are
scored by writing them: each of their tokens is the only one possible, so the shared prefix comes
from vLLM's cache (its `prompt_logprobs` would leave that aside).
"""

from __future__ import annotations

import importlib
import os
import pickle
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from unprompt import engines
from unprompt.engines import Options, models, tokens
from unprompt.engines.vllm import CAN
from unprompt.messages import UserError, say
from unprompt.recipe import Labels, Model, Sampling
from unprompt.records import Completion, Prompt, SoftLabels
from unprompt.store.files import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ON_CPU = {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": 2 * 2**30}
"""Where vLLM does otherwise on processors: minutes of compilation, a prefix cache in blocks of 128
tokens, nearly all memory."""
_UNLESS_SET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
_FEW_CORES = 4
"""Up to here vLLM binds no threads, of which it would leave one core without, and sleeps while
nothing is asked."""
_ON_FEW_CORES = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_SLEEP_WHEN_IDLE": "1"}

_Told = dict[int, tuple[list[int], SoftLabels]]
"""Place of a prompt -> the answer's token ids, and their labels."""


class VLLMEngine:
    """A model that vLLM runs. It is started when it is first asked, unless `start` did.

    Args:
        model: The recipe's section; `model.vllm` are arguments of `vllm.LLM`.
        where: Its key in the recipe.
        tokenizer: Its tokenizer.
        at_once: Sequences that run together at most; None: vLLM's own choice.
    """

    def __init__(
        self,
        model: Model,
        where: str,
        tokenizer: PreTrainedTokenizerBase,
        at_once: int | None = None,
    ) -> None:
        self._model, self._where, self._tokenizer, self._at_once = model, where, tokenizer, at_once
        config = models.load_config(model, where)
        self._window = models.window(model, config, tokenizer)
        self._ends = models.ends_of(model, tokenizer, config, where)
        self._llm: Any = None
        self._jobs = 0

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        labels: Labels | None,
        **options: Unpack[Options],
    ) -> list[Completion]:
        """See `Engine.generate`. vLLM finds shared prefixes itself, and `at_once` stands for
        `batch_size`.
        """
        ids = self._encode(prompts, [sampling.max_new_tokens] * len(prompts))
        settings: dict[str, Any] = {
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": sorted(self._ends),
            "stop": list(sampling.stop),
        }
        job = sampling, labels, tokens.keys(prompts, options.get("seed", 0)), None
        done, found = options.get("done"), dict[int, Completion]()

        def take(answers: _Told) -> None:
            whole = {
                n: self._completion(
                    prompts[n], len(ids[n]), answer, sampling, label if labels else None
                )
                for n, (answer, label) in answers.items()
            }
            found.update(whole)
            if done:
                done(whole)

        self._run(job, ids, [settings] * len(prompts), options, take)
        return [found[n] for n in range(len(prompts))]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Sequence[int]],
        labels: Labels,
        **options: Unpack[Options],
    ) -> list[SoftLabels]:
        """See `Engine.score`."""
        ids = self._encode(prompts, [len(given) for given in completions])
        some = [n for n, given in enumerate(completions) if given]
        keys = tokens.keys([prompts[n] for n in some], options.get("seed", 0))
        job = Sampling(), labels, keys, [list(completions[n]) for n in some]
        settings = [{"max_tokens": len(completions[n])} for n in some]
        told, scored = options.get("scored"), dict[int, SoftLabels]()

        def take(answers: _Told) -> None:
            labelled = {some[n]: label for n, (_, label) in answers.items()}
            scored.update(labelled)
            if told:
                told(labelled)

        self._run(job, [ids[n] for n in some], settings, options, take)
        if progress := options.get("progress"):
            progress(len(prompts) - len(some))
        return [scored.get(n, SoftLabels.concat([])) for n in range(len(prompts))]

    def start(self) -> None:
        """Have vLLM running."""
        self._llm = self._llm or self._started()

    def close(self) -> None:
        """Stop vLLM and give its memory back; it starts again when it is asked again."""
        if self._llm is not None:
            llm, self._llm = self._llm, None
            llm.llm_engine.engine_core.shutdown()

    # -- asking ------------------------------------------------------------------------------------

    def _encode(self, prompts: Sequence[Prompt], answers: Sequence[int]) -> list[list[int]]:
        for prompt in prompts:
            if prompt.others:
                CAN.one_prompt(tokens.place(prompt), "show all examples in one prompt")
        return [ids for [ids] in tokens.encoded(self._tokenizer, prompts, answers, self._window)]

    def _run(
        self,
        job: tuple[Any, ...],
        ids: Sequence[list[int]],
        settings: Sequence[dict[str, Any]],
        options: Options,
        take: Callable[[_Told], object],
    ) -> None:
        """Ask, and have answers taken: those of every `DONE_EVERY` seconds, and the rest."""
        if not ids:
            return
        self.start()
        llm, answers = self._llm, dict[int, list[int]]()
        dead = importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError
        self._jobs += 1
        names = {f"{self._jobs}-{n}": n for n in range(len(ids))}
        left, due = set(range(len(ids))), time.monotonic() + engines.DONE_EVERY
        try:
            llm.collective_rpc("begin", args=(pickle.dumps(job),))
            self._add(names, ids, settings, aloud=bool(options.get("heard")))
            while left:
                self._listen(names, answers, options, due)
                new = {n: answers[n] for n in left & answers.keys()}
                assert new or time.monotonic() >= due, "vLLM ended without an answer"
                if new:
                    take(self._labelled(new))
                left -= new.keys()
                due = time.monotonic() + engines.DONE_EVERY
        except dead as error:
            self.close()
            raise UserError(
                f"vLLM stopped: {str(error)[:200]}",
                where=self._where,
                fix="its own lines above say why; what was answered before is kept",
            ) from None
        except BaseException:  # nobody listens any more
            llm.llm_engine.abort_request([name for name, n in names.items() if n not in answers])
            raise

    def _labelled(self, answers: dict[int, list[int]]) -> _Told:
        """Answers with their labels, empty ones where none are wanted."""
        lengths = {n: len(answer) for n, answer in answers.items()}
        replies = map(pickle.loads, self._llm.collective_rpc("labels", args=(lengths,)))
        labels = next((each for each in replies if each is not None), {})
        nothing = SoftLabels.concat([])
        return {n: (answer, labels.get(n, nothing)) for n, answer in answers.items()}

    def _add(
        self,
        names: dict[str, int],
        ids: Sequence[list[int]],
        settings: Sequence[dict[str, Any]],
        *,
        aloud: bool,
    ) -> None:
        """Give vLLM its requests; `aloud`: it tells what it has so far."""
        vllm = importlib.import_module("vllm")
        kinds = importlib.import_module("vllm.sampling_params").RequestOutputKind
        for (name, n), prompt, setting in zip(names.items(), ids, settings, strict=True):
            asked = vllm.SamplingParams(
                temperature=0,
                ignore_eos=True,
                detokenize=bool(setting.get("stop")),
                skip_special_tokens=False,
                output_kind=kinds.CUMULATIVE if aloud else kinds.FINAL_ONLY,
                extra_args={"row": n},
                **setting,
            )
            self._llm.llm_engine.add_request(name, {"prompt_token_ids": prompt}, asked)

    def _listen(
        self, names: dict[str, int], answers: dict[int, list[int]], options: Options, until: float
    ) -> None:
        """Take the answers as they come, up to the end or a moment."""
        engine, heard, progress = (
            self._llm.llm_engine,
            options.get("heard"),
            options.get("progress"),
        )
        while engine.has_unfinished_requests():
            for output in engine.step():
                n, answer = names[output.request_id], list(output.outputs[0].token_ids)
                if output.finished:
                    answers[n] = answer
                    if progress:
                        progress(1)
                elif heard:
                    heard(n, tokens.decoded(self._tokenizer, answer))
            if time.monotonic() >= until:
                return

    def _completion(
        self,
        prompt: Prompt,
        prompt_tokens: int,
        answer: Sequence[int],
        sampling: Sampling,
        label: SoftLabels | None,
    ) -> Completion:
        """An answer, its end read from its tokens as `hf/engine.py` does."""
        ended = answer[-1] in self._ends
        words = tokens.decoded(self._tokenizer, answer[:-1] if ended else answer)
        before = None if ended else tokens.before_stop(words, sampling.stop)
        stop = "end" if ended else "length" if before is None else "stop"
        shown = words if before is None else before
        at = prompt.example_id, prompt.context
        return Completion(*at, shown, tuple(answer), stop, prompt_tokens, label)

    # -- vLLM --------------------------------------------------------------------------------------

    def _started(self) -> Any:
        """A running `vllm.LLM`."""
        # the runner that `Writer` fits into; processes of its own, whose memory comes back
        os.environ |= {
            "VLLM_USE_V2_MODEL_RUNNER": "0",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
            "UNPROMPT_VLLM_OWNER": str(os.getpid()),
        }
        few = (os.cpu_count() or 1) <= _FEW_CORES
        for name, value in (_UNLESS_SET | (_ON_FEW_CORES if few else {})).items():
            os.environ.setdefault(name, value)
        vllm, platforms = importlib.import_module("vllm"), importlib.import_module("vllm.platforms")
        say("starting vLLM")
        model = self._model
        models.ready_weights(model, self._where)
        limits = {"max_model_len": self._window, "max_num_seqs": self._at_once}
        settings: dict[str, Any] = {"enable_prefix_caching": True}
        settings |= {name: limit for name, limit in limits.items() if limit}
        if platforms.current_platform.is_cpu():
            settings |= _ON_CPU
        try:
            return vllm.LLM(
                models.folder_of(model, self._where),
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                dtype=str(models.dtype(model)).removeprefix("torch."),
                async_scheduling=False,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                logits_processors=["unprompt.engines.vllm.worker:Writer"],
                worker_extension_cls="unprompt.engines.vllm.worker.Extension",
                **(settings | model.vllm),
            )
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"vLLM can't start: {first_line(error, 300)}",
                where=f"{self._where}.vllm",
                fix=(
                    "mend its arguments (vLLM's own lines are above; VLLM_LOGGING_LEVEL=INFO shows"
                    " all), or write engine: hf"
                ),
            ) from None
