"""The running server: raw sockets, lying requests, signals and what is left afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_fakes import OURS, PATIENCE_S, Scripted, wait_until

from samcancer.serve.app import ModelFacts
from samcancer.serve.server import address_of, listen, run_server, warn_of_network
from samcancer.serve.settings import ServeSettings
from samcancer.serve.workspace import WORKSPACE_PREFIX

SETTINGS = ServeSettings(max_upload_bytes=1_000_000, idle_s=0.3)


class Running:
    """A server in the main thread's place, and the thread that talks to it."""

    def __init__(self, address: str, parent: Path) -> None:
        self.client = httpx.Client(base_url=address, headers=OURS, trust_env=False)
        self.port = self.client.base_url.port or 0
        self.parent = parent

    def raw(self, request: bytes, *, then_close: bool = False) -> bytes:
        """Send bytes as they are and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(request)
            if then_close:
                return b""
            received = b""
            while piece := connection.recv(1 << 16):
                received += piece
            return received

    def uploads(self) -> list[Path]:
        """Uploaded files that are on the disk now."""
        return [p for p in self.parent.rglob("file-*") if p.is_file()]

    def create(self) -> str:
        return str(self.client.post("/api/jobs?files=1&bytes=1").json()["id"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of this file, in a thread, where no signal is caught."""
    parent = tmp_path_factory.mktemp("temporary")
    before, tempfile.tempdir = tempfile.tempdir, str(parent)
    ready = threading.Event()
    addresses: list[str] = []
    servers: list[object] = []

    def on_ready(address: str) -> None:
        addresses.append(address)
        ready.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("samcancer.serve.server._signals_as_interrupts", contextlib.nullcontext)
        patch.setattr(
            "uvicorn.Server.startup",
            _noting(servers, __import__("uvicorn").Server.startup),
        )
        listener = listen("127.0.0.1", 0)
        thread = threading.Thread(
            target=run_server,
            args=(listener, lambda: (Scripted(), ModelFacts((), "cpu")), SETTINGS),
            kwargs={"on_ready": on_ready},
        )
        thread.start()
        assert ready.wait(PATIENCE_S)
        server = Running(addresses[0], parent)
        yield server
        server.client.close()
        wait_until(lambda: bool(servers))
        servers[0].should_exit = True  # type: ignore[attr-defined]
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        assert list(parent.iterdir()) == []
    tempfile.tempdir = before


def _noting(servers: list[object], startup: object) -> object:
    async def noted(self: object, sockets: object = None) -> None:
        servers.append(self)
        await startup(self, sockets)  # type: ignore[operator]

    return noted


def request(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    """A request as bytes, with nothing added or normalised."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "X-SAMCancer: 1", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/static/../../../etc/passwd",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/serve.js/../../jobs.py",
        "/serve.js%00",
        "/jobs.py",
        "/api/jobs/../../etc/passwd",
    ],
)
def test_addresses_that_no_browser_would_send_lead_nowhere(path: str, running: Running) -> None:
    answer = running.raw(request("GET", path))
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))
    assert b"root:" not in answer


def test_a_scan_goes_through(running: Running) -> None:
    job_id = running.create()
    client = running.client
    assert client.put(f"/api/jobs/{job_id}/files/0?suffix=.mha", content=b"x").status_code == 204
    assert client.post(f"/api/jobs/{job_id}/start").status_code == 202
    wait_until(lambda: client.get(f"/api/jobs/{job_id}").json()["state"] == "done")
    assert client.get(f"/api/jobs/{job_id}/results/scan.nii.gz").content == b"mask"
    assert client.delete(f"/api/jobs/{job_id}").status_code == 204


def test_answers_do_not_say_what_software_sends_them(running: Running) -> None:
    assert "server" not in running.client.get("/").headers


def test_a_length_beyond_the_limit_is_refused_without_waiting_for_it(running: Running) -> None:
    path = f"/api/jobs/{running.create()}/files/0?suffix=.nii"
    answer = running.raw(request("PUT", path, "Content-Length: 999999999999", body=b"x"))
    assert answer.startswith(b"HTTP/1.1 413")
    assert running.uploads() == []


def test_fewer_bytes_than_claimed_are_given_up_after_a_while(running: Running) -> None:
    job_id = running.create()
    path = f"/api/jobs/{job_id}/files/0?suffix=.nii"
    started = time.monotonic()
    answer = running.raw(request("PUT", path, "Content-Length: 1000", body=b"only this"))
    assert answer.startswith(b"HTTP/1.1 408")
    assert SETTINGS.idle_s <= time.monotonic() - started < PATIENCE_S
    assert running.uploads() == []
    assert running.client.get(f"/api/jobs/{job_id}").json()["state"] == "failed"


def test_chunks_without_an_end_stop_at_the_limit(running: Running) -> None:
    path = f"/api/jobs/{running.create()}/files/0?suffix=.nii"
    chunk = b"%x\r\n" % 100_000 + bytes(100_000) + b"\r\n"
    answer = running.raw(request("PUT", path, "Transfer-Encoding: chunked", body=chunk * 11))
    assert answer.startswith(b"HTTP/1.1 413")
    assert running.uploads() == []


def test_a_connection_that_breaks_leaves_no_file(running: Running) -> None:
    job_id = running.create()
    path = f"/api/jobs/{job_id}/files/0?suffix=.nii"
    running.raw(request("PUT", path, "Content-Length: 1000", body=b"half"), then_close=True)
    wait_until(lambda: running.client.get(f"/api/jobs/{job_id}").status_code == 404)
    assert running.uploads() == []


def test_what_is_no_http_is_refused_and_the_server_goes_on(running: Running) -> None:
    assert running.raw(b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert running.client.get("/api/info").status_code == 200


def test_a_port_that_is_taken_is_one_line() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} \(.*\)\. Choose another --port"):
            listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"cannot listen at 192\.0\.2\.1 port 0"):
        listen("192.0.2.1", 0)


def test_the_address_holds_host_port_and_token() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, SETTINGS) == f"http://127.0.0.1:{port}/"
        token = "t" * 16
        six = ServeSettings(host="::1", token=token)
        assert address_of(listener, six) == f"http://[::1]:{port}/?token={token}"
        everywhere = ServeSettings(host="0.0.0.0", token=token)
        assert address_of(listener, everywhere).startswith(f"http://{socket.gethostname()}:")


def test_only_a_network_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_network(SETTINGS)
    assert caplog.text == ""
    warn_of_network(ServeSettings(host="0.0.0.0", token="t" * 16))
    assert "other machines can reach the server" in caplog.text
    assert "t" * 16 not in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server_in_order(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    segment = Scripted()
    segment.go.clear()

    def on_ready(address: str) -> None:
        def talk() -> None:
            with httpx.Client(base_url=address, headers=OURS, trust_env=False) as client:
                job_id = client.post("/api/jobs?files=1").json()["id"]
                client.put(f"/api/jobs/{job_id}/files/0?suffix=.nii", content=b"x")
                client.post(f"/api/jobs/{job_id}/start")
                segment.begun.wait(PATIENCE_S)
            os.kill(os.getpid(), number)
            segment.go.set()

        threading.Thread(target=talk).start()

    before = signal.getsignal(number)
    listener = listen("127.0.0.1", 0)
    facts = ModelFacts((), "cpu")
    run_server(listener, lambda: (segment, facts), ServeSettings(), on_ready=on_ready)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


def test_a_signal_while_the_model_is_loaded_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def load() -> tuple[Scripted, ModelFacts]:
        assert [p.name[: len(WORKSPACE_PREFIX)] for p in tmp_path.iterdir()] == [WORKSPACE_PREFIX]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_S)
        raise AssertionError("the signal did not come")

    with pytest.raises(KeyboardInterrupt):
        run_server(listen("127.0.0.1", 0), load, SETTINGS, on_ready=lambda _: None)
    assert list(tmp_path.iterdir()) == []
