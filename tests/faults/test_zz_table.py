"""docs/reliability.md says what these tests count. Last by name, so that all have counted by
then.
"""

from __future__ import annotations

from dataclasses import asdict

import pytest

from faults.conftest import TABLED, Counts
from faults.table import FEWER, VARYING, in_page, rows


def test_the_page_has_what_was_counted(counts: Counts) -> None:
    page = {row[0]: [int(cell) for cell in row[1:]] for row in in_page()}
    for injected, survived, lost, _, beyond in page.values():
        assert (survived, lost, beyond) == (injected, 0, 0)
    if set(counts) != page.keys() - {"all"}:
        pytest.skip("not all of these tests have run")
    counted = {
        row[0]: [int(cell) for cell in row[1:]]
        for row in rows({kind: asdict(tally) for kind, tally in counts.items()})
    }
    left = VARYING if TABLED else VARYING | FEWER
    assert {kind: row[:3] for kind, row in counted.items() if kind not in left} == {
        kind: row[:3] for kind, row in page.items() if kind not in left
    }
    if TABLED:
        assert sum(counted[kind][0] for kind in VARYING) == sum(page[kind][0] for kind in VARYING)
