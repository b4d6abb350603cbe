"""A web server of a folder on this machine, which counts what is asked for and can be made ill."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class StoreServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.status: int | None = None
        """Answer to whatever is asked; None serves the files."""
        self.cut_short = 0
        """Answers to come that end in the middle."""
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(SimpleHTTPRequestHandler):
    server: StoreServer

    def __init__(self, request: Any, address: Any, server: StoreServer) -> None:
        super().__init__(request, address, server, directory=str(server.folder))

    def do_GET(self) -> None:
        name = unquote(self.path).lstrip("/")
        self.server.asked[name] += 1
        if self.server.status is not None:
            self.send_error(self.server.status)
            return
        if self.server.delay_s:
            threading.Event().wait(self.server.delay_s)
        path = self.server.folder / name
        if not (self.server.cut_short and path.suffix == ".h5"):
            super().do_GET()
            return
        self.server.cut_short -= 1
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        """Keep the terminal quiet."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[StoreServer]:
    server = StoreServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
