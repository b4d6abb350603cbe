"""Segmentations read back against the masks that they were made of."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)
from segmentation_fakes import (
    FRAME_OF_REFERENCE,
    SHARES,
    dataset_of,
    frame,
    frames_of,
    save_segmentation,
    segment,
)
from series_fakes import SERIES, write_series
from volume_fakes import ORIENTATIONS

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io import read_ct
from samcancer.volume_io.dicom_seg_reading import Segment, Segmentation, read_segmentation


def grid(direction: np.ndarray = ORIENTATIONS[0], size_xyz: tuple[int, int, int] = (9, 7, 5)):
    return Geometry(
        size_xyz, (0.6, 0.8, 2.5), (-31.0, 17.5, 203.0), tuple(float(v) for v in direction.ravel())
    )


GRID = grid()


def masks_on(geometry: Geometry = GRID) -> dict[int, np.ndarray]:
    """Two overlapping masks without any symmetry; slices 0 and 4 of segment 2 are empty."""
    random = np.random.default_rng(3)
    whole = random.random(geometry.shape) < 0.4
    part = random.random(geometry.shape) < 0.3
    part[[0, -1]] = False
    return {1: whole, 2: part}


SEGMENTS = [segment(1, "Liver", "10200004"), segment(2, "Lesion", "52988006", "10200004")]


def written(path: Path, content: Any = None, syntax: str | None = None) -> Segmentation:
    content = (
        dataset_of(frames_of(masks_on(), GRID), SEGMENTS, GRID) if content is None else content
    )
    return read_segmentation(save_segmentation(path / "seg.dcm", content, *filter(None, [syntax])))


def test_overlapping_segments_come_back_voxel_by_voxel(tmp_path: Path) -> None:
    found = written(tmp_path)
    for number, mask in masks_on().items():
        np.testing.assert_array_equal(found.mask(number, GRID), mask)


def test_the_header_tells_labels_codes_and_frame_of_reference(tmp_path: Path) -> None:
    found = written(tmp_path)
    assert found.segments == (
        Segment(1, "Liver", "10200004", None),
        Segment(2, "Lesion", "52988006", "10200004"),
    )
    assert found.frame_of_reference_uid == FRAME_OF_REFERENCE
    assert found.kind == "BINARY"


def test_frames_come_in_any_order_and_empty_ones_may_be_missing(tmp_path: Path) -> None:
    frames = frames_of(masks_on(), GRID)
    order = np.random.default_rng(0).permutation(len(frames))
    content = dataset_of([frames[i] for i in order], SEGMENTS, GRID)
    found = written(tmp_path, content)
    for number, mask in masks_on().items():
        np.testing.assert_array_equal(found.mask(number, GRID), mask)
    assert not found.mask(2, GRID)[[0, -1]].any()


@pytest.mark.parametrize("turn", range(48))
def test_every_orientation_of_the_grid_comes_back(turn: int, tmp_path: Path) -> None:
    geometry = grid(ORIENTATIONS[turn])
    masks = masks_on(geometry)
    found = written(tmp_path, dataset_of(frames_of(masks, geometry), SEGMENTS, geometry))
    np.testing.assert_array_equal(found.mask(1, geometry), masks[1])


def test_an_oblique_grid_comes_back(tmp_path: Path) -> None:
    a, b = math.radians(20), math.radians(-35)
    about_z = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    geometry = grid(about_z @ about_x)
    masks = masks_on(geometry)
    found = written(tmp_path, dataset_of(frames_of(masks, geometry), SEGMENTS, geometry))
    np.testing.assert_array_equal(found.mask(1, geometry), masks[1])


def test_frames_flipped_against_the_ct_land_on_its_voxels(tmp_path: Path) -> None:
    mask = masks_on()[1]
    columns, rows, _ = GRID.size_xyz
    frames = [
        frame(1, mask[z, ::-1, ::-1], GRID.position_mm(np.array([columns - 1, rows - 1, z])))
        for z in range(len(mask))
    ]
    content = dataset_of(frames, SEGMENTS, GRID, cosines=[-1, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(written(tmp_path, content).mask(1, GRID), mask)


def test_frames_cut_along_another_plane_land_on_the_voxels_of_the_ct(tmp_path: Path) -> None:
    """Sagittal frames: rows run along the slices of the CT, columns along its rows."""
    mask = masks_on()[1]
    frames = [
        frame(1, mask[:, :, x], GRID.position_mm(np.array([x, 0, 0]))) for x in range(mask.shape[2])
    ]
    content = dataset_of(
        frames, SEGMENTS, GRID, cosines=[0, 1, 0, 0, 0, 1], pixel_mm=[2.5, 0.8]
    )  # between rows, between columns
    np.testing.assert_array_equal(written(tmp_path, content).mask(1, GRID), mask)


def test_frames_may_cover_a_part_of_the_slices(tmp_path: Path) -> None:
    mask = np.zeros(GRID.shape, bool)
    mask[2, 3:6, 4:8] = True
    frames = [frame(1, mask[2, 3:6, 4:8], GRID.position_mm(np.array([4, 3, 2])))]
    np.testing.assert_array_equal(
        written(tmp_path, dataset_of(frames, SEGMENTS, GRID)).mask(1, GRID), mask
    )


def test_a_label_map_names_segments_in_its_pixels(tmp_path: Path) -> None:
    first, second = masks_on().values()
    values = np.where(first, 1, 0) + np.where(second & ~first, 2, 0)
    frames = [
        frame(None, values[z], GRID.position_mm(np.array([0, 0, z]))) for z in (3, 0, 4, 1, 2)
    ]
    segments = [segment(0, "Background"), *SEGMENTS]
    found = written(tmp_path, dataset_of(frames, segments, GRID, kind="LABELMAP"))
    assert [s.number for s in found.segments] == [1, 2]
    np.testing.assert_array_equal(found.mask(1, GRID), values == 1)
    np.testing.assert_array_equal(found.mask(2, GRID), values == 2)


def fractional(path: Path) -> tuple[Path, np.ndarray]:
    shares = np.random.default_rng(1).integers(0, SHARES + 1, size=GRID.shape)
    frames = [frame(1, shares[z], GRID.position_mm(np.array([0, 0, z]))) for z in range(5)]
    content = dataset_of(frames, SEGMENTS, GRID, kind="FRACTIONAL")
    return save_segmentation(path / "seg.dcm", content), shares


def test_shares_are_refused_unless_a_threshold_is_chosen(tmp_path: Path) -> None:
    path, shares = fractional(tmp_path)
    with pytest.raises(InputError, match=r"is a fractional segmentation: .*--seg-threshold"):
        read_segmentation(path)
    mask = read_segmentation(path, threshold=0.25).mask(1, GRID)
    np.testing.assert_array_equal(mask, shares >= 0.25 * SHARES)


def test_a_threshold_does_not_touch_a_binary_segmentation(tmp_path: Path) -> None:
    written(tmp_path)
    found = read_segmentation(tmp_path / "seg.dcm", threshold=0.9)
    np.testing.assert_array_equal(found.mask(1, GRID), masks_on()[1])


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_ways_to_store_the_header_read_the_same(syntax: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(written(tmp_path, syntax=syntax).mask(2, GRID), masks_on()[2])


def test_a_label_map_packed_by_run_length_reads_the_same(tmp_path: Path) -> None:
    values = masks_on()[1] * 1
    frames = [frame(None, values[z], GRID.position_mm(np.array([0, 0, z]))) for z in range(5)]
    content = dataset_of(frames, SEGMENTS, GRID, kind="LABELMAP")
    path = save_segmentation(tmp_path / "seg.dcm", content)
    packed = pydicom.dcmread(path)
    packed.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    packed.save_as(path)
    np.testing.assert_array_equal(read_segmentation(path).mask(1, GRID), values == 1)


def shifted(axis: int, share: float) -> Any:
    """The sound file with every frame moved by a share of a voxel."""
    frames = frames_of(masks_on(), GRID)
    for item in frames:
        item["first_mm"] = list(item["first_mm"])
        item["first_mm"][axis] += share * GRID.spacing_mm[axis]
    return dataset_of(frames, SEGMENTS, GRID)


@pytest.mark.parametrize(
    ("axis", "share", "message"),
    [
        (0, 0.4, r"frame 1 lies 0\.24 mm off the CT's voxels \(allowed 0\.006\)"),
        (1, 0.25, r"frame 1 lies 0\.2 mm off the CT's voxels \(allowed 0\.006\)"),
        (2, 0.3, r"frame 1 lies 0\.75 mm off the CT's voxels \(allowed 0\.12\)"),
    ],
)
def test_frames_between_voxels_are_refused_with_the_distance(
    axis: int, share: float, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        written(tmp_path, shifted(axis, share)).mask(1, GRID)


def test_slices_a_little_uneven_are_taken(tmp_path: Path) -> None:
    np.testing.assert_array_equal(written(tmp_path, shifted(2, 0.03)).mask(1, GRID), masks_on()[1])


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    content = dataset_of(frames_of(masks_on(), GRID), SEGMENTS, GRID, pixel_mm=[0.8, 0.7])
    with pytest.raises(InputError, match=r"pixels of 0\.8 x 0\.7 mm along axes that are not"):
        written(tmp_path, content).mask(1, GRID)


def test_a_marked_pixel_outside_of_the_ct_is_refused(tmp_path: Path) -> None:
    found = written(tmp_path)
    smaller = grid(size_xyz=(9, 7, 3))
    with pytest.raises(InputError, match=r"pixels outside of the CT of 9 x 7 x 3 voxels"):
        found.mask(1, smaller)


def test_a_segment_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no segment 7, only 1, 2"):
        written(tmp_path).mask(7, GRID)


def without(name: str) -> Any:
    content = dataset_of(frames_of(masks_on(), GRID), SEGMENTS, GRID)
    delattr(content, name)
    return content


def double_frame() -> Any:
    frames = frames_of(masks_on(), GRID)
    return dataset_of([*frames, frames[0]], SEGMENTS, GRID)


def test_two_frames_at_one_position_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="segment 1 has two frames at the same position"):
        written(tmp_path, double_frame()).mask(1, GRID)


FAULTS = {
    "no type": (lambda: without("SegmentationType"), "its SegmentationType is none that is known"),
    "no frame positions": (
        lambda: without("PerFrameFunctionalGroupsSequence"),
        "frames and says of 0 where they lie",
    ),
    "no orientation": (
        lambda: without("SharedFunctionalGroupsSequence"),
        "has no ImageOrientationPatient",
    ),
    "a segment twice": (
        lambda: dataset_of(frames_of(masks_on(), GRID), [*SEGMENTS, SEGMENTS[0]], GRID),
        "describes segment 1 twice",
    ),
    "a segment not described": (
        lambda: dataset_of(frames_of(masks_on(), GRID), SEGMENTS[:1], GRID),
        "has frames of segment 2, which it does not describe",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_malformed_file_is_refused_in_one_line(fault: str, tmp_path: Path) -> None:
    make, message = FAULTS[fault]
    with pytest.raises(InputError, match=message) as caught:
        written(tmp_path, make())
    assert str(caught.value).startswith(str(tmp_path / "seg.dcm"))
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_segmentation_is_refused_without_a_quote(tmp_path: Path) -> None:
    content = dataset_of(frames_of(masks_on(), GRID), SEGMENTS, GRID)
    content.Modality = "CANARY"
    with pytest.raises(InputError, match=r"is DICOM but no segmentation \(SEG\)") as caught:
        written(tmp_path, content)
    assert "CANARY" not in str(caught.value)


def test_a_file_cut_at_any_length_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "seg.dcm"
    content = path.read_bytes()
    for kept in range(0, len(content), 23):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"seg\.dcm: .+\.$"):
            read_segmentation(path).mask(2, GRID)


def test_a_flipped_bit_gives_a_refusal_or_a_mask_on_the_grid(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "seg.dcm"
    content = path.read_bytes()
    for seed in range(150):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[int(random.integers(128, len(content)))] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(InputError):
            found = read_segmentation(path)
            assert all(found.mask(s.number, GRID).shape == GRID.shape for s in found.segments)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "syntax"),
    [
        ("BINARY", ExplicitVRLittleEndian),
        ("FRACTIONAL", ExplicitVRLittleEndian),
        ("FRACTIONAL", JPEGLSLossless),
        ("LABELMAP", ExplicitVRLittleEndian),
        ("LABELMAP", JPEGLSLossless),
    ],
)
def test_what_highdicom_writes_comes_back(kind: str, syntax: str, tmp_path: Path) -> None:
    """Another implementation's files, on a series of CT slices."""
    highdicom = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    study = {
        **{"StudyInstanceUID": "1.2.3.4", "FrameOfReferenceUID": "1.2.3.5", "SliceThickness": 2.5},
        **dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "PatientSex"), ""),
        **dict.fromkeys(("StudyID", "StudyDate", "StudyTime", "AccessionNumber"), ""),
        "ReferringPhysicianName": "",
    }
    folder = write_series(tmp_path / "ct", lambda z: study)
    sources = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    geometry = read_ct(folder).geometry
    masks = np.stack([masks_on(geometry)[k] for k in (1, 2)], axis=-1)
    masks[..., 1] &= ~masks[..., 0]
    # The files' names run against the slices.
    pixels = masks[::-1].astype(np.float32 if kind == "FRACTIONAL" else np.uint8)
    uid = highdicom.UID
    content = highdicom.seg.Segmentation(
        sources,
        pixels,
        kind,
        [
            highdicom.seg.SegmentDescription(
                number, name, codes.SCT.Organ, codes.SCT.Liver, "MANUAL"
            )
            for number, name in ((1, "first"), (2, "second"))
        ],
        *(uid(), 1, uid(), 1, "maker", "model", "1", "1"),
        transfer_syntax_uid=syntax,
    )
    content.save_as(tmp_path / "seg.dcm")
    found = read_segmentation(tmp_path / "seg.dcm", threshold=0.5)
    assert found.series_uid == SERIES
    assert [(s.label, s.snomed) for s in found.segments] == [
        ("first", "10200004"),
        ("second", "10200004"),
    ]
    for number in (1, 2):
        np.testing.assert_array_equal(found.mask(number, geometry), masks[..., number - 1])
