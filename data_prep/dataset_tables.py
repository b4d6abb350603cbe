"""Which data set of the taxonomy a raw folder is, from its name or its dataset.json.

Index and name inconsistencies of [UM] section 3 are settled by the taxonomy's own table; what a
dataset.json says is compared with it, never mixed in.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samcancer.errors import InputError
from samcancer.taxonomy import DatasetSpec, Taxonomy, normalise_name

_FOLDER_NUMBER = re.compile(r"^(?:Dataset\d{3}|Task\d{2,3})_")
"""How nnU-Net and MSD number their folders."""

_BACKGROUND = "background"


def resolve_dataset(
    folder: Path,
    description: Mapping[str, Any],
    taxonomy: Taxonomy,
    *,
    dataset: str | None,
) -> tuple[DatasetSpec, Taxonomy]:
    """Find the data set of a folder.

    Args:
        folder: The raw folder.
        description: Content of its dataset.json; empty when there is none.
        taxonomy: Known data sets.
        dataset: The user's word for it; None goes by dataset.json's name, then the folder's, then
            the label names, if all are classes.

    Returns:
        The data set, and the taxonomy with it.

    Raises:
        InputError: When it is unknown, or dataset.json contradicts the taxonomy.
    """
    if dataset is not None:
        return taxonomy.dataset(dataset), taxonomy
    folder_name = folder.resolve().name
    names = [str(description["name"])] if description.get("name") else []
    names += [_FOLDER_NUMBER.sub("", folder_name), folder_name]
    labels = _label_names(description, folder)
    for name in names:
        spec = taxonomy.find_dataset(name)
        if spec is not None:
            _require_agreement(spec, labels, taxonomy, folder)
            return spec, taxonomy
    return _from_label_names(names[0], labels, taxonomy, folder)


def _label_names(description: Mapping[str, Any], folder: Path) -> dict[int, list[str]]:
    """Return value -> names from either layout, nnU-Net's regions included, no background."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    try:
        for key, value in dict(description.get("labels") or {}).items():
            if str(key).isdigit():
                pairs = [(int(key), str(value))]
            else:
                values = value if isinstance(value, list) else [value]
                pairs = [(int(v), str(key)) for v in values]
            for number, name in pairs:
                if number != 0 and normalise_name(name) != _BACKGROUND:
                    found[number].append(name)
    except (TypeError, ValueError):
        raise InputError("its labels are malformed", path=folder / "dataset.json") from None
    return dict(found)


def _require_agreement(
    spec: DatasetSpec, labels: Mapping[int, list[str]], taxonomy: Taxonomy, folder: Path
) -> None:
    """Refuse a dataset.json whose known class names stand for other values than in the table."""
    for value, names in labels.items():
        for name in names:
            known = taxonomy.find_class(name)
            if known is None or value not in spec.labels or known.name in spec.labels[value]:
                continue
            ours = ", ".join(spec.labels[value]) or "no class"
            raise InputError(
                f"says that {value} is {name!r}; data set {spec.name} has {ours}",
                path=folder / "dataset.json",
                mend="name the right data set with --dataset or describe it in a --taxonomy file",
            )


def _from_label_names(
    name: str, labels: Mapping[int, list[str]], taxonomy: Taxonomy, folder: Path
) -> tuple[DatasetSpec, Taxonomy]:
    classes: dict[int, list[str]] = {}
    for value, names in labels.items():
        found = [taxonomy.find_class(n) for n in names]
        unknown = [n for n, spec in zip(names, found, strict=True) if spec is None]
        if unknown:
            raise InputError(
                f"unknown data set {name!r}, and its label {unknown[0]!r} is no known class; "
                f"known data sets are {', '.join(taxonomy.datasets)}",
                path=folder,
                mend="choose one with --dataset or describe it in a --taxonomy file",
            )
        classes[value] = [spec.name for spec in found if spec is not None]
    if not classes:
        raise InputError(
            f"unknown data set {name!r}; known are {', '.join(taxonomy.datasets)}",
            path=folder,
            mend="choose one with --dataset or describe it in a --taxonomy file",
        )
    try:
        extended, spec = taxonomy.with_dataset(name, classes, title=f"{name}, by its dataset.json")
    except ValueError as error:
        raise InputError(str(error), path=folder / "dataset.json") from None
    return spec, extended
