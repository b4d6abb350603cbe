"""What every DICOM object that is written has in common: lasting UIDs, dates and safe writing.

UIDs are made from content, so that the same scan, model and options give the same bytes, and a
PACS that has an object already sees that it is the same one. Any other content has other UIDs.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import validate_value

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import atomic_path

MANUFACTURER = "SAMCancer"
"""Stands where DICOM asks for the maker of the device, its model and its name."""

DICOM_SUFFIX = ".dcm"

NO_DATE = "19000101"
"""Date of an object's content where no date may be told: the field cannot be empty (type 1)."""

NO_TIME = "000000"

_FREE_TEXT = ("PN", "LO", "SH")
"""Value representations of names and numbers: nothing but their length can be wrong."""

PENDING_INSTANCE, PENDING_SERIES, PENDING_DIMENSIONS = (UID(f"2.25.{k}") for k in (1, 2, 3))
"""Stand for the UIDs of an object until its content is known."""

_CREATED = ("InstanceCreationDate", "InstanceCreationTime", "ContributionDateTime")
"""Optional elements that differ from run to run."""

_HEADER_ALLOWANCE_BYTES = 1 << 12


def uid_of(*parts: str) -> UID:
    """Return the UID (UUID-derived, PS3.5 B.2) that belongs to the given texts."""
    digest = hashlib.sha256("\0".join(("samcancer", *parts)).encode()).digest()
    return UID(f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}")


def device_uid() -> UID:
    """Return the UID of this version of the software as a device."""
    return uid_of("device", __version__)


def finish(content: Dataset, patient: Mapping[str, str]) -> Dataset:
    """Say who the patient is, and settle dates and pending UIDs, in place; return the object.

    Args:
        content: The object, with nothing of the patient.
        patient: Tag -> value; names and numbers stand as they are, dates and codes that DICOM does
            not allow stay empty. Content is dated as its study, if that is told, else NO_DATE.
    """
    for name, value in patient.items():
        if _is_allowed(name, value):
            content.pop(name, None)  # highdicom shares elements with the source's headers
            setattr(content, name, value)
    for item in _items(content):
        for name in _CREATED:
            if name in item:
                del item[name]
        if item.get("DimensionOrganizationUID"):
            item.DimensionOrganizationUID = PENDING_DIMENSIONS
    if "ContentDate" in content:
        told = "StudyDate" in patient
        content.ContentDate = (told and content.StudyDate) or NO_DATE
        content.ContentTime = (told and content.StudyTime) or NO_TIME
    digest = hashlib.sha256(_bytes_of(content)).hexdigest()
    instance = uid_of("instance", digest)
    content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = instance
    content.SeriesInstanceUID = uid_of("series", digest)
    for item in _items(content):
        if item.get("DimensionOrganizationUID"):
            item.DimensionOrganizationUID = uid_of("dimensions", digest)
    return content


def file_meta_of(sop_class_uid: str) -> FileMetaDataset:
    """Return the file meta information of an object that is pending."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = PENDING_INSTANCE
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid_of("implementation")
    return meta


def write_object(path: Path, content: Dataset, *, verify: Callable[[Path], None]) -> None:
    """Write a finished object atomically, after reading it back.

    Args:
        path: Final name.
        content: The object, finished.
        verify: Called with the file before it gets its name; raises ValueError or InputError when
            its content is not as intended.

    Raises:
        InputError: When the folder cannot be written, the disk is full, or reading back differs.
    """
    data = _bytes_of(content)

    def check(written: Path) -> None:
        if written.read_bytes() != data:
            raise OSError("reading back gave other bytes")
        verify(written)

    try:
        with atomic_path(
            path, expected_bytes=len(data) + _HEADER_ALLOWANCE_BYTES, verify=check
        ) as temporary:
            temporary.write_bytes(data)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot be written ({error})", path=path, mend="try another disk"
        ) from None


def _is_allowed(name: str, value: str) -> bool:
    vr = dictionary_VR(name)
    if vr in _FREE_TEXT:
        return True
    try:
        validate_value(vr, value, RAISE)
    except ValueError:
        return False
    return True


def _bytes_of(content: Dataset) -> bytes:
    buffer = io.BytesIO()
    content.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _items(content: Dataset) -> Iterator[Dataset]:
    """Yield the object and the items of its sequences that may hold a date or a pending UID."""
    yield content
    for name in (
        "ContributingEquipmentSequence", "DimensionOrganizationSequence", "DimensionIndexSequence",
    ):  # fmt: skip
        yield from content.get(name) or ()
