"""What a Dask worker does for a case. The client pickles :func:`execute` by its name.

A worker process keeps what the setup of a run loaded until that run ends, so a network is loaded
once per process and not once per case. Log records, begun cases and steps are sent to the client as
events, which reach it before the result does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from distributed import get_worker

from samcancer import __version__
from samcancer.cohort.executor import CaseWork, RunError
from samcancer.errors import InputError

_PACKAGES = ("samcancer", "data_prep")
"""Whose log records the client gets; what other programs on the worker log is theirs."""

_turn = threading.Lock()
"""Held while a case is done: the threads of a worker process share one network, so they take turns.
Workers are best started with one thread."""

_states: dict[str, Any] = {}
"""Run -> what its setup loaded in this process."""


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What the tasks of a run have in common."""

    run_id: str
    work: CaseWork[Any, Any, Any]
    log_level: int
    version: str = __version__

    @property
    def topic(self) -> str:
        """Under which events are sent."""
        return f"samcancer-{self.run_id}"


def execute(case_id: str, item: Any, errand: Errand) -> Any:
    """Do one case; return its result, or the InputError that says why there is none.

    Raises:
        RunError: When no case of the run can be done here.
    """
    worker = get_worker()

    def tell(kind: str, *content: Any) -> None:
        worker.log_event(errand.topic, [kind, *content])

    with _turn, _told_logs(errand.log_level, tell):
        state = _state_of(errand)
        tell("case", case_id)
        try:
            return errand.work.do(state, case_id, item, lambda count: tell("steps", int(count)))
        except InputError as error:
            return error


def release(run_id: str) -> None:
    """Forget what a run loaded in this process."""
    with _turn:
        _states.pop(run_id, None)


def _state_of(errand: Errand) -> Any:
    if errand.version != __version__:
        raise RunError(
            InputError(
                f"a worker has samcancer {__version__}, this is {errand.version}",
                mend="install the same version everywhere",
            )
        )
    if errand.run_id not in _states:
        try:
            _states[errand.run_id] = errand.work.setup()
        except InputError as error:
            raise RunError(error) from None
    return _states[errand.run_id]


@contextmanager
def _told_logs(level: int, tell: Callable[..., None]) -> Iterator[None]:
    """Send the log records of the block to the client."""
    handler = _Teller(level, tell)
    loggers = [logging.getLogger(name) for name in _PACKAGES]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False  # the client prints them
    try:
        yield
    finally:
        for logger, (old_level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = propagate


class _Teller(logging.Handler):
    """Sends log records as events."""

    def __init__(self, level: int, tell: Callable[..., None]) -> None:
        super().__init__(level)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text += f"\n{logging.Formatter().formatException(record.exc_info)}"
        self._tell("log", record.name, record.levelno, text)
