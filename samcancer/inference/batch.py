"""Segment many scans with one loaded model; a scan that fails does not stop the others.

While the network works on a scan, the next one is read and the mask of the last one is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from samcancer.cohort.part_lock import cohort_lock
from samcancer.cohort.partition import Part
from samcancer.errors import InputError, fact_of, refusal_of
from samcancer.files import (
    is_safe_name,
    remove_stale_temporaries,
    require_own_folder,
    require_writable_folder,
)
from samcancer.inference.extras import PER_CLASS_FOLDER, PROBABILITY_FOLDER
from samcancer.inference.finished import finished_report
from samcancer.inference.models import Ensemble
from samcancer.inference.nnunet_folder import write_nnunet_files
from samcancer.inference.options import InferenceOptions
from samcancer.inference.prompts import NO_PROMPTS, CasePrompts
from samcancer.inference.scan import (
    OpenScan,
    Prediction,
    open_scan,
    predict_scan,
    write_prediction,
)
from samcancer.volume_io import VOLUME_SUFFIXES, case_id_of, find_volumes
from samcancer.volume_io.dicom_folders import find_dicom_folders, folder_case_id
from samcancer.volume_io.formats import is_dicom_file, volume_suffix

_log = logging.getLogger(__name__)


@dataclass
class BatchResult:
    """Case ids by outcome, in the order of the input."""

    finished: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Case id -> one line that says what is wrong."""
    facts: dict[str, str] = field(default_factory=dict)
    """The same without any path, as a page may say it."""


def find_scans(inputs: Iterable[Path], *, series: str | None = None) -> dict[str, Path]:
    """Return case id -> scan for files, folders of scans and DICOM folders, in order.

    Args:
        inputs: Volumes; DICOM files, which stand for their folder; folders, which are looked
            through for DICOM series in subfolders too.
        series: Of the DICOM folders below an input take those with this SeriesInstanceUID.

    Raises:
        InputError: When an input is missing, a folder holds no scan, or volumes lie among DICOM
            files, or two scans share a case id.
    """
    scans: dict[str, Path] = {}
    for given in inputs:
        if not given.exists():
            raise InputError("no such file or folder", path=given, mend="check --input")
        for case_id, scan in _scans_of(given, series):
            if not is_safe_name(case_id):
                raise InputError(
                    f"{case_id!r} cannot be a case id, which results are named after",
                    path=scan,
                    mend="rename it",
                )
            if scans.get(case_id) == scan and given.is_file() and scan.is_dir():
                continue  # another file of the same series
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


def named_dicom_files(inputs: Iterable[Path]) -> frozenset[Path]:
    """Return the single DICOM files among the inputs, for ``ReadOptions.files``."""
    return frozenset(path.resolve() for path in inputs if is_dicom_file(path))


def segment_scans(
    scans: Mapping[str, Path],
    output: Path,
    *,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: Mapping[str, CasePrompts] | None = None,
    skip_finished: bool = False,
    part: Part | None = None,
    on_case: Callable[[str], None] = lambda _: None,
    on_slices: Callable[[int], None] = lambda _: None,
    on_done: Callable[[str], None] = lambda _: None,
) -> BatchResult:
    """Segment every scan into ``output``.

    Args:
        scans: Case id -> scan.
        output: Folder of the results; one process at a time.
        ensemble: The networks.
        options: What to compute and write.
        prompts: Case id -> what a person says about the case.
        skip_finished: Leave cases alone whose report and mask prove to be finished.
        part: Which part of a larger cohort the scans are; None for all of it.
        on_case: Called with the case id when a case begins.
        on_slices: Called with the number of slices done since the last call.
        on_done: Called with the case id when a case has ended.

    Raises:
        InputError: When the output folder cannot be written, or another process writes to it.
    """
    require_writable_folder(output)
    result = BatchResult()
    with locked_output(output, part):
        segment_share(
            scans,
            output,
            result=result,
            ensemble=ensemble,
            options=options,
            prompts=prompts or {},
            skip_finished=skip_finished,
            on_case=on_case,
            on_slices=on_slices,
            on_done=on_done,
        )
        if part is None and (result.finished or result.skipped):
            write_nnunet_files(output, scans, ensemble.classes, merged=options.merge_lesions)
    return result


def segment_share(
    scans: Mapping[str, Path],
    output: Path,
    *,
    result: BatchResult,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: Mapping[str, CasePrompts],
    skip_finished: bool,
    on_case: Callable[[str], None],
    on_slices: Callable[[int], None],
    on_done: Callable[[str], None] = lambda _: None,
) -> None:
    """Segment scans in this process; arguments as for :func:`segment_scans`.

    The caller, or its parent process, holds the lock of the output folder. Outcomes are put into
    ``result`` as they come.
    """
    steps = _Steps(scans, output, ensemble, options, prompts, skip_finished, result)
    with (
        ThreadPoolExecutor(1, "read-scan") as reader,
        ThreadPoolExecutor(1, "write-mask") as writer,
    ):
        case_ids = list(scans)
        opening = reader.submit(steps.open, case_ids[0])
        finishing: Future[None] | None = None
        for case_id, following in zip(case_ids, [*case_ids[1:], None], strict=True):
            on_case(case_id)
            opening.result()
            if following is not None:
                opening = reader.submit(steps.open, following)
            steps.predict(case_id, on_slices)
            if finishing is not None:
                finishing.result()
            finishing = writer.submit(_in_turn, steps.finish, on_done, case_id)
        if finishing is not None:
            finishing.result()


def _in_turn(finish: Callable[[str], None], on_done: Callable[[str], None], case_id: str) -> None:
    finish(case_id)
    on_done(case_id)


@contextmanager
def locked_output(output: Path, part: Part | None) -> Iterator[None]:
    """Hold the lock of a folder of results; a part leaves the others' unfinished files alone."""
    with cohort_lock(output, purpose="infer-volume", part=part):
        if part is None:
            remove_stale_files(output)
        else:
            _extra_folders(output)
        yield


def remove_stale_files(output: Path) -> None:
    """Delete what a killed process left unfinished in a folder of results whose lock is held."""
    for folder in (output, *_extra_folders(output)):
        remove_stale_temporaries(folder)


def _extra_folders(output: Path) -> list[Path]:
    """Return the folders of the cases' extras; refuse links among them."""
    found = []
    for extras in (output / PER_CLASS_FOLDER, output / PROBABILITY_FOLDER):
        require_own_folder(extras)
        for folder in extras.glob("*"):
            require_own_folder(folder)
            found.append(folder)
    return found


@dataclass
class _Steps:
    """The steps of every scan, each in its own thread, and what waits between them.

    At most three scans are under way: one is read, one predicted, one written.
    """

    scans: Mapping[str, Path]
    output: Path
    ensemble: Ensemble
    options: InferenceOptions
    prompts: Mapping[str, CasePrompts]
    skip_finished: bool
    result: BatchResult
    _waiting: dict[str, OpenScan | Prediction | Exception | None] = field(default_factory=dict)
    """Case id -> what its last step gave; None for a case that is finished already."""

    def open(self, case_id: str) -> None:
        """Read the scan, unless its mask is finished."""
        self._advance(case_id, self._open)

    def predict(self, case_id: str, on_slices: Callable[[int], None]) -> None:
        """Predict what was read."""
        self._advance(case_id, partial(self._predict, on_slices=on_slices))

    def finish(self, case_id: str) -> None:
        """Write what was predicted, and note how the case went."""
        self._advance(case_id, self._write)
        outcome = self._waiting.pop(case_id)
        if isinstance(outcome, Exception):
            self.result.failures[case_id] = _one_line(outcome, self.scans[case_id])
            self.result.facts[case_id] = fact_of(outcome)
            _log.info("%s failed", case_id)
            _log.debug("traceback of %s", case_id, exc_info=outcome)
        elif outcome is None:
            self.result.skipped.append(case_id)
        else:
            self.result.finished.append(case_id)

    def _advance(self, case_id: str, step: Callable[[str, Any], Any]) -> None:
        """Hand on what waits to the next step; a failure takes its place."""
        try:
            self._waiting[case_id] = step(case_id, self._waiting.pop(case_id, None))
        except Exception as error:
            self._waiting[case_id] = error

    def _open(self, case_id: str, _: None) -> OpenScan | None:
        finished = self.skip_finished and finished_report(
            self.scans[case_id],
            self.output,
            case_id=case_id,
            ensemble=self.ensemble,
            options=self.options,
            prompts=self._prompts(case_id),
        )
        return None if finished else open_scan(self.scans[case_id], self.options)

    def _predict(
        self, case_id: str, opened: Any, *, on_slices: Callable[[int], None]
    ) -> Prediction | Exception | None:
        if not isinstance(opened, OpenScan):
            return opened  # type: ignore[no-any-return]
        return predict_scan(
            opened,
            self.scans[case_id],
            self.output,
            case_id=case_id,
            ensemble=self.ensemble,
            options=self.options,
            prompts=self._prompts(case_id),
            on_slices=on_slices,
        )

    def _write(self, case_id: str, prediction: Any) -> Prediction | Exception | None:
        if isinstance(prediction, Prediction):
            write_prediction(
                prediction,
                ensemble=self.ensemble,
                options=self.options,
                prompts=self._prompts(case_id),
            )
        return prediction  # type: ignore[no-any-return]

    def _prompts(self, case_id: str) -> CasePrompts:
        return self.prompts.get(case_id, NO_PROMPTS)


def _scans_of(given: Path, series: str | None) -> list[tuple[str, Path]]:
    """Return (case id, scan) of an input: its volumes, then its DICOM folders."""
    if given.is_file() and not is_dicom_file(given):
        return [(case_id_of(scan), scan) for scan in find_volumes(given)]
    if given.is_file():
        folder = given.resolve().parent
        return [(folder_case_id(folder), folder)]
    volumes = find_volumes(given) if any(map(volume_suffix, given.iterdir())) else []
    loose = [path for path in given.iterdir() if is_dicom_file(path)]
    if volumes and loose:
        raise InputError(
            f"holds {len(volumes)} volumes among {len(loose)} DICOM files",
            path=given,
            mend="name the files that you mean, or move one kind to a folder of its own",
        )
    found = find_dicom_folders(given, series=series)
    folders = found.cases
    if not volumes and not folders:
        if not loose:
            wanted = "no CT" if series is None else f"nothing of the series {series}"
            where = f", and {wanted} in {len(found.left_out)} DICOM folders"
            where = where if found.left_out else ""
            raise InputError(
                f"holds no {', '.join(VOLUME_SUFFIXES)} or DICOM file{where}",
                path=given,
                mend="name another folder",
            )
        folders = (given,)  # reading it says what it holds instead
    if volumes and folders:
        _log.info("%d volumes and %d DICOM folders are taken", len(volumes), len(folders))
    if folders and (rest := set(found.left_out) - set(folders)):
        what = "no CT slices" if series is None else "nothing of the series"
        _log.warning("%d DICOM folders were left out: they hold %s", len(rest), what)
    return [(case_id_of(scan), scan) for scan in volumes] + [
        (folder_case_id(folder, below=given), folder.resolve()) for folder in folders
    ]


def _one_line(error: Exception, scan: Path) -> str:
    """Return what is wrong, without the folders above the scan, which may hold a patient's name."""
    refusal = refusal_of(error, scan)
    path = refusal.path or scan
    inside = path.is_relative_to(scan)
    shown = Path(scan.name, path.relative_to(scan)) if inside else path.name
    return str(InputError(refusal.fact, path=shown, mend=refusal.mend))
