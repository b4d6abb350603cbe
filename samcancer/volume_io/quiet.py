"""Keep what the DICOM libraries warn and log out of sight: it quotes values of any tag."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

_LIBRARIES = ("pydicom", "highdicom")
"""Loggers, each with those below it."""

_lock = threading.Lock()

_inside = 0
"""Blocks under way, in any thread."""

_undo = contextlib.ExitStack()
"""Makes the libraries heard again when the last block ends."""


@contextlib.contextmanager
def quiet_dicom_libraries() -> Iterator[None]:
    """Drop what pydicom and highdicom warn and log in the block.

    One scan is read while the results of another are written: while any thread is in such a block
    they stay quiet, for every thread.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _mute()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _undo.close()


def _mute() -> None:
    _undo.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore")
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        _undo.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL + 1)
