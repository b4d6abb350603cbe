"""Which label values are which class, in references and in predictions, and what a case annotates.

References and predictions may number the same classes differently; classes are matched by name. A
class that a case does not annotate is unknown there: what is predicted of it is counted apart as
unverified, never as a false positive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcancer.errors import InputError
from samcancer.evaluation.classes import packaged_taxonomy
from samcancer.evaluation.protocols import Protocol
from samcancer.files import read_csv, read_json

BACKGROUND = "background"

MERGED_CLASS = "lesion"
"""The one class of the flare24 protocol, and of all lesions scored as one."""

LabelValues = Mapping[str, tuple[int, ...]]
"""Class name -> label values whose union it is."""

_LABELS_MEND = "give --labels NAME=VALUE,... or a dataset.json beside the references"


@dataclass(frozen=True)
class Annotations:
    """Which classes each case annotates; None means all of them, in every case."""

    of_all: frozenset[str] | None = None
    of_case: Mapping[str, frozenset[str]] | None = None
    source: Path | None = None

    def of(self, case_id: str, class_names: frozenset[str]) -> frozenset[str]:
        """Return the classes that a case annotates.

        Raises:
            InputError: When the table has no line for the case.
        """
        if self.of_case is not None:
            if case_id not in self.of_case:
                raise InputError(
                    f"has no line for the case {case_id!r}",
                    path=self.source,
                    mend="add one, with an empty second field if the case annotates nothing",
                )
            return self.of_case[case_id]
        return class_names if self.of_all is None else self.of_all


def choose_labels(given: str | None, folder: Path, *, protocol: Protocol) -> LabelValues:
    """Return the classes of the references: as given, else those of their ``dataset.json``.

    Args:
        given: ``NAME=VALUE,...``, the path of a ``dataset.json``, or None.
        folder: The references.
        protocol: Under ``flare24`` the classes default to one lesion class of value 1, under
            ``flare23`` to that challenge's 13 organs and tumor.

    Raises:
        InputError: When the classes cannot be told.
    """
    if given is not None:
        return parse_labels(given)
    for candidate in (folder / "dataset.json", folder.parent / "dataset.json"):
        if candidate.is_file():
            return labels_of_dataset_json(candidate)
    if protocol == "flare24":
        return {MERGED_CLASS: (1,)}
    if protocol == "flare23":
        return flare23_labels()
    raise InputError("names no classes", path=folder, mend=_LABELS_MEND)


def flare23_labels() -> LabelValues:
    """Return the classes of FLARE 2023 by its label values: 13 organs, then tumor as ``lesion``."""
    taxonomy = packaged_taxonomy()
    wanted = taxonomy.class_names("flare23")
    values = taxonomy.dataset("FLARE23").labels
    return {n: (value,) for value, held in values.items() for n in held if n in wanted}


def parse_labels(text: str) -> LabelValues:
    """Read ``NAME=VALUE,...`` or the path of a ``dataset.json``.

    Raises:
        InputError: When it is neither.
    """
    path = Path(text)
    if path.suffix == ".json":
        return labels_of_dataset_json(path)
    labels: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, separator, value = part.partition("=")
        if not separator or not name.strip() or not value.strip().isdigit() or int(value) == 0:
            raise InputError(
                f"--labels: {part!r} is not NAME=VALUE with a value of at least 1",
                mend="write for example --labels liver_lesion=1,kidney_lesion=2",
            )
        labels[name.strip()] = (*labels.get(name.strip(), ()), int(value))
    return labels


def prediction_labels(prediction: Path, case_id: str, *, default: LabelValues) -> LabelValues:
    """Return the labels of a prediction from its report; without one, those of the reference."""
    report = prediction.parent / f"{case_id}.json"
    if not report.is_file():
        return default
    content = read_json(report)
    if not isinstance(content, dict) or "labels" not in content:
        return default
    return _labels_of(content["labels"], report)


def labels_of_dataset_json(path: Path) -> LabelValues:
    """Return the labels of an nnU-Net v2 (name -> values) or MSD (value -> name) dataset.json.

    Raises:
        InputError: When the file has no readable labels.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "labels" not in content:
        raise InputError("has no 'labels'", path=path, mend=_LABELS_MEND)
    return _labels_of(content["labels"], path)


def read_annotations(text: str | None, class_names: frozenset[str]) -> Annotations:
    """Read ``CLASS,CLASS,...``, or a CSV file with the columns ``case`` and ``classes``.

    Several classes of a case are separated by semicolons. None means that all are annotated.

    Raises:
        InputError: When a class is unknown or the file has other columns.
    """
    if text is None:
        return Annotations()
    path = Path(text)
    if path.suffix.lower() != ".csv":
        return Annotations(of_all=_known_classes(text.split(","), class_names, None))
    rows = read_csv(path, required=("case", "classes"))
    return Annotations(
        of_case={
            row["case"]: _known_classes(row["classes"].split(";"), class_names, path)
            for row in rows
        },
        source=path,
    )


def _known_classes(
    names: list[str], class_names: frozenset[str], path: Path | None
) -> frozenset[str]:
    wanted = frozenset(name.strip() for name in names if name.strip())
    unknown = sorted(wanted - class_names)
    if unknown:
        raise InputError(
            f"--annotated: unknown class {unknown[0]!r}",
            path=path,
            mend=f"known are {', '.join(sorted(class_names))}",
        )
    return wanted


def _labels_of(content: Any, path: Path) -> LabelValues:
    labels: dict[str, tuple[int, ...]] = {}
    try:
        for key, value in content.items():
            name, values = (value, int(key)) if isinstance(value, str) else (key, value)
            if name == BACKGROUND or values == 0:
                continue
            values = values if isinstance(values, list) else [values]
            labels[str(name)] = (*labels.get(name, ()), *(int(v) for v in values))
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"'labels' is {content!r}", path=path, mend="write NAME: VALUE pairs"
        ) from None
    if not labels:
        raise InputError(
            "'labels' names no class besides the background",
            path=path,
            mend='add the classes, such as "liver_lesion": 1',
        )
    return labels
