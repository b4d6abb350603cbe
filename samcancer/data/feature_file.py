"""The file of one case's encoder features in one window: written once, checked slice by slice.

stage_0 .. stage_3  float32 or float16 (Z, h, w, D): tokens after each of the encoder's stages
embedding           of the same type (Z, h, w, E): the image embedding, channels last
crc32               int64 (Z, 5): of the bytes of each slice of the five above

A safetensors file, which any reader of that format opens. Its header follows from key and shapes:
ours compares it byte for byte, then reads slices where they must be. It is written slice by slice,
since a case may be larger than memory, by ordinary writes, which a full disk fails in order (HDF5
crashes then).
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer.config import FeatureDtype, WindowHu
from samcancer.errors import InputError
from samcancer.files import atomic_path

FORMAT_VERSION = 1
"""Of the file and of what the encoders compute; raised when either changes."""

FEATURE_NAMES = ("stage_0", "stage_1", "stage_2", "stage_3", "embedding")

_CRC_NAME = "crc32"
_TYPE_NAMES = {"float32": "F32", "float16": "F16", "int64": "I64"}
"""numpy's name -> safetensors'."""

_LENGTH_BYTES = 8
"""Of the header's length, little-endian, at the start of a safetensors file."""

_MAX_HEADER_BYTES = 1 << 16
"""A header that says it is longer is not one of ours."""

FILL_MEND = "run cache-features with this store and configuration"


class DamagedFeaturesError(InputError):
    """A file of features that is cut short or has changed since it was written."""


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """What decides the features of a case in a window: where any differs, they are others."""

    case_sha256: str
    """Of the case's file in the store."""
    window_hu: WindowHu
    image_size: int
    encoder: str
    encoder_sha256: str
    """Of the encoder's tensors as they are used."""
    padded_windows: bool
    dtype: FeatureDtype

    def to_metadata(self) -> dict[str, str]:
        """Return the key as a file says it."""
        texts = {name: json.dumps(value) for name, value in dataclasses.asdict(self).items()}
        return {"format": str(FORMAT_VERSION), **texts}


class _Part(NamedTuple):
    """One array of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    """(Z, ...)."""
    start: int
    """First byte, counted from the end of the header."""

    @property
    def slice_bytes(self) -> int:
        return math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize

    @property
    def stop(self) -> int:
        return self.start + self.shape[0] * self.slice_bytes


class FeatureFile:
    """Where the features of a case in a window are, or will be."""

    def __init__(
        self, path: Path, key: FeatureKey, *, slices: int, shapes: Sequence[tuple[int, ...]]
    ) -> None:
        """Lay the file out.

        Args:
            path: Its name.
            key: What its features are of.
            slices: Z.
            shapes: Of one slice's features, in the order of ``FEATURE_NAMES``.
        """
        self.path, self.key, self.slices = path, key, slices
        self.parts = _parts(key.dtype, slices, shapes)
        self.header = _header(key, self.parts)

    @property
    def total_bytes(self) -> int:
        """Size of the whole file."""
        return len(self.header) + self.parts[-1].stop

    def write(self, blocks: Iterable[Sequence[NDArray[Any]]]) -> None:
        """Write the file atomically and read it back.

        Args:
            blocks: Features of some slices, in order: five arrays (n, ...) each; Z in all.

        Raises:
            InputError: When the folder cannot be written, the disk is full, or a value is not
                finite in the file's type.
            ValueError: When there are more or fewer slices.
        """
        checksums: list[list[int]] = []
        with (
            atomic_path(
                self.path, expected_bytes=self.total_bytes, verify=self.verify
            ) as temporary,
            temporary.open("xb") as stream,
        ):
            stream.write(self.header)
            for block in blocks:
                for features in zip(*block, strict=True):
                    checksums.append(self._write_slice(stream, len(checksums), features))
            if len(checksums) != self.slices:
                msg = f"{self.path.name} has {self.slices} slices, got {len(checksums)}"
                raise ValueError(msg)
            stream.seek(len(self.header) + self.parts[-1].start)
            stream.write(np.array(checksums, np.int64).tobytes())

    def verify(self, path: Path | None = None) -> None:
        """Read the whole file (None: at its own place) and compare every checksum.

        Raises:
            DamagedFeaturesError: When it is cut short or has changed.
            InputError: When it is missing or holds other features.
        """
        reader = FeatureReader(self, path)
        try:
            for z in range(self.slices):
                reader.read(z, z + 1)
        finally:
            reader.close()

    def _write_slice(self, stream: Any, z: int, features: Sequence[NDArray[Any]]) -> list[int]:
        found = []
        for part, values in zip(self.parts[:-1], features, strict=True):
            if values.shape != part.shape[1:]:
                raise ValueError(f"{part.name} must be {part.shape[1:]}, got {values.shape}")
            with np.errstate(over="ignore"):  # refused in the next line
                kept = np.ascontiguousarray(values, dtype=part.dtype)
            if not np.isfinite(kept).all():
                raise InputError(
                    f"the encoder's {part.name} of slice {z} does not fit {part.dtype}",
                    path=self.path,
                    mend="use train.feature_dtype float32, and look at the encoder's weights",
                )
            stream.seek(len(self.header) + part.start + z * part.slice_bytes)
            stream.write(kept.data)
            found.append(zlib.crc32(kept.data))
        return found


class FeatureReader:
    """An open file of features, header and size compared."""

    def __init__(self, file: FeatureFile, path: Path | None = None) -> None:
        """Open the file.

        Args:
            file: What it must be.
            path: Where it is; None for the file's own place.

        Raises:
            DamagedFeaturesError: When it is cut short or its header has changed.
            InputError: When it is missing or holds other features.
        """
        self._file, self._path = file, path or file.path
        try:
            self._stream = self._path.open("rb")
        except FileNotFoundError:
            raise InputError("no such file", path=self._path, mend=FILL_MEND) from None
        try:
            self._compare()
            self._crc = self._read_part(file.parts[-1], 0, file.slices)
        except BaseException:
            self._stream.close()
            raise

    def read(self, start: int, stop: int) -> list[NDArray[Any]]:
        """Return the five features (n, ...) of slices start..stop.

        Raises:
            DamagedFeaturesError: When a checksum differs.
            ValueError: When the range leaves the case.
        """
        if not 0 <= start <= stop <= self._file.slices:
            raise ValueError(f"{start}..{stop} are not within 0..{self._file.slices}")
        found = [self._read_part(part, start, stop) for part in self._file.parts[:-1]]
        for column, values in enumerate(found):
            for z in range(start, stop):
                if zlib.crc32(values[z - start].data) != self._crc[z, column]:
                    raise self._damaged(f"checksum of {FEATURE_NAMES[column]} of slice {z}")
        return found

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _read_part(self, part: _Part, start: int, stop: int) -> NDArray[Any]:
        values = np.empty((stop - start, *part.shape[1:]), part.dtype)
        self._stream.seek(len(self._file.header) + part.start + start * part.slice_bytes)
        if self._stream.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
            raise self._damaged("it is cut short")
        return values

    def _compare(self) -> None:
        """Compare header and size; tell other features from damage."""
        if self._stream.read(len(self._file.header)) != self._file.header:
            differing = _differing(self._read_metadata(), self._file.key.to_metadata())
            if not differing:
                raise self._damaged("its header has changed")
            raise InputError(
                f"holds other features ({', '.join(differing)} differ)",
                path=self._path,
                mend="delete it, or choose another folder for these features",
            )
        if self._stream.seek(0, 2) != self._file.total_bytes:
            raise self._damaged("it is cut short")

    def _read_metadata(self) -> dict[str, str] | None:
        """Return what the header says the features are of; None when it says nothing readable."""
        self._stream.seek(0)
        length = int.from_bytes(self._stream.read(_LENGTH_BYTES), "little")
        try:
            content = json.loads(self._stream.read(min(length, _MAX_HEADER_BYTES)))
            found = content["__metadata__"]
        except (ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, dict) else None

    def _damaged(self, fact: str) -> DamagedFeaturesError:
        return DamagedFeaturesError(
            f"the file is damaged ({fact})", path=self._path, mend=f"{FILL_MEND}: it is made anew"
        )


def _parts(dtype: str, slices: int, shapes: Sequence[tuple[int, ...]]) -> tuple[_Part, ...]:
    named = zip(FEATURE_NAMES, shapes, strict=True)
    wanted = [(name, dtype, (slices, *shape)) for name, shape in named]
    wanted.append((_CRC_NAME, "int64", (slices, len(FEATURE_NAMES))))
    parts: list[_Part] = []
    for name, kind, shape in wanted:
        parts.append(_Part(name, kind, shape, parts[-1].stop if parts else 0))
    return tuple(parts)


def _header(key: FeatureKey, parts: Sequence[_Part]) -> bytes:
    """Return the header of a safetensors file, padded so that the arrays are aligned."""
    content: dict[str, Any] = {"__metadata__": key.to_metadata()}
    for part in parts:
        content[part.name] = {
            "dtype": _TYPE_NAMES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [part.start, part.stop],
        }
    text = json.dumps(content, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _differing(found: dict[str, str] | None, expected: dict[str, str]) -> list[str]:
    if found is None:
        return []
    return [name.replace("_", " ") for name, text in expected.items() if found.get(name) != text]
