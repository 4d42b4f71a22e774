"""D: raw inputs of a context."""

from unprompt.stages.inputs.load import load, subsets

__all__ = ["load", "subsets"]
