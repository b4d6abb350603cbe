"""NIfTI-1 files of a canonical volume in any of the 48 axis orders, byte for byte reproducible.

Volumes come as (slice, row, column) arrays with slices to the head, rows to the back and columns to
the patient's left, which is ITK's LPS. NIfTI's world is RAS, so the first two axes change sign.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data_prep.phantoms.dice import Dice, Vector
from data_prep.phantoms.gzip_fixed import gzip_bytes

_HEADER_BYTES = 352
_DATA_TYPES = {"int16": (4, 16), "uint8": (2, 8)}
_SCANNER_CODE = 1
_MILLIMETRES = 2

COMMON_CODES = ("LPS", "LPS", "RAS", "LAS", "RPS", "LPI", "RAI")
"""Orientations met most; three quarters of the scans draw from them."""

_COMMON_SHARE = 0.75


@dataclass(frozen=True)
class Orientation:
    """Where the file's axes i, j, k point, as letters (L/R, P/A, S/I)."""

    code: str

    @property
    def axes(self) -> tuple[int, int, int]:
        """For i, j, k: the patient axis (0 = x left, 1 = y back, 2 = z head)."""
        a, b, c = (next(n for n, pair in enumerate(("LR", "PA", "SI")) if s in pair)
                   for s in self.code)  # fmt: skip
        return (a, b, c)

    @property
    def flips(self) -> tuple[bool, bool, bool]:
        """For i, j, k: whether it runs against L, P, S."""
        a, b, c = (letter in "RAI" for letter in self.code)
        return (a, b, c)


ALL_CODES = tuple(
    "".join(letters)
    for order in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*order)
)
"""The 48 orientations."""


def draw_orientation(dice: Dice) -> Orientation:
    """Draw an orientation, common ones mostly."""
    return Orientation(dice.choice(COMMON_CODES if dice.chance(_COMMON_SHARE) else ALL_CODES))


def nifti_bytes(
    values: npt.NDArray[Any], orientation: Orientation, *, spacing_xyz_mm: Vector,
    origin_lps_mm: Vector, description: str,
) -> bytes:  # fmt: skip
    """Return a gzip-compressed NIfTI-1 file.

    Args:
        values: (slice, row, column), int16 or uint8, canonical.
        orientation: Axis order of the file.
        spacing_xyz_mm: Distances between columns, rows and slices.
        origin_lps_mm: Centre of the canonical voxel (0, 0, 0).
        description: At most 79 ASCII characters for the header.
    """
    stored = np.transpose(values, [2 - axis for axis in reversed(orientation.axes)])
    flips = [slice(None, None, -1 if flip else 1) for flip in reversed(orientation.flips)]
    stored = np.ascontiguousarray(stored[tuple(flips)])
    size_xyz = values.shape[::-1]
    corner = list(origin_lps_mm)
    columns = np.zeros((3, 3))
    spacing = []
    for file_axis, (axis, flip) in enumerate(zip(orientation.axes, orientation.flips, strict=True)):
        spacing.append(spacing_xyz_mm[axis])
        columns[axis, file_axis] = -1.0 if flip else 1.0
        if flip:
            corner[axis] += (size_xyz[axis] - 1) * spacing_xyz_mm[axis]
    columns[:2] *= -1.0
    origin_ras = (-corner[0], -corner[1], corner[2])
    header = _header(stored, columns, spacing, origin_ras, description)
    return gzip_bytes(header, stored)


def _header(
    stored: npt.NDArray[Any], rotation: npt.NDArray[Any], spacing: list[float], origin: Vector,
    description: str,
) -> bytes:  # fmt: skip
    code, bits = _DATA_TYPES[stored.dtype.name]
    quaternion, handedness = _quaternion(rotation)
    rows = [[*(rotation[r] * spacing).tolist(), origin[r]] for r in range(3)]
    header = bytearray(_HEADER_BYTES)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, *stored.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, code, bits)
    struct.pack_into("<8f", header, 76, handedness, *spacing, 0, 0, 0, 0)
    struct.pack_into("<3f", header, 108, _HEADER_BYTES, 1.0, 0.0)
    header[123] = _MILLIMETRES
    text = description.encode("ascii")[:79]
    header[148 : 148 + len(text)] = text
    struct.pack_into("<2h", header, 252, _SCANNER_CODE, _SCANNER_CODE)
    struct.pack_into("<6f", header, 256, *quaternion, *origin)
    for number, row in enumerate(rows):
        struct.pack_into("<4f", header, 280 + 16 * number, *row)
    header[344:348] = b"n+1\0"
    return bytes(header)


def _quaternion(rotation: npt.NDArray[Any]) -> tuple[Vector, float]:
    """Return (b, c, d) and qfac of a signed permutation matrix (NIfTI-1, method 2)."""
    m = [[float(v) for v in row] for row in rotation]
    determinant = sum(
        m[0][i] * (m[1][(i + 1) % 3] * m[2][(i + 2) % 3] - m[1][(i + 2) % 3] * m[2][(i + 1) % 3])
        for i in range(3)
    )
    if determinant < 0:
        for row in m:
            row[2] = -row[2]
    w = 0.5 * math.sqrt(max(0.0, 1.0 + m[0][0] + m[1][1] + m[2][2]))
    trace = m[0][0] + m[1][1] + m[2][2]
    size = [0.5 * math.sqrt(max(0.0, 1.0 + 2.0 * m[i][i] - trace)) for i in range(3)]
    if w > 0.0:
        signs = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]]
    else:
        lead = max(range(3), key=lambda i: size[i])
        signs = [m[lead][i] + m[i][lead] if i != lead else 1.0 for i in range(3)]
    b, c, d = (-s if sign < 0 else s for s, sign in zip(size, signs, strict=True))
    return (b, c, d), (-1.0 if determinant < 0 else 1.0)
