"""RTSTRUCT rasterising against areas, tilings and positions known from geometry."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from data_prep.rtstruct import fill_polygon, rasterise, read_structure_set
from samcancer.errors import InputError
from samcancer.geometry import Geometry

FRAME = "1.2.3.4"
GRID = Geometry(
    size_xyz=(20, 16, 5),
    spacing_mm=(0.8, 1.25, 3.0),
    origin_mm=(-100.0, 50.0, -7.0),
    direction=(1, 0, 0, 0, 1, 0, 0, 0, 1),
)


def to_mm(column: float, row: float, z: float, grid: Geometry = GRID) -> list[float]:
    index = np.array([column, row, z]) * np.array(grid.spacing_mm)
    point = np.array(grid.direction).reshape(3, 3) @ index + np.array(grid.origin_mm)
    return [float(value) for value in point]


def rectangle(
    left: float, top: float, right: float, bottom: float, z: float, grid: Geometry = GRID
) -> list[float]:
    """Corners on voxel borders: the voxels left..right, top..bottom inclusive are inside."""
    corners = [
        (left - 0.5, top - 0.5),
        (right + 0.5, top - 0.5),
        (right + 0.5, bottom + 0.5),
        (left - 0.5, bottom + 0.5),
    ]
    return [value for column, row in corners for value in to_mm(column, row, z, grid)]


def write_structures(
    path: Path,
    regions: dict[str, list[list[float]]],
    *,
    frame: str = FRAME,
    kind: str = "CLOSED_PLANAR",
    modality: str = "RTSTRUCT",
) -> Path:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    content = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    content.Modality = modality
    content.StructureSetROISequence = Sequence()
    content.ROIContourSequence = Sequence()
    for number, (name, contours) in enumerate(regions.items(), start=1):
        roi = Dataset()
        roi.ROINumber = number
        roi.ROIName = name
        roi.ReferencedFrameOfReferenceUID = frame
        content.StructureSetROISequence.append(roi)
        item = Dataset()
        item.ReferencedROINumber = number
        item.ContourSequence = Sequence()
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points) // 3
            contour.ContourData = [f"{value:.6f}" for value in points]
            item.ContourSequence.append(contour)
        content.ROIContourSequence.append(item)
    content.save_as(path, enforce_file_format=True)
    return path


def mask_of(path: Path, name: str = "GTV", grid: Geometry = GRID) -> np.ndarray:
    return rasterise(read_structure_set(path), name, geometry=grid, frame_of_reference_uid=FRAME)


def test_a_rectangle_on_voxel_borders_marks_exactly_its_voxels(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [rectangle(3, 2, 9, 4, 1)]})
    expected = np.zeros(GRID.shape, dtype=bool)
    expected[1, 2:5, 3:10] = True
    np.testing.assert_array_equal(mask_of(path), expected)


def test_an_oblique_left_handed_grid_is_honoured(tmp_path: Path) -> None:
    angle = math.radians(25)
    cosine, sine = math.cos(angle), math.sin(angle)
    grid = Geometry(
        size_xyz=GRID.size_xyz,
        spacing_mm=GRID.spacing_mm,
        origin_mm=GRID.origin_mm,
        direction=(cosine, -sine, 0, sine, cosine, 0, 0, 0, -1),
    )
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [rectangle(1, 7, 2, 12, 3, grid)]})
    expected = np.zeros(grid.shape, dtype=bool)
    expected[3, 7:13, 1:3] = True
    np.testing.assert_array_equal(mask_of(path, grid=grid), expected)


def test_an_inner_contour_is_a_hole_and_an_island_in_it_is_inside(tmp_path: Path) -> None:
    contours = [rectangle(*box, 2) for box in ((2, 2, 12, 12), (4, 4, 10, 10), (6, 6, 7, 7))]
    path = write_structures(tmp_path / "rs.dcm", {"GTV": contours})
    assert mask_of(path).sum() == 11 * 11 - 7 * 7 + 2 * 2


def test_a_keyhole_contour_leaves_its_hole_empty() -> None:
    outer = [(1.5, 1.5), (10.5, 1.5), (10.5, 8.5), (1.5, 8.5), (1.5, 5.0)]
    inner = [(3.5, 5.0), (3.5, 6.5), (7.5, 6.5), (7.5, 3.5), (3.5, 3.5), (3.5, 5.0)]
    keyhole = np.array([*outer, *inner, (1.5, 5.0)])
    assert fill_polygon(keyhole, (12, 14)).sum() == 9 * 7 - 4 * 3


@pytest.mark.parametrize("reverse", [False, True])
def test_a_circle_has_its_analytic_area_within_its_border_length(reverse: bool) -> None:
    radius, centre = 37.3, (61.2, 55.7)
    turn = np.linspace(0, 2 * np.pi, 720, endpoint=False)[:: -1 if reverse else 1]
    vertices = np.stack(
        [centre[0] + radius * np.cos(turn), centre[1] + radius * np.sin(turn)], axis=1
    )
    filled = fill_polygon(vertices, (120, 130))
    rows, columns = np.nonzero(filled)
    assert filled.sum() == pytest.approx(math.pi * radius**2, rel=2e-3)
    assert (columns.mean(), rows.mean()) == pytest.approx(centre, abs=0.05)


def test_a_lattice_triangle_obeys_picks_theorem_with_half_of_its_border() -> None:
    """Area = interior + border / 2 - 1; the half-open rule keeps between the two counts."""
    vertices = np.array([(2.0, 1.0), (14.0, 5.0), (6.0, 11.0)])
    (x0, y0), (x1, y1), (x2, y2) = vertices
    area = abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) / 2
    edges = np.abs(np.diff(np.vstack([vertices, vertices[:1]]), axis=0)).astype(int)
    border = int(np.gcd(edges[:, 0], edges[:, 1]).sum())
    interior = area - border / 2 + 1
    assert interior <= fill_polygon(vertices, (16, 16)).sum() <= interior + border


@given(x=st.floats(2, 20), y=st.floats(3, 17))
@settings(max_examples=60, deadline=None)
def test_triangles_that_tile_a_rectangle_mark_every_centre_once(x: float, y: float) -> None:
    """A fan from any inner point: shared edges never lose or double a centre."""
    box = [(2.0, 3.0), (20.0, 3.0), (20.0, 17.0), (2.0, 17.0)]
    total = np.zeros((20, 24), dtype=int)
    for first, second in zip(box, [*box[1:], box[0]], strict=True):
        total += fill_polygon(np.array([first, second, (x, y)]), total.shape)
    expected = np.zeros_like(total)
    expected[3:17, 2:20] = 1
    np.testing.assert_array_equal(total, expected)


def test_parts_beyond_the_image_are_cut_off() -> None:
    filled = fill_polygon(np.array([(-5.5, -5.5), (3.5, -5.5), (3.5, 2.5), (-5.5, 2.5)]), (4, 6))
    expected = np.zeros((4, 6), dtype=bool)
    expected[:3, :4] = True
    np.testing.assert_array_equal(filled, expected)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"GTV-1": [rectangle(1, 1, 2, 2, 0)], "Lung": []})
    with pytest.raises(InputError, match=r"rs.dcm: no structure is named 'GTV'.*'GTV-1', 'Lung'"):
        mask_of(path)


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 2, 2, 0)]}, frame="9.9.9")
    with pytest.raises(InputError, match=r"refers to frame of reference 9\.9\.9, the CT has 1\.2"):
        mask_of(path)


def test_a_contour_between_two_slices_is_refused(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 2, 2, 1.4)]})
    with pytest.raises(InputError, match=r"lies 0\.40 slice spacings off the nearest slice"):
        mask_of(path)


def test_a_contour_tilted_through_slices_is_refused(tmp_path: Path) -> None:
    tilted = [*to_mm(1, 1, 0), *to_mm(9, 1, 1), *to_mm(9, 9, 2)]
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [tilted]})
    with pytest.raises(InputError, match="slice spacings off"):
        mask_of(path)


@pytest.mark.parametrize("box", [(1, 1, 2, 2, 5), (18, 1, 21, 2, 0), (-3, 1, 2, 2, 0)])
def test_a_contour_outside_the_series_is_refused(tmp_path: Path, box: tuple[int, ...]) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [rectangle(*box)]})
    with pytest.raises(InputError, match="lies outside the CT of 20 x 16 x 5 voxels"):
        mask_of(path)


def test_a_region_without_a_voxel_centre_is_refused(tmp_path: Path) -> None:
    sliver = [*to_mm(3.1, 3.1, 0), *to_mm(3.4, 3.1, 0), *to_mm(3.4, 3.4, 0)]
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [sliver]})
    with pytest.raises(InputError, match="holds no voxel centre"):
        mask_of(path)


def test_points_and_open_lines_are_refused(tmp_path: Path) -> None:
    path = write_structures(
        tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 2, 2, 0)]}, kind="OPEN_PLANAR"
    )
    with pytest.raises(InputError, match="contour 1 of 'GTV' is of type OPEN_PLANAR"):
        mask_of(path)


def test_a_ct_file_is_no_structure_set(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "ct.dcm", {}, modality="CT")
    with pytest.raises(InputError, match="is DICOM but no RTSTRUCT"):
        read_structure_set(path)


def test_a_text_file_is_no_dicom_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.dcm"
    path.write_text("no DICOM here")
    with pytest.raises(InputError, match=r"notes\.dcm: not a readable DICOM file"):
        read_structure_set(path)


def test_a_file_cut_at_any_length_never_loses_a_contour(tmp_path: Path) -> None:
    path = write_structures(
        tmp_path / "rs.dcm",
        {"GTV": [rectangle(1, 1, 4, 4, z) for z in range(3)], "Lung": [rectangle(1, 1, 9, 9, 1)]},
    )
    content = path.read_bytes()
    for kept in range(len(content)):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"rs\.dcm: "):
            read_structure_set(path)


def test_a_flipped_bit_gives_a_refusal_or_a_mask_on_the_grid(tmp_path: Path) -> None:
    path = write_structures(
        tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 4, 4, z) for z in range(3)]}
    )
    content = path.read_bytes()
    for seed in range(200):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[int(random.integers(128, len(content)))] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(InputError):
            assert mask_of(path).shape == GRID.shape


def test_a_contour_with_fewer_points_than_it_says_is_refused(tmp_path: Path) -> None:
    path = write_structures(tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 4, 4, 0)]})
    content = pydicom.dcmread(path)
    content.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 5
    content.save_as(path)
    with pytest.raises(InputError, match="has 4 points and says that it has 5"):
        mask_of(path)


def test_crossing_contours_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_structures(
        tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 4, 4, 0), rectangle(3, 3, 6, 6, 0)]}
    )
    assert mask_of(path).sum() == 2 * (16 - 4)
    assert "contours cross on slice 0" in caplog.text


def test_a_slice_left_out_between_contours_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_structures(
        tmp_path / "rs.dcm", {"GTV": [rectangle(1, 1, 2, 2, 0), rectangle(1, 1, 2, 2, 2)]}
    )
    mask_of(path)
    assert "no contour on slices [1]" in caplog.text
