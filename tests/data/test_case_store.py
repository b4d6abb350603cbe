from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import pickle
import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import damaged_copies
from reliability_figures import Tally
from small_store import (
    CLASS_NAMES,
    GEOMETRY,
    SIZE,
    SLICES,
    case_arrays,
    case_info,
    write_store,
)

from samcancer.data import case_table
from samcancer.data.case_file import create_slicewise
from samcancer.data.case_store import CaseStore, case_file_bytes
from samcancer.data.store_index import (
    INDEX_NAME,
    append_to_index,
    case_file_name,
    read_index_file,
    write_index,
)
from samcancer.errors import InputError


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return CaseStore(write_store(tmp_path / "störe of mine", [case_info("b"), case_info("a é")]))


def test_slices_come_back_with_the_end_slices_repeated_twice(store: CaseStore) -> None:
    hu, _ = case_arrays(0)
    padded = store.slices_hu("b", 0, SLICES + 4)
    assert padded.dtype == np.int16
    np.testing.assert_array_equal(padded, hu[[0, 0, *range(SLICES), SLICES - 1, SLICES - 1]])


def test_labels_come_back_by_unpadded_slice(store: CaseStore) -> None:
    np.testing.assert_array_equal(store.label_bits("b", 2, 5), case_arrays(0)[1][2:5])


def test_stacks_are_virtual_and_equal_the_slices_in_any_hdf5_reader(store: CaseStore) -> None:
    with h5py.File(store.file_of("b"), "r") as file:
        stacks, slices = file["stacks"], file["slices"]
        assert stacks.is_virtual
        assert stacks.shape == (SLICES, 5, SIZE, SIZE)
        for z in range(SLICES):
            np.testing.assert_array_equal(stacks[z], slices[z : z + 5])
            np.testing.assert_array_equal(stacks[z], store.stack_hu("b", z))


def test_stacks_survive_moving_the_file(store: CaseStore, tmp_path: Path) -> None:
    moved = shutil.copy(store.file_of("b"), tmp_path / "elsewhere.h5")
    store.file_of("b").unlink()
    with h5py.File(moved, "r") as file:
        np.testing.assert_array_equal(file["stacks"][3], file["slices"][3:8])


def test_slices_are_chunked_compressed_and_checksummed(store: CaseStore) -> None:
    with h5py.File(store.file_of("b"), "r") as file:
        for name in ("slices", "labels"):
            data = file[name]
            assert data.chunks == (1, SIZE, SIZE)
            assert (data.compression, data.compression_opts) == ("gzip", 1)
            assert data.shuffle
            assert data.fletcher32


def test_attributes_tell_a_reader_without_the_index_what_it_holds(store: CaseStore) -> None:
    with h5py.File(store.file_of("a é"), "r") as file:
        attributes = dict(file.attrs)
    assert bytes(attributes["case_id"]).decode() == "a é"
    assert tuple(bytes(n).decode() for n in attributes["class_names"]) == CLASS_NAMES
    assert attributes["annotated_bits"] == 0b111
    assert tuple(attributes["size_xyz"]) == GEOMETRY.size_xyz
    assert tuple(attributes["spacing_mm"]) == GEOMETRY.spacing_mm
    assert tuple(attributes["origin_mm"]) == GEOMETRY.origin_mm
    assert tuple(attributes["direction"]) == GEOMETRY.direction


def test_equal_cases_give_equal_bytes_at_any_time() -> None:
    hu, bits = case_arrays(0)
    first = case_file_bytes(case_info("a"), CLASS_NAMES, slices_hu=hu, label_bits=bits)
    time.sleep(1.1)  # HDF5's time stamps count seconds
    assert case_file_bytes(case_info("a"), CLASS_NAMES, slices_hu=hu, label_bits=bits) == first


def test_a_case_of_one_slice_has_one_stack_of_that_slice(tmp_path: Path) -> None:
    hu, bits = (a[:1] for a in case_arrays(0))
    info = dataclasses.replace(case_info("a"), slices=1)
    content = case_file_bytes(info, CLASS_NAMES, slices_hu=hu, label_bits=bits)
    (tmp_path / "one.h5").write_bytes(content)
    with h5py.File(tmp_path / "one.h5", "r") as file:
        np.testing.assert_array_equal(file["stacks"][0], np.repeat(hu, 5, axis=0))


def test_the_index_gives_back_what_was_put_in(store: CaseStore) -> None:
    assert list(store.cases) == ["a é", "b"]
    info = store.cases["b"]
    assert info.geometry == GEOMETRY
    assert info.to_json() == type(info).from_json(info.to_json()).to_json()


def test_the_fingerprint_changes_with_any_case(store: CaseStore, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", [case_info("b"), case_info("a é")])
    assert CaseStore(other).fingerprint() == store.fingerprint()
    other = write_store(tmp_path / "third", [case_info("b"), case_info("a é", annotated=())])
    assert CaseStore(other).fingerprint() != store.fingerprint()


def test_annotated_bits_follow_the_order_of_the_classes(tmp_path: Path) -> None:
    info = case_info("a", annotated=("lung_lesion", "liver_lesion"))
    assert CaseStore(write_store(tmp_path, [info])).annotated_bits("a") == 0b101


def test_a_range_outside_the_case_is_refused(store: CaseStore) -> None:
    with pytest.raises(ValueError, match=r"labels 3\.\.8 are not within 0\.\.7"):
        store.label_bits("b", 3, SLICES + 1)


def test_an_unknown_case_is_named(store: CaseStore) -> None:
    with pytest.raises(InputError, match="holds no case 'nobody'"):
        store.slices_hu("nobody", 0, 1)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a case store \(no store.json\)"):
        CaseStore(tmp_path)


def test_a_store_of_another_version_is_refused(store: CaseStore) -> None:
    path = store.folder / "store.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 7'))
    with pytest.raises(InputError, match="has format version 7, this program reads 1 and 2"):
        CaseStore(store.folder)


@pytest.mark.parametrize("kept_bytes", [1, 200])
def test_a_torn_index_is_refused_by_readers_and_mended_by_the_writer(
    store: CaseStore, kept_bytes: int
) -> None:
    append_to_index(store.folder, store.cases["b"])
    path = store.folder / "index.jsonl"
    whole = path.read_bytes()
    last = whole[: whole[:-1].rindex(b"\n") + 1]
    path.write_bytes(whole[: len(last) + kept_bytes])
    with pytest.raises(InputError, match="its last line is not complete"):
        CaseStore(store.folder)
    assert [i.case_id for i in read_index_file(store.folder / INDEX_NAME, drop_damaged=True)] == [
        "a é",
        "b",
    ]


def test_a_bad_line_of_the_index_is_numbered(store: CaseStore) -> None:
    with (store.folder / "index.jsonl").open("a") as stream:
        stream.write('{"case_id": "x"}\n')
    with pytest.raises(InputError, match=r"index\.jsonl: line 3 is damaged\. Run prepare-slices"):
        CaseStore(store.folder)


def test_a_patient_changed_in_the_index_is_found(store: CaseStore) -> None:
    path = store.folder / "index.jsonl"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"patient_id": "patient of b"', '"patient_id": "patient of c"'))
    with pytest.raises(InputError, match="line 2 is damaged"):
        CaseStore(store.folder)
    assert [i.case_id for i in read_index_file(store.folder / INDEX_NAME, drop_damaged=True)] == [
        "a é"
    ]


def test_every_flipped_bit_of_the_index_is_found(store: CaseStore) -> None:
    path = store.folder / "index.jsonl"
    good = path.read_bytes()
    rng = np.random.default_rng(2)
    for position in rng.integers(0, len(good), 200):
        damaged = bytearray(good)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"index\.jsonl: "):
            CaseStore(store.folder)


def test_a_missing_file_is_named(store: CaseStore) -> None:
    store.file_of("b").unlink()
    with pytest.raises(InputError, match=r"b\.h5: no such file"):
        store.slices_hu("b", 0, 1)
    with pytest.raises(InputError, match=r"b\.h5: no such file, though the index lists it"):
        store.verify()


def in_first_form(store: CaseStore) -> None:
    """Write a store's index as its first version did, and all files into one folder."""
    lines = []
    for info in store.cases.values():
        shutil.move(store.file_of(info.case_id), store.folder / "cases" / f"{info.case_id}.h5")
        content = {f.name: getattr(info, f.name) for f in dataclasses.fields(info)}
        content["file"] = f"cases/{info.case_id}.h5"
        content["positive_slices"] = {n: list(z) for n, z in info.positive_slices.items()}
        content["canonical_geometry"] = info.canonical_geometry
        content["grid"] = info.grid
        for name in ("geometry", "canonical_geometry", "grid"):
            content[name] = content[name].to_dict()
        rest = json.dumps(content, ensure_ascii=False)[1:]
        lines.append(f'{{"check": "{hashlib.sha256(rest.encode()).hexdigest()[:16]}", {rest}\n')
    (store.folder / "index.jsonl").write_text("".join(lines), encoding="utf-8")
    path = store.folder / "store.json"
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 1'))


def test_a_store_of_the_first_version_reads_as_before(store: CaseStore) -> None:
    before = {name: dataclasses.replace(info, file="") for name, info in store.cases.items()}
    bits = store.label_bits("b", 0, SLICES)
    store.close()
    in_first_form(store)
    old = CaseStore(store.folder)
    assert {n: dataclasses.replace(i, file="") for n, i in old.cases.items()} == before
    np.testing.assert_array_equal(old.label_bits("b", 0, SLICES), bits)
    old.verify()


def test_the_fingerprint_of_a_store_of_the_first_version_is_what_it_was(store: CaseStore) -> None:
    """Runs that were started on such a store go on."""
    in_first_form(store)
    lines = (store.folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
    info = json.dumps(
        {"class_names": list(CLASS_NAMES), "size": SIZE, "format_version": 1}, ensure_ascii=True
    )
    text = "\n".join([info, *(f"{{{line.split(', ', 1)[1]}" for line in lines)])
    assert CaseStore(store.folder).fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_files_lie_in_a_few_folders_of_their_data_set() -> None:
    names = [case_file_name(f"case_{i}", "Set A/../x") for i in range(1000)]
    assert len(set(names)) == 1000
    folders = {name.rpartition("/")[0] for name in names}
    assert len(folders) == 16
    (root,) = {Path(folder).parent for folder in folders}
    assert root.parts[0] == "cases"
    assert len(root.parts) == 2
    assert root != Path(case_file_name("case_0", "Set A_.._x")).parents[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"file": "../other.h5"},
        {"file": "/etc/passwd"},
        {"file": "cases/a.h5"},
        {"case_id": "../b", "file": "cases/../b.h5"},
        {"case_id": "a\nb", "file": "cases/a\nb.h5"},
        {"file_sha256": "../../x"},
    ],
)
def test_a_line_that_names_a_file_elsewhere_is_refused(
    store: CaseStore, changes: dict[str, str]
) -> None:
    changed = dataclasses.replace(store.cases["b"], **changes)
    write_index(store.folder, [changed])
    with pytest.raises(InputError, match=r"line 1 says that case .* which is no file of a store"):
        CaseStore(store.folder).file_of(changed.case_id)


def test_counts_of_a_class_that_is_not_annotated_are_refused() -> None:
    info = dataclasses.replace(case_info("a"), annotated=("liver_lesion",))
    with pytest.raises(ValueError, match="'a' does not annotate kidney_lesion, lung_lesion"):
        info.to_json()


def test_a_line_that_is_no_case_is_named_when_it_is_asked_for(store: CaseStore) -> None:
    rest = '"case_id": "x", "slices": 3}'
    check = hashlib.sha256(rest.encode()).hexdigest()[:16]
    with (store.folder / "index.jsonl").open("a") as stream:
        stream.write(f'{{"check": "{check}", {rest}\n')
    cases = CaseStore(store.folder).cases
    assert list(cases) == ["a é", "b", "x"]
    with pytest.raises(InputError, match=r"index\.jsonl: line 3 is damaged"):
        cases["x"]


def test_a_case_of_25_classes_takes_two_kilobytes_of_the_index() -> None:
    names = tuple(f"structure_number_{k}" for k in range(25))
    info = dataclasses.replace(
        case_info("a", annotated=names), positive_slices=dict.fromkeys(names, range(100, 300))
    )
    assert len(info.to_json()) < 2500


def test_a_large_store_does_not_keep_every_case_it_has_read(
    store: CaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_table, "_KEPT_CASES", 1)
    cases = CaseStore(store.folder).cases
    assert cases["b"] is cases["b"]
    assert cases["a é"] is not cases["a é"]
    assert cases["a é"] == store.cases["a é"]


def _read_all(folder: Path) -> tuple[bytes, bytes]:
    store = CaseStore(folder)
    try:
        return (
            store.slices_hu("a", 0, SLICES + 4).tobytes(),
            store.label_bits("a", 0, SLICES).tobytes(),
        )
    finally:
        store.close()


def _read_or_refuse(folder: Path) -> tuple[bytes, bytes] | Path | None:
    try:
        return _read_all(folder)
    except InputError as error:
        return error.path


@pytest.mark.figure("artefacts", "case file")
def test_every_flipped_bit_is_found_and_never_read_as_other_voxels(
    tally: Tally, tmp_path: Path
) -> None:
    path = CaseStore(write_store(tmp_path, [case_info("a")])).file_of("a")
    expected = _read_all(tmp_path)
    with damaged_copies(path) as copies:
        for seed in tally.trials():
            copies.flip_a_bit(seed)
            with pytest.raises(InputError, match=r"a\.h5: has changed since it was written"):
                CaseStore(tmp_path).verify()
            assert _read_or_refuse(tmp_path) in (expected, path)


@pytest.mark.figure("corruption", "HDF5, cut")
def test_a_cut_case_file_is_refused(tally: Tally, tmp_path: Path) -> None:
    path = CaseStore(write_store(tmp_path, [case_info("a")])).file_of("a")
    with damaged_copies(path) as copies:
        for seed in tally.trials():
            copies.cut(seed)
            with pytest.raises(InputError, match=r"a\.h5: "):
                _read_all(tmp_path)


@pytest.mark.figure("corruption", "HDF5, damaged anywhere")
def test_a_damaged_case_file_is_refused_or_read_as_it_was(tally: Tally, tmp_path: Path) -> None:
    path = CaseStore(write_store(tmp_path, [case_info("a")])).file_of("a")
    expected = _read_all(tmp_path)
    with damaged_copies(path) as copies:
        for seed in tally.trials():
            copies.spoil(seed)
            assert _read_or_refuse(tmp_path) in (expected, path)


def _sum_in_child(store: CaseStore, queue: multiprocessing.Queue[int]) -> None:
    queue.put(int(store.slices_hu("b", 0, 4).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_store_in_use_can_be_handed_to_another_process(store: CaseStore, method: str) -> None:
    expected = int(store.slices_hu("b", 0, 4).sum())
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_sum_in_child, args=(store, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join()
    assert int(store.slices_hu("b", 0, 4).sum()) == expected


def test_pickling_leaves_open_files_out(store: CaseStore) -> None:
    store.slices_hu("b", 0, 1)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.slices_hu("b", 2, 3), store.slices_hu("b", 2, 3))


def test_more_cases_than_open_files_can_be_read_in_turn(tmp_path: Path) -> None:
    store = CaseStore(write_store(tmp_path, [case_info(f"c{i:02}") for i in range(40)]))
    for _ in range(2):
        for i in range(40):
            np.testing.assert_array_equal(store.slices_hu(f"c{i:02}", 2, 3), case_arrays(i)[0][:1])


def test_the_bytes_do_not_depend_on_who_else_holds_a_data_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info, arrays = case_info("a"), case_arrays(0)
    given = {"slices_hu": arrays[0], "label_bits": arrays[1]}
    expected = case_file_bytes(info, CLASS_NAMES, **given)
    held = []

    def holding(*args: object, **options: object) -> h5py.Dataset:
        held.append(create_slicewise(*args, **options))  # type: ignore[arg-type]  # passed on
        return held[-1]

    monkeypatch.setattr("samcancer.data.case_file.create_slicewise", holding)
    assert case_file_bytes(info, CLASS_NAMES, **given) == expected
    assert len(held) == 2
