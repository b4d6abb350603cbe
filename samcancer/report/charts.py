"""Line and interval charts as inline SVG, drawn here so that a page needs no library.

Colours come from the page's style sheet (classes ``series-0`` .. ``series-7``); every series also
has its own dash pattern, so that a chart reads without colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 16, 46
"""Margins of the plotting area in the chart's own units."""
_ROW_HEIGHT = 26
_LABEL_WIDTH = 210
_VALUE_WIDTH = 40
"""Room for the number behind the longest bar."""
SERIES_STYLES = 8
"""Number of line styles in the style sheet; further series repeat them."""
_TARGET_TICKS = 5
_FLAT = 1e-9
"""A range narrower than this share of its values is drawn as one level."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: tuple[tuple[float, float], ...]
    """(x, y) in the order of x; values that are not finite are left out."""


@dataclass(frozen=True)
class IntervalRow:
    """One row of an interval chart."""

    name: str
    mean: float
    low: float
    high: float
    series: int
    """Index of the line style."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Return a chart with axes and ticks; a legend belongs beside it (:func:`legend`).

    Args:
        series: The lines.
        title: Said by screen readers.
        x_label: Axis title with unit.
        y_label: Axis title with unit.
        y_range: Fixed ends of the y axis; None fits the points.
    """
    kept = [_finite(line.points) for line in series]
    every = [point for points in kept for point in points]
    if not every:
        return '<p class="empty">Nothing was logged for this chart.</p>'
    x_ticks = nice_ticks(min(x for x, _ in every), max(x for x, _ in every))
    y_ticks = nice_ticks(*(y_range or (min(y for _, y in every), max(y for _, y in every))))
    x_scale = _Scale(x_ticks[0], x_ticks[-1], _LEFT, _WIDTH - _RIGHT)
    y_scale = _Scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(x_ticks, y_ticks, x_scale, y_scale)]
    for index, (line, points) in enumerate(zip(series, kept, strict=True)):
        style = index % SERIES_STYLES
        places = [(x_scale.at(x), y_scale.at(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        name = escape(line.name)
        parts.append(f'<polyline class="line series-{style}" points="{path}"/>')
        parts += [
            f'<circle class="dot series-{style}" cx="{px:.1f}" cy="{py:.1f}" r="2.4">'
            f"<title>{name}: {x:g}, {y:.4g}</title></circle>"
            for (px, py), (x, y) in zip(places, points, strict=True)
        ]
    middle_x, middle_y = (_LEFT + _WIDTH - _RIGHT) / 2, (_TOP + _HEIGHT - _BOTTOM) / 2
    parts.append(
        f'<text class="axis-title" x="{middle_x}" y="{_HEIGHT - 8}">{escape(x_label)}</text>'
        f'<text class="axis-title" transform="translate(14 {middle_y}) rotate(-90)">'
        f"{escape(y_label)}</text>"
    )
    return _svg(_WIDTH, _HEIGHT, title, parts)


def interval_chart(rows: Sequence[IntervalRow], *, title: str, x_label: str) -> str:
    """Return dots with intervals on an axis from 0 to 1, one row each."""
    height = _TOP + _ROW_HEIGHT * len(rows) + _BOTTOM
    scale = _Scale(0, 1, _LABEL_WIDTH, _WIDTH - _RIGHT)
    bottom = height - _BOTTOM
    parts = []
    for tick in nice_ticks(0, 1):
        x = scale.at(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
            f'<text class="tick middle" x="{x:.1f}" y="{bottom + 16}">{tick:g}</text>'
        )
    for index, row in enumerate(rows):
        y = _TOP + _ROW_HEIGHT * (index + 0.5)
        style = row.series % SERIES_STYLES
        low, high, mean = (scale.at(value) for value in (row.low, row.high, row.mean))
        parts.append(
            f'<text class="tick end" x="{_LABEL_WIDTH - 10}" y="{y + 4}">{escape(row.name)}</text>'
            f'<line class="interval series-{style}" x1="{low:.1f}" y1="{y}" x2="{high:.1f}" '
            f'y2="{y}"/><circle class="dot series-{style}" cx="{mean:.1f}" cy="{y}" r="5"><title>'
            f"{escape(row.name)}: {row.mean:.3f} [{row.low:.3f}, {row.high:.3f}]</title></circle>"
        )
    parts.append(
        f'<text class="axis-title" x="{(_LABEL_WIDTH + _WIDTH - _RIGHT) / 2}" y="{height - 8}">'
        f"{escape(x_label)}</text>"
    )
    return _svg(_WIDTH, height, title, parts)


def bar_chart(bars: Sequence[tuple[str, int]], *, title: str, x_label: str) -> str:
    """Return counts as horizontal bars from 0, one row each, with their numbers."""
    height = _TOP + _ROW_HEIGHT * len(bars) + _BOTTOM
    longest = max([count for _, count in bars] + [1])
    scale = _Scale(0, longest, _LABEL_WIDTH, _WIDTH - _RIGHT - _VALUE_WIDTH)
    parts = []
    for index, (name, count) in enumerate(bars):
        top = _TOP + _ROW_HEIGHT * index
        end = scale.at(count)
        parts.append(
            f'<text class="tick end" x="{_LABEL_WIDTH - 10}" y="{top + 17}">{escape(name)}</text>'
            f'<rect class="bar" x="{_LABEL_WIDTH}" y="{top + 4}" '
            f'width="{end - _LABEL_WIDTH:.1f}" height="{_ROW_HEIGHT - 8}"/>'
            f'<text class="tick value" x="{end + 6:.1f}" y="{top + 17}">{count}</text>'
        )
    bottom = height - _BOTTOM
    parts.append(
        f'<line class="axis" x1="{_LABEL_WIDTH}" y1="{_TOP}" x2="{_LABEL_WIDTH}" y2="{bottom}"/>'
        f'<text class="axis-title" x="{(_LABEL_WIDTH + _WIDTH - _RIGHT) / 2}" y="{height - 18}">'
        f"{escape(x_label)}</text>"
    )
    return _svg(_WIDTH, height, title, parts)


def legend(names: Sequence[str]) -> str:
    """Return the key of a chart's line styles."""
    items = [
        f'<li><svg class="swatch" viewBox="0 0 34 10" aria-hidden="true">'
        f'<line class="line series-{index % SERIES_STYLES}" x1="1" y1="5" x2="33" y2="5"/>'
        f'<circle class="dot series-{index % SERIES_STYLES}" cx="17" cy="5" r="3"/></svg>'
        f"{escape(name)}</li>"
        for index, name in enumerate(names)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def nice_ticks(low: float, high: float) -> list[float]:
    """Return round numbers, evenly spaced, that enclose the range; at least two."""
    if high - low <= _FLAT * max(abs(low), abs(high), 1.0):
        margin = abs(low) * 0.1 or 0.5
        low, high = low - margin, high + margin
    rough = (high - low) / _TARGET_TICKS
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Return where a value lies in the chart's units."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _grid(
    x_ticks: Sequence[float], y_ticks: Sequence[float], x_scale: _Scale, y_scale: _Scale
) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for tick in x_ticks:
        x = x_scale.at(tick)
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{bottom + 16}">{tick:g}</text>')
    for tick in y_ticks:
        y = y_scale.at(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
            f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{tick:g}</text>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    return "".join(parts)


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )
