"""T: every context's inputs, seen through both templates, with their lengths in tokens."""

from unprompt.stages.prompts.readers import Readers, measure
from unprompt.stages.prompts.rendered import Prompts, rendered
from unprompt.stages.prompts.side import Side, plain, sample_ids, several

__all__ = [
    "Prompts",
    "Readers",
    "Side",
    "measure",
    "plain",
    "rendered",
    "sample_ids",
    "several",
]
