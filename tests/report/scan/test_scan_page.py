"""The page of a scan as text: what it holds, what it never holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scan_cases import REPORT, write_scan

from samcancer.report.scan import write_scan_page
from samcancer.report.scan.page import as_json, script_hash


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


def test_the_page_says_what_was_looked_for_and_not_found(tmp_path: Path) -> None:
    text = page_text(tmp_path)
    (row,) = re.findall(r'<tr><th scope="row">lung lesion</th>(.*?)</tr>', text)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == ["lesion", "not found", "0.03", "0.60"]
    assert "ab" * 32 in text
    assert "not a medical device" in text


def test_a_mask_without_a_report_claims_no_search(tmp_path: Path) -> None:
    scan, mask = write_scan(tmp_path)
    page = tmp_path / "page.html"
    write_scan_page(page, scan=scan, mask=mask, report={})
    text = page.read_text(encoding="utf-8")
    assert "What was looked for" not in text
    assert "Classes of the mask" in text
    assert "the mask has no report beside it" in text


def test_the_largest_lesion_decides_slice_and_window(tmp_path: Path) -> None:
    """The lung's own window, -1300 to 300 HU, is nearest to the preset Lung, the second."""
    labels = {"background": 0, "lung_lesion": 1, "kidney_lesion": 2}
    data = data_of(page_text(tmp_path, labels=labels))
    assert (data["first_preset"], data["first_slice"]) == (1, 5)
    assert data_of(page_text(tmp_path))["first_preset"] == 0


def test_warnings_of_reading_stand_before_those_of_the_checks(tmp_path: Path) -> None:
    text = page_text(tmp_path, warnings=["axes sheared by 0.010 degrees were straightened"])
    told = re.findall(r"<strong>Warning:</strong> (.*?)</li>", text)
    assert told[0].startswith("axes sheared")
    assert data_of(text, "case-summary")["warnings"] == told


def test_the_policy_names_the_viewer_alone_and_allows_no_request(tmp_path: Path) -> None:
    text = page_text(tmp_path)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    assert policy.startswith("default-src 'none'; img-src data:;")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert f"script-src '{script_hash(script)}'" in policy


def test_numbers_that_are_none_are_refused_rather_than_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"mean_hu": float("nan")})
