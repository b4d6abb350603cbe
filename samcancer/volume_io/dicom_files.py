"""One DICOM file: the few tags that are read of it, and its pixels in HU.

Only the tags listed here are ever taken out of a file, so that names, dates and numbers of patients
cannot reach a message, a warning or a result. pydicom's own warnings and log lines quote the values
they are about and are dropped for the same reason.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import JPEGExtended12Bit, RLELossless

from samcancer.errors import InputError
from samcancer.volume_io.formats import DICOM_SUFFIXES
from samcancer.volume_io.quiet import quiet_dicom_libraries

HEADER_TAGS = (
    "Modality", "ImageType", "SeriesInstanceUID", "FrameOfReferenceUID", "InstanceNumber",
    "ImagesInAcquisition",
    "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImagePositionPatient",
    "ImageOrientationPatient", "LossyImageCompression",
)  # fmt: skip
"""Every tag that is read of a header."""

TRANSFER_SYNTAX = "TransferSyntaxUID"
"""How the file is encoded, which stands before the header."""

SCALING_TAGS = ("RescaleSlope", "RescaleIntercept", "RescaleType")
"""Every tag that is read with the pixels, but for those that say how they are stored."""

_STORAGE_TAGS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData",
)  # fmt: skip

RE_COPY = "re-copy the file"

RE_EXPORT = "export the series again"

_HU_TYPES = ("HU", "US", "HU_MOD")
"""Values of RescaleType that mean HU or nothing in particular."""

_DECODER_PACKAGE = "python-gdcm"
"""Decodes JPEG, JPEG-LS and JPEG 2000; pydicom itself decodes RLE and deflated files."""

_OTHER_DECODER_PACKAGES = "pylibjpeg pylibjpeg-openjpeg"
"""Decode what it does not, such as High-Throughput JPEG 2000."""

_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR, the one common object that has no Modality."""

DAMAGE = (
    OSError, EOFError, ValueError, AttributeError, KeyError, TypeError, IndexError, OverflowError,
    RuntimeError, ImportError, MemoryError, struct.error, InvalidDicomError, BytesLengthException,
)  # fmt: skip
"""What pydicom raises on damaged files and on compression that it cannot decode."""

_INT16 = np.iinfo(np.int16)

Tags = dict[str, Any]

quiet_pydicom = quiet_dicom_libraries
"""Around every call of pydicom's."""


def read_tags(path: Path) -> Tags | None:
    """Read HEADER_TAGS and TRANSFER_SYNTAX of a file; None for a file that is not DICOM.

    Raises:
        InputError: When the file is empty, damaged or cut short.
    """
    if path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes)", path=path, mend=RE_COPY)
    try:
        with quiet_pydicom():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
            tags = {name: header.get(name) for name in HEADER_TAGS}
            tags[TRANSFER_SYNTAX] = header.file_meta.get(TRANSFER_SYNTAX)
            kind = header.file_meta.get("MediaStorageSOPClassUID")
    except InvalidDicomError:
        # A file named so is a damaged slice, not one that lies beside.
        if path.suffix.lower() in DICOM_SUFFIXES:
            raise InputError("is not DICOM", path=path, mend=RE_COPY) from None
        return None
    except DAMAGE as error:
        raise InputError(
            f"its DICOM header is damaged ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None
    if tags["Modality"] is None and kind != _DIRECTORY_CLASS:
        raise InputError("its DICOM header is cut short: it has no Modality", path=path,
                         mend="re-copy the file or take it out of the folder")  # fmt: skip
    return tags


def needs_own_process(syntax: Any) -> bool:
    """Whether pixels of a transfer syntax are decoded by a library that may end the process."""
    packed = syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated
    return bool(packed and syntax != RLELossless)


def same_patient(first: Path, second: Path) -> bool:
    """Whether two DICOM files may be of one patient: False only where both state a PatientID.

    The ids are compared here and go nowhere else.

    Raises:
        InputError: When a header is damaged.
    """
    one, other = (_patient_id(path) for path in (first, second))
    return not one or not other or one == other


def _patient_id(path: Path) -> str:
    try:
        with quiet_pydicom():
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["PatientID"])
            return str(header.get("PatientID") or "").strip()
    except DAMAGE as error:
        raise InputError(
            f"its DICOM header is damaged ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None


def read_slice_hu(path: Path, shape: tuple[int, int]) -> NDArray[np.int16]:
    """Read the pixels of a slice of ``shape`` (rows, columns), rescaled by its own header.

    Raises:
        InputError: When they are missing, cut short, not decodable, not HU or beyond int16.
    """
    stored, tags = _stored_pixels(path)
    if stored.shape != shape:
        raise InputError(f"holds an array of shape {stored.shape}", path=path, mend=RE_EXPORT)
    if tags["RescaleSlope"] is None or tags["RescaleIntercept"] is None:
        raise InputError("has no rescale slope and intercept, so it is not in HU", path=path,
                         mend=RE_EXPORT)  # fmt: skip
    if str(tags["RescaleType"] or "HU") not in _HU_TYPES:
        raise InputError("its RescaleType is not HU", path=path, mend=RE_EXPORT)
    slope = float(numbers_of(tags, "RescaleSlope", 1, path)[0])
    intercept = float(numbers_of(tags, "RescaleIntercept", 1, path)[0])
    hu = np.rint(stored * slope + intercept)
    if slope == 0 or not (hu.min() >= _INT16.min and hu.max() <= _INT16.max):
        raise InputError(
            f"its values run from {hu.min():g} to {hu.max():g} HU under the rescale "
            f"{slope:g} x + {intercept:g}",
            path=path,
            mend="check the rescale",
        )
    return hu.astype(np.int16)


def numbers_of(tags: Tags, name: str, count: int, path: Path) -> NDArray[np.float64]:
    """Return a tag's ``count`` finite numbers.

    Raises:
        InputError: When the tag is missing or holds something else, which is not quoted.
    """
    value = tags.get(name)
    if value is None:
        raise InputError(f"has no {name}", path=path, mend=RE_EXPORT)
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (ValueError, TypeError):
        numbers = np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise InputError(f"its {name} is malformed", path=path, mend=RE_EXPORT)
    return numbers


def whole_number_of(tags: Tags, name: str, path: Path) -> int | None:
    """Return a tag's whole number, or None where the tag is missing or empty."""
    if tags.get(name) in (None, ""):
        return None
    return int(numbers_of(tags, name, 1, path)[0])


def refuse_pixels(error: Exception, syntax: Any, path: Path) -> NoReturn:
    """Say why pixels could not be decoded.

    Args:
        error: What pydicom raised.
        syntax: The file's transfer syntax; None when it was not read.
        path: The file.

    Raises:
        InputError: Always, naming the syntax and the package that decodes it where that is at
            fault.
    """
    if syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed:
        from pydicom.pixels.decoders.base import get_decoder  # loads every decoder there is

        how = f"its pixels are compressed as {syntax.name} ({syntax})"
        try:
            if syntax == JPEGExtended12Bit:  # pydicom asks GDCM for 8 bits of it only
                raise NotImplementedError
            decoder = get_decoder(syntax)
        except NotImplementedError:
            raise InputError(
                f"{how}, which neither pydicom nor {_DECODER_PACKAGE} decodes",
                path=path,
                mend="export the series uncompressed",
            ) from None
        if not decoder.is_available:
            wanted = " ".join(decoder.missing_dependencies)
            packages = _DECODER_PACKAGE if "gdcm" in wanted else _OTHER_DECODER_PACKAGES
            raise InputError(
                f"{how}, which nothing installed here decodes",
                path=path,
                mend=f"pip install {packages}",
            ) from None
        raise InputError(
            f"{how} and cannot be decoded ({type(error).__name__})", path=path, mend=RE_COPY
        ) from None
    raise InputError(
        f"its pixels are missing or cut short ({type(error).__name__})",
        path=path,
        mend=RE_COPY,
    ) from None


def _stored_pixels(path: Path) -> tuple[NDArray[Any], Tags]:
    """Decode a slice's pixels; also return the tags that scale them."""
    syntax: Any = None
    try:
        with quiet_pydicom():
            content = pydicom.dcmread(path, specific_tags=[*_STORAGE_TAGS, *SCALING_TAGS])
            syntax = content.file_meta.get("TransferSyntaxUID")
            return content.pixel_array, {name: content.get(name) for name in SCALING_TAGS}
    except DAMAGE as error:
        refuse_pixels(error, syntax, path)
