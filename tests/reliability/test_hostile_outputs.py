"""Links in places that are written to, formulas and scripts in names: nothing leaves the output."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import (
    Command,
    contents,
    good_scan,
    infer,
    names_in,
    prepare,
    raw_cases,
    require_one_line,
    require_store,
    require_whole,
)
from inference_fakes import bright_box, make_ensemble
from raw_data import ct, label, save
from real_store import make_store
from test_catalogue_training import train_fold
from volume_fakes import save_by_itk

LINKS: dict[str, Callable[[Path, Path], None]] = {
    "symbolic": lambda target, link: link.symlink_to(target),
    "hard": lambda target, link: os.link(target, link),
}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file elsewhere that no command may change."""
    path = tmp_path / "elsewhere" / "victim.txt"
    path.parent.mkdir()
    path.write_text("mine")
    return path


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["s.nii.gz", "s.json", "s.lesions.csv"])
def test_a_link_in_place_of_a_result_is_replaced_and_not_followed(
    kind: str, name: str, tmp_path: Path, victim: Path, command: Command, model: Path
) -> None:
    scan, out = good_scan(tmp_path / "s.nii.gz"), tmp_path / "out"
    out.mkdir()
    LINKS[kind](victim, out / name)
    assert infer(command, [scan], out, model).status == 0
    assert victim.read_text() == "mine"
    assert not (out / name).is_symlink()
    require_whole(out, [scan])


@pytest.mark.parametrize("kind", LINKS)
def test_a_lock_that_is_a_link_is_refused_and_not_emptied(
    kind: str, tmp_path: Path, victim: Path, command: Command, model: Path
) -> None:
    scan, out = good_scan(tmp_path / "s.nii.gz"), tmp_path / "out"
    out.mkdir()
    LINKS[kind](victim, out / ".lock")
    outcome = infer(command, [scan], out, model)
    assert outcome.status == 2
    fact, lock = "is a link to another file", out / ".lock"
    require_one_line(outcome.lines, lock, fact=fact, mend="remove the link")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("below", ["per_class", "per_class/s", "probabilities"])
def test_a_folder_of_results_that_is_a_link_is_refused(
    below: str, tmp_path: Path, victim: Path, command: Command, model: Path
) -> None:
    scan, out = good_scan(tmp_path / "s.nii.gz"), tmp_path / "out"
    (out / below).parent.mkdir(parents=True)
    (out / below).symlink_to(victim.parent)
    stale = victim.parent / ".tmp-0123-of-another-program"
    stale.write_text("theirs")
    outcome = infer(command, [scan], out, model, "--per-class", "--probabilities")
    assert outcome.status == 2
    fact = f"is a link to {victim.parent}"
    require_one_line(outcome.lines, out / below, fact=fact, mend="remove the link")
    assert {path.name for path in victim.parent.iterdir()} == {victim.name, stale.name}


def test_an_output_that_is_itself_a_link_is_the_users_choice(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scan, disk = good_scan(tmp_path / "s.nii.gz"), tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "out").symlink_to(disk)
    assert infer(command, [scan], tmp_path / "out", model).status == 0
    require_whole(disk, [scan])


@pytest.mark.parametrize("kind", LINKS)
def test_a_scan_that_is_a_link_is_read_and_never_written(
    kind: str, tmp_path: Path, command: Command, model: Path
) -> None:
    real = good_scan(tmp_path / "archive" / "real.nii.gz")
    scan = tmp_path / "in" / "s.nii.gz"
    scan.parent.mkdir()
    LINKS[kind](real, scan)
    before = real.read_bytes(), real.stat().st_mtime_ns
    assert infer(command, [scan], tmp_path / "out", model).status == 0
    outcome = infer(command, [scan], scan.parent, model)  # the mask would have the scan's name
    assert outcome.status == 2
    require_one_line(outcome.lines, scan, fact="overwrite the scan", mend="change --output")
    assert (real.read_bytes(), real.stat().st_mtime_ns) == before
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "s.nii.gz").symlink_to(real)  # the result's place leads to the scan
    outcome = infer(command, [scan], tmp_path / "loop", model)
    assert outcome.status == 2
    assert (real.read_bytes(), real.stat().st_mtime_ns) == before


def test_a_store_whose_folder_of_cases_is_a_link_is_refused(
    tmp_path: Path, victim: Path, command: Command
) -> None:
    raw, store = raw_cases(tmp_path, 1), tmp_path / "store"
    store.mkdir()
    (store / "cases").symlink_to(victim.parent)
    outcome = prepare(command, raw, store)
    assert outcome.status == 2
    fact = "is a link to"
    require_one_line(outcome.lines, store / "cases", fact=fact, mend="remove the link")
    assert [path.name for path in victim.parent.iterdir()] == [victim.name]


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["index.jsonl", "store.json", "refused.jsonl", "case0.h5"])
def test_a_link_in_a_store_is_replaced_and_not_followed(
    kind: str, name: str, tmp_path: Path, victim: Path, command: Command
) -> None:
    raw, store = raw_cases(tmp_path, 2), tmp_path / "store"
    assert prepare(command, raw, store).status == 0
    whole = contents(store)
    (path,) = store.rglob(name)
    content = path.read_bytes()
    victim.write_bytes(content)
    path.unlink()
    LINKS[kind](victim, path)
    if name.endswith(".h5"):
        victim.write_bytes(b"mine")  # damaged, so that the case is prepared again
        content = b"mine"
    assert prepare(command, raw, store).status == 0
    assert victim.read_bytes() == content
    assert contents(store) == whole
    require_store(store, ["case0", "case1"])


def test_a_run_folder_that_is_a_link_is_refused(
    tmp_path: Path, victim: Path, command: Command
) -> None:
    make_store(tmp_path / "store")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "fold_0").symlink_to(victim.parent)
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 2
    folder = tmp_path / "runs" / "fold_0"
    require_one_line(outcome.lines, folder, fact="is a link to", mend="remove the link")
    assert [path.name for path in victim.parent.iterdir()] == [victim.name]


FORMULA = "=cmd|' 2^ calc'!A1"


def test_no_cell_of_a_lesion_table_is_a_formula(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble", lambda *_, **__: make_ensemble()
    )
    scans = [save_by_itk(tmp_path / f"{FORMULA}.nii.gz", bright_box())]
    scans.append(save_by_itk(tmp_path / "@SUM(1+1).nii.gz", bright_box()))
    assert infer(command, scans, tmp_path / "out", Path("run")).status == 0
    tables = sorted((tmp_path / "out").glob("*.lesions.csv"))
    assert len(tables) == 2
    for table in tables:
        header, *rows = csv.reader(table.read_text().splitlines())
        assert rows
        for cell in (cell for row in [header, *rows] for cell in row):
            assert not cell.startswith(("=", "+", "@", "\t", "\r"))
            if cell.startswith("-"):
                float(cell)  # a number, which a spreadsheet shows as it is


def test_a_script_in_a_case_id_or_a_title_is_text_on_the_page(
    tmp_path: Path, command: Command, victim: Path
) -> None:
    case_id = "<script>alert(1)<img src=x onerror=alert(1)>\"'&"
    save(tmp_path / "images" / f"{case_id}_0000.nii.gz", ct())
    for folder in ("reference", "masks"):
        save(tmp_path / folder / f"{case_id}.nii.gz", label())
    labels = ["--labels", "liver_lesion=1", "--reference", tmp_path / "reference", "--quiet"]
    scores = tmp_path / "scores"
    words = ["--prediction", tmp_path / "masks", "--output", scores, *labels]
    assert command("evaluate", *words).status == 0
    page = tmp_path / "report.html"
    page.symlink_to(victim)
    hostile = "</title></script><script>alert(2)</script>"
    words = ["--images", tmp_path / "images", "--arm", hostile, tmp_path / "masks", scores]
    words += ["--title", hostile, "--lead", hostile, "--fact", hostile, hostile, *labels]
    outcome = command("report", "--output", page, *words, "--note", hostile)
    assert outcome.status == 0, outcome.lines
    text = page.read_text()
    for tag in ("<script>alert", "<img src=x", "onerror=alert(1)>", "</title></script>"):
        assert tag not in text
    assert "&lt;script&gt;alert(1)" in text
    assert victim.read_text() == "mine"
    assert not page.is_symlink()


HOSTILE = "</title></script><script>alert(3)</script><img src=x onerror=alert(3)>"


def forged(value: object) -> object:
    """Return the same JSON with every text but hashes and file names replaced."""
    if isinstance(value, dict):
        return {key: forged(item) for key, item in value.items()}
    if isinstance(value, list):
        return [forged(item) for item in value] or [HOSTILE]
    return HOSTILE if isinstance(value, str) and len(value) != 64 else value


def test_a_script_in_a_forged_report_is_text_on_the_page_of_a_scan(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble", lambda *_, **__: make_ensemble()
    )
    case_id = "<script>alert(1)<img src=x onerror=alert(1)>"
    (tmp_path / "in").mkdir()
    scan = save_by_itk(tmp_path / "in" / f"{case_id}.nii.gz", bright_box())
    out = tmp_path / "out"
    assert infer(command, [scan], out, Path("run"), "--html").status == 0
    report = out / f"{case_id}.json"
    content = json.loads(report.read_text())
    for name in ("warnings", "software", "model", "lesions", "classes"):
        changed = {**content, name: forged(content[name])}
        report.write_text(json.dumps(changed))
        pages = tmp_path / f"pages_{name}"
        words = ["--images", scan.parent, "--masks", out, "--output", pages, "--quiet"]
        outcome = command("view", *words)
        assert outcome.status == (1 if name == "classes" else 0)  # of a kind that is none
        assert len(outcome.lines) == outcome.status
        for page in (*out.glob("*.html"), *pages.glob("*.html")):
            text = page.read_text()
            for tag in ("<script>alert", "<img src=x", "</title></script>"):
                assert tag not in text, (name, page.name)
    assert list(tmp_path.glob("pages_*/*.html"))


def test_a_scan_folder_is_never_written_to(tmp_path: Path, command: Command, model: Path) -> None:
    scans = [good_scan(tmp_path / "in" / f"{n}.nii.gz", seed=n) for n in range(2)]
    before = contents(tmp_path / "in")
    for path in (tmp_path / "in", *scans):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert infer(command, scans, tmp_path / "out", model).status == 0
    assert contents(tmp_path / "in") == before
    assert names_in(tmp_path / "in") == {scan.name for scan in scans}
    (tmp_path / "in").chmod(0o755)
    shutil.rmtree(tmp_path / "in")
    assert np.all([path.exists() for path in (tmp_path / "out").glob("*.json")])
