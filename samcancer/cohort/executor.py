"""Where the tasks of a cohort run, and what a task is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from samcancer.errors import InputError

State = TypeVar("State")
"""What a worker process loads once, such as networks."""

Item = TypeVar("Item")
"""What is known of a case before its task; small, for it is sent to a worker."""

Result = TypeVar("Result")
"""What a task gives back; small, for it is sent to the client. Large things go into files."""

Tell = Callable[[int], None]
"""Told how many steps (slices) of a case are done since the last call."""

ALLOWED_FAILURES = 3
"""Workers that may die under a case before the case is given up, as Dask has it by default."""


@dataclass(frozen=True, kw_only=True)
class Executor:
    """Where tasks run; without arguments one after the other in this process."""

    workers: int = 1
    """Processes on this machine."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, such as ``tcp://node7:8786``."""
    slurm: Path | None = None
    """YAML file that describes jobs of a Slurm cluster; see samcancer.cohort.slurm."""
    allowed_failures: int = ALLOWED_FAILURES
    """Of a cluster started here; a running scheduler keeps its own number."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.workers < 1:
            raise InputError(f"--workers must be at least 1, got {self.workers}")
        if self.allowed_failures < 0:
            raise InputError(f"--allowed-failures must be 0 or more, got {self.allowed_failures}")
        if self.scheduler is not None and self.slurm is not None:
            raise InputError("--scheduler and --slurm exclude each other", mend="give one of them")
        if self.elsewhere and self.workers > 1:
            raise InputError(
                f"--workers {self.workers} is for this machine alone",
                mend="leave it out with --scheduler and --slurm, which bring their own workers",
            )

    @property
    def elsewhere(self) -> bool:
        """Whether other machines may do the work: they find files by absolute paths alone."""
        return self.scheduler is not None or self.slurm is not None

    def in_process(self, cases: int) -> bool:
        """Whether this many cases are done in this process."""
        return not self.elsewhere and min(self.workers, cases) <= 1

    def threads_of_worker(self, threads: int, *, cases: int) -> int | None:
        """Return the share of this process's threads; None leaves workers elsewhere their own."""
        workers = max(1, min(self.workers, cases))
        return None if self.elsewhere else max(1, threads // workers)


IN_PROCESS = Executor()
"""One case after the other in this process."""


@dataclass(frozen=True, kw_only=True)
class CaseWork(Generic[State, Item, Result]):
    """What is done with every case of a cohort; pickled, so of functions that modules hold."""

    stage: str
    """Name of the stage, such as ``infer-volume``."""
    setup: Callable[[], State]
    """Loads what a worker process needs for any case; called once in each."""
    do: Callable[[State, str, Item, Tell], Result]
    """Does a case: state, case id, item, where to tell steps. Doing it twice gives the same files.

    An InputError is the case's failure; a RunError, and any other exception, ends the run.
    """
    modules: tuple[str, ...] = ()
    """Imported once for all processes of this machine."""


class RunError(Exception):
    """Not a case but the run is at fault; its argument is the InputError that says why."""


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """How a case went."""

    case_id: str
    result: Result | None
    error: InputError | None = None
    """Why there is no result."""

    def value(self) -> Result:
        """Return the result.

        Raises:
            InputError: Why there is none.
        """
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # there is one where no error is


def no_state() -> None:
    """Load nothing: the setup of a stage without networks."""


Outcomes = Iterator[Outcome[Result]]
