"""Segment what was uploaded, with the steps and the writers of ``samcancer infer-volume``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from samcancer.errors import InputError
from samcancer.geometry import canonicalise
from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import OpenScan, open_scan, predict_scan, write_prediction
from samcancer.report.scan import write_scan_page
from samcancer.serve.archive import ArchiveLimits, unpack_scan
from samcancer.serve.jobs import Progress, Result, Stage
from samcancer.serve.naming import ARCHIVE_SUFFIX, CASE_ID, UNPACKED_FOLDER, only_scan_of
from samcancer.serve.settings import ServeSettings
from samcancer.volume_io.formats import volume_suffix
from samcancer.volume_io.stated_size import stated_voxels

PAGE_NAME = f"{CASE_ID}.html"

_KINDS = {".json": "report", ".html": "page", ".csv": "lesions", ".dcm": "dicom"}
"""Ending -> kind of result; volumes are masks."""


@dataclass(frozen=True)
class ScanEngine:
    """Segments one scan after the other with networks that were loaded once."""

    ensemble: Ensemble
    options: InferenceOptions
    settings: ServeSettings

    def __call__(
        self, uploads: Sequence[Path], output: Path, progress: Progress
    ) -> dict[str, Result]:
        """Segment a scan.

        Args:
            uploads: One volume, one archive, or the files of a DICOM series in one folder.
            output: Empty folder for the results.
            progress: Told of every step; may end the work.

        Returns:
            File name -> result, for every file that was written.

        Raises:
            InputError: When the scan cannot be used.
        """
        progress.stage(Stage.READING)
        scan = self._scan_of(uploads, lambda: progress.stage(Stage.READING))
        self._require_modest_size(scan)
        opened = open_scan(scan, self.options)
        progress.expect_slices(_slices_of(opened))
        progress.stage(Stage.SEGMENTING)
        prediction = predict_scan(
            opened,
            scan,
            output,
            case_id=CASE_ID,
            ensemble=self.ensemble,
            options=self.options,
            on_slices=progress.add_slices,
        )
        progress.stage(Stage.WRITING)
        report = write_prediction(prediction, ensemble=self.ensemble, options=self.options)
        progress.stage(Stage.DRAWING)
        write_scan_page(
            output / PAGE_NAME,
            scan=scan,
            mask=output / report["mask"]["file"],
            report=report,
            read=self.options.read,
            ct=opened.ct,
            labels=prediction.labels,
        )
        return results_in(output)

    def _scan_of(self, uploads: Sequence[Path], on_block: Callable[[], None]) -> Path:
        whole = only_scan_of(list(uploads))
        if whole is None:
            return uploads[0].parent
        if not whole.name.endswith(ARCHIVE_SUFFIX):
            return whole
        limits = ArchiveLimits(self.settings.max_files, self.settings.max_upload_bytes)
        scan = unpack_scan(whole, whole.parent / UNPACKED_FOLDER, limits, on_block=on_block)
        whole.unlink()
        return scan

    def _require_modest_size(self, scan: Path) -> None:
        voxels = stated_voxels(scan)
        if voxels > self.settings.max_voxels:
            raise InputError(
                f"has {voxels / 1e6:.0f} million voxels, and {self.settings.max_voxels / 1e6:.0f} "
                "million are the most",
                path=scan,
                mend="use the command samcancer infer-volume",
            )


def results_in(output: Path) -> dict[str, Result]:
    """Return file name -> result for the files that segmenting has written."""
    found = {}
    for path in sorted(p for p in output.iterdir() if p.is_file()):
        kind = "mask" if volume_suffix(path) else _KINDS.get(path.suffix, "other")
        found[path.name] = Result(path, kind, path.stat().st_size)
    return found


def _slices_of(opened: OpenScan) -> int:
    """Return the slices that the network goes through, whatever the orientation of the file."""
    return len(canonicalise(opened.ct.hu, opened.ct.geometry)[0])
