"""From lessons to a student."""

from unprompt.stages.train.loop import LessonTrainer, arguments, attach_adapter, shares, train

__all__ = ["LessonTrainer", "arguments", "attach_adapter", "shares", "train"]
