"""Pages of many scans and their index; a scan that fails does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcancer.errors import InputError, fact_of, refusal_of
from samcancer.files import folder_lock, read_json, remove_stale_temporaries
from samcancer.report.scan.case import classes_report
from samcancer.report.scan.index import page_name, write_index
from samcancer.report.scan.page import write_scan_page
from samcancer.taxonomy import Taxonomy
from samcancer.volume_io import ReadOptions, case_id_of, find_volumes, strip_volume_suffix
from samcancer.volume_io.formats import volume_suffix

_log = logging.getLogger(__name__)

_DEFAULT_READ = ReadOptions()


@dataclass(frozen=True)
class PageSource:
    """What one page is made of."""

    scan: Path
    mask: Path


def find_sources(images: Path, masks: Path) -> tuple[dict[str, PageSource], dict[str, str]]:
    """Return case id -> scan and mask, and case id -> what is wrong for masks without a scan.

    A case's scan is a volume of its name in ``images``, or a DICOM folder of its name.

    Raises:
        InputError: When a folder is missing, or there is no mask.
    """
    if not images.is_dir():
        raise InputError("no such folder", path=images, mend="check --images")
    volumes = find_volumes(images) if any(map(volume_suffix, images.iterdir())) else []
    scans = {case_id_of(p): p for p in volumes}
    sources, failures = {}, {}
    for mask in find_volumes(masks):
        case_id = strip_volume_suffix(mask)
        folder = images / case_id
        scan = scans.get(case_id, folder if folder.is_dir() else None)
        if scan is None:
            failures[case_id] = "there is a mask and no scan of this name"
        else:
            sources[case_id] = PageSource(scan, mask)
    return sources, failures


def sources_of_reports(output: Path, scans: Mapping[str, Path]) -> dict[str, PageSource]:
    """Return what pages have to be written after ``infer-volume``: those not newer than the report.

    Args:
        output: Folder of the masks, their reports and the pages.
        scans: Case id -> scan, of segmented cases.
    """
    sources = {}
    for case_id, scan in scans.items():
        report, page = output / f"{case_id}.json", output / page_name(case_id)
        if page.is_file() and page.stat().st_mtime_ns >= report.stat().st_mtime_ns:
            continue
        sources[case_id] = PageSource(scan, output / read_json(report)["mask"]["file"])
    return sources


def write_pages(
    sources: Mapping[str, PageSource],
    output: Path,
    *,
    read: ReadOptions = _DEFAULT_READ,
    labels: Mapping[str, Iterable[int]] | None = None,
    taxonomy: Taxonomy | None = None,
    failures: Mapping[str, str] | None = None,
    title: str = "Scans",
    on_case: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Write a page for every case and then the index; return case id -> what went wrong.

    Args:
        sources: Case id -> scan and mask; a report beside the mask, ``<case>.json``, is used.
        output: Folder of the pages; one process at a time.
        read: Decisions on doubtful headers.
        labels: Class name -> values, for masks that have no report beside them.
        taxonomy: Gives titles and windows; None takes the packaged one.
        failures: Case id -> why it cannot have a page; listed on the index and returned.
        title: Heading of the index.
        on_case: Called with the case id when its page is begun.

    Raises:
        InputError: When the output folder cannot be written, or another process writes to it.
    """
    failed = dict(failures or {})
    with folder_lock(output, purpose="scan pages"):
        remove_stale_temporaries(output)
        for case_id, source in sources.items():
            on_case(case_id)
            try:
                write_scan_page(
                    output / page_name(case_id),
                    scan=source.scan,
                    mask=source.mask,
                    report=_report_beside(source.mask, case_id, labels),
                    read=read,
                    taxonomy=taxonomy,
                )
            except Exception as error:
                failed[case_id] = fact_of(error)
                _log.error("%s", refusal_of(error, source.mask))
                _log.debug("traceback of %s", case_id, exc_info=error)
        write_index(output, title=title, failures=failed)
    return failed


def _report_beside(
    mask: Path, case_id: str, labels: Mapping[str, Iterable[int]] | None
) -> Mapping[str, Any]:
    path = mask.with_name(f"{case_id}.json")
    if path.is_file():
        report = read_json(path)
        if not isinstance(report, dict) or "labels" not in report:
            raise InputError(
                "is no report of infer-volume", path=path, mend="move it to another folder"
            )
        return report
    return classes_report(case_id, labels) if labels else {}
