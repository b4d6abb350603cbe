"""DICOM labels, RTSTRUCT or SEG: their structures as classes of the taxonomy, on the image's grid.

A structure is a region of an RTSTRUCT or a segment of a SEG. What it is follows from, in this
order: the data set's table ``structures``; the name, title or an alias of a class that the case
annotates; a segment's SNOMED CT codes, where they fit one such class alone. Structures of other
organs are left out and told; any other structure is an error, never background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.rtstruct import rasterise, read_structure_set
from samcancer.errors import InputError
from samcancer.taxonomy import ClassSpec, DatasetSpec, Taxonomy, normalise_name
from samcancer.volume_io import CtVolume
from samcancer.volume_io.dicom import ct_series_of
from samcancer.volume_io.dicom_files import read_tags, same_patient
from samcancer.volume_io.dicom_seg_reading import read_segmentation
from samcancer.volume_io.formats import is_dicom_file

_MEND_CT = "give the CT series that it was drawn on"


@dataclass(frozen=True)
class Structure:
    """One structure of a label file, before it is known to be of a class."""

    name: str
    draw: Callable[[], NDArray[np.bool_]] | None = field(default=None, compare=False)
    """Gives its (Z, Y, X) mask; None for a structure without any contour."""
    snomed: str | None = None
    region_snomed: str | None = None


@dataclass(frozen=True)
class DicomLabel:
    """A label file whose structures are known."""

    shape: tuple[int, int, int]
    structures: dict[str, tuple[Structure, ...]]
    """Class -> structures whose union it is."""
    warnings: tuple[str, ...] = ()

    def mask(self, class_name: str) -> NDArray[np.bool_]:
        """Return where a class is, (Z, Y, X) on the image's grid.

        Raises:
            InputError: When a structure does not lie on the image, or cannot be decoded.
        """
        mask = np.zeros(self.shape, np.bool_)
        for structure in self.structures.get(class_name, ()):
            if structure.draw is not None:
                mask |= structure.draw()
        return mask


def read_dicom_label(
    path: Path,
    image: CtVolume,
    *,
    dataset: DatasetSpec,
    annotates: Sequence[str],
    taxonomy: Taxonomy,
    threshold: float | None = None,
) -> DicomLabel:
    """Read the structures of an RTSTRUCT or SEG file and find the class of each.

    Args:
        path: The file.
        image: The CT that it was drawn on.
        dataset: Says what the names of structures mean.
        annotates: Classes that the case annotates.
        taxonomy: Classes with their names and codes.
        threshold: Share from which a pixel of a fractional SEG is inside; None refuses these.

    Raises:
        InputError: When the file is neither, belongs to another patient or frame of reference, or
            holds structures that are not known.
    """
    if not path.exists():
        raise InputError("no such file", path=path, mend="check the column label")
    tags = read_tags(path) or {}
    if image.files and not same_patient(image.files[0], path):
        raise InputError(
            "its PatientID is not that of the image", path=path, mend="pair them again"
        )
    frame = _frame_of_reference(image)
    if tags.get("Modality") == "RTSTRUCT":
        structures = _regions(path, image, frame)
    elif tags.get("Modality") == "SEG":
        structures = _segments(path, image, frame, threshold)
    else:
        raise InputError(
            "is DICOM but neither RTSTRUCT nor SEG", path=path, mend="give one of these as label"
        )
    found, warnings = classes_of(
        structures, dataset=dataset, annotates=annotates, taxonomy=taxonomy, path=path
    )
    return DicomLabel(image.geometry.shape, found, warnings)


def series_of_label(path: Path, folder: Path) -> str | None:
    """Return which CT series of a folder a label was drawn on, where that has to be known.

    Args:
        path: The label; of any kind.
        folder: Of the image.

    Returns:
        SeriesInstanceUID; None where the folder does not hold several CT series, or the label does
        not name one of them.

    Raises:
        InputError: When a file is damaged.
    """
    if not is_dicom_file(path) or len(held := ct_series_of(folder)) < 2:
        return None
    modality = (read_tags(path) or {}).get("Modality")
    if modality == "RTSTRUCT":
        named = read_structure_set(path).series_uid
    elif modality == "SEG":
        # The threshold only keeps a fractional file from being refused here already.
        named = read_segmentation(path, threshold=1.0).series_uid
    else:
        return None
    return named if named in held else None


def classes_of(
    structures: Sequence[Structure],
    *,
    dataset: DatasetSpec,
    annotates: Sequence[str],
    taxonomy: Taxonomy,
    path: Path,
) -> tuple[dict[str, tuple[Structure, ...]], tuple[str, ...]]:
    """Return class -> structures, and warnings.

    Raises:
        InputError: When structures are not known, or belong to classes that the case does not
            annotate, or an annotated organ has no structure.
    """
    found: dict[str, list[Structure]] = {}
    direct: set[str] = set()
    unknown: list[str] = []
    stray: list[str] = []
    other_organs: list[str] = []
    table = {normalise_name(name): names for name, names in dataset.structures.items()}
    for structure in structures:
        if (key := normalise_name(structure.name)) in table:
            names = table[key]
            if names and not set(names) & set(annotates):
                stray.append(structure.name)
        elif spec := _class_of(structure, annotates, taxonomy):
            names = (spec.name,)
        else:
            known = taxonomy.find_class(structure.name)
            (other_organs if known and known.kind == "organ" else unknown).append(structure.name)
            continue
        if structure.draw is not None:
            direct |= set(names)
        for name in taxonomy.implied(names, annotated=annotates):
            if name in annotates:
                found.setdefault(name, []).append(structure)
    if unknown or stray:
        _refuse_names(unknown, stray, dataset, annotates, path)
    _require_organs(direct, annotates, taxonomy, path)
    warnings = [
        ("structures of organs that the case does not annotate were left out", other_organs),
        ("structures without a contour", [s.name for s in structures if s.draw is None]),
        ("no structure, so absent", [n for n in annotates if n not in found]),
    ]
    told = tuple(f"{what}: {_listed(names)}" for what, names in warnings if names)
    return {name: tuple(items) for name, items in found.items()}, told


def _class_of(
    structure: Structure, annotates: Sequence[str], taxonomy: Taxonomy
) -> ClassSpec | None:
    """Return the annotated class of a structure by its name, else by its codes."""
    named = taxonomy.find_class(structure.name)
    if named is not None and named.name in annotates:
        return named
    if structure.snomed is None:
        return None
    specs = [taxonomy.classes[name] for name in annotates]
    fitting = [s for s in specs if s.snomed is not None and s.snomed.code == structure.snomed]
    if structure.region_snomed is not None:
        organs = {s.name: taxonomy.classes.get(s.organ or "") for s in fitting}
        fitting = [s for s in fitting if _lies_in(organs[s.name], structure.region_snomed)]
    return fitting[0] if len(fitting) == 1 else None


def _lies_in(organ: ClassSpec | None, region_snomed: str) -> bool:
    return organ is None or organ.snomed is None or organ.snomed.code == region_snomed


def _refuse_names(
    unknown: Sequence[str],
    stray: Sequence[str],
    dataset: DatasetSpec,
    annotates: Sequence[str],
    path: Path,
) -> None:
    facts = []
    if unknown:
        facts.append(f"structures that {dataset.name} does not know: {_listed(unknown)}")
    if stray:
        facts.append(f"structures of classes that the case does not annotate: {_listed(stray)}")
    known = [*annotates, *(repr(name) for name in dataset.structures)]
    raise InputError(
        f"{'; '.join(facts)}; known are {', '.join(known) or 'none'}",
        path=path,
        mend="give each a class, or null to ignore it, under structures of the data set in a "
        "--taxonomy file",
    )


def _require_organs(
    direct: set[str], annotates: Sequence[str], taxonomy: Taxonomy, path: Path
) -> None:
    """Refuse a file that leaves out an annotated organ: not drawn is not the same as not there."""
    specs = [taxonomy.classes[name] for name in annotates]
    missing = [
        spec.name
        for spec in specs
        if spec.kind == "organ"
        and spec.name not in direct
        and not (spec.members and direct.issuperset(spec.members))
    ]
    if missing:
        raise InputError(
            f"holds no structure of the annotated organs {', '.join(missing)}",
            path=path,
            mend="say in a column annotates which classes were drawn in the case",
        )


def _regions(path: Path, image: CtVolume, frame: str | None) -> list[Structure]:
    if not image.files:
        raise InputError(
            f"is drawn in a frame of reference, which {image.path.name} does not state",
            path=path,
            mend=_MEND_CT,
        )
    structure_set = read_structure_set(path)

    def draw(name: str) -> Callable[[], NDArray[np.bool_]]:
        return lambda: rasterise(
            structure_set, name, geometry=image.geometry, frame_of_reference_uid=frame
        )

    return [
        Structure(region.name, draw(region.name) if region.contours_mm or region.fault else None)
        for region in structure_set.regions
    ]


def _segments(
    path: Path, image: CtVolume, frame: str | None, threshold: float | None
) -> list[Structure]:
    found = read_segmentation(path, threshold=threshold)
    if frame and found.frame_of_reference_uid not in (None, frame):
        raise InputError(
            f"refers to frame of reference {found.frame_of_reference_uid}, the CT has {frame}",
            path=path,
            mend=_MEND_CT,
        )

    def draw(number: int) -> Callable[[], NDArray[np.bool_]]:
        return lambda: found.mask(number, image.geometry)

    return [Structure(s.label, draw(s.number), s.snomed, s.region_snomed) for s in found.segments]


def _frame_of_reference(image: CtVolume) -> str | None:
    tags = read_tags(image.files[0]) if image.files else None
    uid = tags and tags["FrameOfReferenceUID"]
    return str(uid) if uid else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
