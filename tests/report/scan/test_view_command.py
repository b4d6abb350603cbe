"""``samcancer view`` from folders to pages and their index."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from scan_cases import GEOMETRY, REPORT, scan_hu, write_scan

from samcancer.commands import run_verb
from samcancer.report.scan.index import page_name, read_rows
from samcancer.volume_io import write_ct


def view(folder: Path, *options: str) -> int:
    arguments = ["--images", str(folder / "images"), "--masks", str(folder / "masks")]
    return run_verb("view", [*arguments, "--output", str(folder / "pages"), "--quiet", *options])


def test_every_case_gets_a_page_and_a_row_of_the_index(tmp_path: Path) -> None:
    for case_id in ("a", "b"):
        _, mask = write_scan(tmp_path, case_id)
        report = {**REPORT, "case": case_id}
        mask.with_name(f"{case_id}.json").write_text(json.dumps(report))
    assert view(tmp_path, "--title", "Two & more") == 0
    pages = sorted(p.name for p in (tmp_path / "pages").glob("*.html"))
    assert pages == ["a.html", "b.html", "index.html"]
    text = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    assert "<h1>Two &amp; more</h1>" in text
    assert re.findall(r'<th scope="row" data-key="(\w+)">', text) == ["a", "b"]
    first, _ = read_rows(tmp_path / "pages")
    assert first.lesion_volumes_ml == pytest.approx((2 * 36 * 0.02, 480 * 0.02)[::-1])
    assert first.volumes_ml["liver lesion"] == pytest.approx(480 * 0.02)


def test_a_failing_case_is_listed_without_its_path_and_the_others_are_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_scan(tmp_path, "good")
    _, mask = write_scan(tmp_path, "bad")
    mask.write_bytes(mask.read_bytes()[:-40])
    write_ct(tmp_path / "images" / "maskless.nii.gz", scan_hu(), GEOMETRY)
    (tmp_path / "masks" / "lonely.nii.gz").write_bytes(b"never read")
    with caplog.at_level(logging.ERROR):
        assert view(tmp_path) == 1
    pages = sorted(p.name for p in (tmp_path / "pages").glob("*.html"))
    assert pages == ["good.html", "index.html"]
    text = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    assert "<strong>bad:</strong>" in text
    assert "<strong>lonely:</strong> there is a mask and no scan of this name." in text
    assert str(tmp_path) not in text
    assert "bad" in caplog.text


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    write_scan(tmp_path, "case")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / ".tmp-0123-case.html").write_text("half a page")
    assert view(tmp_path) == 0
    pages = sorted(p.name for p in (tmp_path / "pages").iterdir() if p.name != ".lock")
    assert pages == ["case.html", "index.html"]


def test_no_page_holds_a_path(tmp_path: Path) -> None:
    write_scan(tmp_path, "case")
    assert view(tmp_path) == 0
    for page in (tmp_path / "pages").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert ".nii" not in text


def test_classes_can_be_told_where_no_report_does(tmp_path: Path) -> None:
    write_scan(tmp_path, "case")
    assert view(tmp_path, "--labels", "liver_lesion=1,kidney_lesion=2") == 0
    (row,) = read_rows(tmp_path / "pages")
    assert set(row.volumes_ml) == {"liver lesion", "kidney lesion"}


def test_a_json_that_is_no_report_fails_its_case_alone(tmp_path: Path) -> None:
    _, mask = write_scan(tmp_path, "case")
    mask.with_name("case.json").write_text("[1, 2]")
    assert view(tmp_path) == 1
    text = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    assert "is no report of infer-volume" in text


def test_a_report_with_values_of_other_kinds_fails_its_case_alone(tmp_path: Path) -> None:
    _, mask = write_scan(tmp_path, "case")
    mask.with_name("case.json").write_text(json.dumps({**REPORT, "lesions": [{"lesion_id": 1}]}))
    assert view(tmp_path) == 1
    text = (tmp_path / "pages" / "index.html").read_text(encoding="utf-8")
    assert "<strong>case:</strong> unexpected KeyError" in text


def test_a_report_with_a_number_that_is_none_makes_no_broken_page(tmp_path: Path) -> None:
    _, mask = write_scan(tmp_path, "case")
    classes = {"liver_lesion": {"kind": "lesion", "presence_max": float("nan")}}
    mask.with_name("case.json").write_text(json.dumps({**REPORT, "classes": classes}))
    assert view(tmp_path) == 0


def test_missing_folders_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert view(tmp_path) == 2
    assert "images: no such folder. Check --images." in capsys.readouterr().err


def test_foreign_pages_in_the_folder_are_left_out_of_the_index(tmp_path: Path) -> None:
    write_scan(tmp_path, "case")
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "other.html").write_text("<p>not ours</p>")
    (pages / "broken.html").write_text(
        '<script type="application/json" id="case-summary">{"case": 1}</script>'
    )
    assert view(tmp_path) == 0
    assert [row.case_id for row in read_rows(pages)] == ["case"]


def test_a_case_called_index_steps_aside() -> None:
    assert page_name("index") == "index_.html"
    assert page_name("Index") == "Index_.html"
    assert page_name("case 7") == "case 7.html"


def test_a_scan_stored_as_dicom_is_found_by_its_folder(tmp_path: Path) -> None:
    from samcancer.report.scan.pages import find_sources

    _, mask = write_scan(tmp_path, "series")
    (tmp_path / "images" / "series_0000.nii.gz").unlink()
    (tmp_path / "images" / "series").mkdir()
    (tmp_path / "images" / "notes.txt").write_text("a stray file")
    sources, failures = find_sources(tmp_path / "images", tmp_path / "masks")
    assert failures == {}
    assert sources["series"].scan == tmp_path / "images" / "series"
    assert sources["series"].mask == mask


def test_an_empty_mask_gets_a_page_that_says_so(tmp_path: Path) -> None:
    from samcancer.volume_io import write_labels

    _, mask = write_scan(tmp_path, "healthy")
    write_labels(mask, np.zeros(GEOMETRY.shape, dtype=np.uint8), GEOMETRY)
    assert view(tmp_path, "--labels", "liver_lesion=1") == 0
    text = (tmp_path / "pages" / "healthy.html").read_text(encoding="utf-8")
    assert "No lesion is outlined on this scan." in text
    assert '<section id="key-slices">' not in text
