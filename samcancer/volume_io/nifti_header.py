"""The 348 bytes before a NIfTI-1 volume: byte order, the two affines, and headers to write.

A grid is stored twice, as a quaternion (qform) and as a matrix (sform), both towards RAS; nifti1.h
defines them. The quaternion keeps only b, c, d in float32, so near half a turn, which is where
every LPS scan lies, it cannot tell angles apart that differ by up to 0.04 degrees; the matrix can.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.volume_io.grids import nearest_rotation_of
from samcancer.volume_io.volume import ReadOptions

AFFINE_TOLERANCE_MM = 1e-3
"""Largest distance between corners under qform and sform that count as the same."""

QUATERNION_TOLERANCE = 1e-6
"""Largest difference of b, c, d, and of spacings relatively, that float32 rounding leaves."""

SPACING_TOLERANCE = 1e-3
"""Largest relative difference between an sform's steps and the header's spacing."""

HEADER_BYTES = 348

VOXEL_OFFSET = 352
"""Where voxels start in a file without extensions."""

RE_COPY = "re-copy the file"

ByteOrder = Literal["<", ">"]

_HALF_TURN_COSINE = 1e-3
"""Quaternions whose first component is smaller may be stored with either sign."""

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_UNITS_MASK = 0x07

_OTHER_UNITS = {1: "metres", 3: "micrometres"}
"""Spacing units other than millimetres (2) and not stated (0)."""

HEADER = np.dtype(
    [
        ("sizeof_hdr", "i4"), ("data_type", "S10"), ("db_name", "S18"), ("extents", "i4"),
        ("session_error", "i2"), ("regular", "S1"), ("dim_info", "u1"), ("dim", "i2", (8,)),
        ("intent_p", "f4", (3,)), ("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"),
        ("slice_start", "i2"), ("pixdim", "f4", (8,)), ("vox_offset", "f4"), ("scl_slope", "f4"),
        ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"), ("xyzt_units", "u1"),
        ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"),
        ("glmax", "i4"), ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"),
        ("qform_code", "i2"), ("sform_code", "i2"), ("quatern", "f4", (3,)),
        ("qoffset", "f4", (3,)), ("srow", "f4", (3, 4)), ("intent_name", "S16"), ("magic", "S4"),
    ]
)  # fmt: skip
"""The 348 bytes of a NIfTI-1 header, little endian."""

_SPACING_ROUNDING = 1e-6
"""Largest relative difference of two spacings that float32 products explain."""


def parse_header(data: bytes, path: Path) -> tuple[Any, ByteOrder]:
    """Return the header record in native order and the file's byte order, '<' or '>'.

    Raises:
        InputError: When the bytes are no header of a single-file NIfTI-1 volume in millimetres.
    """
    if len(data) < HEADER_BYTES:
        raise InputError(f"ends inside its header ({len(data)} bytes)", path=path, mend=RE_COPY)
    orders: tuple[ByteOrder, ...] = ("<", ">")
    for order in orders:
        header = np.frombuffer(data, HEADER.newbyteorder(order))[0]
        if header["sizeof_hdr"] == HEADER_BYTES:
            break
    else:
        raise InputError("has no NIfTI-1 header", path=path, mend="convert it to NIfTI-1")
    if header["magic"] != b"n+1":
        raise InputError(
            "keeps its header and its voxels in two files", path=path, mend="convert it to .nii.gz"
        )
    unit = _OTHER_UNITS.get(int(header["xyzt_units"]) & _UNITS_MASK)
    if unit is not None:
        raise InputError(f"its header gives spacings in {unit}", path=path,
                         mend="save it in millimetres")  # fmt: skip
    return header.astype(HEADER), order


def affine_lps(
    header: Any, size: tuple[int, int, int], path: Path, options: ReadOptions
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the 4 x 4 index-to-LPS matrix that the header's affines agree on, and warnings.

    Raises:
        InputError: When they disagree and ``options`` do not choose, or a spacing is not positive.
    """
    spacing = header["pixdim"][1:4].astype(np.float64)
    coded = {"qform": int(header["qform_code"]) > 0, "sform": int(header["sform_code"]) > 0}
    if not (spacing > 0).all() and not (options.affine == "sform" and coded["sform"]):
        shown = ", ".join(f"{v:g}" for v in spacing)
        raise InputError(
            f"its voxel spacing is ({shown}) mm", path=path, mend="mend the header's spacing"
        )
    if options.affine is not None and any(coded.values()) and not coded[options.affine]:
        other = "sform" if coded["sform"] else "qform"
        raise InputError(f"has no {options.affine}", path=path, mend=f"use --affine {other}")
    sform = np.vstack([header["srow"].astype(np.float64), [0, 0, 0, 1]])
    if options.affine == "sform" and coded["sform"]:
        return _LPS_FROM_RAS @ sform, ()
    if coded["qform"] and options.affine == "qform":
        return _LPS_FROM_RAS @ _qform(header, path), ()
    if coded["qform"] and coded["sform"]:
        apart_mm = _corner_distance_mm(_qform(header, path), sform, size)
        if not (apart_mm <= AFFINE_TOLERANCE_MM or _same_but_for_rounding(header, sform)):
            raise InputError(
                f"its qform and sform put corners {apart_mm:.4g} mm apart",
                path=path,
                mend="choose one with --affine qform or --affine sform",
            )
    elif coded["sform"] and not options.nearest_rotation:
        _require_steps(sform, spacing, path)
    if coded["sform"]:
        return _LPS_FROM_RAS @ sform, ()
    if coded["qform"]:
        return _LPS_FROM_RAS @ _qform(header, path), ()
    return np.diag([*spacing, 1.0]), ("the header gives no orientation: taken as LPS",)


def stated_spacing(
    header: Any, measured_mm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Return the header's own spacing in place of one measured off its affine, if they agree.

    An oblique sform holds rounded products, so that 2.5 mm comes back as 2.49999985: distances of a
    whole number of voxels then fall on the wrong side of a tolerance. Other readers take the
    header's spacing as well.
    """
    x, y, z = (float(v) for v in header["pixdim"][1:4])
    apart = np.abs(np.array([x, y, z]) / np.array(measured_mm) - 1.0).max()
    return (x, y, z) if apart <= _SPACING_ROUNDING else measured_mm


def new_header(geometry: Geometry) -> Any:
    """Return a header for a volume on ``geometry``, the same grid in qform and sform."""
    header = np.zeros((), HEADER)
    header["sizeof_hdr"] = HEADER_BYTES
    header["magic"] = b"n+1"
    header["dim"] = [3, *geometry.size_xyz, 1, 1, 1, 1]
    header["vox_offset"] = VOXEL_OFFSET
    header["scl_slope"] = 1
    header["xyzt_units"] = 2  # millimetres
    header["qform_code"] = header["sform_code"] = 1
    affine = np.eye(4)
    affine[:3, :3] = geometry.axes_mm
    affine[:3, 3] = geometry.origin_mm
    affine = _LPS_FROM_RAS @ affine
    handed, quaternion = _quaternion(affine[:3, :3] / geometry.spacing_mm)
    header["pixdim"] = [handed, *geometry.spacing_mm, 0, 0, 0, 0]
    header["quatern"] = quaternion
    header["qoffset"] = affine[:3, 3]
    header["srow"] = affine[:3]
    return header


def grid_header_of(source: Any) -> Any:
    """Return a fresh header with the dimensions and both affines of ``source``, and no text."""
    header = np.zeros((), HEADER)
    for name in ("sizeof_hdr", "pixdim", "qform_code", "sform_code", "quatern", "qoffset", "srow",
                 "xyzt_units", "magic"):  # fmt: skip
        header[name] = source[name]
    header["pixdim"][4:] = 0
    header["dim"] = [3, *source["dim"][1:4], 1, 1, 1, 1]
    header["vox_offset"] = VOXEL_OFFSET
    header["scl_slope"] = 1
    return header


def _require_steps(sform: NDArray[np.float64], spacing: NDArray[np.float64], path: Path) -> None:
    """Refuse an sform that is alone and steps otherwise than the header's spacing."""
    steps = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.abs(steps / spacing - 1.0).max() <= SPACING_TOLERANCE:
        shown, stated = (", ".join(f"{v:g}" for v in values) for values in (steps, spacing))
        raise InputError(
            f"its sform steps by ({shown}) mm where its voxel spacing is ({stated}) mm",
            path=path,
            mend="mend the header, or believe the sform with --affine sform",
        )


def _same_but_for_rounding(header: Any, sform: NDArray[np.float64]) -> bool:
    """Whether the qform is what a writer in float32 stores for the sform's grid."""
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not (np.isfinite(sform).all() and (spacing > 0).all()):
        return False
    rotation = sform[:3, :3] / spacing
    if np.abs(rotation - nearest_rotation_of(rotation)).max() > QUATERNION_TOLERANCE:
        return False
    handed, quaternion = _quaternion(rotation)
    stored = header["quatern"].astype(np.float64)
    apart = np.abs(stored - quaternion).max()
    if 1.0 - np.square(quaternion).sum() < _HALF_TURN_COSINE**2:
        apart = min(apart, np.abs(stored + quaternion).max())
    relative = np.abs(header["pixdim"][1:4] / spacing - 1.0).max()
    offset_mm = np.abs(header["qoffset"] - sform[:3, 3]).max()
    return bool(
        handed == _handed(header)
        and apart <= QUATERNION_TOLERANCE
        and relative <= QUATERNION_TOLERANCE
        and offset_mm <= AFFINE_TOLERANCE_MM
    )


def _corner_distance_mm(
    one: NDArray[np.float64], other: NDArray[np.float64], size: tuple[int, int, int]
) -> float:
    corners = np.stack(np.meshgrid(*[[0, v - 1] for v in size], [1], indexing="ij"), -1).reshape(
        -1, 4
    )
    return float(np.abs(corners @ (one - other).T).max())


def _qform(header: Any, path: Path) -> NDArray[np.float64]:
    """The 4 x 4 index-to-RAS matrix of the quaternion (nifti1.h, method 2)."""
    b, c, d = (float(v) for v in header["quatern"])
    left = 1.0 - (b * b + c * c + d * d)
    if not left >= -1e-5:
        raise InputError("its qform is not a rotation", path=path, mend="use --affine sform")
    a = math.sqrt(max(left, 0.0))
    if left < 1e-7:
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    affine = np.eye(4)
    spacing = header["pixdim"][1:4].astype(np.float64)
    affine[:3, :3] = rotation * (spacing * [1.0, 1.0, _handed(header)])
    affine[:3, 3] = header["qoffset"]
    return affine


def _handed(header: Any) -> float:
    return -1.0 if float(header["pixdim"][0]) < 0 else 1.0


def _quaternion(direction: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Handedness of the axes and (b, c, d) of the unit quaternion, with a >= 0."""
    handed = 1.0 if np.linalg.det(direction) > 0 else -1.0
    rotation = direction * [1.0, 1.0, handed]
    trace = np.array([rotation.trace(), *np.diag(rotation)])
    m = rotation
    table = np.array(
        [
            [1 + trace[0], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, 1 + 2 * m[0, 0] - trace[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, 1 + 2 * m[1, 1] - trace[0], m[1, 2] + m[2, 1]],
            [0, 0, 0, 1 + 2 * m[2, 2] - trace[0]],
        ]
    )
    table = table + np.triu(table, 1).T
    largest = int(np.argmax(np.diag(table)))
    q = table[largest] / np.linalg.norm(table[largest])
    q = q if q[0] >= 0 else -q
    return handed, q[1:]
