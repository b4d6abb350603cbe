"""Several case stores read as one: a folder with a file that names them.

FOLDER/stores.json   {"format_version": 1, "stores": ["/disk1/liver", "../lung"]}

Each is a whole store with an index of its own, on any disk; a path that is not absolute starts at
the folder. They have the same classes and size, no case in common, and read every data set alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from samcancer.data.store_index import STORE_NAME, StoreInfo, read_store_info
from samcancer.errors import InputError
from samcancer.files import read_json
from samcancer.taxonomy import Taxonomy, taxonomy_from_yaml

JOINED_NAME = "stores.json"

TAXONOMY_NAME = "taxonomy.yaml"
"""The classes and data sets that a store was prepared with."""

_JOINED_FORMAT = 1

_MEND = "correct the list, or prepare them with the same --class-set, --size and --taxonomy"


def is_store(folder: Path) -> bool:
    """Return whether a folder is a case store, or names some."""
    return (folder / STORE_NAME).is_file() or (folder / JOINED_NAME).is_file()


def store_folders(folder: Path) -> tuple[Path, ...]:
    """Return the stores that a folder names, or the folder itself.

    Raises:
        InputError: When the list is none, or names a store twice.
    """
    path = folder / JOINED_NAME
    if not path.is_file():
        return (folder,)
    content = read_json(path)
    names = content.get("stores") if isinstance(content, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(
            'names no stores: it must hold {"format_version": 1, "stores": [FOLDER, ...]}',
            path=path,
            mend="correct the list",
        )
    if content.get("format_version") != _JOINED_FORMAT:
        raise InputError(
            f"has format version {content.get('format_version')!r}, this program reads "
            f"{_JOINED_FORMAT}",
            path=path,
            mend="correct the list",
        )
    folders = tuple(folder / name for name in names)
    if len({found.resolve() for found in folders}) < len(folders):
        raise InputError("names a store twice", path=path, mend="correct the list")
    for found in folders:
        if (found / JOINED_NAME).is_file():
            raise InputError(
                f"names {found}, which joins stores itself", path=path, mend="name its stores"
            )
    return folders


def common_info(folders: Sequence[Path]) -> StoreInfo:
    """Return what all cases of some stores share.

    Raises:
        InputError: When one is no store, or has other classes or another size than the first.
    """
    first, *others = map(read_store_info, folders)
    for folder, info in zip(folders[1:], others, strict=True):
        if (info.class_names, info.size) != (first.class_names, first.size):
            raise InputError(
                f"holds {info.size} pixels of {', '.join(info.class_names)}, {folders[0]} holds "
                f"{first.size} of {', '.join(first.class_names)}",
                path=folder,
                mend=_MEND,
            )
    return first


def common_taxonomy(folders: Sequence[Path], class_names: Sequence[str]) -> Taxonomy:
    """Return the classes and data sets of some stores.

    Raises:
        InputError: When two define a class or read a data set differently.
    """
    joined = taxonomy_from_yaml(folders[0] / TAXONOMY_NAME)
    for folder in folders[1:]:
        joined = _with(joined, folder, class_names)
    return joined


def common_taxonomy_yaml(folders: Sequence[Path], class_names: Sequence[str]) -> str:
    """Return :func:`common_taxonomy` as YAML; of one store, its file as it is."""
    if len(folders) == 1:
        return (folders[0] / TAXONOMY_NAME).read_text(encoding="utf-8")
    joined = common_taxonomy(folders, class_names)
    return yaml.safe_dump(joined.to_dict(), sort_keys=False, allow_unicode=True)


def _with(joined: Taxonomy, folder: Path, class_names: Sequence[str]) -> Taxonomy:
    more = taxonomy_from_yaml(folder / TAXONOMY_NAME)
    differing = [f"class {n}" for n in class_names if more.classes[n] != joined.classes[n]]
    differing += [
        f"data set {name}"
        for name, spec in more.datasets.items()
        if joined.datasets.get(name, spec) != spec
    ]
    if differing:
        raise InputError(
            f"means something else by {differing[0]} than the stores before it",
            path=folder / TAXONOMY_NAME,
            mend=_MEND,
        )
    return replace(joined, datasets={**more.datasets, **joined.datasets})
