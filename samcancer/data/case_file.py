"""The HDF5 file of one case: how it is built, written, and opened for reading.

slices  int16 HU (Z + 4, S, S): the case with its end slices twice more on either side
stacks  int16 (Z, 5, S, S), virtual: stack z is slices z..z + 4
labels  uint32 (Z, S, S): bit k for class k of the store

Slices run from feet to head, rows to posterior, columns to the patient's left. A file is built in
memory, so that a full disk is an ordinary error (HDF5 itself crashes at exit then), and equal input
gives equal bytes. Every slice has a Fletcher-32 checksum and all metadata HDF5's own.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from samcancer.config import SLICE_CONTEXT
from samcancer.data.slice_reader import SliceReader
from samcancer.data.store_index import CASES_NAME, CaseInfo, case_file_name
from samcancer.errors import InputError
from samcancer.files import atomic_path, sha256_of

__all__ = [
    "CASES_NAME",
    "case_file_bytes",
    "case_shapes",
    "class_bits",
    "create_slicewise",
    "file_image",
    "new_memory_file",
    "write_bytes_atomic",
    "write_case",
]

_CASE_FORMAT_VERSION = 1
"""Version of a case's file, which its attributes tell; that of the store is another."""

_STACK_SLICES = 2 * SLICE_CONTEXT + 1

_MEMORY_BLOCK_BYTES = 1 << 22
"""Step in which a file grows while it is built in memory."""


def case_file_bytes(
    info: CaseInfo,
    class_names: Sequence[str],
    *,
    slices_hu: NDArray[np.int16],
    label_bits: NDArray[np.uint32],
) -> bytes:
    """Build a case's HDF5 file; equal arguments give equal bytes.

    Args:
        info: Where attributes come from; ``file`` and ``file_sha256`` are not in them.
        class_names: Of the store.
        slices_hu: (Z, S, S), not padded.
        label_bits: (Z, S, S).
    """
    shape = (info.slices, info.size, info.size)
    if slices_hu.shape != shape or label_bits.shape != shape:
        raise ValueError(f"expected {shape}, got {slices_hu.shape} and {label_bits.shape}")
    padded = np.pad(
        slices_hu.astype(np.int16, copy=False), [(SLICE_CONTEXT,) * 2, (0, 0), (0, 0)], "edge"
    )
    with new_memory_file() as file:
        slices = create_slicewise(file, "slices", padded)
        create_slicewise(file, "labels", label_bits.astype(np.uint32, copy=False)).flush()
        _create_stacks(file, slices)
        for name, value in _attributes(info, class_names).items():
            file.attrs[name] = value
        return file_image(file)


def write_case(
    folder: Path,
    info: CaseInfo,
    class_names: Sequence[str],
    *,
    slices_hu: NDArray[np.int16],
    label_bits: NDArray[np.uint32],
) -> CaseInfo:
    """Write a case's file atomically, verified by reading it back; arguments as above.

    It goes where ``info.file`` says; a case that has no file yet gets its place.

    Returns:
        The info with ``file`` and ``file_sha256``, to be put into the index.

    Raises:
        InputError: When the folder cannot be written or the disk is full.
    """
    content = case_file_bytes(info, class_names, slices_hu=slices_hu, label_bits=label_bits)
    done = dataclasses.replace(
        info,
        file=info.file or case_file_name(info.case_id, info.dataset),
        file_sha256=hashlib.sha256(content).hexdigest(),
    )

    def verify(path: Path) -> None:
        with SliceReader(path, case_shapes(info)) as reader:
            same = np.array_equal(
                reader.read("slices", SLICE_CONTEXT, info.slices + SLICE_CONTEXT), slices_hu
            ) and np.array_equal(reader.read("labels", 0, info.slices), label_bits)
        if not same or sha256_of(path) != done.file_sha256:
            raise InputError("reads back differently", path=folder / done.file, mend="try again")

    write_bytes_atomic(folder / done.file, content, verify=verify)
    return done


def write_bytes_atomic(
    path: Path, content: bytes, *, verify: Callable[[Path], None] | None = None
) -> None:
    """Write bytes to ``path`` atomically; a disk that fills up is an InputError."""
    with atomic_path(path, expected_bytes=len(content), verify=verify) as temporary:
        try:
            with temporary.open("xb") as stream:
                stream.write(content)
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", path=path) from None


def case_shapes(info: CaseInfo) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the data sets that are read, by name."""
    side = (info.size, info.size)
    return {"slices": (info.slices + 2 * SLICE_CONTEXT, *side), "labels": (info.slices, *side)}


def create_slicewise(file: h5py.File, name: str, values: NDArray[Any]) -> h5py.Dataset:
    """Store (Z, S, S) compressed slice by slice, with checksums and without time stamps.

    Flush what is returned where its place in the file counts: otherwise that is settled when the
    last reference goes, and another thread (Dask's profiler, say) may hold one for a moment.
    """
    return file.create_dataset(
        name,
        data=values,
        chunks=(1, *values.shape[1:]),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
        fletcher32=True,
        track_times=False,
    )


def file_image(file: h5py.File) -> bytes:
    """Return the bytes of a file that is held in memory."""
    file.flush()
    return bytes(file.id.get_file_image())


def new_memory_file() -> h5py.File:
    """Open an HDF5 file in memory; :func:`file_image` gives its bytes."""
    return h5py.File(
        "case",
        "x",
        driver="core",
        backing_store=False,
        block_size=_MEMORY_BLOCK_BYTES,
        libver="v110",
    )


def class_bits(names: Iterable[str], class_names: Sequence[str]) -> int:
    """Return the bit field of some of the classes."""
    return sum(1 << class_names.index(name) for name in set(names))


def _create_stacks(file: h5py.File, slices: h5py.Dataset) -> None:
    """Add the virtual data set; low-level, because only there time stamps can be left out."""
    padded, side = slices.shape[0], slices.shape[1:]
    count = padded - 2 * SLICE_CONTEXT
    shape = (count, _STACK_SLICES, *side)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.VIRTUAL)
    properties.set_obj_track_times(False)
    for k in range(_STACK_SLICES):
        target, source = h5py.h5s.create_simple(shape), h5py.h5s.create_simple(slices.shape)
        target.select_hyperslab((0, k, 0, 0), (count, 1, *side))
        source.select_hyperslab((k, 0, 0), (count, *side))
        properties.set_virtual(target, b".", b"/slices", source)
    space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(slices.dtype)
    h5py.h5d.create(file.id, b"stacks", kind, space, dcpl=properties)


def _attributes(info: CaseInfo, class_names: Sequence[str]) -> dict[str, Any]:
    """Return what a reader without the index needs; texts have fixed lengths, in UTF-8."""
    geometry = info.geometry
    return {
        "format_version": np.int32(_CASE_FORMAT_VERSION),
        "case_id": _fixed([info.case_id])[0],
        "patient_id": _fixed([info.patient_id])[0],
        "dataset": _fixed([info.dataset])[0],
        "class_names": _fixed(class_names),
        "annotated_bits": np.uint32(class_bits(info.annotated, class_names)),
        "source_sha256": _fixed([info.source_sha256])[0],
        "size_xyz": np.asarray(geometry.size_xyz, np.int32),
        "spacing_mm": np.asarray(geometry.spacing_mm, np.float64),
        "origin_mm": np.asarray(geometry.origin_mm, np.float64),
        "direction": np.asarray(geometry.direction, np.float64),
        "pixel_mm": np.float64(info.grid.pixel_mm),
    }


def _fixed(texts: Sequence[str]) -> NDArray[Any]:
    encoded = [text.encode("utf-8") for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))
