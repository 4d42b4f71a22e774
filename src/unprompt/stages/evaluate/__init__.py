"""Grades, KL on instructions, judges."""

from unprompt.stages.evaluate.grade import (
    check,
    grade,
    grade_choices,
    refuse_gold,
)

__all__ = ["check", "grade", "grade_choices", "refuse_gold"]
