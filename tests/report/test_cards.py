"""Which slices are shown, and that outlines, names and misses are where they belong."""

from __future__ import annotations

import re

import numpy as np
import pytest

from samcancer.geometry import Geometry
from samcancer.report.cards import CaseVolumes, build_views, choose_slices
from samcancer.report.page import View
from samcancer.taxonomy import ClassSpec

CLASSES = (
    ClassSpec(name="liver_lesion", title="liver lesion", kind="lesion"),
    ClassSpec(name="lung_lesion", title="lung lesion", kind="lesion", window_hu=(-1300.0, 300.0)),
)
GEOMETRY = Geometry(
    size_xyz=(40, 30, 24),
    spacing_mm=(0.5, 1.5, 5.0),
    origin_mm=(0.0, 0.0, 0.0),
    direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
)


def empty() -> np.ndarray:
    return np.zeros(GEOMETRY.shape, dtype=np.uint8)


def case_of(reference: np.ndarray, **predictions: np.ndarray) -> CaseVolumes:
    hu = np.full(GEOMETRY.shape, 40, dtype=np.int16)
    return CaseVolumes("p1", hu, GEOMETRY, reference, predictions)


def views_of(case: CaseVolumes) -> tuple[View, ...]:
    return build_views(case, classes=CLASSES, captions={}, prefix="ct-0")


def test_the_largest_reference_and_the_largest_prediction_are_shown() -> None:
    reference, prediction = empty(), empty()
    reference[4, 5:9, 5:9] = 1
    reference[5, 5:11, 5:11] = 1
    prediction[20, 3:20, 3:20] = 1
    shown = choose_slices(case_of(reference, a=prediction))
    assert [(s.z, s.reason) for s in shown] == [
        (5, "largest reference lesion"),
        (20, "largest prediction"),
    ]


def test_a_slice_beside_one_that_is_shown_is_left_out() -> None:
    reference, prediction = empty(), empty()
    reference[5, 5:11, 5:11] = 1
    prediction[6, 5:11, 5:11] = 1
    assert [s.z for s in choose_slices(case_of(reference, a=prediction))] == [5]


def test_a_smaller_lesion_of_another_kind_gets_its_own_slice_and_window() -> None:
    reference = empty()
    reference[5, 5:15, 5:15] = 1
    reference[20, 5:8, 5:8] = 2
    views = views_of(case_of(reference, a=reference))
    assert "window -200 to 300 HU" in views[0].caption
    assert "window -1300 to 300 HU" in views[1].caption


def test_a_healthy_case_without_predictions_shows_its_middle_slice() -> None:
    (shown,) = choose_slices(case_of(empty(), a=empty()))
    assert (shown.z, shown.label) == (12, None)


def test_each_arm_has_its_panel_over_one_shared_image() -> None:
    reference = empty()
    reference[5, 5:11, 5:11] = 1
    (view,) = views_of(case_of(reference, a=reference, b=empty()))
    assert [panel.title for panel in view.panels] == ["a", "b"]
    assert view.image_svg.count("data:image/webp;base64,") == 1
    assert all('href="#ct-0-5"' in panel.slice_svg for panel in view.panels)


def test_a_lesion_that_is_hardly_covered_is_called_missed_and_a_wrong_one_false() -> None:
    reference, prediction = empty(), empty()
    reference[5, 4:14, 4:14] = 1
    prediction[5, 4:7, 4:7] = 1  # covers 9 of 100 voxels, under the tables' tenth
    prediction[5, 20:25, 20:25] = 1
    (view,) = views_of(case_of(reference, a=prediction))
    words = re.findall(r'class="mark (\w+)"[^>]*>([^<]+)<', view.panels[0].slice_svg)
    assert words == [("missed", "missed: liver lesion"), ("false", "false: liver lesion")]


def test_a_lesion_found_on_another_slice_is_not_missed_here() -> None:
    reference, prediction = empty(), empty()
    reference[5, 4:14, 4:14] = 1
    reference[6, 4:10, 4:10] = 1
    prediction[6, 4:10, 4:10] = 1
    (view,) = views_of(case_of(reference, a=prediction))
    assert "missed" not in view.panels[0].slice_svg


def test_a_lesion_of_the_wrong_class_is_both_missed_and_false() -> None:
    reference, prediction = empty(), empty()
    reference[5, 4:14, 4:14] = 1
    prediction[5, 4:14, 4:14] = 2
    (view,) = views_of(case_of(reference, a=prediction))
    words = re.findall(r'class="mark (\w+)"', view.panels[0].slice_svg)
    assert sorted(words) == ["false", "missed"]


def test_the_picture_is_laid_out_in_millimetres() -> None:
    """40 columns of 0.5 mm and 30 rows of 1.5 mm: 20 mm wide, 45 mm high."""
    reference = empty()
    reference[5, 4:14, 4:14] = 1
    (view,) = views_of(case_of(reference, a=reference))
    svg = view.panels[0].slice_svg
    assert 'viewBox="0 0 20.00 45.00"' in svg
    assert '<g transform="scale(0.5 1.5)">' in svg


@pytest.mark.parametrize("kind", ["reference", "prediction"])
def test_outlines_are_in_voxels_of_the_cropped_picture(kind: str) -> None:
    reference = empty()
    reference[5, 4:14, 6:9] = 1
    (view,) = views_of(case_of(reference, a=reference))
    path = re.search(rf'class="outline {kind}" d="([^"]+)"', view.panels[0].slice_svg)
    assert path is not None
    start = re.match(r"M(\d+) (\d+)", path.group(1))
    assert start is not None
    assert (int(start.group(1)), int(start.group(2))) in {(6, 4), (9, 4), (9, 14), (6, 14)}
