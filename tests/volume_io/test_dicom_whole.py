"""A DICOM file is whole, or cut anywhere and refused, however it is encoded."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from series_fakes import ct_slice, save

from samcancer.errors import InputError
from samcancer.volume_io.dicom_whole import require_whole

SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def nested(depth: int, *, delimited: bool) -> Dataset:
    """A dataset with sequences in sequences, their lengths stated or ended by a delimiter."""
    content = Dataset()
    content.ROIName = "region"
    content.SliceThickness = 1.5
    if depth:
        content.ROIContourSequence = [nested(depth - 1, delimited=delimited) for _ in range(2)]
        content["ROIContourSequence"].is_undefined_length = delimited
        for item in content.ROIContourSequence:
            item.is_undefined_length_sequence_item = delimited
    return content


def written(path: Path, syntax: UID, depth: int, *, delimited: bool) -> bytes:
    content = nested(depth, delimited=delimited)
    meta = content.file_meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = content.SOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = "1.2.3"
    content.save_as(
        path,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
        enforce_file_format=True,
    )
    return path.read_bytes()


@pytest.mark.parametrize("delimited", [False, True], ids=["lengths", "delimiters"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda uid: uid.keyword)
def test_a_sequence_at_the_end_is_whole_or_cut(
    syntax: UID, delimited: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.dcm"
    without = len(written(path, syntax, 0, delimited=delimited))
    require_whole(path)
    content = written(path, syntax, 2, delimited=delimited)
    require_whole(path)
    # Deflated files end with one byte of padding where their length would be odd.
    start, end = without + 1, len(content)
    if syntax == DeflatedExplicitVRLittleEndian:
        start, end = len(content) - 40, len(content) - 1
    assert end - start > 20
    for kept in range(start, end):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match="is damaged or cut short"):
            require_whole(path)


def test_packed_pixels_end_with_their_delimiter(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", ct_slice(0))
    content = pydicom.dcmread(path)
    content.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    content.save_as(path)
    require_whole(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(InputError, match="is damaged or cut short"):
        require_whole(path)


def test_zeros_behind_the_end_are_padding(tmp_path: Path) -> None:
    path = save(tmp_path / "a.dcm", ct_slice(0))
    path.write_bytes(path.read_bytes() + bytes(7))
    require_whole(path)
