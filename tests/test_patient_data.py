"""What identifies a patient in DICOM reaches no output, store, log or error of any kind."""

from __future__ import annotations

import gzip
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR

sys.path.insert(0, str(Path(__file__).parent / "volume_io"))
sys.path.insert(0, str(Path(__file__).parent / "data_prep"))
sys.path.insert(0, str(Path(__file__).parent / "inference"))

from dicom_cases import box_contours, box_mask, write_rtstruct, write_seg, write_table
from segmentation_fakes import FRAME_OF_REFERENCE, segment
from series_fakes import (
    CANARY,
    DATES,
    IDENTIFYING_TAGS,
    OTHER_SERIES,
    SLICES,
    ct_slice,
    save,
    with_canaries,
)
from test_infer_command import save_run

from samcancer.commands import run_verb
from samcancer.volume_io import read_ct

CANARIES = (CANARY, "19700101", "054Y")
"""Every identifying value holds one of these."""

OBJECT_TAGS = ("ContentCreatorName", "StructureSetLabel", "StructureSetName", "ReviewerName")
"""Where objects drawn on a scan name people besides."""

TAXONOMY = """
datasets:
  Clinic:
    annotates: [liver, liver_tumor]
    structures: {BODY: null}
"""

LIVER, TUMOR = (1, 1, 6, 5), (2, 2, 4, 4)


def marked(path: Path, **changes: Any) -> Path:
    """Give an object the canaries of a scan."""
    content = with_canaries(pydicom.dcmread(path))
    for name in OBJECT_TAGS:
        setattr(content, name, f"{CANARY} {name}"[:16])
    for name, value in changes.items():
        setattr(content, name, value)
    content.save_as(path)
    return path


def write_case(folder: Path) -> None:
    """A scan with an RTSTRUCT and a SEG, all of them full of canaries."""
    (folder / "ct").mkdir(parents=True)
    for z in range(SLICES):
        content = ct_slice(z, FrameOfReferenceUID=FRAME_OF_REFERENCE)
        save(folder / "ct" / f"{z}.dcm", with_canaries(content))
    geometry = read_ct(folder / "ct").geometry
    regions = {
        "Liver": box_contours(geometry, LIVER, 1, 2, 3),
        "Liver tumor": box_contours(geometry, TUMOR, 2),
        "BODY": [],
    }
    marked(write_rtstruct(folder / "rs.dcm", regions))
    masks = {1: box_mask(LIVER, 1, 2), 2: box_mask(TUMOR, 2)}
    segments = [segment(1, "Liver"), segment(2, "liver_tumor")]
    marked(write_seg(folder / "seg.dcm", masks, segments, geometry))


def changed(path: Path, **changes: Any) -> None:
    content = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(content, name, value)
    content.save_as(path)


def cut(path: Path, share: float = 0.8) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def overwritten(path: Path, old: bytes) -> None:
    """Put a canary where a number or a UID belongs."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, CANARY.encode()[: len(old)].ljust(len(old), b"x")))


def rename_region(folder: Path) -> None:
    content = pydicom.dcmread(folder / "rs.dcm")
    content.StructureSetROISequence[0].ROIName = "GTV-9"
    content.save_as(folder / "rs.dcm")


SCAN_FAULTS: dict[str, Callable[[Path], object]] = {
    "missing slice": lambda f: (f / "ct" / "3.dcm").unlink(),
    "two series": lambda f: changed(f / "ct" / "5.dcm", SeriesInstanceUID=OTHER_SERIES),
    "cut slice": lambda f: cut(f / "ct" / "2.dcm"),
    "cut pixels": lambda f: cut(f / "ct" / "2.dcm", 0.98),
    "cut header": lambda f: cut(f / "ct" / "2.dcm", 0.3),
    "a name for a number": lambda f: overwritten(f / "ct" / "2.dcm", b"-1024"),
    "a name for a modality": lambda f: [
        changed(p, Modality=f"{CANARY}") for p in (f / "ct").iterdir()
    ],
    "tilted": lambda f: changed(f / "ct" / "2.dcm", ImagePositionPatient=[7.0, 8.0, 9.0]),
    "not HU": lambda f: changed(f / "ct" / "2.dcm", RescaleType=CANARY),
}

LABEL_FAULTS: dict[str, Callable[[Path], object]] = {
    "another patient": lambda f: changed(f / "rs.dcm", PatientID=f"{CANARY} other"),
    "unknown structure": rename_region,
    "cut structures": lambda f: cut(f / "rs.dcm"),
    "a name for a coordinate": lambda f: overwritten(f / "rs.dcm", b"17.90"),
    "a name for a contour type": lambda f: overwritten(f / "rs.dcm", b"CLOSED_PLANAR"),
    "another modality": lambda f: changed(f / "rs.dcm", Modality=CANARY),
}


pytestmark = pytest.mark.figure("names", "prepare-slices and infer-volume")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Everything logged and printed so far."""
    caplog.set_level(logging.INFO)
    seen: list[str] = []

    def everything() -> str:
        seen.extend(capfd.readouterr())
        return " ".join([*seen, caplog.text, *(str(r.args) for r in caplog.records)])

    return everything


def texts_of(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every byte below a folder: names, files, and what packed files hold."""
    for path in sorted(folder.rglob("*")):
        yield path, str(path.relative_to(folder)).encode()
        if not path.is_file():
            continue
        yield path, path.read_bytes()
        if path.name.endswith(".gz"):
            yield path, gzip.decompress(path.read_bytes())
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                items = [file]
                file.visititems(lambda _, item, into=items: into.append(item))
                for item in items:
                    yield path, repr({k: _plain(v) for k, v in item.attrs.items()}).encode()
                    if isinstance(item, h5py.Dataset):
                        yield path, np.asarray(item[()]).tobytes()


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def require_no_canary(folder: Path, text: str) -> None:
    for canary in CANARIES:
        assert canary not in text
        for path, content in texts_of(folder):
            assert canary.encode() not in content, path


def prepare(tmp_path: Path, rows: list[dict[str, str]]) -> int:
    (tmp_path / "mine.yaml").write_text(TAXONOMY)
    table = write_table(tmp_path / "cases.csv", rows)
    words = ["--input", table, "--output", tmp_path / "store", "--taxonomy", tmp_path / "mine.yaml"]
    options = ["--dataset", "Clinic", "--size", "16", "--workers", "1"]
    return run_verb("prepare-slices", [*map(str, words), *options])


def infer(tmp_path: Path, *inputs: Path) -> int:
    run = save_run(tmp_path / "run")
    words = ["--input", *inputs, "--output", tmp_path / "out", "--model", run, "--device", "cpu"]
    return run_verb("infer-volume", list(map(str, words)))


def test_at_least_thirty_tags_name_the_patient() -> None:
    assert len(IDENTIFYING_TAGS) >= 30
    content = with_canaries(ct_slice(0))
    for name in IDENTIFYING_TAGS:
        value = str(content[name].value)
        assert any(canary in value for canary in CANARIES), name
    assert set(DATES.values()) == set(CANARIES)
    assert {dictionary_VR(name) for name in OBJECT_TAGS} <= {"PN", "SH", "LO"}


def test_a_prepared_store_holds_nothing_of_the_patient(
    tmp_path: Path, told: Callable[[], str]
) -> None:
    home = tmp_path / f"{CANARY} at home"
    write_case(home)
    rows = [
        {"image": f"{home.name}/ct", "label": f"{home.name}/{label}", "case": case, "patient": "p"}
        for case, label in (("one", "rs.dcm"), ("two", "seg.dcm"))
    ]
    assert prepare(tmp_path, rows) == 0
    assert sorted(p.name for p in (tmp_path / "store" / "cases").iterdir()) == ["one.h5", "two.h5"]
    require_no_canary(tmp_path / "store", told())


def test_refused_cases_tell_nothing_of_the_patient(tmp_path: Path, told: Callable[[], str]) -> None:
    home = tmp_path / f"{CANARY} at home"
    rows = []
    for number, fault in enumerate({**SCAN_FAULTS, **LABEL_FAULTS}):
        folder = home / str(number)
        write_case(folder)
        ({**SCAN_FAULTS, **LABEL_FAULTS})[fault](folder)
        place = folder.relative_to(tmp_path)
        rows.append({"image": f"{place}/ct", "label": f"{place}/rs.dcm", "case": f"c{number}"})
    assert prepare(tmp_path, rows) == 1
    refused = (tmp_path / "store" / "refused.jsonl").read_text().splitlines()
    assert len(refused) == len(rows)
    require_no_canary(tmp_path / "store", told())


def test_masks_and_reports_hold_nothing_of_the_patient(
    tmp_path: Path, told: Callable[[], str]
) -> None:
    home = tmp_path / f"{CANARY} at home"
    write_case(home / "case_1")
    assert infer(tmp_path, home / "case_1" / "ct", *sorted((home / "case_1" / "ct").iterdir())) == 0
    assert (tmp_path / "out" / "ct.nii.gz").is_file()
    require_no_canary(tmp_path / "out", told())


def test_failed_scans_tell_nothing_of_the_patient(tmp_path: Path, told: Callable[[], str]) -> None:
    home = tmp_path / f"{CANARY} at home"
    folders = []
    for number, fault in enumerate(SCAN_FAULTS):
        write_case(home / str(number))
        SCAN_FAULTS[fault](home / str(number))
        folders.append((home / str(number) / "ct").rename(home / f"case_{number}"))
    write_case(home / "sound")
    assert infer(tmp_path, *folders, home / "sound" / "ct") == 1
    text = told()
    assert "ct.nii.gz" in {p.name for p in (tmp_path / "out").iterdir()}
    assert all(re.search(f"error: case_{number}[:/]", text) for number in range(len(SCAN_FAULTS)))
    require_no_canary(tmp_path / "out", text)
