from __future__ import annotations

import math

import numpy as np
import pytest

from samcancer.inference.diameters import Diameters, measure_diameters


def measure(mask: np.ndarray, row_mm: float = 1.0, column_mm: float = 1.0) -> Diameters:
    return measure_diameters(*mask.nonzero(), row_mm=row_mm, column_mm=column_mm)


def ellipse(
    long_mm: float, short_mm: float, *, degrees: float, row_mm: float = 1.0, column_mm: float = 1.0
) -> np.ndarray:
    """An ellipse of these diameters, off the centre of a field of 128 x 128 mm."""
    y, x = np.mgrid[: round(128 / row_mm), : round(128 / column_mm)].astype(float)
    y, x = y * row_mm - 60.3, x * column_mm - 66.7
    turn = math.radians(degrees)
    along, across = (
        x * math.cos(turn) + y * math.sin(turn),
        y * math.cos(turn) - x * math.sin(turn),
    )
    return (along / (long_mm / 2)) ** 2 + (across / (short_mm / 2)) ** 2 <= 1


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 133])
@pytest.mark.parametrize("pixel_mm", [(1.0, 1.0), (0.5, 0.8), (2.0, 0.7)])
def test_an_ellipse_has_its_two_axes(degrees: float, pixel_mm: tuple[float, float]) -> None:
    row_mm, column_mm = pixel_mm
    mask = ellipse(60, 35, degrees=degrees, row_mm=row_mm, column_mm=column_mm)
    found = measure(mask, row_mm, column_mm)
    assert found.long_mm == pytest.approx(60, abs=max(pixel_mm))
    assert found.short_mm == pytest.approx(35, abs=2 * max(pixel_mm))


@pytest.mark.parametrize("diameter_mm", [6, 11.5, 40])
def test_a_disc_is_as_wide_as_long(diameter_mm: float) -> None:
    found = measure(
        ellipse(diameter_mm, diameter_mm, degrees=0, row_mm=0.5, column_mm=0.5), 0.5, 0.5
    )
    assert found.long_mm == pytest.approx(diameter_mm, abs=0.5)
    assert found.short_mm == pytest.approx(diameter_mm, abs=1.0)


def test_one_voxel_is_as_long_as_its_longer_side() -> None:
    mask = np.zeros((5, 5), dtype=bool)
    mask[2, 3] = True
    found = measure(mask, 0.5, 2.0)
    assert (found.long_mm, found.short_mm) == pytest.approx((2.0, 0.5))
    np.testing.assert_allclose(sorted(found.long_ends.tolist()), [[2, 2.5], [2, 3.5]])
    np.testing.assert_allclose(sorted(found.short_ends.tolist()), [[1.5, 3], [2.5, 3]])


def test_a_row_of_voxels_is_a_line() -> None:
    mask = np.zeros((4, 12), dtype=bool)
    mask[1, 2:10] = True
    found = measure(mask, 3.0, 1.0)
    assert found.long_mm == pytest.approx(8.0)
    assert found.short_mm == pytest.approx(3.0)


def test_a_rectangle_is_measured_along_its_diagonal() -> None:
    mask = np.zeros((40, 50), dtype=bool)
    mask[5:25, 10:40] = True
    found = measure(mask)
    # The outline's farthest points are edge midpoints: (5, 39.5) and (24, 9.5), or their mirror.
    assert found.long_mm == pytest.approx(math.hypot(30, 19))
    # A line perpendicular to a diagonal of a x b, through the centre, ends on the longer sides.
    assert found.short_mm == pytest.approx(20 * math.hypot(30, 20) / 30, abs=1.0)


def test_the_two_lines_are_perpendicular_in_millimetres_and_as_long_as_stated() -> None:
    found = measure(ellipse(50, 20, degrees=28, row_mm=2.0, column_mm=0.7), 2.0, 0.7)
    lines = [(ends[1] - ends[0]) * (2.0, 0.7) for ends in (found.long_ends, found.short_ends)]
    assert np.hypot(*lines[0]) == pytest.approx(found.long_mm)
    assert np.hypot(*lines[1]) == pytest.approx(found.short_mm)
    assert lines[0] @ lines[1] == pytest.approx(0, abs=1e-9)


def test_a_dent_is_spanned() -> None:
    mask = ellipse(60, 40, degrees=0)
    mask[:60, 60:75] = False
    whole, dented = measure(ellipse(60, 40, degrees=0)), measure(mask)
    assert dented.long_mm == pytest.approx(whole.long_mm, abs=1.0)


def test_the_farthest_pair_is_that_of_a_plain_search_over_all_edge_midpoints() -> None:
    random = np.random.default_rng(3)
    for _ in range(20):
        mask = random.random((9, 11)) < 0.2
        mask[4, 5] = True
        rows, columns = mask.nonzero()
        points = [
            (r + dr, c + dc)
            for r, c in zip(rows, columns, strict=True)
            for dr, dc in ((0, 0.5), (0, -0.5), (0.5, 0), (-0.5, 0))
        ]
        farthest = max(
            math.hypot((a[0] - b[0]) * 1.3, (a[1] - b[1]) * 0.9) for a in points for b in points
        )
        assert measure(mask, 1.3, 0.9).long_mm == pytest.approx(farthest)
