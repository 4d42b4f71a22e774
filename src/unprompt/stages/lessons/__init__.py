"""The transfer set: f, token spans, weights, shots, filters."""

from unprompt.stages.lessons.build import (
    Drops,
    build,
    gold_completions,
    refuse_too_many_failures,
    replay_size,
    replayed,
)

__all__ = [
    "Drops",
    "build",
    "gold_completions",
    "refuse_too_many_failures",
    "replay_size",
    "replayed",
]
