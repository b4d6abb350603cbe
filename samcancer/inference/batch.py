"""Segment many scans with one loaded model; a scan that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samcancer.errors import InputError
from samcancer.files import folder_lock, remove_stale_temporaries, require_writable_folder
from samcancer.inference.models import Ensemble
from samcancer.inference.prompts import NO_PROMPTS, CasePrompts
from samcancer.inference.scan import (
    PER_CLASS_FOLDER,
    PROBABILITY_FOLDER,
    InferenceOptions,
    finished_report,
    segment_scan,
)
from samcancer.volume_io import find_volumes, strip_volume_suffix
from samcancer.volume_io.formats import volume_suffix

_log = logging.getLogger(__name__)

_CHANNEL_SUFFIX = "_0000"
"""What nnU-Net appends to the case id in the name of a case's first (and for CT only) image."""


@dataclass
class BatchResult:
    """Case ids by outcome, in the order of the input."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Case id -> one line that says what is wrong."""


def find_scans(inputs: Iterable[Path]) -> dict[str, Path]:
    """Return case id -> scan for files, folders of scans and DICOM folders, in order.

    Raises:
        InputError: When an input is missing, a folder is empty, or two scans share a case id.
    """
    scans: dict[str, Path] = {}
    for given in inputs:
        if not given.exists():
            raise InputError("no such file or folder", path=given, mend="check --input")
        for scan in _scans_of(given):
            case_id = case_id_of(scan)
            if case_id in scans:
                raise InputError(
                    f"has the case id {case_id!r}, as {scans[case_id]} has",
                    path=scan,
                    mend="rename one of them or use two output folders",
                )
            scans[case_id] = scan
    if not scans:
        raise InputError("no scans given")
    return scans


def case_id_of(scan: Path) -> str:
    """Return the name of a scan without its suffix and nnU-Net's channel number."""
    return strip_volume_suffix(scan).removesuffix(_CHANNEL_SUFFIX)


def segment_scans(
    scans: Mapping[str, Path],
    output: Path,
    *,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: Mapping[str, CasePrompts] | None = None,
    skip_finished: bool = False,
    on_case: Callable[[str], None] = lambda _: None,
    on_slices: Callable[[int], None] = lambda _: None,
) -> BatchResult:
    """Segment every scan into ``output``.

    Args:
        scans: Case id -> scan.
        output: Folder of the results; one process at a time.
        ensemble: The networks.
        options: What to compute and write.
        prompts: Case id -> what a person says about the case.
        skip_finished: Leave cases alone whose report and mask prove to be finished.
        on_case: Called with the case id when a case begins.
        on_slices: Called with the number of slices done since the last call.

    Raises:
        InputError: When the output folder cannot be written, or another process writes to it.
    """
    require_writable_folder(output)
    result = BatchResult()
    with folder_lock(output, purpose="infer-volume"):
        _remove_stale_files(output)
        for case_id, scan in scans.items():
            on_case(case_id)
            case_prompts = (prompts or {}).get(case_id, NO_PROMPTS)
            try:
                if skip_finished and finished_report(
                    scan,
                    output,
                    case_id=case_id,
                    ensemble=ensemble,
                    options=options,
                    prompts=case_prompts,
                ):
                    result.skipped.append(case_id)
                    continue
                segment_scan(
                    scan,
                    output,
                    case_id=case_id,
                    ensemble=ensemble,
                    options=options,
                    prompts=case_prompts,
                    on_slices=on_slices,
                )
                result.finished.append(case_id)
            except Exception as error:
                result.failures[case_id] = _one_line(error)
                _log.error("%s failed: %s", case_id, result.failures[case_id])
                _log.debug("traceback of %s", case_id, exc_info=True)
    return result


def _scans_of(given: Path) -> list[Path]:
    """Return the volumes of a folder; a folder without any is taken as a DICOM series."""
    if given.is_dir() and not any(volume_suffix(path) for path in given.iterdir()):
        return [given.resolve()]
    return find_volumes(given)


def _remove_stale_files(output: Path) -> None:
    for folder in (
        output,
        *output.glob(f"{PER_CLASS_FOLDER}/*"),
        *output.glob(f"{PROBABILITY_FOLDER}/*"),
    ):
        remove_stale_temporaries(folder)


def _one_line(error: Exception) -> str:
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    return text.replace("\n", " ")
