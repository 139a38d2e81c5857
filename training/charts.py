"""Small drawings for pages, as inline SVG: coloured by the page's style sheet, so that they are right in
light and dark, and without inline styles, which the page's policy forbids.

Shapes: C categories, K points of a curve, B bins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

_WIDTH, _HEIGHT = 340, 250  # of a curve: a phone shows it at its own size
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 20, 10, 40  # around its plane
_CELL = 24  # of a matrix, pixels
_LABEL_CHARS = 26
_FAINT, _SHADES = 0.08, 0.47  # of a cell; a figure on a stronger shade would be hard to read, dark or light
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.25)  # between the lines of an axis of shares


@dataclass(frozen=True, kw_only=True)
class Line:
    """A curve through points; `style` is a class of the style sheet: line, line-bad, guide."""

    x_K: Sequence[float]
    y_K: Sequence[float]
    style: str = "line"


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A point, with an interval of y where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    style: str = "good"


def bar(share: float, *, low: float | None = None, high: float | None = None, style: str = "good") -> Markup:
    """A bar for a cell of a table: `share` in [0, 1] of its width, `low` to `high` as a whisker. Figures
    stand beside it, so screen readers pass over it."""
    whisker = Markup()
    if low is not None and high is not None:
        # Its halo keeps it apart from the bar that it lies on.
        whisker = Markup().join(
            Markup('<line class="{}" x1="{}" x2="{}" y1="50%" y2="50%"/>').format(
                layer, _percent(low), _percent(high)
            )
            for layer in ("halo", "whisker")
        )
    return Markup(
        '<svg class="bar" aria-hidden="true" focusable="false">'
        '<rect class="track" width="100%" height="100%"/>'
        '<rect class="{}" width="{}" height="100%"/>{}</svg>'
    ).format(style, _percent(share), whisker)


def plot(
    says: str,
    *,
    x_label: str,
    y_label: str,
    lines: Sequence[Line] = (),
    dots: Sequence[Dot] = (),
    x_range: tuple[float, float] = (0.0, 1.0),
    y_range: tuple[float, float] = (0.0, 1.0),
    percent: bool = True,
) -> Markup:
    """Curves and points over two axes, of shares where `percent`; else x counts something, and y is a
    score. `says` is what a screen reader reads."""
    plane = _Plane(x_range, y_range)
    drawn = [plane.axes(x_label, y_label, percent=percent)]
    drawn += [plane.line(line) for line in lines]
    drawn += [plane.dot(dot) for dot in dots]
    return _drawing(says, _WIDTH, _HEIGHT, drawn)


def histogram(says: str, count_B: Sequence[int], edges: Sequence[float], *, x_label: str) -> Markup:
    """Counts by bin; `edges` are one more than the bins, which are drawn equally wide and named by them."""
    bins, most = len(count_B), max([*count_B, 1])
    wide = (_WIDTH - _LEFT - _RIGHT) / bins
    high = _HEIGHT - _TOP - _BOTTOM
    drawn = []
    for b, count in enumerate(count_B):
        tall = high * count / most
        drawn.append(
            Markup(
                '<rect class="good" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                "<title>{} to {}: {}</title></rect>"
            ).format(
                _LEFT + b * wide + 0.5,
                _TOP + high - tall,
                max(wide - 1, 1),
                tall,
                short(edges[b]),
                short(edges[b + 1]),
                f"{count:,}",
            )
        )
    step = max(1, round(bins / 5))
    drawn += [
        _text(short(edges[b]), _LEFT + b * wide, _HEIGHT - _BOTTOM + 14, anchor="middle")
        for b in range(0, bins + 1, step)
    ]
    drawn += [
        _text(short(most), _LEFT - 6, _TOP + 8, anchor="end"),
        _text("0", _LEFT - 6, _TOP + high, anchor="end"),
        _text(x_label, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, anchor="middle", style="soft"),
    ]
    return _drawing(says, _WIDTH, _HEIGHT, drawn)


def matrix(says: str, count_CC: np.ndarray, names: Sequence[str]) -> Markup:
    """A confusion matrix: rows are true, columns answered; shades are shares of a row, figures counts."""
    labels = [shortened(name, _LABEL_CHARS) for name in names]
    left = top = 24 + 6.5 * max(len(label) for label in labels)
    share_CC = count_CC / np.maximum(count_CC.sum(axis=1, keepdims=True), 1)
    drawn = []
    for at, label in enumerate(labels):
        middle = at * _CELL + _CELL / 2
        drawn.append(_text(label, left - 6, top + middle + 4, anchor="end"))
        drawn.append(
            Markup('<g transform="translate({:.1f} {:.1f}) rotate(-90)">{}</g>').format(
                left + middle + 4, top - 6, _text(label, 0, 0)
            )
        )
    for row, column in zip(*np.nonzero(count_CC), strict=True):
        cell = (left + column * _CELL, top + row * _CELL)
        count, share = int(count_CC[row, column]), float(share_CC[row, column])
        tip = f"{names[row]} answered as {names[column]}: {count:,} ({share:.1%})"
        drawn.append(_cell(cell, count, share, row == column, tip))
    side = len(names) * _CELL
    drawn += _grid(len(names), left, top)
    drawn.append(_text("answered", left, 12, style="soft"))
    drawn.append(_text("true", left - 6, top - 6, anchor="end", style="soft"))
    return _drawing(says, round(left + side + 8), round(top + side + 8), drawn, fixed=True)


def shortened(text: str, chars: int) -> str:
    """At most `chars` characters of `text`, the last an ellipsis where some are missing."""
    return text if len(text) <= chars else text[: chars - 1].rstrip() + "…"


def short(number: float) -> str:
    """A number for an axis: 950, 1.2k, 3M, 0.25."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def share_range(low: float, high: float) -> tuple[float, float]:
    """Ends, in [0, 1], of an axis with room for the shares from `low` to `high`: four round steps apart."""
    for step in _STEPS:
        start = min(np.floor(low / step + 1e-9) * step, 1 - 4 * step)
        if start + 4 * step >= high:
            break
    return round(float(start), 2), round(float(start) + 4 * step, 2)


class _Plane:
    """The part of a plot between its axes."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float]) -> None:
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        return _LEFT + _share(value, self.x_range) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (1 - _share(value, self.y_range)) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_label: str, y_label: str, *, percent: bool) -> Markup:
        drawn = []
        across = np.linspace(*self.x_range, 5)
        for x in across if percent else np.unique(across.round()):
            drawn.append(_line("grid", self.x(x), _TOP, self.x(x), _HEIGHT - _BOTTOM))
            name = f"{x:.0%}" if percent else short(float(x))
            drawn.append(_text(name, self.x(x), _HEIGHT - _BOTTOM + 14, anchor="middle"))
        for y in np.linspace(*self.y_range, 5):
            drawn.append(_line("grid", _LEFT, self.y(y), _WIDTH - _RIGHT, self.y(y)))
            name = f"{100 * y:.3g}%" if percent else f"{y:.2f}"
            drawn.append(_text(name, _LEFT - 5, self.y(y) + 4, anchor="end"))
        drawn.append(
            _text(x_label, (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, anchor="middle", style="soft")
        )
        turned = _text(y_label, 0, 0, anchor="middle", style="soft")
        drawn.append(
            Markup('<g transform="translate(10 {:.1f}) rotate(-90)">{}</g>').format(
                (_TOP + _HEIGHT - _BOTTOM) / 2, turned
            )
        )
        return Markup().join(drawn)

    def line(self, line: Line) -> Markup:
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(line.x_K, line.y_K, strict=True))
        return Markup('<polyline class="{}" points="{}"/>').format(line.style, points)

    def dot(self, dot: Dot) -> Markup:
        whisker = Markup()
        if dot.low is not None and dot.high is not None:
            whisker = _line("whisker", self.x(dot.x), self.y(dot.low), self.x(dot.x), self.y(dot.high))
        return whisker + Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"/>').format(
            dot.style, self.x(dot.x), self.y(dot.y)
        )


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _cell(corner: tuple[float, float], count: int, share: float, right: bool, tip: str) -> Markup:
    colour = "good" if right else "bad"
    return Markup(
        '<g><title>{}</title><rect class="{}" x="{:.1f}" y="{:.1f}" width="{}" height="{}"'
        ' fill-opacity="{:.2f}"/>'
        '<text x="{:.1f}" y="{:.1f}" font-size="{}" text-anchor="middle">{}</text></g>'
    ).format(
        tip, colour, *corner, _CELL, _CELL, _FAINT + _SHADES * share,
        corner[0] + _CELL / 2, corner[1] + _CELL / 2 + 4, 11 if count < 1_000 else 9, short(count),
    )  # fmt: skip


def _grid(categories: int, left: float, top: float) -> list[Markup]:
    side = categories * _CELL
    edges = [at * _CELL for at in range(categories + 1)]
    across = [_line("grid", left, top + edge, left + side, top + edge) for edge in edges]
    return across + [_line("grid", left + edge, top, left + edge, top + side) for edge in edges]


def _line(style: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        style, x1, y1, x2, y2
    )


def _text(words: str, x: float, y: float, *, anchor: str = "start", style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" font-size="11" text-anchor="{}">{}</text>').format(
        style, x, y, anchor, words
    )


def _drawing(says: str, width: int, height: int, parts: Iterable[Markup], *, fixed: bool = False) -> Markup:
    size = Markup(' width="{}" height="{}"').format(width, height) if fixed else Markup()
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}"{}>{}</svg>').format(
        says, width, height, size, Markup().join(parts)
    )


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
