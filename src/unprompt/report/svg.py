"""The report's pictures: small SVG drawings, sharp at every size, coloured by the page's own style
sheet. Pure; what is drawn where is computed here, the drawing is a template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from unprompt.report import templates
from unprompt.visible import visible

_W, _H = 560, 274
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, _W - 14, 38, _H - 42
_LETTER, _LINE = 16, 20
"""Size of a picture's letters on a phone, where they are largest, and the height of their line."""
_AWAY = 9
"""From the middle of a dot to its name."""
_MOST, _LONGEST = 12, 40
"""More names, or a name of more letters, stand ahead of the picture; in it are their numbers."""


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
    """Dots with their names, or where there is no room for them, with numbers; y in percent."""
    if not points:
        return Markup("")
    xs = [v for p in points for v in (p.x, *(p.across or ()))]
    ys = [v for p in points for v in (p.y, *(p.along or ()))]
    if diagonal:
        xs = ys = [*xs, *ys]
    axes = _Axes(xs, ys, x, y, _percent if percent_x else _whole, _percent, log_x=log_x)
    at = [(axes.x(p.x), axes.y(p.y)) for p in points]
    names = [visible(p.name) for p in points]
    numbered = len(points) > _MOST or len(max(names, key=len)) > _LONGEST
    labels = [] if numbered else _labels(names, at, axes.left)
    if numbered or None in labels:
        numbered, labels = True, _labels([str(n + 1) for n in range(len(points))], at, axes.left)
    ends = max(axes.x_from, axes.y_from), min(axes.x_to, axes.y_to)
    return _drawn(
        axes,
        f"{y} against {x}",
        dots=list(zip(points, labels, strict=True)),
        names=names if numbered else (),
        diagonal=ends if diagonal else None,
    )


class Label(NamedTuple):
    """A dot's name: text, place of its middle line, `text-anchor`, and where a line to the dot
    begins, if it stands further away.
    """

    text: str
    x: float
    y: float
    anchor: str
    line: tuple[float, float] | None


def _labels(
    names: Sequence[str], at: Sequence[tuple[float, float]], left: float
) -> list[Label | None]:
    """A place for every dot's name, as near as may be, upon no other name and no dot; None where
    the picture is full.
    """
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    labels: list[Label | None] = []
    for name, dot in zip(names, at, strict=True):
        places = sorted(
            _places(_width(name), dot, left), key=lambda box: round(_distance(box, dot))
        )
        box = next((box for box in places if not any(_meet(box, each) for each in taken)), None)
        if box:
            taken.append(box)
        labels.append(box and _label(name, box, dot))
    return labels


_Box = tuple[float, float, float, float]
"""Left, top, right and bottom."""


def _places(wide: float, dot: tuple[float, float], left: float) -> list[_Box]:
    """Where a name of this width may stand: beside the dot, above and below it, and anywhere."""
    x, y = dot
    half = _LINE / 2
    corners = [(x + _AWAY, y - half), (x - _AWAY - wide, y - half)]
    corners += [(x - wide / 2, y - _AWAY - _LINE), (x - wide / 2, y + _AWAY)]
    rows = [_TOP + half * n for n in range(int((_BOTTOM - _TOP) / half))]
    sides = [x + _AWAY, x - _AWAY - wide, x - wide / 2]
    sides += [left + 24 * n for n in range(int((_RIGHT - left) / 24))]
    corners += [(side, row) for side in sides for row in rows]
    boxes = ((a, b, a + wide, b + _LINE) for a, b in corners)
    return [
        box
        for box in boxes
        if left < box[0] and box[2] < _RIGHT and _TOP <= box[1] <= box[3] <= _BOTTOM
    ]


def _label(name: str, box: _Box, dot: tuple[float, float]) -> Label:
    x, middle = dot[0], (box[1] + box[3]) / 2
    end = _nearest(box, dot) if _distance(box, dot) > _LINE else None
    if box[0] > x:
        return Label(name, box[0], middle, "start", end)
    if box[2] < x:
        return Label(name, box[2], middle, "end", end)
    return Label(name, (box[0] + box[2]) / 2, middle, "middle", end)


def _nearest(box: _Box, dot: tuple[float, float]) -> tuple[float, float]:
    return min(max(dot[0], box[0]), box[2]), min(max(dot[1], box[1]), box[3])


def _distance(box: _Box, dot: tuple[float, float]) -> float:
    return math.dist(_nearest(box, dot), dot)


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _width(text: str) -> float:
    """Of a text in a picture on a phone; rather too much."""
    return _LETTER * sum(_letter(letter) for letter in text)


def _cut(text: str) -> str:
    """As much of a text as a line of the picture holds."""
    text = visible(text)
    most = next((n for n in range(len(text)) if _width(text[: n + 1]) > _W - 2 * _LETTER), None)
    return text if most is None else f"{text[:most]}…"


def _letter(letter: str) -> float:
    if letter in "ijlt.,:;'|!()[]I ":
        return 0.42
    if letter in "mwMW%@" or ord(letter) > 0x250:
        return 1.0
    return 0.8 if letter.isupper() else 0.66


def _drawn(axes: _Axes, title: str, **what: Any) -> Markup:
    frame = {"w": _W, "h": _H, "left": axes.left, "right": _RIGHT, "top": _TOP, "bottom": _BOTTOM}
    values = {"lines": (), "dots": (), "names": (), "diagonal": None, **what}
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
        self.x_name, self.y_name = x_name, _cut(y_name)
        self._log = log_x and min(xs) > 0
        at = [math.log10(v) for v in xs] if self._log else list(xs)
        pad = (max(at) - min(at)) * 0.04 or abs(at[0]) * 0.1 or 1
        self.x_from, self.x_to = min(at) - pad, max(at) + pad
        ticks = _ticks(min(ys), max(ys))
        self.y_from, self.y_to = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
        self.y_ticks = [(self.y(tick), write_y(tick)) for tick in ticks]
        self.left = max(_LEFT, 12 + max(_width(text) for _, text in self.y_ticks))
        whole = all(float(v).is_integer() for v in xs)
        ticks = [tick for tick in _ticks(min(xs), max(xs)) if tick.is_integer() or not whole]
        if self._log:
            decades = _decades(min(xs), max(xs))
            ticks = decades if sum(map(self._inside, decades)) > 1 else ticks
        self.x_ticks = [
            (min(self.x(tick), _W - _width(write_x(tick)) / 2), write_x(tick))
            for tick in ticks
            if self._inside(tick)
        ]

    def _inside(self, value: float) -> bool:
        return self.left <= self.x(value) <= _RIGHT if value > 0 or not self._log else False

    def x(self, value: float) -> float:
        at = math.log10(value) if self._log else value
        return self.left + (at - self.x_from) / (self.x_to - self.x_from) * (_RIGHT - self.left)

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
