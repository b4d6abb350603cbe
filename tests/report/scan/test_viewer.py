"""The slice viewer in a headless browser: pixels follow wheel, keys, drag, touch and switches."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_pixels import OpenPage, at_voxels, canvas_rgb, shown_slice
from scan_cases import GEOMETRY, REPORT, measured_lesion, scan_hu, write_scan

from samcancer.report.scan import write_scan_page
from samcancer.report.scan.page import PRESETS_HU
from samcancer.volume_io import CtVolume

SLICES, ROWS, COLUMNS = GEOMETRY.shape
FIRST = 5
"""The first of the liver lesion's slices, all of the same area, is its key slice without axes."""

GREY_TOLERANCE = 8
"""A companded level is 3 HU, lossy packing changes it by about 2 levels, and a window of 400 HU has
0.64 grey levels per HU: 9 HU are 6 levels; smoothing between voxels adds the gradient's bend."""


@pytest.fixture(scope="module")
def scan_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scan_page")
    scan, mask = write_scan(folder)
    page = folder / "patient-7.html"
    write_scan_page(page, scan=scan, mask=mask, report=REPORT)
    return page


@pytest.fixture(scope="module")
def measured_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured_page")
    scan, mask = write_scan(folder)
    page = folder / "patient-7.html"
    report = {**REPORT, "lesions": [asdict(measured_lesion())]}
    write_scan_page(page, scan=scan, mask=mask, report=report)
    return page


def expected_grey(z: int, preset: str) -> np.ndarray:
    low, high = PRESETS_HU[preset]
    return np.clip((scan_hu()[z].astype(float) - low) / (high - low), 0, 1) * 255


def inner_voxels() -> np.ndarray:
    """Voxels of the body away from its edge, where packing rings."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    middle_y, middle_x = ROWS / 2, COLUMNS / 2
    return ((y - middle_y) / (0.3 * ROWS)) ** 2 + ((x - middle_x) / (0.32 * COLUMNS)) ** 2 < 1


def assert_shows(page: Any, z: int, preset: str) -> None:
    """The picture is the slice in that window, at every voxel within the tolerance."""
    shown_slice(page, z)
    seen = at_voxels(canvas_rgb(page), (ROWS, COLUMNS)).astype(float)
    assert np.ptp(seen, axis=2).max() == 0, "outlines are off: everything is grey"
    apart = np.abs(seen[..., 0] - expected_grey(z, preset))[inner_voxels()]
    assert apart.max() <= GREY_TOLERANCE


def hide_lines(page: Any) -> None:
    """Switch outlines and diameters off."""
    page.keyboard.press("o")
    page.keyboard.press("d")


def coloured(page: Any, colour: str) -> int:
    wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    apart = np.abs(canvas_rgb(page).astype(int) - wanted).max(axis=2)
    return int(np.count_nonzero(apart < 40))


LIVER, KIDNEY = "#ffb000", "#ff7ac6"


def test_it_opens_at_the_largest_lesion_in_the_soft_tissue_window(
    open_page: OpenPage, scan_page: Path
) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        hide_lines(page)
        assert_shows(page, FIRST, "Soft tissue")


def test_the_wheel_scrolls_towards_the_feet_and_back(open_page: OpenPage, scan_page: Path) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        hide_lines(page)
        page.locator(".picture").hover()
        page.mouse.wheel(0, 100)
        assert_shows(page, FIRST - 1, "Soft tissue")
        for z in (FIRST, FIRST + 1, FIRST + 2):
            page.mouse.wheel(0, -100)
            assert_shows(page, z, "Soft tissue")


def test_small_steps_of_a_touchpad_add_up_to_a_slice(open_page: OpenPage, scan_page: Path) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        page.locator(".picture").hover()
        for _ in range(5):
            page.mouse.wheel(0, 10)
            page.wait_for_timeout(30)
        shown_slice(page, FIRST - 1)


def test_keys_move_through_the_slices(open_page: OpenPage, scan_page: Path) -> None:
    """Key slices are 5 (liver) and 12 (kidney); n goes towards the feet, p towards the head."""
    visits = [
        *(("ArrowUp", FIRST + 1), ("ArrowDown", FIRST), ("ArrowDown", FIRST - 1)),
        *(("PageUp", FIRST + 9), ("PageDown", FIRST - 1)),
        *(("Home", SLICES - 1), ("ArrowUp", SLICES - 1), ("n", 12), ("n", 5), ("n", 5)),
        *(("End", 0), ("ArrowDown", 0), ("p", 5), ("p", 12)),
    ]
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        page.locator(".picture").focus()
        hide_lines(page)
        for key, z in visits:
            page.keyboard.press(key)
            assert_shows(page, z, "Soft tissue")


def test_number_keys_choose_a_window(open_page: OpenPage, scan_page: Path) -> None:
    """The liver's window is so narrow that lossy packing shows; its figures are looked at alone."""
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        hide_lines(page)
        for key, (preset, (low, high)) in enumerate(PRESETS_HU.items(), start=1):
            page.keyboard.press(str(key))
            shown_slice(page, FIRST)
            if preset != "Liver":
                assert_shows(page, FIRST, preset)
            words = page.locator("[data-show=window]").inner_text()
            assert words == f"W {high - low}  L {(high + low) // 2}"
            pressed = page.locator(".presets button[aria-pressed=true]")
            assert pressed.inner_text().startswith(preset)


def test_dragging_with_the_mouse_changes_level_and_width(
    open_page: OpenPage, scan_page: Path
) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        hide_lines(page)
        before = canvas_rgb(page).astype(int)
        box = page.locator(".picture").bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.mouse.down()
        page.mouse.move(box["x"] + 200, box["y"] + 300, steps=4)
        page.mouse.up()
        shown_slice(page, FIRST)
        words = page.locator("[data-show=window]").inner_text()
        assert words == "W 400  L 140", "100 pixels are a quarter of the width"
        after = canvas_rgb(page).astype(int)
        assert after.mean() < before.mean(), "a higher level is darker"


def test_o_takes_the_outlines_away_and_brings_them_back(
    open_page: OpenPage, scan_page: Path
) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        assert coloured(page, LIVER) > 100
        page.keyboard.press("o")
        shown_slice(page, FIRST)
        assert coloured(page, LIVER) == 0
        page.locator("[data-toggle=overlay]").check()
        shown_slice(page, FIRST)
        assert coloured(page, LIVER) > 100


def test_an_outline_runs_along_the_borders_of_its_voxels(
    open_page: OpenPage, scan_page: Path
) -> None:
    """Rows 10 to 19 and columns 12 to 23: the outermost coloured pixels lie on those borders."""
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        rgb = canvas_rgb(page).astype(int)
        near = np.abs(rgb - [255, 176, 0]).max(axis=2) < 40
        rows, columns = np.nonzero(near)
        height, width = near.shape
        found = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
        expected = np.array([10, 20, 10, 20]) / ROWS * height
        expected[2:] = np.array([12, 24]) / COLUMNS * width
        assert np.abs(found - expected).max() <= 2


def test_a_class_can_be_hidden_alone(open_page: OpenPage, scan_page: Path) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        page.locator("[data-class='1']").uncheck()
        shown_slice(page, FIRST)
        assert coloured(page, LIVER) == 0
        page.keyboard.press("p")
        shown_slice(page, 12)
        assert coloured(page, KIDNEY) > 50


def test_the_pointer_tells_hu_class_and_place(open_page: OpenPage, scan_page: Path) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        box = page.locator(".picture canvas").bounding_box()
        x, y = 18, 15
        page.mouse.move(
            box["x"] + (x + 0.5) / COLUMNS * box["width"],
            box["y"] + (y + 0.5) / ROWS * box["height"],
        )
        words = " ".join(page.locator("[data-show=pointer]").inner_text().split())
        hu = int(words.split()[1])
        assert abs(hu - int(scan_hu()[FIRST, y, x])) <= 9
        assert "liver lesion" in words.lower()
        mm = GEOMETRY.position_mm(np.array([x, y, FIRST]))
        assert f"x {mm[0]:.1f} y {mm[1]:.1f} z {mm[2]:.1f} mm" in words


def test_a_swipe_scrolls_on_a_touch_screen(open_page: OpenPage, scan_page: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with open_page(scan_page, **phone) as page:
        shown_slice(page, FIRST)
        hide_lines(page)
        page.locator(".picture").scroll_into_view_if_needed()
        box = page.locator(".picture").bounding_box()
        x, y = box["x"] + 100, box["y"] + 200
        client = page.context.new_cdp_session(page)

        def touch(kind: str, points: list[dict[str, float]]) -> None:
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", [{"x": x, "y": y}])
        for step in range(1, 9):
            touch("touchMove", [{"x": x, "y": y - 10 * step}])
        touch("touchEnd", [])
        per_slice = page.locator(".picture canvas").bounding_box()["height"] / SLICES
        assert per_slice > 6
        assert_shows(page, FIRST + int(80 / per_slice), "Soft tissue")
        assert page.evaluate("scrollX") == 0


def test_the_rail_is_a_slider_for_mouse_and_keyboard(open_page: OpenPage, scan_page: Path) -> None:
    with open_page(scan_page) as page:
        shown_slice(page, FIRST)
        track = page.locator(".rail-track").bounding_box()
        page.mouse.click(track["x"] + 4, track["y"] + 1)
        shown_slice(page, SLICES - 1)
        rail = page.locator(".rail")
        rail.focus()
        page.keyboard.press("ArrowDown")
        shown_slice(page, SLICES - 2)
        assert rail.get_attribute("aria-valuenow") == str(SLICES - 1)
        assert rail.get_attribute("aria-valuetext") == f"slice {SLICES - 1} of {SLICES}"
        assert page.locator(".rail-mark").count() == 2


def test_a_row_of_the_table_leads_to_the_key_slice_with_its_diameters(
    open_page: OpenPage, measured_page: Path
) -> None:
    with open_page(measured_page) as page:
        page.keyboard.press("p")
        page.locator(".picture").focus()
        page.keyboard.press("Home")
        shown_slice(page, SLICES - 1)
        page.locator("button[data-lesion='0']").click()
        shown_slice(page, 6)
        with_lines = canvas_rgb(page)
        page.keyboard.press("d")
        shown_slice(page, 6)
        without = canvas_rgb(page)
        changed = np.abs(with_lines.astype(int) - without).max(axis=2) > 60
        rows, columns = np.nonzero(changed)
        height, width = changed.shape
        assert rows.min() >= 10 / ROWS * height - 2
        assert columns.min() >= 12 / COLUMNS * width - 2
        assert changed[int(15 / ROWS * height) - 5 : int(15 / ROWS * height) + 5].any()


def test_z_zooms_in_on_the_lesion_and_out_again(open_page: OpenPage, measured_page: Path) -> None:
    with open_page(measured_page) as page:
        shown_slice(page, 6)
        page.keyboard.press("d")
        shown_slice(page, 6)
        whole = canvas_rgb(page)
        page.keyboard.press("z")
        shown_slice(page, 6)
        near = np.abs(canvas_rgb(page).astype(int) - [255, 176, 0]).max(axis=2) < 40
        columns = np.nonzero(near.any(axis=0))[0]
        assert np.isclose(np.ptp(columns) / near.shape[1], 2.5 * 12 / COLUMNS, atol=0.02)
        page.keyboard.press("z")
        shown_slice(page, 6)
        assert np.array_equal(canvas_rgb(page), whole)


def test_shift_and_drag_moves_the_zoomed_picture_by_as_much(
    open_page: OpenPage, measured_page: Path
) -> None:
    """The outline's left border follows the mouse, 60 pixels to the right, at one pixel for one."""
    with open_page(measured_page) as page:
        shown_slice(page, 6)
        page.keyboard.press("d")
        page.keyboard.press("z")
        shown_slice(page, 6)
        before = left_border(page)
        box = page.locator(".picture").bounding_box()
        page.mouse.move(box["x"] + 200, box["y"] + 200)
        page.keyboard.down("Shift")
        page.mouse.down()
        page.mouse.move(box["x"] + 260, box["y"] + 200, steps=4)
        page.mouse.up()
        page.keyboard.up("Shift")
        shown_slice(page, 6)
        assert abs(left_border(page) - before - 60) <= 2
        assert page.locator("[data-show=window]").inner_text() == "W 400  L 40"


def left_border(page: Any) -> int:
    """First column of the canvas with the liver lesion's colour."""
    near = np.abs(canvas_rgb(page).astype(int) - [255, 176, 0]).max(axis=2) < 40
    return int(np.nonzero(near.any(axis=0))[0][0])


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 17, 600), (70, 16, 24)])
def test_odd_sizes_are_shown_from_the_first_to_the_last_slice(
    open_page: OpenPage, tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    slices, rows, columns = shape
    geometry = replace(GEOMETRY, size_xyz=(columns, rows, slices))
    ct = CtVolume(scan_hu(shape), geometry, tmp_path, "0" * 64, (), "nifti")
    labels = np.zeros(shape, dtype=np.uint8)
    labels[0, :8, :8] = labels[-1, -8:, -8:] = 1
    page_path = tmp_path / "odd.html"
    write_scan_page(page_path, scan=tmp_path, mask=tmp_path, report={}, ct=ct, labels=labels)
    with open_page(page_path) as page:
        page.locator(".picture").focus()
        for key, z in (("Home", slices - 1), ("End", 0)):
            page.keyboard.press(key)
            shown_slice(page, z)
            assert coloured(page, LIVER) > 0
        box = page.locator(".picture canvas").bounding_box()
        assert box["width"] / box["height"] == pytest.approx(columns * 2 / (rows * 2.5), rel=0.02)
