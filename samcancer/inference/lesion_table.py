"""The lesions of one scan, one by one: where they are, how large, how sure the network is.

A lesion is a connected component (26-connectivity) of a lesion class. Positions are millimetres in
the patient (LPS). Slices are axial, counted from 0 at the feet, whatever the order of the file.
Diameters follow RECIST 1.1 (Eisenhauer et al. 2009): the longest line in one axial slice of the
lesion, over all its slices, and the longest line perpendicular to it in that same slice.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.files import write_csv_atomic
from samcancer.geometry import Geometry
from samcancer.inference.components import find_components, slabs_of
from samcancer.inference.diameters import Diameters, measure_diameters
from samcancer.inference.merging import ANY_LESION
from samcancer.inference.volume import SliceCertainty
from samcancer.taxonomy import ClassSpec

PointMm = tuple[float, float, float]
"""x, y, z in millimetres, LPS."""


@dataclass(frozen=True, kw_only=True)
class MeasuredLesion:
    """One lesion."""

    lesion_id: str
    """Class and number, such as ``liver_lesion-2``; numbered from the head to the feet."""
    tracking_uid: str
    """DICOM UID made of the scan's content, the class and the place; the same in every run."""
    class_name: str
    label: int
    """Its value in the written mask."""
    voxels: int
    volume_ml: float
    long_axis_mm: float
    long_axis_ends_mm: tuple[PointMm, PointMm]
    short_axis_mm: float
    """Longest line perpendicular to the long axis in the same slice."""
    short_axis_ends_mm: tuple[PointMm, PointMm]
    centroid_mm: PointMm
    first_slice: int
    last_slice: int
    key_slice: int
    """The slice of the long axis."""
    mean_hu: float
    sd_hu: float
    """Population standard deviation."""
    mean_probability: float
    presence: float
    """Largest presence probability of the class in the lesion's slices."""
    fold_agreement: float | None
    """Share of the networks that mark a voxel of the lesion as its class, averaged over its voxels.

    None where one network alone ran.
    """


def measure_lesions(
    labels: NDArray[np.uint8],
    *,
    volume_hu: NDArray[np.int16],
    geometry: Geometry,
    classes: Sequence[ClassSpec],
    written: Mapping[str, int],
    certainty: Mapping[int, SliceCertainty],
    presence: NDArray[np.float32],
    scan_sha256: str,
) -> tuple[MeasuredLesion, ...]:
    """Measure every lesion of a scan; all arrays are in canonical orientation.

    Args:
        labels: (slice, row, column) lesions, k + 1 for class k.
        volume_hu: The scan.
        geometry: Its canonical grid.
        classes: Of the model; organs are passed over.
        written: Class -> value in the written mask; a lesion of no such class has that of
            ``lesion``, the label of all of them.
        certainty: Of every slice that holds a lesion.
        presence: (Z, K) presence probabilities.
        scan_sha256: Of the scan's content; lesions of other scans get other UIDs.

    Returns:
        Lesions in the order of their classes, each class's from the head to the feet.
    """
    table: list[MeasuredLesion] = []
    for k, spec in enumerate(classes):
        if spec.kind != "lesion":
            continue
        sums = _sum_up(labels, k + 1, volume_hu, geometry, certainty)
        label = written[spec.name] if spec.name in written else written[ANY_LESION]
        highest_first = sorted(sums, key=lambda s: (-s.centre[0], s.centre[1], s.centre[2]))
        table += [
            _measured(
                f"{spec.name}-{number}",
                found,
                class_name=spec.name,
                label=label,
                geometry=geometry,
                presence=float(presence[found.slices, k].max()),
                scan_sha256=scan_sha256,
            )
            for number, found in enumerate(highest_first, start=1)
        ]
    return tuple(table)


def write_lesions(path: Path, lesions: Sequence[MeasuredLesion]) -> None:
    """Write the table as CSV, one line per lesion; positions have columns of their own."""
    rows = [[x for value in asdict(lesion).values() for x in _flat(value)] for lesion in lesions]
    write_csv_atomic(path, _flat_names(), rows)


@dataclass
class _Sums:
    """What is added up of one lesion, slice by slice."""

    voxels: int = 0
    index: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    """Sum of (slice, row, column)."""
    hu: float = 0.0
    hu_squared: float = 0.0
    probability: float = 0.0
    agreement: float = 0.0
    alone: bool = False
    """No agreement is known: one network ran."""
    first_voxel: tuple[int, int, int] = (0, 0, 0)
    first_slice: int = -1
    last_slice: int = -1
    diameters: Diameters | None = None
    key_slice: int = -1

    @property
    def centre(self) -> NDArray[np.float64]:
        """Mean (slice, row, column)."""
        return self.index / self.voxels

    @property
    def slices(self) -> slice:
        """First to last."""
        return slice(self.first_slice, self.last_slice + 1)


def _sum_up(
    labels: NDArray[np.uint8],
    label: int,
    volume_hu: NDArray[np.int16],
    geometry: Geometry,
    certainty: Mapping[int, SliceCertainty],
) -> list[_Sums]:
    components = find_components(labels, label)
    if components is None:
        return []
    sums = [_Sums() for _ in range(components.count)]
    for slab in slabs_of(labels, components):
        planes, rows, columns = slab.box
        for z, parts in zip(range(planes.start, planes.stop), slab.parts, strict=True):
            row, column = parts.nonzero()
            if not len(row):
                continue
            component = slab.component[parts[row, column] - 1]
            order = component.argsort(kind="stable")
            cuts = np.flatnonzero(np.diff(component[order])) + 1
            for members in np.split(order, cuts):
                _add_slice(
                    sums[component[members[0]]],
                    z,
                    row[members] + rows.start,
                    column[members] + columns.start,
                    hu=volume_hu[z],
                    sure=certainty[z],
                    pixel_mm=(geometry.spacing_mm[1], geometry.spacing_mm[0]),
                )
    return sums


def _add_slice(
    sums: _Sums,
    z: int,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    *,
    hu: NDArray[np.int16],
    sure: SliceCertainty,
    pixel_mm: tuple[float, float],
) -> None:
    if not sums.voxels:
        sums.first_slice, sums.first_voxel = z, (z, int(rows[0]), int(columns[0]))
    sums.last_slice = z
    sums.voxels += len(rows)
    sums.index += z * len(rows), rows.sum(), columns.sum()
    values = hu[rows, columns].astype(np.float64)
    sums.hu += float(values.sum())
    sums.hu_squared += float((values**2).sum())
    inside = rows - sure.rows.start, columns - sure.columns.start
    sums.probability += float(sure.probability[inside].sum(dtype=np.int64)) / 255
    if sure.agreement is None:
        sums.alone = True
    else:
        sums.agreement += float(sure.agreement[inside].sum(dtype=np.int64)) / 255
    row_mm, column_mm = pixel_mm
    height_mm, width_mm = np.ptp(rows) * row_mm + row_mm, np.ptp(columns) * column_mm + column_mm
    if sums.diameters is None or np.hypot(height_mm, width_mm) > sums.diameters.long_mm:
        found = measure_diameters(rows, columns, row_mm=row_mm, column_mm=column_mm)
        if sums.diameters is None or found.long_mm > sums.diameters.long_mm:
            sums.diameters, sums.key_slice = found, z


def _measured(
    lesion_id: str,
    sums: _Sums,
    *,
    class_name: str,
    label: int,
    geometry: Geometry,
    presence: float,
    scan_sha256: str,
) -> MeasuredLesion:
    assert sums.diameters is not None  # every lesion has a slice
    place = "/".join(map(str, sums.first_voxel))
    uid = uuid.uuid5(uuid.NAMESPACE_OID, f"{scan_sha256}/{class_name}/{place}").int
    mean_hu = sums.hu / sums.voxels
    variance = max(sums.hu_squared / sums.voxels - mean_hu**2, 0.0)

    def ends(points: NDArray[np.float64]) -> tuple[PointMm, PointMm]:
        first, second = (_position(geometry, [sums.key_slice, *point]) for point in points)
        return first, second

    return MeasuredLesion(
        lesion_id=lesion_id,
        tracking_uid=f"2.25.{uid}",
        class_name=class_name,
        label=label,
        voxels=sums.voxels,
        volume_ml=round(sums.voxels * geometry.voxel_volume_ml, 4),
        long_axis_mm=round(sums.diameters.long_mm, 2),
        long_axis_ends_mm=ends(sums.diameters.long_ends),
        short_axis_mm=round(sums.diameters.short_mm, 2),
        short_axis_ends_mm=ends(sums.diameters.short_ends),
        centroid_mm=_position(geometry, sums.centre),
        first_slice=sums.first_slice,
        last_slice=sums.last_slice,
        key_slice=sums.key_slice,
        mean_hu=round(mean_hu, 1),
        sd_hu=round(math.sqrt(variance), 1),
        mean_probability=round(sums.probability / sums.voxels, 4),
        presence=round(presence, 4),
        fold_agreement=None if sums.alone else round(sums.agreement / sums.voxels, 4),
    )


def _position(geometry: Geometry, index_zyx: Any) -> PointMm:
    x, y, z = geometry.position_mm(np.asarray(index_zyx)[::-1])
    return round(float(x), 2), round(float(y), 2), round(float(z), 2)


def _flat_names() -> list[str]:
    names: list[str] = []
    for item in fields(MeasuredLesion):
        stem = item.name.removesuffix("_mm")
        if item.name.endswith("_ends_mm"):
            names += [f"{stem}_{end}_{axis}_mm" for end in (1, 2) for axis in "xyz"]
        elif item.name == "centroid_mm":
            names += [f"{stem}_{axis}_mm" for axis in "xyz"]
        else:
            names.append(item.name)
    return names


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return [x for part in value for x in _flat(part)]
    return ["" if value is None else value]
