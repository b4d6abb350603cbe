"""What a scan's page shows: voxels in canonical orientation, its classes and its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samcancer.config import WindowHu
from samcancer.errors import InputError
from samcancer.geometry import Geometry, Reorientation, canonicalise, require_same_grid
from samcancer.taxonomy import Kind, Taxonomy, load_taxonomy
from samcancer.volume_io import CtVolume, ReadOptions, read_ct, read_labels

BACKGROUND = "background"

_MAX_LABEL = 255
"""Masks are packed as 8-bit pictures."""

_LESION_COLOURS = (
    *("#ffb000", "#ff7ac6", "#5cd6ff", "#f4ee52"),
    *("#ff7f50", "#b9a3ff", "#47e5a5", "#ffffff"),
)
"""Outlines of lesion classes, bright on grey and apart for most kinds of colour vision."""

_ORGAN_COLOURS = (
    *("#8fb8de", "#a6cfa0", "#d8b48f", "#c3a5d0"),
    *("#d79a9a", "#8fc7c2", "#c9c48a", "#b3b9c4"),
)
"""Outlines of organs, paler, since lesions are what is looked for."""


@dataclass(frozen=True, kw_only=True)
class ShownClass:
    """One class of the mask or of the model."""

    name: str
    title: str
    kind: Kind
    label: int | None
    """Value in the mask; None for a class that was looked for and has no value of its own."""
    colour: str
    volume_ml: float
    window_hu: WindowHu
    threshold: float | None = None
    """Presence probability under which the class yields no mask; None where unknown."""
    presence: float | None = None
    """Largest presence probability of any slice; None where unknown."""


@dataclass(frozen=True, kw_only=True)
class ScanCase:
    """One scan with its mask; arrays are (slice, row, column) and run to superior and so on."""

    case_id: str
    hu: npt.NDArray[np.int16]
    labels: npt.NDArray[np.uint8]
    geometry: Geometry
    """Of the arrays."""
    turn: Reorientation
    """From the file's orientation to that of the arrays."""
    oblique_degrees: float
    """Largest angle between an axis of the file and the nearest axis of the patient."""
    classes: tuple[ShownClass, ...]
    report: Mapping[str, Any]
    """What was written beside the mask; empty for a mask of another program."""
    warnings: tuple[str, ...]
    """Of reading the scan."""

    def class_of(self, label: int) -> ShownClass:
        """Return the class of a value of the mask."""
        return next(shown for shown in self.classes if shown.label == label)


def read_case(
    scan: Path,
    mask: Path,
    report: Mapping[str, Any],
    *,
    read: ReadOptions,
    case_id: str,
    ct: CtVolume | None = None,
    labels: npt.NDArray[np.integer[Any]] | None = None,
    taxonomy: Taxonomy | None = None,
) -> ScanCase:
    """Read what is not in memory yet and turn it into canonical orientation.

    Args:
        scan: A volume file or a DICOM folder.
        mask: Label map on the same grid.
        report: What ``infer-volume`` wrote beside the mask, or an empty mapping.
        read: Decisions on doubtful headers.
        case_id: Used where the report names none.
        ct: The scan, where it has been read.
        labels: (slice, row, column) as in the file, where the mask is in memory.
        taxonomy: Gives titles and windows; None takes the packaged one.

    Raises:
        InputError: When a file cannot be read or the two lie on different grids.
    """
    ct = ct or read_ct(scan, read)
    if labels is None:
        volume = read_labels(mask, read)
        require_same_grid(ct.geometry, volume.geometry, image_path=scan, label_path=mask)
        labels = volume.values
    highest = int(labels.max())
    if highest > _MAX_LABEL:
        raise InputError(
            f"holds the label {highest}", path=mask, mend=f"use labels up to {_MAX_LABEL}"
        )
    canonical, geometry, turn = canonicalise(labels.astype(np.uint8, copy=False), ct.geometry)
    return ScanCase(
        case_id=str(report.get("case", case_id)),
        hu=canonicalise(ct.hu, ct.geometry)[0],
        labels=canonical,
        geometry=geometry,
        turn=turn,
        oblique_degrees=_oblique_degrees(geometry),
        classes=shown_classes(canonical, geometry, report, taxonomy=taxonomy),
        report=report,
        warnings=tuple(str(line) for line in report.get("warnings", ct.warnings)),
    )


def shown_classes(
    labels: npt.NDArray[np.uint8],
    geometry: Geometry,
    report: Mapping[str, Any],
    *,
    taxonomy: Taxonomy | None = None,
) -> tuple[ShownClass, ...]:
    """Return the classes of the report, then those that only the mask holds."""
    taxonomy = taxonomy or load_taxonomy()
    values = {str(n): int(v) for n, v in report.get("labels", {}).items() if n != BACKGROUND}
    reported = report.get("classes", {})
    thresholds = report.get("model", {}).get("presence_thresholds", {})
    voxels = np.zeros(_MAX_LABEL + 1, dtype=np.int64)
    for plane in labels:  # bincount takes eight bytes a voxel
        voxels += np.bincount(plane.ravel(), minlength=len(voxels))
    known = set(values.values())
    unnamed = [v for v in np.flatnonzero(voxels).tolist() if v and v not in known]
    values |= {unnamed_class(v): v for v in unnamed}
    shown: list[ShownClass] = []
    used = {"lesion": 0, "organ": 0}
    for name in dict.fromkeys([*values, *reported]):
        label = values.get(name)
        details = reported.get(name, {})
        spec = taxonomy.find_class(name)
        kind: Kind = details.get("kind") or (spec.kind if spec else "lesion")
        colours = _LESION_COLOURS if kind == "lesion" else _ORGAN_COLOURS
        volume_ml = details.get("volume_ml")
        if label is not None:
            count = int(voxels[label]) if label < len(voxels) else 0
            volume_ml = count * geometry.voxel_volume_ml
        shown.append(
            ShownClass(
                name=name,
                title=spec.title if spec else name.replace("_", " "),
                kind=kind,
                label=label,
                colour=colours[used[kind] % len(colours)],
                volume_ml=float(volume_ml or 0.0),
                window_hu=spec.window_hu if spec else (-200.0, 300.0),
                threshold=thresholds.get(name),
                presence=details.get("presence_max"),
            )
        )
        used[kind] += 1
    return tuple(shown)


def unnamed_class(label: int | None) -> str:
    """Return the name of a value of the mask that nobody has named."""
    return f"label_{label}"


def classes_report(case_id: str, labels: Mapping[str, Iterable[int]]) -> dict[str, Any]:
    """Return the report that stands in where a mask has none and its classes are told.

    Raises:
        InputError: When a class has several values.
    """
    single = {}
    for name, values in labels.items():
        if len(listed := tuple(values)) != 1:
            raise InputError(f"the class {name!r} has the values {listed}", mend="give it one")
        single[name] = listed[0]
    return {"case": case_id, "labels": {BACKGROUND: 0, **single}}


def _oblique_degrees(canonical: Geometry) -> float:
    cosines = np.clip(np.diag(canonical.direction_matrix), -1.0, 1.0)
    return float(np.degrees(np.arccos(cosines.min())))
