"""Run the application until a signal comes, and leave nothing behind."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn

from samcancer.errors import InputError
from samcancer.serve.app import ModelFacts, make_app
from samcancer.serve.jobs import JobQueue, Segment
from samcancer.serve.protocol import impatient_protocol
from samcancer.serve.settings import ServeSettings, is_loopback
from samcancer.serve.workspace import open_workspace

_log = logging.getLogger(__name__)

_CONNECTIONS = 100
"""Requests at once; more are answered with 503."""

_IDLE_CONNECTION_S = 15
"""After which a connection without a request is closed."""

_LAST_ANSWERS_S = 2
"""Time for answers under way when the server stops."""


def run_server(
    listener: socket.socket,
    load: Callable[[], tuple[Segment, ModelFacts]],
    settings: ServeSettings,
    *,
    on_ready: Callable[[str], None],
    open_browser: bool = False,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then remove all files.

    Args:
        listener: Of :func:`listen`; closed at the end.
        load: Loads the model; called once, when signals and the private folder are in place.
        settings: Limits.
        on_ready: Called with the address to open, once the model is loaded.
        open_browser: Whether to open it in the user's browser.

    Raises:
        InputError: When the model cannot be loaded, or there is no room for files.
        KeyboardInterrupt: When a signal comes before the model is loaded.
    """
    with listener, _signals_as_interrupts(), open_workspace() as folder:
        segment, facts = load()
        queue = JobQueue(folder, segment, settings)
        server = make_server(queue, facts)
        queue.start()
        address = address_of(listener, settings)
        on_ready(address)
        if open_browser:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            # uvicorn ends in order at a signal and then raises it again.
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            queue.stop()
    _log.info("stopped, and all scans and results are removed")


def make_server(queue: JobQueue, facts: ModelFacts) -> uvicorn.Server:
    """Return a server of the application that has not been run yet."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app(queue, facts),
        http=impatient_protocol(queue.settings.idle_s),
        ws="none",
        lifespan="on",
        log_config=None,
        # An address may hold the token.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_IDLE_CONNECTION_S,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections.

    Args:
        host: Address or name.
        port: 0 takes any that is free.

    Raises:
        InputError: When the address is not one of this machine, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen at {host} port {port} ({error.strerror})",
            mend="choose another --port or --host",
        ) from None


def address_of(listener: socket.socket, settings: ServeSettings) -> str:
    """Return what to open in a browser, with the token where one is asked for."""
    host, port = settings.host, listener.getsockname()[1]
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened at
        host = socket.gethostname()
    shown = f"[{host}]" if ":" in host else host
    query = "" if settings.token is None else f"?token={settings.token}"
    return f"http://{shown}:{port}/{query}"


def warn_of_network(settings: ServeSettings) -> None:
    """Say what a server that others can reach means."""
    if not is_loopback(settings.host):
        _log.warning(
            "other machines can reach the server; scans and the token travel unencrypted. "
            "Prefer an SSH tunnel, or put a server with HTTPS before it"
        )


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does, so that files are removed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        # Taken by whoever handles SIGTERM at that moment: uvicorn, or the function above.
        signal.raise_signal(signal.SIGTERM)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt),
        signal.SIGHUP: signal.signal(signal.SIGHUP, hang_up),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
