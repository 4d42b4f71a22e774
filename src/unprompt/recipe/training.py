"""From the teacher's completions to a student: sampling, labels, lessons, training, rounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from unprompt.recipe.section import Section, number


class Writing(Section):
    """How a completion is written, token by token."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0 is greedy. Soft labels are always the model's own distribution at temperature 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling: keep the most probable tokens up to this mass."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    """Longest completion in tokens."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion (left out of it)."""

    @property
    def settings(self) -> dict[str, Any]:
        """These fields, as far as they are given."""
        return {
            name: value
            for name in Writing.model_fields
            if (value := getattr(self, name)) is not None
        }


class Sampling(Writing):
    """How the teacher writes its completions."""

    per_input: Annotated[int, Field(ge=1)] = 1
    """Completions of each input, each a lesson of its own. The second of input `a` has the id
    `a/2`."""

    def _wrong(self) -> Iterator[str]:
        if self.per_input > 1 and self.temperature == 0:
            yield (
                f"per_input is {self.per_input}, but at temperature 0 all of them are the same ->"
                " raise temperature"
            )


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

    shorthand: ClassVar = {list: "each"}

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

    def _wrong(self) -> Iterator[str]:
        if self.each is not None and not (self.each and self.each[-1]):
            yield (
                "the last answer has no weight, but it is what the lesson is for -> give it one"
                " over 0"
            )
        if self.schedule == "exponential" and not self.shots:
            yield (
                "no factor leads from 0 to another weight -> give shots a weight over 0, or write"
                " linear"
            )


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
    mixing: Literal["equal", "proportional"] = "equal"
    """What the contexts of a round count. `equal`: equation 2 of Snell et al. 2022, the sum over
    contexts of the context's `weight` times the mean of its lessons' losses, however many lessons
    it has. `proportional`: one mean over the lessons of all contexts, each times its context's
    `weight`, so a context with nine times the lessons counts nine times as much. Replayed lessons
    count as many as they are (`replay.share`), times their context's `weight`."""
    reduction: Literal["mean", "sum"] = "mean"
    """What a step's loss is divided by. `mean`: the weight of its tokens, so it is in nats per
    weighted token. `sum`: the number of its lessons, so it is in nats per lesson; a lesson's loss
    is the sum over its answers' tokens of weight times KL, as the papers write it (equation 1 of
    Snell et al. 2022; with `kind: shots` that of AICD, Liu 2024). Gradients are longer by as much:
    mind `train.max_grad_norm`."""
    end_token: bool = True
    """Teach the end-of-answer token after the extracted part, so that the student stops."""
    max_failed: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of inputs whose extraction may fail before the run stops, ahead of training."""

    max_cut: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of a context's first answers that may be cut at `sampling.max_new_tokens` before a run
    stops: of 16 answers, where over 64 are to be asked and whole answers are learned."""

    def _wrong(self) -> Iterator[str]:
        each = self.weights.each
        if self.kind == "shots" and each is not None and len(each) != self.n:
            yield f"n is {self.n}, but there are {len(each)} weights -> give one for each answer"


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


TRAINER_FIELDS = {
    "num_train_epochs": "epochs",
    "gradient_accumulation_steps": "batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup",
    "warmup_steps": "warmup",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "save_steps": "save_every",
    "gradient_checkpointing": "checkpointing",
}
"""Argument of `transformers.TrainingArguments` -> the field of `train` that says the same."""
_SCHEDULES = {
    "linear": "schedule: linear",
    "cosine": "schedule: cosine",
    "constant": "schedule: constant and train.warmup: 0",
    "constant_with_warmup": "schedule: constant",
}
"""The same of `lr_scheduler_type`; its other values have no field."""


_WITHOUT_EFFECT = {
    "the loss is Unprompt's own": ("label_smoothing_factor", "label_names", "use_liger_kernel"),
    "lessons have an order of their own": ("train_sampling_strategy", "length_column_name"),
    "nothing is evaluated by the trainer": (
        *("do_eval", "do_predict", "do_train", "eval_strategy", "eval_steps", "eval_delay"),
        *("eval_on_start", "eval_accumulation_steps", "eval_do_concat_batches"),
        *("eval_use_gather_object", "per_device_eval_batch_size", "prediction_loss_only"),
        *("bf16_full_eval", "fp16_full_eval", "batch_eval_metrics", "include_for_metrics"),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    ),
    "a run goes on from its own checkpoints": ("resume_from_checkpoint", "output_dir"),
}
"""Why -> arguments of `transformers.TrainingArguments` that would change nothing."""


def _field(name: str, value: Any) -> str | None:
    """What of `train` says the same as an argument of the trainer; None: nothing does."""
    if name == "lr_scheduler_type":
        return _SCHEDULES.get(str(value))
    only_there = {
        "warmup_steps": isinstance(value, (int, float)) and value >= 1,  # a count, not a share
        "save_steps": isinstance(value, float) and value < 1,  # a share, not a count
        "max_grad_norm": value in (0, None),  # no limit
    }
    return None if only_there.get(name) else TRAINER_FIELDS.get(name)


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
    ...). What has a field here is refused there, and what would change nothing."""

    @field_validator("trainer")
    @classmethod
    def _trainer_numbers(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = {key: number(value) for key, value in values.items()}
        for key, value in values.items():
            if field := _field(key, value):
                raise ValueError(f"{key} has a field of its own -> write train.{field}")
            for why, names in _WITHOUT_EFFECT.items():
                if key in names:
                    raise ValueError(f"{key} has no effect: {why} -> leave it out")
        return values

    def _wrong(self) -> Iterator[str]:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            yield (
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size"
                f" {self.micro_batch_size}"
            )


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
    """What is taught, by name; the contexts' losses are summed (`lessons.mixing`)."""
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

    @property
    def learned(self) -> tuple[str, ...]:
        """Contexts of which it holds lessons, those that are replayed last."""
        return (*self.contexts, *(self.replay.contexts if self.replay else ()))
