"""File formats by name and by content, and the volumes of a folder."""

from __future__ import annotations

from pathlib import Path

from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX
from samcancer.volume_io.volume import FileFormat

VOLUME_SUFFIXES: dict[str, FileFormat] = {
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".mha": "metaimage",
    ".nrrd": "nrrd",
}
"""Endings of the files that can be read and written."""

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
"""Endings of DICOM files; many have none."""

DICOM_DIRECTORY = "DICOMDIR"
"""Name of the table of contents of a medium; it is DICOM but no image."""

_HEAD_BYTES = 512

_GZIP = b"\x1f\x8b"

_DICOM_MAGIC_OFFSET = 128

_NIFTI_MAGIC_OFFSET = 344

_CHANNEL_SUFFIX = "_0000"
"""What nnU-Net appends to the case id in the name of a case's first (and for CT only) image."""


def volume_suffix(path: Path) -> str | None:
    """Return the ending of ``path`` that is in VOLUME_SUFFIXES, or None."""
    name = path.name.lower()
    return next((suffix for suffix in VOLUME_SUFFIXES if name.endswith(suffix)), None)


def strip_volume_suffix(path: Path) -> str:
    """Return the file's name without its volume ending."""
    suffix = volume_suffix(path)
    return path.name if suffix is None else path.name[: -len(suffix)]


def case_id_of(scan: Path) -> str:
    """Return the name of a scan without its volume ending and nnU-Net's channel number."""
    return strip_volume_suffix(scan).removesuffix(_CHANNEL_SUFFIX)


def require_volume_suffix(path: Path) -> str:
    """Return the volume ending of ``path``.

    Raises:
        InputError: When it has none.
    """
    suffix = volume_suffix(path)
    if suffix is None:
        raise InputError(
            f"the ending {path.suffix!r} is not one of {', '.join(VOLUME_SUFFIXES)}",
            path=path,
            mend="convert the file or correct its name",
        )
    return suffix


def find_volumes(path: Path) -> list[Path]:
    """Return the volume files of a folder (not of its subfolders), sorted; a file gives itself.

    Raises:
        InputError: When the path does not exist or holds no volume.
    """
    if path.is_file():
        require_volume_suffix(path)
        return [path]
    if not path.is_dir():
        raise InputError("no such file or folder", path=path, mend="check the path")
    found = sorted(
        p
        for p in path.iterdir()
        if p.is_file()
        and volume_suffix(p) is not None
        and not p.name.startswith((TEMPORARY_PREFIX, "._"))
    )
    if not found:
        raise InputError(
            f"holds no {', '.join(VOLUME_SUFFIXES)} file", path=path, mend="name another folder"
        )
    return found


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM by its name or, where that says nothing, by its first bytes."""
    if not path.is_file() or path.name.startswith((TEMPORARY_PREFIX, ".")):
        return False
    if path.name.upper() == DICOM_DIRECTORY or volume_suffix(path) is not None:
        return False
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD_BYTES)[_DICOM_MAGIC_OFFSET:][:4] == b"DICM"
    except OSError:
        return False


def require_content_matches_name(path: Path) -> None:
    """Refuse a file that is missing, empty, or of another type than its name says.

    Raises:
        InputError: Naming the type found.
    """
    suffix = require_volume_suffix(path)
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="check the path") from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path) from None
    if not head:
        raise InputError("the file is empty (0 bytes)", path=path, mend="re-copy the file")
    found = _content_type(head)
    expected = {".nii.gz": "gzip", ".nii": "NIfTI", ".mha": "MetaImage", ".nrrd": "NRRD"}[suffix]
    if found != expected:
        raise InputError(
            f"is named {suffix} but its content is {found}",
            path=path,
            mend="correct the name or re-copy the file",
        )


def _content_type(head: bytes) -> str:
    starts = {
        _GZIP: "gzip",
        b"NRRD000": "NRRD",
        b"ObjectType": "MetaImage",
        b"NDims": "MetaImage",
        b"\x89HDF": "HDF5",
        b"\x89PNG": "PNG",
        b"PK\x03\x04": "zip",
        b"\xff\xd8": "JPEG",
    }
    for start, name in starts.items():
        if head.startswith(start):
            return name
    if head[_DICOM_MAGIC_OFFSET:][:4] == b"DICM":
        return "DICOM"
    if head[_NIFTI_MAGIC_OFFSET:][:3] in (b"n+1", b"ni1") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "NIfTI"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "text"
    return "of an unknown type"
