"""Tables of the terminal: one that is wider than the screen is shown in parts, one below the
other, and no number is broken. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from unprompt.visible import visible

_BETWEEN = 2
"""Blanks between two columns."""

Column = list[str]
"""A column's name, then its cells."""


def drawn(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[Table], str]:
    """A table in as many parts as the screen asks for, each with the rows' names; and where these
    had to be short, what they stand for.

    A column whose name stands several times (`to teacher [95 %]`) says something of the column
    ahead of it, and stays with it.

    Args:
        columns: Their names; the first is that of the rows' names.
        rows: As many cells each.
        width: Letters that a line of the screen holds.
    """
    cells = [[_one_line(cell) for cell in column] for column in zip(columns, *rows, strict=True)]
    wide = [max(map(cell_len, column)) for column in cells]
    if _fits(wide, width):
        return [_part(cells, wide)], ""
    cells[0], meaning = _short(cells[0])
    wide = [max(map(cell_len, cells[0])), *(_narrow(column) for column in cells[1:])]
    groups = _groups(columns)
    if not _all_fit(groups, wide, width):
        cells[1:] = [[cell.replace(" [", "\n[") for cell in column] for column in cells[1:]]
        wide = [min(wide[0], width // 3), *(_narrow(column) for column in cells[1:])]
    if not _all_fit(groups, wide, width):
        groups = [[number] for number in range(1, len(cells))]
    parts: list[list[int]] = []
    for group in groups:
        if not parts or not _all_fit([parts[-1] + group], wide, width):
            parts.append([])
        parts[-1] += group
    tables = [_part([cells[n] for n in (0, *p)], [wide[n] for n in (0, *p)]) for p in parts]
    return tables, meaning


def _one_line(cell: str) -> str:
    return " ".join(visible(cell).split())


def _fits(wide: Sequence[int], width: int) -> bool:
    return sum(wide) + _BETWEEN * (len(wide) - 1) <= width


def _all_fit(groups: Sequence[Sequence[int]], wide: Sequence[int], width: int) -> bool:
    """Whether each of these columns fit on the screen beside the rows' names."""
    return all(_fits([wide[0], *(wide[n] for n in group)], width) for group in groups)


def _short(names: Column) -> tuple[Column, str]:
    """The rows' names without what they say in brackets, if that tells them apart, and the whole
    ones as a line.
    """
    short = [name.partition(" (")[0] for name in names]
    if short == names or len(set(short)) < len(names):
        return names, ""
    return short, "; ".join(names[1:])


def _narrow(column: Column) -> int:
    """Width of a column whose name goes on below, and whose cells don't."""
    name, *cells = column
    lines = [line for cell in cells for line in cell.split("\n")]
    return max(map(cell_len, [*name.split(), *lines]))


def _groups(columns: Sequence[str]) -> list[list[int]]:
    """Numbers of the columns that stay together."""
    groups: list[list[int]] = []
    for number, name in enumerate(columns[1:], start=1):
        if groups and columns.count(name) > 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _part(cells: Sequence[Column], wide: Sequence[int]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _BETWEEN - 1, 0, 0)
    )
    for number, ((name, *_), width) in enumerate(zip(cells, wide, strict=True)):
        justify = "right" if number else "left"
        table.add_column(Text(name), justify=justify, width=width, overflow="fold")
    for row in zip(*(column[1:] for column in cells), strict=True):
        table.add_row(*map(Text, row))
    return table
