"""Healthy scans that a model may be judged on: nobody's, and each once."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from halves import LEFT, RIGHT, SIZE, SLICES, make_store, square, volume, write_scan

from samcancer.calibration.strangers import Strangers
from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import content_sha256, write_index
from samcancer.errors import InputError
from samcancer.files import sha256_of

BOTH = (LEFT, RIGHT)


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return make_store(tmp_path / "store", {"known": (BOTH, [])})


def test_a_folder_of_scans_is_read_as_the_store_would_hold_them(
    store: CaseStore, tmp_path: Path
) -> None:
    blocks = [square(3, 4, 150, 2)]
    write_scan(tmp_path / "healthy" / "known.nii.gz", blocks)  # the name alone says nothing
    (scan,) = Strangers(store).scans_of([tmp_path / "healthy"])
    slices_hu, voxel_mm = scan()
    assert slices_hu.shape == (SLICES + 4, SIZE, SIZE)
    np.testing.assert_array_equal(slices_hu[2 : SLICES + 2], volume(blocks)[0])
    assert voxel_mm == (4, 2, 2)


def test_another_store_is_read_as_it_is(store: CaseStore, tmp_path: Path) -> None:
    blocks = [square(3, 4, 150, 2)]
    make_store(tmp_path / "other", {"new": ((), blocks)})
    (scan,) = Strangers(store).scans_of([tmp_path / "other"])
    slices_hu, voxel_mm = scan()
    np.testing.assert_array_equal(slices_hu[2 : SLICES + 2], volume(blocks)[0])
    assert voxel_mm == (4, 2, 2)


@pytest.mark.parametrize("field", ["source_sha256", "content_sha256"])
def test_a_scan_of_the_training_store_is_refused_under_any_name(
    field: str, store: CaseStore, tmp_path: Path
) -> None:
    path = write_scan(tmp_path / "healthy" / "renamed.nii.gz", [])
    known = store.cases["known"]
    digest = {"source_sha256": sha256_of(path), "content_sha256": content_sha256(volume([])[0])}
    write_index(store.folder, [dataclasses.replace(known, **{field: digest[field]})])
    (scan,) = Strangers(CaseStore(store.folder)).scans_of([tmp_path / "healthy"])
    with pytest.raises(InputError, match=r"is the same scan as case known of the training store"):
        scan()


def test_a_scan_that_is_there_twice_is_refused(store: CaseStore, tmp_path: Path) -> None:
    write_scan(tmp_path / "healthy" / "a.nii.gz", [])
    write_scan(tmp_path / "healthy" / "b.mha", [])
    first, second = Strangers(store).scans_of([tmp_path / "healthy"])
    first()
    with pytest.raises(InputError, match=r"b\.mha is the same scan as a\.nii\.gz. Leave it out"):
        second()


def test_a_store_with_a_lesion_is_no_healthy_one(store: CaseStore, tmp_path: Path) -> None:
    make_store(tmp_path / "other", {"sick": ((LEFT,), [square(3, 4, 150, 2, labelled=LEFT)])})
    with pytest.raises(InputError, match=f"case sick holds {LEFT}"):
        Strangers(store).scans_of([tmp_path / "other"])


def test_a_patient_of_the_training_store_is_refused(store: CaseStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", {"new": (BOTH, [])})
    info = dataclasses.replace(other.cases["new"], patient_id="patient_known")
    write_index(other.folder, [info])
    with pytest.raises(InputError, match="case new is of the patient patient_known, whom the"):
        Strangers(store).scans_of([other.folder])


def test_the_training_store_itself_is_refused(store: CaseStore, tmp_path: Path) -> None:
    shutil.copytree(store.folder, tmp_path / "copy")
    with pytest.raises(InputError, match="case known is of the patient"):
        Strangers(store).scans_of([tmp_path / "copy"])


def test_an_empty_store_is_refused(store: CaseStore, tmp_path: Path) -> None:
    make_store(tmp_path / "other", {})
    with pytest.raises(InputError, match="other: holds no case"):
        Strangers(store).scans_of([tmp_path / "other"])


def test_a_missing_folder_is_refused(store: CaseStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        Strangers(store).scans_of([tmp_path / "nowhere"])
