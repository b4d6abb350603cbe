"""Synthetic DICOM series, most of them faulty: each is read right or refused in one line."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless
from series_fakes import (
    CANARY,
    FIRST_MM,
    OTHER_SERIES,
    PIXEL_MM,
    SERIES,
    SLICES,
    STEP_MM,
    ct_slice,
    hu_of,
    one,
    position,
    save,
    slice_path,
    with_canaries,
    write_series,
)

from samcancer.errors import InputError
from samcancer.volume_io import CtVolume, read_ct


def test_a_sound_series_is_read_in_order_and_on_its_grid(tmp_path):
    scan = read_ct(write_series(tmp_path / "ct"))
    np.testing.assert_array_equal(scan.hu, hu_of())
    assert (scan.file_format, scan.warnings) == ("dicom", ())
    assert scan.geometry.spacing_mm == pytest.approx((PIXEL_MM[1], PIXEL_MM[0], STEP_MM))
    assert scan.geometry.origin_mm == pytest.approx(tuple(FIRST_MM))
    np.testing.assert_allclose(scan.geometry.direction_matrix, np.eye(3), atol=1e-12)


def test_a_series_without_its_intercept_is_not_taken_as_hu(tmp_path):
    folder = write_series(tmp_path / "ct", lambda z: {"RescaleIntercept": 0})
    with pytest.raises(InputError, match=r"ct: not in HU: no value is negative .*intercept"):
        read_ct(folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    "cosines", [[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1], [0.8, 0.6, 0, -0.6, 0.8, 0]]
)
def test_a_series_in_any_orientation_equals_simpleitk(cosines, syntax, tmp_path):
    normal = np.cross(cosines[:3], cosines[3:])
    for z in range(SLICES):
        place = [float(v) for v in np.round(FIRST_MM + STEP_MM * z * normal, 6)]
        content = ct_slice(z, ImageOrientationPatient=cosines, ImagePositionPatient=place)
        save(tmp_path / f"{z}.dcm", content, syntax)
    scan = read_ct(tmp_path)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = sitk.ReadImage(names)
    np.testing.assert_array_equal(scan.hu, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(scan.geometry.origin_mm, image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(scan.geometry.spacing_mm, image.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(scan.geometry.direction, image.GetDirection(), atol=1e-4)


def test_each_slice_has_its_own_rescale(tmp_path):
    def rescale(z: int) -> dict[str, Any]:
        return {"RescaleSlope": 1 + z, "RescaleIntercept": -1000 - z}

    stored = hu_of() + 1024
    z = np.arange(SLICES)[:, None, None]
    scan = read_ct(write_series(tmp_path / "ct", rescale))
    np.testing.assert_array_equal(scan.hu, stored * (1 + z) - 1000 - z)


def test_other_files_are_left_out_and_told(tmp_path):
    folder = write_series(tmp_path / "ct")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden").write_text("x")
    flat = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SOPInstanceUID": "1.2.3"}
    scout = ct_slice(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], **flat)
    save(folder / "scout.dcm", scout)
    save(folder / "plan.dcm", ct_slice(0, Modality="RTSTRUCT", PixelData=None))
    save(folder / "odd.dcm", ct_slice(0, Modality="JANE DOE"))
    scan = read_ct(folder)
    np.testing.assert_array_equal(scan.hu, hu_of())
    assert scan.warnings == (
        "other files in the folder were left out: 1 localizer, 1 not DICOM, 1 of modality "
        "RTSTRUCT, 1 of other modality",
    )


def test_one_of_two_series_is_read_when_named(tmp_path):
    def split(z: int) -> dict[str, Any]:
        return {"SeriesInstanceUID": SERIES if z < 4 else OTHER_SERIES}

    folder = write_series(tmp_path / "ct", split)
    np.testing.assert_array_equal(read_ct(folder, series=SERIES).hu, hu_of()[:4])
    np.testing.assert_array_equal(read_ct(folder, series=OTHER_SERIES).hu, hu_of()[4:])
    with pytest.raises(InputError, match=rf"has no series 1\.2\.3, only {SERIES} \(4 slices, "):
        read_ct(folder, series="1.2.3")


def test_a_series_that_may_lack_an_end_is_read_with_a_warning(tmp_path):
    folder = write_series(tmp_path / "ct", lambda z: {"ImagesInAcquisition": SLICES})
    slice_path(folder, SLICES - 1).unlink()
    assert read_ct(folder).warnings == ("5 slices of an acquisition of 6: an end may be missing",)
    folder = write_series(tmp_path / "ct")
    slice_path(folder, 0).unlink()
    assert read_ct(folder).warnings == ("the first slice has number 2: an end may be missing",)


def missing(folder: Path) -> None:
    slice_path(write_series(folder), 3).unlink()


def double(folder: Path) -> None:
    write_series(folder)
    save(folder / "again.dcm", ct_slice(2, SOPInstanceUID="1.2.3"))


def cut_to(share: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        path = slice_path(write_series(folder), SLICES - 1)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return cut


def single(folder: Path) -> None:
    folder.mkdir()
    save(folder / "only.dcm", ct_slice(0))


def compressed(folder: Path) -> None:
    write_series(folder)
    content = ct_slice(3, PixelData=encapsulate([b"\xff\xd8\xff\xf7" + bytes(60)]))
    content["PixelData"].VR = "OB"
    content["PixelData"].is_undefined_length = True
    save(slice_path(folder, 3), content, JPEGLSLossless)


def with_each(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_series(folder, lambda z: changes)


def with_one(z: int, **changes: Any) -> Callable[[Path], object]:
    return lambda folder: write_series(folder, one(z, **changes))


def tilted(folder: Path) -> None:
    shear = np.tan(np.deg2rad(12.0))
    write_series(
        folder,
        lambda z: {"ImagePositionPatient": position(0, shear * STEP_MM * z, STEP_MM * z)},
    )


def uneven(folder: Path) -> None:
    write_series(folder, one(5, ImagePositionPatient=position(0, 0, STEP_MM * 5 + 0.4)))


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    # fault -> (maker, message, mend)
    "missing slice": (missing, r"2\.5 mm apart but some are missing .*: 208\.00 to 213", "export"),
    "uneven slices": (uneven, r"missing or uneven: 213\.00 to 215\.90 mm", "export"),
    "double slice": (double, r"same position: (again|image_4)\.dcm and ", "remove the doubles"),
    "two series": (
        with_one(0, SeriesInstanceUID=OTHER_SERIES),
        rf"holds 2 CT series: {re.escape(SERIES)} \(5 slices, axial, 7 x 9 pixels, voxels of "
        rf"0\.6 x 0\.8 x 2\.5 mm\); {re.escape(OTHER_SERIES)} \(1 slices, .* 0\.6 x 0\.8 mm\)",
        "--series",
    ),
    "gantry tilt": (tilted, r"gantry was tilted by 12\.00 degrees", "resample"),
    "a slice shifted sideways": (
        with_one(2, ImagePositionPatient=position(3, 0, STEP_MM * 2)),
        r"shifted sideways by up to 3 mm: image_4\.dcm",
        "export",
    ),
    "0 bytes": (cut_to(0), r"image_1\.dcm: the file is empty \(0 bytes\)", "re-copy"),
    "cut before DICM": (cut_to(0.08), r"image_1\.dcm: is not DICOM", "re-copy"),
    "cut in the header": (cut_to(0.5), r"image_1\.dcm: ", "re-copy"),
    "cut in the pixels": (cut_to(0.95), r"image_1\.dcm: its pixels are missing or cut", "re-copy"),
    "sizes mixed": (with_one(1, Rows=6), r"image_5\.dcm: is 6 x 9 pixels|is 7 x 9", "export"),
    "orientations mixed": (
        with_one(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
        "is oriented otherwise than",
        "export",
    ),
    "frames of reference mixed": (
        with_one(1, FrameOfReferenceUID=OTHER_SERIES),
        "lies in another frame of reference than",
        "export",
    ),
    "no series": (with_one(3, SeriesInstanceUID=None), "has no SeriesInstanceUID", "export"),
    "pixel sizes mixed": (with_one(4, PixelSpacing=[0.8, 0.7]), "pixels of other size", "export"),
    "no rescale": (with_one(3, RescaleSlope=None), r"image_3\.dcm: has no rescale", "export"),
    "rescale 0": (with_one(3, RescaleSlope=0), r"under the rescale 0 x \+ -1024", "check"),
    "rescale too large": (with_one(3, RescaleSlope=900), r"from -?\d+ to [\de.+]+ HU", "check"),
    "no HU": (with_one(3, RescaleType="OD"), r"image_3\.dcm: its RescaleType is not HU", "export"),
    "one slice": (single, "has 1 slice, so its slice distance is unknown", "whole series"),
    "undecodable": (compressed, r"image_3\.dcm: .*JPEG-LS Lossless .*\(1\.2\.840\.", "re-copy"),
    "MR": (with_each(Modality="MR"), "no CT slices in DICOM, only 6 of modality MR", "another"),
    "no position": (with_one(2, ImagePositionPatient=None), "has no ImagePosition", "export"),
    "no pixels": (with_one(2, PixelData=None), r"image_4\.dcm: its pixels are missing", "re-copy"),
    "two cosines": (with_one(2, ImageOrientationPatient=[1, 0]), "malformed", "export"),
    "skewed cosines": (
        with_one(2, ImageOrientationPatient=[1, 0, 0, 0.1, 1, 0]),
        "not perpendicular",
        "export",
    ),
    "spacing 0": (with_each(PixelSpacing=[0.8, 0]), r"its pixels are 0\.8 x 0 mm", "export"),
    "many frames": (with_one(2, NumberOfFrames=4), "holds 4 frames", "one file per slice"),
    "colour": (
        with_each(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
        "pixels are missing or cut short|holds an array of shape",
        "",
    ),
    "empty folder": (lambda folder: folder.mkdir(), "holds no CT slices in DICOM", "another"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_the_faulty_series_is_refused_in_one_line_with_file_and_mend(fault, tmp_path):
    make, message, mend = FAULTS[fault]
    folder = tmp_path / "ct"
    make(folder)
    with pytest.raises(InputError, match=message) as caught:
        read_ct(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(str(folder))
    assert mend in (caught.value.mend or "")


def read_or_refuse(folder: Path) -> CtVolume | None:
    try:
        return read_ct(folder)
    except InputError as error:
        message = str(error)
    assert message.startswith(str(folder))
    assert len(message.splitlines()) == 1
    return None


def test_a_last_slice_cut_at_any_length_is_never_dropped_in_silence(tmp_path):
    folder = write_series(tmp_path / "ct")
    path = slice_path(folder, SLICES - 1)
    content = path.read_bytes()
    for kept in range(0, len(content), 9):
        path.write_bytes(content[:kept])
        assert read_or_refuse(folder) is None, f"{kept} of {len(content)} bytes"


def fuzz(folder: Path, seeds: range) -> None:
    path = slice_path(write_series(folder), 2)
    content = path.read_bytes()
    for seed in seeds:
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[int(random.integers(128, len(content)))] ^= 1 << int(random.integers(8))
        path.write_bytes(bytes(damaged))
        scan = read_or_refuse(folder)
        assert scan is None or scan.hu.shape == scan.geometry.shape


def test_a_flipped_bit_gives_a_refusal_or_a_whole_scan(tmp_path):
    fuzz(tmp_path / "ct", range(100))


@pytest.mark.slow
def test_five_hundred_flipped_bits_give_refusals_or_whole_scans(tmp_path):
    fuzz(tmp_path / "ct", range(100, 600))


CANARY_FAULTS: dict[str, dict[str, Any]] = {
    "none": {},
    "a modality": {"Modality": CANARY},
    "an image type": {"ImageType": [CANARY, "SECONDARY"]},
    "no position": {"ImagePositionPatient": None},
    "no pixels": {"PixelData": None},
    "a rescale type": {"RescaleType": CANARY},
    "an interpretation": {"PhotometricInterpretation": CANARY},
}


@pytest.mark.parametrize("fault", CANARY_FAULTS)
def test_what_identifies_a_patient_reaches_no_message_warning_log_or_result(
    fault, tmp_path, caplog, capfd
):
    for z in range(SLICES):
        save(tmp_path / f"{z}.dcm", with_canaries(ct_slice(z, **CANARY_FAULTS[fault])))
    told = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            scan = read_ct(tmp_path)
        except InputError as error:
            told = f"{error!r} {error}"
        else:
            told = repr((scan.geometry, scan.warnings, scan.source_sha256))
    streams = capfd.readouterr()
    everything = " ".join([told, caplog.text, *streams, *(str(w.message) for w in caught)])
    for canary in (CANARY, "19700101", "054Y"):
        assert canary not in everything


@pytest.mark.parametrize(
    "name", ["ImagePositionPatient", "PixelSpacing", "InstanceNumber", "RescaleSlope"]
)
def test_a_name_in_place_of_a_number_is_refused_and_not_quoted(name, tmp_path, recwarn, caplog):
    folder = write_series(tmp_path / "ct")
    path = slice_path(folder, 2)
    content = ct_slice(2)
    marker = {"InstanceNumber": "7654321"}.get(name, "76543210.5")
    setattr(content, name, [marker] * (3 if name.startswith("Image") else 2)
            if name in ("ImagePositionPatient", "PixelSpacing") else marker)  # fmt: skip
    save(path, content)
    old = marker.encode()
    path.write_bytes(path.read_bytes().replace(old, CANARY.ljust(len(old), "x").encode()))
    with pytest.raises(InputError, match=r"image_4\.dcm: ") as caught:
        read_ct(folder)
    told = " ".join([str(caught.value), caplog.text, *(str(w.message) for w in recwarn)])
    assert CANARY not in told
