"""The running server: raw sockets, lying requests and broken connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_fakes import OURS, PATIENCE_S, Scripted, wait_until

from samcancer.serve.app import ModelFacts
from samcancer.serve.jobs import JobQueue
from samcancer.serve.server import address_of, listen, make_server, warn_of_network
from samcancer.serve.settings import ServeSettings

SETTINGS = ServeSettings(max_upload_bytes=1_000_000, idle_s=0.3)


class Running:
    """Talks to a server over a socket."""

    def __init__(self, address: str, folder: Path) -> None:
        self.client = httpx.Client(base_url=address, headers=OURS, trust_env=False)
        self.port = self.client.base_url.port or 0
        self.folder = folder

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
        return [p for p in self.folder.rglob("file-*") if p.is_file()]

    def create(self) -> str:
        return str(self.client.post("/api/jobs?files=1&bytes=1").json()["id"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests of this file, in a thread, where it catches no signal."""
    folder = tmp_path_factory.mktemp("private")
    queue = JobQueue(folder, Scripted(), SETTINGS)
    queue.start()
    server = make_server(queue, ModelFacts((), "cpu"))
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    running = Running(address_of(listener, SETTINGS), folder)
    yield running
    running.client.close()
    server.should_exit = True
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    queue.stop()
    assert list(folder.iterdir()) == []


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


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"GET /serve.js HT"]
)
def test_a_connection_that_never_finishes_its_headers_is_closed(
    start: bytes, running: Running
) -> None:
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(start)
        assert connection.recv(100) == b""
    assert SETTINGS.idle_s <= time.monotonic() - started < PATIENCE_S


def test_headers_that_trickle_in_behind_a_whole_request_do_not_hold_the_connection(
    running: Running,
) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            for _ in range(int(PATIENCE_S / 0.05)):
                connection.sendall(b"G")
                time.sleep(0.05)
            raise AssertionError("the connection was never closed")


def test_a_slow_upload_that_goes_on_is_not_cut(running: Running) -> None:
    job_id = running.create()
    path = f"/api/jobs/{job_id}/files/0?suffix=.nii"
    pieces = 12
    with socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE_S) as connection:
        connection.sendall(request("PUT", path, f"Content-Length: {pieces}"))
        for _ in range(pieces):
            time.sleep(SETTINGS.idle_s / 4)
            connection.sendall(b"x")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 204")
    assert running.client.delete(f"/api/jobs/{job_id}").status_code == 204


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
