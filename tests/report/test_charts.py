"""Charts: where points land, what is left out, and how ticks are chosen."""

from __future__ import annotations

import itertools
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samcancer.report.charts import (
    IntervalRow,
    Series,
    bar_chart,
    interval_chart,
    legend,
    line_chart,
    nice_ticks,
)


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
        for text in re.findall(r'points="([^"]*)"', svg)
    ]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_ticks_enclose_the_range_evenly(low: float, width: float) -> None:
    ticks = nice_ticks(low, low + width)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert 2 <= len(ticks) <= 12
    assert ticks[0] <= low + 1e-6 * max(width, 1)
    assert ticks[-1] >= low + width * (1 - 1e-6) - 1e-6
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


def test_ticks_of_the_unit_range_are_fifths() -> None:
    assert nice_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_line_runs_from_left_to_right_and_higher_values_lie_higher() -> None:
    svg = line_chart([Series("a", ((0, 0.1), (5, 0.9)))], title="t", x_label="x", y_label="y")
    ((first, second),) = points_of(svg)
    assert first[0] < second[0]
    assert first[1] > second[1]


def test_values_that_are_not_finite_are_left_out() -> None:
    svg = line_chart(
        [Series("a", ((0, math.nan), (1, 2.0), (2, math.inf), (3, 1.0)))],
        title="t",
        x_label="x",
        y_label="y",
    )
    assert len(points_of(svg)[0]) == 2
    assert "nan" not in svg.lower()


def test_a_single_point_is_drawn() -> None:
    svg = line_chart([Series("a", ((3, 0.5),))], title="t", x_label="x", y_label="y")
    assert svg.count("<circle") == 1


def test_nothing_logged_is_said() -> None:
    assert "Nothing was logged" in line_chart([], title="t", x_label="x", y_label="y")


def test_names_are_escaped() -> None:
    series = [Series("<script>", ((0, 0.0), (1, 1.0)))]
    svg = line_chart(series, title='"quoted"', x_label="<x>", y_label="y") + legend(["<b>"])
    assert "<script>" not in svg
    assert "<x>" not in svg
    assert "<b>" not in svg


def test_an_interval_lies_about_its_mean() -> None:
    svg = interval_chart([IntervalRow("liver", 0.5, 0.25, 0.75, 0)], title="t", x_label="DSC")
    ((low, high),) = re.findall(r'class="interval[^>]* x1="([\d.]+)"[^>]* x2="([\d.]+)"', svg)
    (mean,) = re.findall(r'cx="([\d.]+)"', svg)
    assert float(mean) == pytest.approx((float(low) + float(high)) / 2, abs=0.1)


def test_bars_are_as_long_as_their_counts_and_say_them() -> None:
    chart = bar_chart([("none", 0), ("<two>", 2), ("four", 4)], title="Bars", x_label="scans")
    widths = [float(w) for w in re.findall(r'<rect class="bar"[^>]* width="([\d.]+)"', chart)]
    assert widths[0] == 0
    assert widths[1] == pytest.approx(widths[2] / 2, abs=0.1)
    assert re.findall(r'class="tick value"[^>]*>(\d+)<', chart) == ["0", "2", "4"]
    assert "&lt;two&gt;" in chart
