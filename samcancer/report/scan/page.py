"""The page of one scan: slice viewer, lesions, what was looked for, model and warnings.

The page asks for nothing: a content-security policy forbids every request and every script but the
viewer's, which it names by its sha256, so that no text from a file can run. Text of a mask's report
is escaped all the same. The page holds the case id and no path.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

from samcancer import __version__
from samcancer.config import WindowHu
from samcancer.files import write_text_atomic
from samcancer.report.scan.case import ScanCase, read_case
from samcancer.report.scan.checks import Finding, check_scan
from samcancer.report.scan.companding import level_hu
from samcancer.report.scan.frames import Frames, pack_masks, pack_slices
from samcancer.report.scan.key_slices import key_slices_html
from samcancer.report.scan.lesions import ShownLesion, largest_lesions, lesions_of
from samcancer.report.scan.projections import projections_html, thumbnail
from samcancer.report.scan.sections import (
    class_list_html,
    class_section,
    lead,
    lesion_section,
    model_section,
    notes_html,
    warnings_html,
)
from samcancer.taxonomy import Taxonomy
from samcancer.volume_io import CtVolume, ReadOptions, strip_volume_suffix

SUMMARY_ID = "case-summary"
"""Of the element in a page's head that the index of a folder reads."""

PAGE_BYTES = 14_500_000
"""Largest size aimed at: pages stay under 15 MB, which mail and browsers take without trouble."""

_LEAST_SLICES_BYTES = 1_000_000
"""Left for the slices whatever else is on the page."""

PRESETS_HU = {
    "Soft tissue": (-160, 240),
    "Lung": (-1350, 150),
    "Liver": (-10, 150),
    "Bone": (-500, 1300),
}
"""Windows (lowest, highest) of the viewer's buttons and number keys."""

_DEFAULT_READ = ReadOptions()


def write_scan_page(
    path: Path,
    *,
    scan: Path,
    mask: Path,
    report: Mapping[str, Any],
    read: ReadOptions = _DEFAULT_READ,
    ct: CtVolume | None = None,
    labels: npt.NDArray[np.integer[Any]] | None = None,
    taxonomy: Taxonomy | None = None,
) -> None:
    """Write the page of one scan to ``path`` atomically.

    Args:
        path: Of the page, ``.html``.
        scan: A volume file or a DICOM folder.
        mask: Label map on the scan's grid.
        report: What ``infer-volume`` wrote beside the mask; empty for a mask of another program.
        read: Decisions on doubtful headers.
        ct: The scan, where it has been read already.
        labels: The mask (slice, row, column) as in the file, where it is in memory.
        taxonomy: Gives titles and windows; None takes the packaged one.

    Raises:
        InputError: When a file cannot be read, the two lie on different grids, or the page cannot
            be written.
    """
    case = read_case(
        scan,
        mask,
        report,
        read=read,
        case_id=strip_volume_suffix(mask),
        ct=ct,
        labels=labels,
        taxonomy=taxonomy,
    )
    write_text_atomic(path, render_scan(case))


def render_scan(case: ScanCase) -> str:
    """Return the page as HTML text."""
    every_lesion = lesions_of(case)
    lesions = largest_lesions(every_lesion)
    findings = (*(Finding(line, "warning") for line in case.warnings), *check_scan(case))
    folder = resources.files("samcancer.report")
    script = folder.joinpath("scan/viewer.js").read_text(encoding="utf-8")
    sections = "".join(
        (
            lesion_section(case, lesions, left_out=len(every_lesion) - len(lesions)),
            _section("key-slices", "Key slices", _key_slices(case, lesions)),
            class_section(case, every_lesion),
            model_section(case),
        )
    )
    projections = projections_html(case)
    masks = pack_masks(case.labels)
    spent = len(sections) + len(projections) + sum(map(len, masks.values()))
    frames = pack_slices(case.hu, budget_bytes=max(PAGE_BYTES - spent, _LEAST_SLICES_BYTES))
    return Template(folder.joinpath("scan/scan.html").read_text(encoding="utf-8")).substitute(
        version=escape(__version__),
        title=escape(case.case_id),
        lead=escape(lead(case, every_lesion)),
        summary_id=SUMMARY_ID,
        summary=as_json(_summary(case, every_lesion, findings)),
        warnings=warnings_html(findings),
        notes=notes_html(findings),
        style=folder.joinpath("page.css").read_text(encoding="utf-8")
        + folder.joinpath("scan/scan.css").read_text(encoding="utf-8"),
        classes=class_list_html(case),
        projections=projections,
        precision=escape(_precision(frames)),
        sections=sections,
        data=as_json(_data(case, lesions, frames, masks)),
        script=script,
        script_hash=script_hash(script),
        date=datetime.date.today().isoformat(),
    )


def as_json(content: Any) -> str:
    """Return JSON that is safe inside a script element: no text of it can close the element."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def script_hash(script: str) -> str:
    """Return the source expression by which a content-security policy allows this script alone."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _section(key: str, title: str, content: str) -> str:
    return f'<section id="{key}"><h2>{title}</h2>{content}</section>' if content else ""


def _key_slices(case: ScanCase, lesions: tuple[ShownLesion, ...]) -> str:
    figures = key_slices_html(case, lesions)
    return f'<div class="key-slices">{figures}</div>' if figures else ""


def _precision(frames: Frames) -> str:
    size = ""
    if frames.reduction > 1:
        size = (
            f" To keep the page small, {frames.reduction} × {frames.reduction} voxels are shown as "
            "one."
        )
    return (
        "Slices are packed with loss (steps of 3 HU in soft tissue, more in air and bone): HU "
        f"under the pointer are approximate. Outlines follow the voxels of the mask exactly.{size}"
    )


def _data(
    case: ScanCase, lesions: tuple[ShownLesion, ...], frames: Frames, masks: Mapping[int, str]
) -> dict[str, Any]:
    slices, rows, columns = case.hu.shape
    largest = max(lesions, key=lambda lesion: lesion.volume_ml, default=None)
    covered = [-(-side // frames.reduction) * frames.reduction for side in (columns, rows)]
    return {
        "size": [columns, rows, slices],
        "spacing_mm": case.geometry.spacing_mm,
        "origin_mm": case.geometry.origin_mm,
        "axes_mm": case.geometry.axes_mm.tolist(),
        "level_hu": level_hu().round(2).tolist(),
        "reduction": frames.reduction,
        "covered": covered,
        "pictures": frames.pictures,
        "masks": masks,
        "first_slice": largest.key_slice if largest else slices // 2,
        "first_preset": _preset_for(case.class_of(largest.label).window_hu) if largest else 0,
        "presets": [{"name": n, "low": w[0], "high": w[1]} for n, w in PRESETS_HU.items()],
        "classes": [
            {"label": s.label, "title": s.title, "kind": s.kind, "colour": s.colour}
            for s in case.classes
            if s.label is not None
        ],
        "lesions": [asdict(lesion) for lesion in lesions],
    }


def _preset_for(window_hu: WindowHu) -> int:
    """Return the number of the preset that is most like a class's own window."""
    apart = [
        abs(low - window_hu[0]) + abs(high - window_hu[1]) for low, high in PRESETS_HU.values()
    ]
    return apart.index(min(apart))


def _summary(
    case: ScanCase, lesions: tuple[ShownLesion, ...], findings: tuple[Finding, ...]
) -> dict[str, Any]:
    """Return what the index of a folder says about this page."""
    return {
        "case": case.case_id,
        "slices": len(case.hu),
        "spacing_mm": [round(v, 3) for v in case.geometry.spacing_mm],
        "lesions": len(lesions),
        "volumes_ml": {s.title: round(s.volume_ml, 3) for s in case.classes if s.kind == "lesion"},
        "lesion_volumes_ml": [round(lesion.volume_ml, 3) for lesion in lesions],
        "warnings": [f.text for f in findings if f.severity == "warning"],
        "thumbnail": thumbnail(case),
    }
