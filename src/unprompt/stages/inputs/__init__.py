"""D: raw inputs of a context."""

from unprompt.stages.inputs.load import digests, load, subsets

__all__ = ["digests", "load", "subsets"]
