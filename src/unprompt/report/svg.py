"""The report's pictures: small SVG drawings, sharp at every size, coloured by the page's own style
sheet. Pure; what is drawn where is computed here, the drawing is a template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from unprompt.report import templates

_W, _H = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, _W - 14, 14, _H - 42


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


def lines(series: Sequence[Series], x: str, y: str, *, percent: bool = False) -> Markup:
    """Lines over a common x, y from 0 on. The legend stands ahead of the drawing, as text."""
    points = [point for each in series for point in each.points]
    if not points:
        return Markup("")
    write = _percent if percent else _plain
    axes = _Axes([a for a, _ in points], [0.0, *(b for _, b in points)], x, y, _whole, write)
    return _drawn(axes, f"{y} over {x}", lines=series)


def dots(
    points: Sequence[Point],
    x: str,
    y: str,
    *,
    percent_x: bool = False,
    log_x: bool = False,
    diagonal: bool = False,
) -> Markup:
    """Dots with their names; y in percent."""
    if not points:
        return Markup("")
    xs = [v for p in points for v in (p.x, *(p.across or ()))]
    ys = [v for p in points for v in (p.y, *(p.along or ()))]
    if diagonal:
        xs = ys = [*xs, *ys]
    axes = _Axes(xs, ys, x, y, _percent if percent_x else _whole, _percent, log_x=log_x)
    taken: list[tuple[float, float]] = []
    drawn = []
    for p in points:
        at, name_at = axes.x(p.x), axes.y(p.y) + 4
        while any(abs(name_at - y_) < 13 and abs(at - x_) < 130 for x_, y_ in taken):
            name_at += 13
        taken.append((at, name_at))
        left = at > _W * 0.6
        anchor = "end" if left else "start"
        drawn.append((p, {"x": at + (-9 if left else 9), "y": name_at, "anchor": anchor}))
    ends = max(axes.x_from, axes.y_from), min(axes.x_to, axes.y_to)
    return _drawn(axes, f"{y} against {x}", dots=drawn, diagonal=ends if diagonal else None)


def _drawn(axes: _Axes, title: str, **what: Any) -> Markup:
    frame = {"w": _W, "h": _H, "left": _LEFT, "right": _RIGHT, "top": _TOP, "bottom": _BOTTOM}
    values = {"lines": (), "dots": (), "diagonal": None, **what}
    return Markup(templates.fragment("picture.svg", axes=axes, title=title, **frame, **values))


def _percent(tick: float) -> str:
    return f"{tick:.0%}"


def _plain(tick: float) -> str:
    return f"{tick:g}"


def _whole(tick: float) -> str:
    return f"{tick:,.0f}" if abs(tick) >= 1000 else f"{tick:g}"


class _Axes:
    """Scales, and where their ticks stand."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        x_name: str,
        y_name: str,
        write_x: Callable[[float], str],
        write_y: Callable[[float], str],
        *,
        log_x: bool = False,
    ) -> None:
        self.x_name, self.y_name = x_name, y_name
        self._log = log_x and min(xs) > 0
        at = [math.log10(v) for v in xs] if self._log else list(xs)
        pad = (max(at) - min(at)) * 0.04 or abs(at[0]) * 0.1 or 1
        self.x_from, self.x_to = min(at) - pad, max(at) + pad
        ticks = _ticks(min(ys), max(ys))
        self.y_from, self.y_to = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
        self.y_ticks = [(self.y(tick), write_y(tick)) for tick in ticks]
        if self._log:
            ticks = _decades(min(xs), max(xs))
        else:
            whole = all(float(v).is_integer() for v in xs)
            inside = (t for t in _ticks(min(xs), max(xs)) if self.x_from <= t <= self.x_to)
            ticks = [tick for tick in inside if tick.is_integer() or not whole]
        self.x_ticks = [(self.x(tick), write_x(tick)) for tick in ticks]

    def x(self, value: float) -> float:
        at = math.log10(value) if self._log else value
        return _LEFT + (at - self.x_from) / (self.x_to - self.x_from) * (_RIGHT - _LEFT)

    def y(self, value: float) -> float:
        part = (value - self.y_from) / ((self.y_to - self.y_from) or 1)
        return _BOTTOM - part * (_BOTTOM - _TOP)


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
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [k * 10.0**n for n in powers for k in (1, 2, 5)]
    inside = [v for v in ticks if low * 0.9 <= v <= high * 1.1]
    return [v for v in inside if f"{v:e}"[0] == "1"] if len(inside) > 6 else inside
