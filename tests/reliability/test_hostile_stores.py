"""Case stores from elsewhere whose HDF5 files or index lead out of them, through train-fold.

Whoever writes a store also writes the hashes that vouch for it, so that these cannot be what keeps
a link from being followed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from harness import Command, contents, raw_cases, require_one_line, require_store, sha256
from harness import prepare as prepare_store
from real_store import make_store
from test_catalogue_training import train_fold

from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import CaseInfo, write_index

VICTIM = "liver_lesion_0"


def secret(folder: Path, like: h5py.Dataset) -> Path:
    """Write a file outside of the store that a hostile store wants to read."""
    path = folder / "secret.h5"
    with h5py.File(path, "w") as file:
        file["slices"] = np.full(like.shape, 1234, like.dtype)
    return path


def external_link(file: h5py.File, folder: Path) -> None:
    path = secret(folder, file["slices"])
    del file["slices"]
    file["slices"] = h5py.ExternalLink(str(path), "/slices")


def relative_external_link(file: h5py.File, folder: Path) -> None:
    secret(folder, file["slices"])
    del file["slices"]
    file["slices"] = h5py.ExternalLink("../../secret.h5", "/slices")


def soft_link(file: h5py.File, folder: Path) -> None:
    path = secret(folder, file["slices"])
    del file["slices"]
    file["elsewhere"] = h5py.ExternalLink(str(path), "/slices")
    file["slices"] = h5py.SoftLink("/elsewhere")


def virtual(file: h5py.File, folder: Path) -> None:
    shape, kind = file["slices"].shape, file["slices"].dtype
    path = secret(folder, file["slices"])
    layout = h5py.VirtualLayout(shape=shape, dtype=kind)
    layout[...] = h5py.VirtualSource(str(path), "slices", shape=shape)
    del file["slices"]
    file.create_virtual_dataset("slices", layout)


def external_storage(file: h5py.File, folder: Path) -> None:
    shape, kind = file["slices"].shape, file["slices"].dtype
    raw = folder / "secret.raw"
    raw.write_bytes(b"root:x:0:0:" * 20000)
    del file["slices"]
    size = int(np.prod(shape)) * kind.itemsize
    file.create_dataset("slices", shape, kind, external=[(str(raw), 0, size)])


def a_group(file: h5py.File, folder: Path) -> None:
    del file["slices"]
    file.create_group("slices")


def another_type(file: h5py.File, folder: Path) -> None:
    shape = file["labels"].shape
    del file["labels"]
    file["labels"] = np.zeros(shape, dtype="S4")


FAULTS: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external link": (external_link, r"slices is a link"),
    "relative external link": (relative_external_link, r"slices is a link"),
    "soft link": (soft_link, r"slices is a link"),
    "virtual data set": (virtual, "slices takes its values from another file"),
    "external storage": (external_storage, "slices takes its values from another file"),
    "group": (a_group, "the file is damaged"),
    "another type": (another_type, r"labels holds \|S4 instead of whole numbers"),
}


def vouch(store: Path, cases: dict[str, CaseInfo]) -> None:
    """Write an index with the hashes that the files now have."""
    write_index(
        store,
        [dataclasses.replace(c, file_sha256=sha256(store / c.file)) for c in cases.values()],
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_case_that_leads_elsewhere_is_one_line(
    fault: str, tmp_path: Path, command: Command
) -> None:
    spoil, fact = FAULTS[fault]
    cases = make_store(tmp_path / "store", patients_per_class=2, healthy=0).cases
    for case in cases.values():
        with h5py.File(tmp_path / "store" / case.file, "a") as file:
            spoil(file, tmp_path)
    vouch(tmp_path / "store", cases)
    before = contents(tmp_path / "store")
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 2
    require_one_line(
        outcome.lines, tmp_path / "store" / "cases", fact=fact, mend="run prepare-slices again"
    )
    assert not list((tmp_path / "runs").glob("fold_0/best*"))
    assert contents(tmp_path / "store") == before


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../../secret.h5"},
        {"file": "/etc/passwd"},
        {"file": "cases/../../secret.h5"},
        {"case_id": "../escaped", "file": "cases/../escaped.h5"},
        {"case_id": "/tmp/escaped", "file": "cases//tmp/escaped.h5"},
        {"case_id": "", "file": "cases/.h5"},
        {"case_id": "a\nb", "file": "cases/a\nb.h5"},
    ],
)
def test_an_index_that_leads_elsewhere_is_one_line(
    changes: dict[str, str], tmp_path: Path, command: Command
) -> None:
    store = make_store(tmp_path / "store")
    cases = dict(store.cases)
    cases[VICTIM] = dataclasses.replace(cases[VICTIM], **changes)
    write_index(store.folder, list(cases.values()))
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 2
    fact = r"line \d+ says that case .* is .*, which is no file of a store"
    path = store.folder / "index.jsonl"
    require_one_line(outcome.lines, path, fact=fact, mend="run prepare-slices again")
    assert not list((tmp_path / "runs").glob("*/*"))


def test_preparing_again_replaces_such_a_line(tmp_path: Path, command: Command) -> None:
    raw, store = raw_cases(tmp_path), tmp_path / "store"
    assert prepare_store(command, raw, store).status == 0
    whole, cases = contents(store), dict(CaseStore(store).cases)
    cases["case1"] = dataclasses.replace(cases["case1"], file="../../secret.h5")
    write_index(store, list(cases.values()))
    assert prepare_store(command, raw, store).status == 0
    require_store(store, ["case0", "case1", "case2"])
    assert contents(store) == whole


@pytest.mark.parametrize("line", ["[" * 100_000, "{}", "null", "3", '{"check": "x", "a": 1}'])
def test_an_index_of_anything_else_is_one_line(line: str, tmp_path: Path, command: Command) -> None:
    store = make_store(tmp_path / "store")
    path = store.folder / "index.jsonl"
    path.write_text(f"{line}\n")
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 2
    require_one_line(outcome.lines, path, fact="line 1 is damaged", mend="run prepare-slices again")


@pytest.mark.parametrize("content", [{"class_names": "x", "size": [], "format_version": 1}, [], 3])
def test_a_store_description_of_anything_else_is_one_line(
    content: object, tmp_path: Path, command: Command
) -> None:
    store = make_store(tmp_path / "store")
    path = store.folder / "store.json"
    path.write_text(json.dumps(content))
    outcome = train_fold(command, tmp_path)
    assert outcome.status == 2
    require_one_line(outcome.lines, path, fact="is not a store description", mend="prepare-slices")
