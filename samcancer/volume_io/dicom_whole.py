"""Whether a DICOM file is whole: every element ends inside it, and the last one at its end.

pydicom reads a sequence that is cut short as a shorter sequence, without a word. For an image that
does no harm, since pixels come last; a structure set would lose contours. The encoding is that of
PS3.5 chapter 7 and of PS3.10 chapter 7 for the first elements.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from samcancer.errors import InputError

_PREAMBLE_BYTES = 132

_META_GROUP = 0x0002

_TRANSFER_SYNTAX = (0x0002, 0x0010)

_IMPLICIT, _BIG_ENDIAN, _DEFLATED = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99",
)  # fmt: skip
"""Transfer syntaxes of other form than explicit VR, little endian."""

_UNDEFINED = 0xFFFFFFFF
"""Length of what ends with a delimiter."""

_ITEM, _ITEM_END, _SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)

_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT",
             b"UV"}  # fmt: skip
"""Value representations with a length of four bytes after two reserved ones."""

_DEPTH = 40
"""Sequences nested deeper than that are damage."""

Tag = tuple[int, int]


def require_whole(path: Path) -> None:
    """Refuse a DICOM file that is cut short.

    Raises:
        InputError: When an element reaches beyond the end, or a delimiter is missing.
    """
    data = path.read_bytes()
    try:
        _walk(data)
    except (struct.error, zlib.error, IndexError, _CutShortError):
        raise InputError("is damaged or cut short", path=path, mend="re-copy the file") from None


class _CutShortError(Exception):
    """An element is not where it should be, or ends beyond the file."""


@dataclass(frozen=True)
class _Form:
    implicit: bool
    big_endian: bool

    @property
    def order(self) -> str:
        return ">" if self.big_endian else "<"


_META_FORM = _Form(implicit=False, big_endian=False)

_UNKNOWN_FORM = _Form(implicit=True, big_endian=False)
"""Of an element of unknown VR and undefined length (PS3.5 6.2.2)."""


def _walk(data: bytes) -> None:
    position = _PREAMBLE_BYTES
    syntax = ""
    while struct.unpack_from("<H", data, position)[0] == _META_GROUP:
        tag, start, length, _ = _header(data, position, _META_FORM)
        position = _inside(data, start + length)
        if tag == _TRANSFER_SYNTAX:
            syntax = data[start:position].rstrip(b"\0 ").decode("ascii", "replace")
    if syntax == _DEFLATED:
        data, position = zlib.decompress(data[position:], -zlib.MAX_WBITS), 0
    form = _Form(implicit=syntax == _IMPLICIT, big_endian=syntax == _BIG_ENDIAN)
    while position < len(data):
        if not any(data[position : position + 8]) and not any(data[position:]):
            return  # padding
        position = _after_element(data, position, form, 0)


def _after_element(data: bytes, position: int, form: _Form, depth: int) -> int:
    _, start, length, inner = _header(data, position, form)
    if length != _UNDEFINED:
        return _inside(data, start + length)
    return _after_items(data, start, inner, depth + 1)


def _after_items(data: bytes, position: int, form: _Form, depth: int) -> int:
    """Return where a sequence of undefined length ends."""
    if depth > _DEPTH:
        raise _CutShortError
    while True:
        group, element, length = struct.unpack_from(f"{form.order}HHI", data, position)
        position += 8
        if (group, element) == _SEQUENCE_END:
            return position
        if (group, element) != _ITEM:
            raise _CutShortError
        if length != _UNDEFINED:
            position = _inside(data, position + length)
            continue
        while struct.unpack_from(f"{form.order}HH", data, position) != _ITEM_END:
            position = _after_element(data, position, form, depth)
        position = _inside(data, position + 8)


def _header(data: bytes, position: int, form: _Form) -> tuple[Tag, int, int, _Form]:
    """Return an element's tag, where its value starts, its length, and the form of its items."""
    group, element = struct.unpack_from(f"{form.order}HH", data, position)
    if form.implicit:
        (length,) = struct.unpack_from(f"{form.order}I", data, position + 4)
        return (group, element), position + 8, length, form
    vr = data[position + 4 : position + 6]
    if not vr.isupper():
        raise _CutShortError
    if vr not in _LONG_VRS:
        (length,) = struct.unpack_from(f"{form.order}H", data, position + 6)
        return (group, element), position + 8, length, form
    (length,) = struct.unpack_from(f"{form.order}I", data, position + 8)
    return (group, element), position + 12, length, _UNKNOWN_FORM if vr == b"UN" else form


def _inside(data: bytes, position: int) -> int:
    if position > len(data):
        raise _CutShortError
    return position
