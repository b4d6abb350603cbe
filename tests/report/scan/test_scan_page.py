"""The page of a scan as text: what it holds, what it never holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

from scan_cases import REPORT, write_scan

from samcancer.report.scan import write_scan_page


def page_text(tmp_path: Path, **changes: object) -> str:
    scan, mask = write_scan(tmp_path)
    page = tmp_path / "page.html"
    write_scan_page(page, scan=scan, mask=mask, report={**REPORT, **changes})
    return page.read_text(encoding="utf-8")


def data_of(text: str, key: str = "scan-data") -> dict[str, object]:
    found = re.search(f'<script type="application/json" id="{key}">(.*?)</script>', text, re.S)
    assert found
    return dict(json.loads(found[1]))


def test_the_page_holds_one_picture_a_slice_and_the_masks_of_labelled_slices(
    tmp_path: Path,
) -> None:
    data = data_of(page_text(tmp_path))
    assert data["size"] == [48, 40, 20]
    assert len(data["pictures"]) == 20  # type: ignore[arg-type]
    assert sorted(map(int, data["masks"])) == [*range(5, 9), *range(12, 14)]  # type: ignore[call-overload]


def test_text_of_a_report_cannot_become_markup(tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    text = page_text(
        tmp_path,
        case=hostile,
        labels={"background": 0, hostile: 1, "kidney_lesion": 2},
        software=hostile,
        warnings=[hostile],
    )
    assert "<script>alert" not in text
    assert "<img" not in text
    assert data_of(text, "case-summary")["case"] == hostile
