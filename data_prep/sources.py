"""The cases of raw data sets: nnU-Net v2 raw folders, MSD folders, and CSV tables.

nnU-Net: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz, dataset.json (label name -> value)
MSD:     imagesTr/CASE.nii.gz,      labelsTr/CASE.nii.gz, dataset.json (label value -> name)
CSV:     a header with image and, as needed, label, patient, dataset, case, annotates, series;
         paths are relative to the table; an image may be the folder of a DICOM series, which
         `series` names where the folder holds several, and a label a DICOM RTSTRUCT or SEG

Beside dataset.json a table patients.csv (case, patient, and annotates where cases of a set differ
in that) may say which scans are of one patient; without it every case is a patient of its own. A
case without a label file is unlabelled: every class is unknown.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset_tables import resolve_dataset
from samcancer.errors import InputError
from samcancer.files import is_safe_name, read_json
from samcancer.taxonomy import DatasetSpec, Taxonomy
from samcancer.volume_io import find_volumes, strip_volume_suffix
from samcancer.volume_io.dicom_folders import folder_case_id

PATIENTS_NAME = "patients.csv"

DATASET_JSON = "dataset.json"

CSV_COLUMNS = ("image", "label", "patient", "dataset", "case", "annotates", "series")
"""Columns a table may have; only ``image`` is needed."""

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
"""nnU-Net's image names."""


@dataclass(frozen=True, kw_only=True)
class SourceCase:
    """One case as found on disk; nothing is read yet."""

    case_id: str
    patient_id: str
    image: Path
    label: Path | None
    dataset: DatasetSpec
    annotates: tuple[str, ...]
    """Classes annotated in this case; empty without a label."""
    series: str | None = None
    """SeriesInstanceUID of the image, where its folder holds several."""


def find_cases(
    inputs: Sequence[Path],
    taxonomy: Taxonomy,
    *,
    dataset: str | None = None,
    include_test: bool = False,
) -> tuple[list[SourceCase], Taxonomy]:
    """List the cases of all inputs, sorted by id.

    Args:
        inputs: Raw folders and CSV tables.
        taxonomy: Known classes and data sets.
        dataset: Name of the data set of every input; None finds it out for each.
        include_test: Take imagesTs and labelsTs as well.

    Returns:
        The cases, and the taxonomy with the data sets that only a dataset.json describes.

    Raises:
        InputError: When an input is none of the layouts, its data set is unknown, or two cases
            have one id.
    """
    cases: list[SourceCase] = []
    for path in inputs:
        if path.is_dir():
            found, taxonomy = _folder_cases(path, taxonomy, dataset, include_test=include_test)
        else:
            found = _table_cases(path, taxonomy, dataset)
        cases += found
    _require_unique(cases)
    return sorted(cases, key=lambda case: case.case_id), taxonomy


def _folder_cases(
    folder: Path, taxonomy: Taxonomy, dataset: str | None, *, include_test: bool
) -> tuple[list[SourceCase], Taxonomy]:
    if not (folder / "imagesTr").is_dir() and not (include_test and (folder / "imagesTs").is_dir()):
        inside = sorted(p.name for p in folder.iterdir() if (p / "imagesTr").is_dir())
        raise InputError(
            f"holds no imagesTr folder{', but ' + ', '.join(inside) + ' do' if inside else ''}",
            path=folder,
            mend="name each data set's own folder with --input, or a CSV table",
        )
    description = _read_description(folder / DATASET_JSON)
    spec, taxonomy = resolve_dataset(folder, description, taxonomy, dataset=dataset)
    patients = _read_patients(folder / PATIENTS_NAME)
    cases = []
    for part in ("Tr", "Ts") if include_test else ("Tr",):
        if not (folder / f"images{part}").is_dir():
            continue
        images = _images(folder / f"images{part}")
        labels = _labels(folder / f"labels{part}", images)
        for case_id, image in images.items():
            row = _patient_row(patients, case_id, folder / PATIENTS_NAME)
            cases.append(_case(case_id, image, labels.get(case_id), row, spec, taxonomy))
    return cases, taxonomy


def _read_description(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError("must hold a JSON object", path=path)
    return content


def _images(folder: Path) -> dict[str, Path]:
    """Return case id -> image; the channel number of nnU-Net's names is taken off."""
    volumes = find_volumes(folder)
    matches = [_CHANNEL.fullmatch(strip_volume_suffix(path)) for path in volumes]
    if not all(matches):
        return {strip_volume_suffix(path): path for path in volumes}
    images: dict[str, Path] = {}
    for path, match in zip(volumes, matches, strict=True):
        if match is None or match["channel"] != "0000":
            raise InputError("a second channel; CT has one", path=path, mend="move it away")
        images[match["case"]] = path
    return images


def _labels(folder: Path, images: Iterable[str]) -> dict[str, Path]:
    if not folder.is_dir() or not any(folder.iterdir()):
        return {}
    labels = {strip_volume_suffix(path): path for path in find_volumes(folder)}
    stray = sorted(set(labels) - set(images))
    if stray:
        raise InputError(
            f"{len(stray)} labels have no image, such as {labels[stray[0]].name}",
            path=folder,
            mend="restore the images or move the labels away",
        )
    return labels


def _read_patients(path: Path) -> dict[str, dict[str, str]] | None:
    if not path.exists():
        return None
    rows = _read_rows(path, required=("case", "patient"), allowed=("case", "patient", "annotates"))
    return {row["case"]: row for row in rows}


def _patient_row(
    patients: dict[str, dict[str, str]] | None, case_id: str, path: Path
) -> dict[str, str]:
    if patients is None:
        return {}
    if case_id not in patients:
        raise InputError(f"lists no case {case_id!r}", path=path, mend="add it")
    return patients[case_id]


def _table_cases(path: Path, taxonomy: Taxonomy, dataset: str | None) -> list[SourceCase]:
    if path.suffix.lower() != ".csv":
        raise InputError(
            "is neither a folder nor a .csv table",
            path=path,
            mend="name a folder of nnU-Net or MSD data, or a CSV table",
        )
    cases = []
    for number, row in enumerate(_read_rows(path, required=("image",), allowed=CSV_COLUMNS), 2):
        name = dataset or row.get("dataset", "")
        if not name or not row["image"]:
            raise InputError(
                f"line {number} names no {'image' if name else 'data set'}",
                path=path,
                mend="fill in the column" if name else "fill in the column or use --dataset",
            )
        image = path.parent / row["image"]
        label = path.parent / row["label"] if row.get("label") else None
        case_id = row.get("case") or (
            folder_case_id(image) if image.is_dir() else strip_volume_suffix(image)
        )
        spec = taxonomy.dataset(name)
        cases.append(_case(case_id, image, label, row, spec, taxonomy))
    if not cases:
        raise InputError("lists no case", path=path)
    return cases


def _read_rows(
    path: Path, *, required: Sequence[str], allowed: Sequence[str]
) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = list(reader)
    except FileNotFoundError:
        raise InputError("no such file or folder", path=path) from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"not a CSV table in UTF-8 ({error})", path=path) from None
    missing = [name for name in required if name not in columns]
    unknown = [name for name in columns if name not in allowed]
    if missing or unknown:
        fact = f"lacks the column {missing[0]!r}" if missing else f"unknown column {unknown[0]!r}"
        raise InputError(fact, path=path, mend=f"columns are {', '.join(allowed)}")
    if any(None in row or None in row.values() for row in rows):
        raise InputError("a line has more or fewer fields than the header", path=path)
    return [{name: value.strip() for name, value in row.items()} for row in rows]


def _case(
    case_id: str,
    image: Path,
    label: Path | None,
    row: dict[str, str],
    spec: DatasetSpec,
    taxonomy: Taxonomy,
) -> SourceCase:
    if not is_safe_name(case_id):
        raise InputError(f"{case_id!r} cannot be a case id", path=image, mend="rename it")
    return SourceCase(
        case_id=case_id,
        patient_id=row.get("patient") or case_id,
        image=image,
        label=label,
        dataset=spec,
        annotates=_annotates(case_id, image, label, row, spec, taxonomy),
        series=row.get("series") or None,
    )


def _annotates(
    case_id: str,
    image: Path,
    label: Path | None,
    row: dict[str, str],
    spec: DatasetSpec,
    taxonomy: Taxonomy,
) -> tuple[str, ...]:
    """Return what is annotated in a case: what its row says, else what its data set says."""
    names = [name.strip() for name in row.get("annotates", "").split(";") if name.strip()]
    if label is None:
        if names:
            raise InputError(f"case {case_id!r} annotates {names[0]} without a label", path=image)
        return ()
    if not names and spec.annotates_per_case:
        raise InputError(
            f"case {case_id!r} must say what it annotates, because cases of {spec.name} differ",
            path=image,
            mend="add a column annotates, with classes separated by semicolons",
        )
    if not names:
        return spec.annotates
    found = [taxonomy.find_class(name) for name in names]
    for name, known in zip(names, found, strict=True):
        if known is None or known.name not in spec.annotates:
            raise InputError(
                f"case {case_id!r} annotates {name!r}, which {spec.name} does not", path=image
            )
    return taxonomy.with_unions(known.name for known in found if known is not None)


def _require_unique(cases: Iterable[SourceCase]) -> None:
    images: dict[str, Path] = {}
    for case in cases:
        first = images.setdefault(case.case_id, case.image)
        if first is not case.image:
            raise InputError(
                f"case {case.case_id!r} is also {first}",
                path=case.image,
                mend="give one of them another name, or use a CSV table with a column case",
            )
