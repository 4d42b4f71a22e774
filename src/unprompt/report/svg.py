"""The report's pictures: small SVG drawings, sharp at every size, coloured by the page's own style
sheet. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_W, _H = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 42


class Series(NamedTuple):
    """One line of a picture: its name, its points (x, y), and its number of the palette (0 is the
    accent).
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int = 0


class Point(NamedTuple):
    """One dot: name, place, and the ends of the bar through it (None: no bar) along x and y."""

    name: str
    x: float
    y: float
    across: tuple[float, float] | None = None
    along: tuple[float, float] | None = None
    colour: int = 0


def lines(
    series: Sequence[Series], x: str, y: str, *, zero: bool = True, percent: bool = False
) -> str:
    """Lines over a common x. The legend stands ahead of the drawing, as text."""
    points = [point for each in series for point in each.points]
    if not points:
        return ""
    low = min(0.0, *(v for _, v in points)) if zero else min(v for _, v in points)
    axes = _Axes([p[0] for p in points], [low, *(p[1] for p in points)], x, y, percent=percent)
    drawn = [axes.drawn()]
    for each in series:
        path = " ".join(
            f"{'L' if n else 'M'}{axes.x(a):.1f} {axes.y(b):.1f}"
            for n, (a, b) in enumerate(each.points)
        )
        drawn.append(f'<path class="line c{each.colour}" d="{path}"/>')
        if len(each.points) <= 40:
            drawn += [
                f'<circle class="dot c{each.colour}" cx="{axes.x(a):.1f}" cy="{axes.y(b):.1f}"'
                f' r="2.6"><title>{escape(each.name)}: {a:g}, {b:.4g}</title></circle>'
                for a, b in each.points
            ]
    return _legend(series) + _svg(drawn, f"{y} over {x}")


def dots(
    points: Sequence[Point],
    x: str,
    y: str,
    *,
    percent_x: bool = False,
    log_x: bool = False,
    diagonal: bool = False,
) -> str:
    """Dots with their names; y in percent."""
    if not points:
        return ""
    xs = [v for p in points for v in (p.x, *(p.across or ()))]
    ys = [v for p in points for v in (p.y, *(p.along or ()))]
    both = [*xs, *ys] if diagonal else []
    axes = _Axes([*xs, *both], [*ys, *both], x, y, percent=True, percent_x=percent_x, log_x=log_x)
    drawn = [axes.drawn()]
    if diagonal:
        a, b = max(axes.x_from, axes.y_from), min(axes.x_to, axes.y_to)
        drawn.append(
            f'<path class="grid" d="M{axes.x(a):.1f} {axes.y(a):.1f}L{axes.x(b):.1f}'
            f' {axes.y(b):.1f}"/>'
        )
    taken: list[tuple[float, float]] = []
    for p in points:
        at, up = axes.x(p.x), axes.y(p.y)
        if p.along:
            drawn.append(
                f'<path class="bar c{p.colour}" d="M{at:.1f}'
                f' {axes.y(p.along[0]):.1f}V{axes.y(p.along[1]):.1f}"/>'
            )
        if p.across:
            drawn.append(
                f'<path class="bar c{p.colour}" d="M{axes.x(p.across[0]):.1f}'
                f' {up:.1f}H{axes.x(p.across[1]):.1f}"/>'
            )
        drawn.append(
            f'<circle class="dot c{p.colour}" cx="{at:.1f}" cy="{up:.1f}"'
            f' r="4.5"><title>{escape(p.name)}: {p.x:.4g}, {p.y:.1%}</title></circle>'
        )
        left, text_at = at > _W * 0.6, up + 4
        while any(abs(text_at - y_) < 13 and abs(at - x_) < 130 for x_, y_ in taken):
            text_at += 13
        taken.append((at, text_at))
        anchor = "end" if left else "start"
        where = f'x="{at + (-9 if left else 9):.1f}" y="{text_at:.1f}" text-anchor="{anchor}"'
        drawn.append(f'<text class="name" {where}>{escape(p.name)}</text>')
    return _svg(drawn, f"{y} against {x}")


class _Axes:
    """Scales and their drawing."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        x: str,
        y: str,
        *,
        percent: bool = False,
        percent_x: bool = False,
        log_x: bool = False,
    ) -> None:
        self._names, self._percent, self._percent_x, self._log = (
            (x, y),
            percent,
            percent_x,
            log_x and min(xs) > 0,
        )
        at = [math.log10(v) for v in xs] if self._log else list(xs)
        pad = (max(at) - min(at)) * 0.04 or abs(at[0]) * 0.1 or 1
        self.x_from, self.x_to = min(at) - pad, max(at) + pad
        self._y_ticks = _ticks(min(ys), max(ys))
        self.y_from, self.y_to = min(self._y_ticks[0], min(ys)), max(self._y_ticks[-1], max(ys))
        whole = all(float(v).is_integer() for v in xs)
        ticks = _decades(min(xs), max(xs)) if self._log else _ticks(min(xs), max(xs))
        self._x_ticks = [
            t
            for t in ticks
            if self._log or (self.x_from <= t <= self.x_to and (t.is_integer() or not whole))
        ]

    def x(self, value: float) -> float:
        at = math.log10(value) if self._log else value
        return _LEFT + (at - self.x_from) / (self.x_to - self.x_from) * (_W - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return (
            _H
            - _BOTTOM
            - (value - self.y_from) / ((self.y_to - self.y_from) or 1) * (_H - _TOP - _BOTTOM)
        )

    def drawn(self) -> str:
        parts = []
        for tick in self._y_ticks:
            at = self.y(tick)
            text = f"{tick:.0%}" if self._percent else f"{tick:g}"
            parts.append(
                f'<path class="grid" d="M{_LEFT} {at:.1f}H{_W - _RIGHT}"/><text x="{_LEFT - 7}"'
                f' y="{at + 4:.1f}" text-anchor="end">{text}</text>'
            )
        for tick in self._x_ticks:
            text = (
                f"{tick:.0%}"
                if self._percent_x
                else f"{tick:,.0f}"
                if abs(tick) >= 1000
                else f"{tick:g}"
            )
            parts.append(
                f'<text x="{self.x(tick):.1f}" y="{_H - _BOTTOM + 17}"'
                f' text-anchor="middle">{text}</text>'
            )
        parts.append(
            f'<text class="axis" x="{_LEFT + (_W - _LEFT - _RIGHT) / 2:.0f}" y="{_H - 6}"'
            f' text-anchor="middle">{escape(self._names[0])}</text>'
        )
        middle = _TOP + (_H - _TOP - _BOTTOM) / 2
        parts.append(
            f'<text class="axis" transform="translate(13 {middle:.0f}) rotate(-90)"'
            f' text-anchor="middle">{escape(self._names[1])}</text>'
        )
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """About four round numbers that enclose the values."""
    if high <= low:
        high = low + (abs(low) or 1)
    raw = (high - low) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    found = [
        k * 10.0**n
        for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for k in (1, 2, 5)
    ]
    inside = [v for v in found if low * 0.9 <= v <= high * 1.1]
    return [v for v in inside if f"{v:e}"[0] == "1"] if len(inside) > 6 else inside


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    return (
        '<p class="legend">'
        + "".join(f'<span class="key c{each.colour}">{escape(each.name)}</span>' for each in series)
        + "</p>"
    )


def _svg(parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {_W} {_H}" role="img"'
        f' aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
