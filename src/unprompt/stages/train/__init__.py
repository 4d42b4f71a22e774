"""From lessons to a student."""

from unprompt.stages.train.adapter import attach_adapter, merged
from unprompt.stages.train.loop import LessonTrainer, arguments, shares, train

__all__ = ["LessonTrainer", "arguments", "attach_adapter", "merged", "shares", "train"]
