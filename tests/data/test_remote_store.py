from __future__ import annotations

import errno
import multiprocessing
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from small_store import SLICES, case_arrays, case_info, write_store
from store_server import StoreServer, serving

import samcancer.data.remote_store as remote_store
from samcancer.data.case_store import CaseStore
from samcancer.data.remote_store import open_remote_store, require_plain_store
from samcancer.errors import InputError
from samcancer.taxonomy import PACKAGED_TAXONOMY

CASES = ("a é #1", "b", "c")

PLENTY = 10**9


@pytest.fixture
def local(tmp_path: Path) -> CaseStore:
    folder = write_store(tmp_path / "served", [case_info(name) for name in CASES])
    shutil.copy(PACKAGED_TAXONOMY, folder / "taxonomy.yaml")
    return CaseStore(folder)


@pytest.fixture
def server(local: CaseStore) -> Iterator[StoreServer]:
    with serving(local.folder) as found:
        yield found


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_store, "_WAIT_S", 0.0)


def opened(server: StoreServer, cache: Path, *, limit_bytes: int = PLENTY) -> CaseStore:
    return CaseStore(open_remote_store(server.url, cache, limit_bytes=limit_bytes))


def cached(cache: Path) -> list[Path]:
    return sorted((cache / "files").glob("*/*.h5"))


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".tmp-*"))


def test_a_store_on_a_server_reads_like_the_folder(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path / "cache")
    assert dict(store.cases) == dict(local.cases)
    assert store.fingerprint() == local.fingerprint()
    assert store.taxonomy_yaml() == local.taxonomy_yaml()
    for case_id in CASES:
        np.testing.assert_array_equal(
            store.slices_hu(case_id, 0, SLICES + 4), local.slices_hu(case_id, 0, SLICES + 4)
        )
        np.testing.assert_array_equal(
            store.label_bits(case_id, 1, 3), local.label_bits(case_id, 1, 3)
        )
        assert store.file_of(case_id).read_bytes() == local.file_of(case_id).read_bytes()


def test_a_file_is_fetched_when_first_read_and_only_once(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path / "cache")
    assert cached(tmp_path / "cache") == []
    for again in (store, opened(server, tmp_path / "cache")):
        again.slices_hu("b", 0, 1)
        again.close()
    files = {name: times for name, times in server.asked.items() if name.endswith(".h5")}
    assert files == {local.cases["b"].file: 1}


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_any_file_system_of_fsspec_will_do(local: CaseStore, tmp_path: Path, protocol: str) -> None:
    url = f"file://{local.folder}"
    if protocol == "memory":
        url = f"memory://{tmp_path.name}/store"
        system = fsspec.filesystem("memory")
        system.put(f"{local.folder}/", f"/{tmp_path.name}/store/", recursive=True)
    store = CaseStore(open_remote_store(url, tmp_path / "cache", limit_bytes=PLENTY))
    np.testing.assert_array_equal(store.label_bits("c", 0, 2), case_arrays(2)[1][:2])


def test_a_broken_transfer_is_tried_again(server: StoreServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path / "cache")
    server.cut_short = 2
    np.testing.assert_array_equal(store.label_bits("b", 0, 2), case_arrays(1)[1][:2])
    assert not leftovers(tmp_path / "cache")


def test_a_transfer_that_always_breaks_is_one_line_and_leaves_nothing(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path / "cache")
    server.cut_short = 100
    with pytest.raises(InputError, match=r"b\.h5: cannot be fetched .*Check the address") as caught:
        store.label_bits("b", 0, 2)
    assert str(caught.value).startswith(f"{server.url}/{local.cases['b'].file}: ")
    assert "\n" not in str(caught.value)
    assert cached(tmp_path / "cache") == leftovers(tmp_path / "cache") == []


def test_a_file_that_changed_on_the_server_is_refused(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path / "cache")
    path = local.file_of("b")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"b\.h5: is not the file that the index lists"):
        store.label_bits("b", 0, 2)
    assert cached(tmp_path / "cache") == leftovers(tmp_path / "cache") == []


def test_a_file_that_is_gone_from_the_server_is_named(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    store = opened(server, tmp_path / "cache")
    local.file_of("b").unlink()
    with pytest.raises(InputError, match=r"b\.h5: there is no such file\. Check the address"):
        store.label_bits("b", 0, 2)


def test_a_case_prepared_anew_replaces_what_was_cached(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    opened(server, tmp_path / "cache").label_bits("b", 0, 1)
    shutil.rmtree(local.folder)
    write_store(local.folder, [case_info("b")])
    shutil.copy(PACKAGED_TAXONOMY, local.folder / "taxonomy.yaml")
    store = opened(server, tmp_path / "cache")
    assert list(store.cases) == ["b"]
    np.testing.assert_array_equal(store.label_bits("b", 0, 2), case_arrays(0)[1][:2])


@pytest.mark.parametrize("status", [403, 500])
def test_a_server_that_refuses_is_quoted(server: StoreServer, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(InputError, match=rf"cannot be fetched \(the server answers {status}\)"):
        opened(server, tmp_path / "cache")


def test_an_address_without_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    missing = pytest.raises(InputError, match=r"/store\.json: there is no such file")
    with serving(tmp_path / "empty") as server, missing:
        opened(server, tmp_path / "cache")


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as server:
        url = server.url
    with pytest.raises(InputError, match=r"store\.json: cannot be fetched .*the network"):
        open_remote_store(url, tmp_path / "cache", limit_bytes=PLENTY)


@pytest.mark.parametrize("url", ["ftp://host/store", "http://host/store?token=1", "s3://b/x#y"])
def test_an_address_that_is_none_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no address of a store"):
        open_remote_store(url, tmp_path / "cache", limit_bytes=PLENTY)
    assert not (tmp_path / "cache").exists()


def test_the_least_recently_used_file_makes_room(
    local: CaseStore, server: StoreServer, tmp_path: Path
) -> None:
    size = max(local.file_of(name).stat().st_size for name in CASES)
    store = opened(server, tmp_path / "cache", limit_bytes=int(2.5 * size))
    for case_id in ("b", "c", "b", "a é #1"):
        store.close()  # so that reading looks for the file again
        store.label_bits(case_id, 0, 1)
    left = {path.stem for path in cached(tmp_path / "cache")}
    assert left == {local.cases[name].file_sha256 for name in ("b", "a é #1")}
    used = int((tmp_path / "cache" / "files" / "used").read_text())
    assert used == sum(path.stat().st_size for path in cached(tmp_path / "cache"))
    np.testing.assert_array_equal(store.label_bits("c", 0, 2), case_arrays(2)[1][:2])


def test_a_file_deleted_between_finding_and_opening_is_fetched_again(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(server, tmp_path / "cache")
    real = remote_store.RemoteFiles.path_of
    deleted: list[Path] = []

    def path_of(files: remote_store.RemoteFiles, info: object) -> Path:
        path = real(files, info)  # type: ignore[arg-type]
        if not deleted:
            deleted.append(path)
            path.unlink()
        return path

    monkeypatch.setattr(remote_store.RemoteFiles, "path_of", path_of)
    np.testing.assert_array_equal(store.label_bits("b", 0, 2), case_arrays(1)[1][:2])
    assert deleted


def test_a_full_disk_is_an_ordinary_error(
    server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(server, tmp_path / "cache")

    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote_store.RemoteFiles, "_transfer", fill)
    with pytest.raises(InputError, match=r"the disk is full\. Free some space"):
        store.label_bits("b", 0, 1)
    assert cached(tmp_path / "cache") == leftovers(tmp_path / "cache") == []


def _read_in_child(store: CaseStore, queue: multiprocessing.Queue[int]) -> None:
    queue.put(int(store.label_bits("b", 0, SLICES).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_processes_share_a_download(
    local: CaseStore, server: StoreServer, tmp_path: Path, method: str
) -> None:
    store = opened(server, tmp_path / "cache")
    store.label_bits("c", 0, 1)  # a connection is open before the fork
    server.delay_s = 0.3
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=_read_in_child, args=(store, queue)) for _ in range(3)]
    for child in children:
        child.start()
    expected = int(local.label_bits("b", 0, SLICES).sum())
    assert [queue.get(timeout=60) for _ in children] == [expected] * 3
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert server.asked[local.cases["b"].file] == 1


def test_what_a_killed_process_left_is_removed(server: StoreServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path / "cache")
    digest = store.cases["b"].file_sha256
    folder = tmp_path / "cache" / "files" / digest[:2]
    folder.mkdir()
    (folder / ".tmp-0123-half.h5").write_bytes(b"half")
    store.label_bits("b", 0, 1)
    assert not leftovers(tmp_path / "cache")


def test_a_remote_store_can_be_pickled_in_use(server: StoreServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path / "cache")
    store.label_bits("b", 0, 1)
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.label_bits("c", 0, 1), store.label_bits("c", 0, 1))


def test_nothing_is_prepared_into_a_cache(server: StoreServer, tmp_path: Path) -> None:
    store = opened(server, tmp_path / "cache")
    with pytest.raises(InputError, match=r"stands for stores elsewhere \(origin\.json\)"):
        require_plain_store(store.folder)


def test_a_store_joined_on_the_server_is_not_read(local: CaseStore, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "stores.json").write_text('{"format_version": 1, "stores": ["../served"]}')
    missing = pytest.raises(InputError, match=r"store\.json: there is no such file")
    with serving(tmp_path / "all") as server, missing:
        opened(server, tmp_path / "cache")
