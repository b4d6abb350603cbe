"""Pictures: crop, window, aspect, and colours of the drawn outlines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from samcancer.report.overlay import (
    PREDICTION_RGB,
    REFERENCE_RGB,
    CropBox,
    SlicePicture,
    body_box,
    focus_box,
    grey,
    write_picture,
)


def picture_of(hu: np.ndarray, window: tuple[float, float] = (-200.0, 300.0)) -> SlicePicture:
    rows, columns = hu.shape
    return SlicePicture(hu, 2.0, 1.0, window, CropBox(0, rows, 0, columns))


def test_the_window_maps_its_ends_to_black_and_white() -> None:
    hu = np.array([[-500, -200, 50, 300, 900]], dtype=np.int16)
    assert grey(picture_of(hu)).tolist() == [[0, 0, 128, 255, 255]]


def test_the_crop_surrounds_the_body_with_a_margin_in_mm() -> None:
    """Body rows 30-39 and columns 50-69; 12 mm are 6 rows of 2 mm and 12 columns of 1 mm."""
    hu = np.full((100, 120), -1000, dtype=np.int16)
    hu[30:40, 50:70] = 0
    assert body_box(hu, (2.0, 1.0)) == CropBox(24, 46, 38, 82)


def test_a_slice_of_air_is_not_cropped() -> None:
    assert body_box(np.full((8, 9), -1000, dtype=np.int16), (1.0, 1.0)) == CropBox(0, 8, 0, 9)


def test_a_body_that_fills_the_slice_is_cut_at_its_border() -> None:
    assert body_box(np.zeros((8, 9), dtype=np.int16), (1.0, 1.0)) == CropBox(0, 8, 0, 9)


def test_a_small_region_is_shown_with_its_surroundings() -> None:
    """150 mm at least: 75 rows of 2 mm and 150 columns of 1 mm about the middle of the region."""
    marked = np.zeros((300, 400), dtype=bool)
    marked[100:102, 200:204] = True
    body = CropBox(0, 300, 0, 400)
    assert focus_box(marked, body, (2.0, 1.0)) == CropBox(64, 138, 127, 277)


def test_a_wide_region_keeps_its_margin_inside_the_body() -> None:
    marked = np.zeros((300, 400), dtype=bool)
    marked[10:200, 20:390] = True
    box = focus_box(marked, CropBox(5, 250, 10, 395), (1.0, 1.0))
    assert box == CropBox(5, 240, 10, 395)


def test_what_is_marked_outside_the_body_is_still_shown() -> None:
    marked = np.zeros((300, 400), dtype=bool)
    marked[0, 399] = True
    box = focus_box(marked, CropBox(50, 250, 50, 350), (1.0, 1.0))
    assert (box.top, box.right) == (0, 400)


def test_nothing_marked_shows_the_whole_body() -> None:
    body = CropBox(5, 250, 10, 395)
    assert focus_box(np.zeros((300, 400), dtype=bool), body, (1.0, 1.0)) == body


def test_a_png_shows_both_outlines_in_the_right_proportion(tmp_path: Path) -> None:
    """Rows are 2 mm and columns 1 mm, so 20 x 30 voxels at zoom 3 are 120 x 90 pixels."""
    hu = np.full((20, 30), -1000, dtype=np.int16)
    reference = np.zeros((20, 30), dtype=bool)
    reference[8:14, 8:20] = True
    path = tmp_path / "sub" / "picture.png"
    write_picture(
        path, picture_of(hu), reference=reference, predictions={"": np.roll(reference, 5, axis=1)}
    )
    with Image.open(path) as opened:
        image = np.asarray(opened)
    assert image.shape == (120, 90, 3)
    for colour in (REFERENCE_RGB, PREDICTION_RGB):
        assert (image == colour).all(axis=2).any()


def test_several_predictions_stand_side_by_side(tmp_path: Path) -> None:
    hu = np.zeros((20, 30), dtype=np.int16)
    mask = np.zeros((20, 30), dtype=bool)
    path = tmp_path / "picture.png"
    write_picture(path, picture_of(hu), reference=mask, predictions={"a": mask, "b": mask})
    with Image.open(path) as image:
        assert image.size == (2 * 90 + 6, 120)
