"""Make a folder of masks one that nnU-Net v2's tools take: ``dataset.json`` and ``plans.json``.

nnU-Net writes both beside its own predictions. The first names the labels and the masks' ending;
of the second ``nnUNetv2_evaluate_folder`` asks only how labels are to be read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from samcancer import __version__
from samcancer.files import write_json_atomic
from samcancer.inference.finished import mask_suffix
from samcancer.inference.merging import written_labels
from samcancer.taxonomy import ClassSpec

_log = logging.getLogger(__name__)

DATASET_FILE, PLANS_FILE = "dataset.json", "plans.json"

_MAKER = "samcancer"
"""Key of both files that says who wrote them: other people's files are left alone."""


def write_nnunet_files(
    output: Path, scans: Mapping[str, Path], classes: tuple[ClassSpec, ...], *, merged: bool
) -> list[Path]:
    """Write both files atomically where they are not there yet; return those that are right now.

    A file of the same name that samcancer did not write stays as it is, such as the report of a
    case called ``dataset``. Nothing is written when the masks are of several formats: nnU-Net knows
    folders of one format only.

    Args:
        output: Folder of the masks.
        scans: Case id -> scan.
        classes: Of the labels.
        merged: Whether lesions of every class are label 1.
    """
    endings = sorted({mask_suffix(scan) for scan in scans.values()})
    if len(endings) != 1:
        _log.info("no %s: masks end in %s", DATASET_FILE, ", ".join(endings))
        return []
    maker = {_MAKER: __version__}
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **written_labels(classes, merged=merged)},
        "file_ending": endings[0],
        **maker,
    }
    plans = {"label_manager": "LabelManager", **maker}
    files = ((output / DATASET_FILE, dataset), (output / PLANS_FILE, plans))
    return [path for path, content in files if _write(path, content)]


def _write(path: Path, content: dict[str, Any]) -> bool:
    if path.exists():
        found = _content_of(path)
        if found == content:
            return True
        if not isinstance(found, dict) or _MAKER not in found:
            _log.warning("%s is not ours and stays as it is", path.name)
            return False
    write_json_atomic(path, content)
    return True


def _content_of(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
