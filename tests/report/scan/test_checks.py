"""Each check against a scan that has just that oddity, and against one that has none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from samcancer.geometry import Geometry, canonicalise
from samcancer.report.scan.case import ScanCase, shown_classes
from samcancer.report.scan.checks import METAL_VOXELS, check_scan

SHAPE = (30, 40, 48)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def good_hu() -> np.ndarray:
    """A body of 50 HU with one voxel of bone on each slice, in air."""
    hu = np.full(SHAPE, -1000, dtype=np.int16)
    hu[:, 8:32, 8:40] = 50
    hu[:, 20, 20] = np.arange(400, 400 + SHAPE[0])
    return hu


def case_of(
    hu: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0),
    direction: tuple[float, ...] = IDENTITY,
    labels: np.ndarray | None = None,
) -> ScanCase:
    slices, rows, columns = hu.shape
    stored = Geometry((columns, rows, slices), spacing_mm, (0.0, 0.0, 0.0), direction)
    view, geometry, turn = canonicalise(hu, stored)
    labels = np.zeros(hu.shape, dtype=np.uint8) if labels is None else labels
    report = {"labels": {"background": 0, "liver_lesion": 1}}
    cosine = min(np.diag(geometry.direction_matrix))
    return ScanCase(
        case_id="case",
        hu=view,
        labels=canonicalise(labels, stored)[0],
        geometry=geometry,
        turn=turn,
        oblique_degrees=float(np.degrees(np.arccos(min(cosine, 1.0)))),
        classes=shown_classes(labels, geometry, report),
        report=report,
        warnings=(),
    )


def test_a_good_scan_has_no_finding() -> None:
    assert check_scan(case_of(good_hu())) == ()


def changed(**values: object) -> np.ndarray:
    hu = good_hu()
    for name, value in values.items():
        if name == "body":
            hu[:, 8:32, 8:40] += np.int16(value)  # type: ignore[call-overload]
        elif name == "air":
            hu[hu == -1000] = value
        elif name == "bone":
            hu[:, 20, 20] = value
    return hu


def with_metal(voxels: int) -> np.ndarray:
    hu = good_hu()
    block = np.zeros(400, dtype=bool)
    block[:voxels] = True
    hu[10, 10:30, 10:30][block.reshape(20, 20)] = 3071
    return hu


def clipped() -> np.ndarray:
    hu = good_hu()
    hu[:, 10:14, 10:14] = 2000
    return hu


def padded() -> np.ndarray:
    hu = good_hu()
    hu[:, :3, :3] = -3024
    return hu


@pytest.mark.parametrize(
    ("hu", "said", "severity"),
    [
        (changed(air=-500), "No voxel is as thin as air", "warning"),
        (changed(bone=50), "bone is missing", "warning"),
        (changed(body=200), "the values may be shifted", "warning"),
        (with_metal(METAL_VOXELS), f"{METAL_VOXELS} voxels are denser than 3000 HU", "warning"),
        (clipped(), "denser ones were clipped", "warning"),
        (padded(), "are filling of -3024 HU", "note"),
    ],
    ids=["no air", "no bone", "shifted", "metal", "clipped", "padding"],
)
def test_odd_values_are_told(hu: np.ndarray, said: str, severity: str) -> None:
    (finding,) = [f for f in check_scan(case_of(hu)) if said in f.text]
    assert finding.severity == severity


def test_noise_in_air_is_no_filling() -> None:
    hu = good_hu()
    hu[:, 0, 0] = np.arange(-1100, -1100 + SHAPE[0])
    assert check_scan(case_of(hu)) == ()


def test_a_few_dense_voxels_are_no_metal() -> None:
    assert check_scan(case_of(with_metal(METAL_VOXELS - 1))) == ()


@pytest.mark.parametrize(
    ("spacing_mm", "said"),
    [
        ((1.5, 1.5, 5.1), "The slices are 5.1 mm apart"),
        ((1.6, 1.0, 3.0), "The pixels are 1.6 mm wide"),
        ((0.5, 0.6, 3.0), "6.0 times as high as it is wide"),
    ],
)
def test_coarse_and_uneven_spacing_is_told(
    spacing_mm: tuple[float, float, float], said: str
) -> None:
    (finding,) = check_scan(case_of(good_hu(), spacing_mm=spacing_mm))
    assert said in finding.text


def test_slices_of_five_millimetres_are_thin_enough() -> None:
    assert check_scan(case_of(good_hu(), spacing_mm=(1.0, 1.0, 5.0))) == ()


def test_another_orientation_is_a_note() -> None:
    flipped = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    (finding,) = check_scan(case_of(good_hu(), direction=flipped))
    assert (finding.severity, "another orientation" in finding.text) == ("note", True)


def test_a_tilted_scan_is_a_note_with_its_angle() -> None:
    c, s = float(np.cos(np.radians(10))), float(np.sin(np.radians(10)))
    (finding,) = check_scan(case_of(good_hu(), direction=(1, 0, 0, 0, c, -s, 0, s, c)))
    assert "tilted by 10.0 degrees" in finding.text


def test_a_scan_of_few_slices_is_told() -> None:
    (finding,) = check_scan(case_of(good_hu()[:15]))
    assert finding.text == "The scan has 15 slices only (45 mm)."


def test_a_body_that_is_cut_is_told_with_the_number_of_slices() -> None:
    hu = good_hu()
    hu[:10, :, 8:40] = 50
    (finding,) = check_scan(case_of(hu))
    assert "on 10 of 30 slices" in finding.text


def test_a_lesion_at_the_edge_of_the_scan_is_told() -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[0, 20, 20] = 1
    (finding,) = check_scan(case_of(good_hu(), labels=labels))
    assert "reaches the edge of the scan (liver lesion)" in finding.text


def test_many_values_without_a_class_are_told_in_one_note() -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[10, 20, 10:16] = np.arange(2, 8)
    (finding,) = check_scan(case_of(good_hu(), labels=labels))
    assert finding.severity == "note"
    assert "(2, 3, 4, 5 and 2 more)" in finding.text


def test_warnings_come_before_notes() -> None:
    case = replace(case_of(padded()[:10]), warnings=())
    assert [f.severity for f in check_scan(case)] == ["warning", "note"]
