"""The five data sets: layout, partial annotation, equal bytes, restart and refusals."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from data_prep.phantoms import collection
from data_prep.phantoms.cases import PHANTOM_SETS, PhantomSet, case_name, make_case, patient_name
from data_prep.phantoms.collection import Recipe, write_phantoms
from data_prep.phantoms.lesions import LesionKind
from samcancer.commands import main
from samcancer.errors import InputError
from samcancer.files import folder_lock
from samcancer.geometry import canonicalise
from samcancer.volume_io import read_ct, read_labels

RECIPE = Recipe(seed=11, pixels=64)
CASES = 2
LIVER, KIDNEY, LUNG, HEALTHY, TEST = PHANTOM_SETS

KNOWN_SHA256 = "36431d6cf7beecfc20e3719fae880ac3c992e1eb4f547790e5a0b968c156e5ce"
"""SHA-256 of the first liver case at seed 0 and 96 pixels: image, then label."""

HASH_SCRIPT = """
import hashlib
from data_prep.phantoms.cases import PHANTOM_SETS, make_case
files = make_case(PHANTOM_SETS[0], 0, seed=0, pixels=96)
print(hashlib.sha256(files.image + files.label).hexdigest())
"""


def hashes(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(raw) for raw in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "raw"
    assert write_phantoms(out, cases=CASES, recipe=RECIPE) == CASES * len(PHANTOM_SETS)
    return out


def test_the_layout_is_nnunets(written: Path) -> None:
    for phantom_set in PHANTOM_SETS:
        folder = written / phantom_set.folder
        part = "Ts" if phantom_set.test else "Tr"
        names = [case_name(phantom_set, n) for n in range(CASES)]
        images = sorted(p.name for p in (folder / f"images{part}").iterdir())
        labels = sorted(p.name for p in (folder / f"labels{part}").iterdir())
        assert images == [f"{name}_0000.nii.gz" for name in names]
        assert labels == [f"{name}.nii.gz" for name in names]
        content = json.loads((folder / "dataset.json").read_text())
        assert content["channel_names"] == {"0": "CT"}
        assert content["file_ending"] == ".nii.gz"
        assert content["numTraining"] == (0 if phantom_set.test else CASES)


def test_each_training_set_annotates_its_own_kind(written: Path) -> None:
    def labels(phantom_set: PhantomSet) -> dict[str, int]:
        content = json.loads((written / phantom_set.folder / "dataset.json").read_text())
        found: dict[str, int] = content["labels"]
        return found

    assert labels(LIVER) == {"background": 0, "liver_lesion": 1}
    assert labels(KIDNEY) == {"background": 0, "kidney_lesion": 1}
    assert labels(LUNG) == {"background": 0, "lung_lesion": 1}
    everything = {
        "background": 0,
        "liver_lesion": 1,
        "kidney_lesion": 2,
        "lung_lesion": 3,
        "soft_tissue_lesion": 4,
    }
    assert labels(HEALTHY) == everything
    assert labels(TEST) == everything


def test_the_test_set_lists_its_images_and_labels(written: Path) -> None:
    folder = written / TEST.folder
    content = json.loads((folder / "dataset.json").read_text())
    assert content["numTest"] == CASES
    for entry in content["test"]:
        assert (folder / entry["image"]).is_file()
        assert (folder / entry["label"]).is_file()


def test_image_and_label_share_size_and_affine(written: Path) -> None:
    for line in lines(written):
        image, label = nibabel.load(written / line["image"]), nibabel.load(written / line["label"])
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        assert "".join(nibabel.aff2axcodes(image.affine)) == line["orientation"]
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8


@pytest.mark.parametrize("number", range(6))
def test_reading_a_case_back_gives_the_canonical_scan(number: int, tmp_path: Path) -> None:
    files = make_case(TEST, number, seed=3, pixels=64)
    (tmp_path / "image.nii.gz").write_bytes(files.image)
    (tmp_path / "label.nii.gz").write_bytes(files.label)
    image = read_ct(tmp_path / "image.nii.gz")
    labels = read_labels(tmp_path / "label.nii.gz")
    hu, geometry, _ = canonicalise(image.hu, image.geometry)
    values, _, _ = canonicalise(labels.values, labels.geometry)
    np.testing.assert_array_equal(hu, files.phantom.hu)
    np.testing.assert_array_equal(values, files.phantom.labels)
    frame = files.phantom.protocol.frame
    spacing_mm = (frame.pixel_mm, frame.pixel_mm, frame.slice_mm)
    assert geometry.spacing_mm == pytest.approx(spacing_mm, rel=1e-6)
    assert image.warnings == ()


def test_healthy_patients_have_empty_labels(written: Path) -> None:
    for line in lines(written):
        if line["dataset"] == HEALTHY.folder:
            assert line["lesions"] == []
            assert not np.asarray(nibabel.load(written / line["label"]).dataobj).any()


@pytest.mark.slow
@pytest.mark.parametrize("phantom_set", [LIVER, KIDNEY, LUNG])
def test_forty_cases_all_hold_the_kind_that_their_set_annotates(phantom_set: PhantomSet) -> None:
    for number in range(40):
        phantom = make_case(phantom_set, number, seed=4, pixels=128).phantom
        assert any(lesion.kind is phantom_set.annotates[0] for lesion in phantom.lesions)


@pytest.mark.parametrize("phantom_set", [LIVER, KIDNEY, LUNG])
def test_a_training_case_shows_its_kind_and_hides_the_others(phantom_set: PhantomSet) -> None:
    own = phantom_set.annotates[0]
    kinds: set[LesionKind] = set()
    for number in range(5):
        files = make_case(phantom_set, number, seed=2, pixels=64)
        label = np.asarray(nibabel.Nifti1Image.from_bytes(gzip.decompress(files.label)).dataobj)
        own_voxels = int((files.phantom.labels == own.value_in_labels).sum())
        assert set(np.unique(label).tolist()) == {0, 1}
        assert int(label.sum()) == own_voxels > 0
        found = {lesion.kind for lesion in files.phantom.lesions}
        assert 1 <= len(found) <= 3
        kinds |= found
    assert len(kinds) > 1


def test_the_test_set_holds_all_kinds_and_healthy_patients() -> None:
    kinds, healthy = set(), 0
    for number in range(8):
        phantom = make_case(TEST, number, seed=1, pixels=64).phantom
        kinds |= {lesion.kind for lesion in phantom.lesions}
        healthy += not phantom.lesions
    assert kinds == set(LesionKind)
    assert healthy == 2


def test_patients_csv_names_the_patient_of_every_case(written: Path) -> None:
    for phantom_set in PHANTOM_SETS:
        with (written / phantom_set.folder / "patients.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert [row["case"] for row in rows] == [case_name(phantom_set, n) for n in range(CASES)]


def test_a_follow_up_scan_is_of_the_same_body() -> None:
    assert patient_name(LIVER, 4) == patient_name(LIVER, 3)
    assert len({patient_name(LIVER, n) for n in range(10)}) == 8
    assert len({patient_name(TEST, n) for n in range(10)}) == 10
    first, second = (make_case(LIVER, n, seed=0, pixels=64).phantom for n in (3, 4))
    assert first.patient.scale == second.patient.scale
    assert first.hu.shape != second.hu.shape or (first.hu != second.hu).any()


def test_two_workers_and_one_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "raw", cases=CASES, recipe=RECIPE, workers=2)
    assert hashes(tmp_path / "raw") == hashes(written)


def test_more_cases_leave_the_earlier_ones_as_they_were(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    write_phantoms(out, cases=1, recipe=RECIPE)
    before = {line["case"]: line for line in lines(out)}
    assert write_phantoms(out, cases=2, recipe=RECIPE) == len(PHANTOM_SETS)
    after = {line["case"]: line for line in lines(out)}
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(PHANTOM_SETS)


def test_another_seed_gives_other_patients() -> None:
    first, second = (make_case(LIVER, 0, seed=seed, pixels=64).image for seed in (0, 1))
    assert first != second


def test_the_bytes_are_those_of_every_other_machine() -> None:
    files = make_case(LIVER, 0, seed=0, pixels=96)
    assert hashlib.sha256(files.image + files.label).hexdigest() == KNOWN_SHA256


def test_processor_features_do_not_change_the_bytes() -> None:
    from numpy._core._multiarray_umath import (  # type: ignore[attr-defined]
        __cpu_dispatch__,
        __cpu_features__,
    )

    usable = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    if not usable:
        pytest.skip("NumPy uses no optional processor feature here")
    environment = os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(usable)}
    found = subprocess.run(
        [sys.executable, "-c", HASH_SCRIPT],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == KNOWN_SHA256


def test_finished_cases_are_kept_and_damaged_ones_made_again(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "raw"
    write_phantoms(out, cases=1, recipe=RECIPE)
    whole = hashes(out)
    flipped = out / lines(out)[0]["image"]
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"?")
    (out / lines(out)[1]["label"]).unlink()
    with (out / "manifest.jsonl").open("a") as stream:
        stream.write('{"case": "torn')
    assert write_phantoms(out, cases=1, recipe=RECIPE) == 2
    assert hashes(out) == whole
    monkeypatch.setattr(collection, "make_case", None)
    assert write_phantoms(out, cases=1, recipe=RECIPE) == 0


def test_a_run_cut_short_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_phantoms(whole, cases=1, recipe=RECIPE)

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(cut, cases=1, recipe=RECIPE, progress=stop)
    for folder in (cut, cut / LIVER.folder, cut / LIVER.folder / "imagesTr"):
        (folder / ".tmp-0-left.nii.gz").write_bytes(b"half")
    assert write_phantoms(cut, cases=1, recipe=RECIPE) == len(PHANTOM_SETS) - 2
    assert hashes(cut) == hashes(whole)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds something else \('thesis.txt'\)"):
        write_phantoms(tmp_path, cases=1, recipe=RECIPE)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_before_its_recipe_was_written_can_be_repeated(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    out.mkdir()
    (out / ".tmp-0-phantoms.json").write_text("{")
    assert write_phantoms(out, cases=1, recipe=RECIPE) == len(PHANTOM_SETS)
    assert not list(out.rglob(".tmp-*"))


def test_another_recipe_in_the_same_folder_is_refused(written: Path) -> None:
    with pytest.raises(InputError, match=r'was made with .*"seed": 11.* asked for .*"seed": 12'):
        write_phantoms(written, cases=CASES, recipe=Recipe(seed=12, pixels=64))


def test_fewer_cases_than_there_are_is_refused(written: Path) -> None:
    with pytest.raises(InputError, match="already holds more cases than 1 per data set"):
        write_phantoms(written, cases=1, recipe=RECIPE)


def test_the_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    with (
        folder_lock(out, purpose="other"),
        pytest.raises(InputError, match=rf"being written by pid {os.getpid()} \(other\)"),
    ):
        write_phantoms(out, cases=1, recipe=RECIPE)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--cases", "0"], "--cases must be 1 or more, got 0"),
        (["--workers", "0"], "--workers must be 1 or more, got 0"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--in-plane", "63"], "--in-plane must be a multiple of 4 from 64 to 1024, got 63"),
        (["--in-plane", "4096"], "from 64 to 1024, got 4096"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "raw"
    assert main(["make-phantoms", "--quiet", "--out", str(out), *options]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_an_output_that_is_a_file_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "raw"
    out.write_text("")
    assert main(["make-phantoms", "--quiet", "--out", str(out)]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_the_command_writes_the_sets(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    options = ["--cases", "1", "--seed", "11", "--in-plane", "64", "--workers", "1", "--quiet"]
    assert main(["make-phantoms", "--out", str(out), *options]) == 0
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == [s.folder for s in PHANTOM_SETS]
