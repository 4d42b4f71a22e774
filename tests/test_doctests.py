"""The examples in docstrings of pure functions are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "unprompt.metrics.match",
        "unprompt.metrics.statistics",
        "unprompt.stages.lessons.build",
    ],
)
def test_examples_in_docstrings(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried, f"{name} has no example"
    assert not failed
