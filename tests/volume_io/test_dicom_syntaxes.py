"""Compressed series decode to the voxels of the uncompressed one, or the syntax is named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    MPEG4HP41,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from series_fakes import COLUMNS, ROWS, SLICES, ct_slice, hu_of, save, slice_path, write_series

from samcancer.errors import InputError
from samcancer.volume_io import read_ct
from samcancer.volume_io.dicom_files import read_slice_hu
from samcancer.volume_io.dicom_worker import DecodingProcess, decoding_process

GDCM_NAMES = {
    JPEGLossless: gdcm.TransferSyntax.JPEGLosslessProcess14,
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
}

DCMTK = {
    JPEGLossless: ("dcmcjpeg", "+el"),
    JPEGLosslessSV1: ("dcmcjpeg", "+e1"),
    JPEGLSLossless: ("dcmcjpls", "+el"),
    RLELossless: ("dcmcrle",),
}
"""Another implementation's encoders, where they are installed."""


DAMAGED = 30
"""Damaged files per syntax."""


def by_gdcm(path: Path, syntax: UID) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(GDCM_NAMES[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def by_pydicom(path: Path, syntax: UID) -> None:
    content = pydicom.dcmread(path)
    if syntax == RLELossless:
        content.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
    content.file_meta.TransferSyntaxUID = syntax
    content.save_as(path)


def by_dcmtk(path: Path, syntax: UID) -> None:
    tool, *options = DCMTK[syntax]
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    subprocess.run([tool, *options, path, path], check=True, capture_output=True)


def write_packed(
    folder: Path, pack: Callable[[Path, UID], None], syntax: UID, *, signed: bool = False
) -> Path:
    """The sound series, every slice packed; signed stores HU themselves."""
    folder.mkdir()
    for z in range(SLICES):
        pixels = {"PixelData": hu_of()[z].astype("<i2").tobytes(), "RescaleIntercept": 0}
        content = ct_slice(z, **(pixels | {"PixelRepresentation": 1} if signed else {}))
        path = save(slice_path(folder, z), content)
        pack(path, syntax)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    return folder


CASES = [
    *[(by_gdcm, syntax) for syntax in GDCM_NAMES],
    *[(by_dcmtk, syntax) for syntax in DCMTK],
    (by_pydicom, RLELossless),
    (by_pydicom, DeflatedExplicitVRLittleEndian),
]


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(
    ("pack", "syntax"), CASES, ids=[f"{p.__name__}-{s.keyword}" for p, s in CASES]
)
def test_a_compressed_series_has_the_voxels_of_the_uncompressed_one(
    pack: Callable[[Path, UID], None], syntax: UID, signed: bool, tmp_path: Path
) -> None:
    scan = read_ct(write_packed(tmp_path / "ct", pack, syntax, signed=signed))
    np.testing.assert_array_equal(scan.hu, hu_of())


@pytest.mark.parametrize("syntax", GDCM_NAMES, ids=lambda uid: uid.keyword)
def test_the_required_packages_alone_decode_each_syntax(syntax: UID) -> None:
    assert "gdcm" in get_decoder(syntax).available_plugins


@pytest.mark.parametrize("syntax", GDCM_NAMES, ids=lambda uid: uid.keyword)
def test_a_compressed_slice_cut_anywhere_is_refused(syntax: UID, tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "ct", by_gdcm, syntax)
    path = slice_path(folder, 3)
    content = path.read_bytes()
    # Of the delimiter at the end, the length (4 bytes of zeros) tells nothing.
    for kept in range(len(content) // 2, len(content) - 4, 3):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match=r"image_3\.dcm: "):
            read_slice_hu(path, (ROWS, COLUMNS))


@pytest.mark.parametrize("syntax", GDCM_NAMES, ids=lambda uid: uid.keyword)
def test_a_damaged_slice_ends_the_decoder_at_most(syntax: UID, tmp_path: Path) -> None:
    """GDCM aborts on some damaged JPEG files; this process has to live."""
    folder = write_packed(tmp_path / "ct", by_gdcm, syntax)
    path = slice_path(folder, 3)
    content = path.read_bytes()
    pixels = content.index(b"\xff\xd8" if b"\xff\xd8" in content else b"\xff\x4f\xff\x51")
    ended = 0
    process = DecodingProcess()
    for seed in range(DAMAGED):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        for offset in random.integers(pixels, len(content), size=3):
            damaged[int(offset)] = int(random.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            assert process.slice_hu(path, (ROWS, COLUMNS)).shape == (ROWS, COLUMNS)
        except InputError as error:
            if "ended the decoder" in error.fact:
                ended += 1
                process.close()
                process = DecodingProcess()
    process.close()
    assert ended < DAMAGED


def test_a_decoder_that_is_gone_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "ct", by_gdcm, JPEGLosslessSV1)
    with decoding_process() as process:
        hu = process.slice_hu(slice_path(folder, 3), (ROWS, COLUMNS))
        np.testing.assert_array_equal(hu, hu_of()[3])
        process._process.kill()
        with pytest.raises(InputError, match=r"image_3\.dcm: its packed pixels are damaged"):
            process.slice_hu(slice_path(folder, 3), (ROWS, COLUMNS))


def test_a_refusal_in_the_decoder_is_the_one_of_reading_here(tmp_path: Path) -> None:
    folder = write_packed(tmp_path / "ct", by_gdcm, JPEGLosslessSV1)
    content = pydicom.dcmread(slice_path(folder, 2))
    del content.RescaleSlope
    content.save_as(slice_path(folder, 2))
    with pytest.raises(InputError, match=r"image_4\.dcm: has no rescale slope") as caught:
        read_ct(folder)
    assert caught.value.mend == "export the series again"


def test_a_loss_in_compression_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    write_series(folder, lambda z: {"LossyImageCompression": "01" if z < 2 else "00"})
    assert read_ct(folder).warnings == ("2 of 6 slices were compressed with a loss",)


def packed_as(folder: Path, syntax: UID) -> Path:
    """A series whose slices say that they are packed in some way, with noise for pixels."""
    folder.mkdir()
    for z in range(SLICES):
        content = ct_slice(z, PixelData=encapsulate([bytes(range(64))]))
        content["PixelData"].VR = "OB"
        content["PixelData"].is_undefined_length = True
        save(slice_path(folder, z), content, syntax)
    return folder


@pytest.mark.parametrize(
    ("syntax", "fact", "mend"),
    [
        (MPEG4HP41, r"MPEG-4 .*\(1\.2\.840\.10008\.1\.2\.4\.102\), which neither pydicom nor "
         r"python-gdcm decodes", "export the series uncompressed"),
        (JPEGExtended12Bit, r"JPEG Extended .*\(1\.2\.840\.10008\.1\.2\.4\.51\), which neither",
         "export the series uncompressed"),
        (HTJ2KLossless, r"High-Throughput JPEG 2000 .*\(1\.2\.840\.10008\.1\.2\.4\.201\), which "
         "nothing installed here decodes", "pip install pylibjpeg pylibjpeg-openjpeg"),
        (JPEGLSLossless, r"JPEG-LS .*\(1\.2\.840\.10008\.1\.2\.4\.80\) and cannot be decoded "
         r"\(\w+\)", "re-copy the file"),
    ],
)  # fmt: skip
def test_a_syntax_that_does_not_decode_is_named(
    syntax: UID, fact: str, mend: str, tmp_path: Path
) -> None:
    if syntax == HTJ2KLossless and get_decoder(syntax).is_available:
        pytest.skip("the packages for it are installed")
    with pytest.raises(InputError, match=fact) as caught:
        read_ct(packed_as(tmp_path / "ct", syntax))
    assert caught.value.mend == mend


def test_without_python_gdcm_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_packed(tmp_path / "ct", by_gdcm, JPEGLosslessSV1)
    decoder = get_decoder(JPEGLosslessSV1)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"gdcm": ("gdcm>=3.0.10",)})
    with pytest.raises(InputError, match="nothing installed here decodes") as caught:
        read_slice_hu(slice_path(folder, 3), (ROWS, COLUMNS))
    assert caught.value.mend == "pip install python-gdcm"
