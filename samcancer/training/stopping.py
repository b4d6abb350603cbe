"""Stopping a run from outside: SIGINT and SIGTERM ask for it, and the step at hand is finished."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        """Start without a request."""
        self.requested = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note the request; a second one interrupts at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        _log.info("%s: finishing the step and saving", signal.Signals(number).name)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request for the length of the block.

    Outside the main thread, where no handler can be set, signals keep their meaning.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.handle) for number in _SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
