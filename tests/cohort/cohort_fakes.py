"""Work that tests give to workers: found by its module's name in every process."""

from __future__ import annotations

import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from samcancer.cohort.executor import CaseWork, RunError, Tell
from samcancer.errors import InputError

_log = logging.getLogger("samcancer.tests")


@dataclass(frozen=True)
class Work:
    """Adds numbers; notes in a folder who loaded what and who began what."""

    notes: Path
    killed: tuple[str, ...] = ()
    """Cases that kill their worker the first time."""
    deadly: tuple[str, ...] = ()
    """Cases that kill their worker each time."""

    def setup(self) -> int:
        """Load the number 100."""
        (self.notes / f"load-{os.getpid()}-{time.monotonic_ns()}").touch()
        return 100

    def do(self, state: int, case_id: str, item: int, tell: Tell) -> int:
        """Add."""
        begun = self.notes / f"begun-{case_id}"
        again = begun.exists()
        begun.touch()
        if case_id in self.deadly or (case_id in self.killed and not again):
            os.kill(os.getpid(), signal.SIGKILL)
        tell(item)
        _log.info("%s adds %d", case_id, item)
        if item < 0:
            raise InputError(f"{item} is negative", path=f"{case_id}.nii.gz", mend="add more")
        return state + item

    def work(self) -> CaseWork[int, int, int]:
        """Return it as the work of a stage."""
        return CaseWork(stage="add", setup=self.setup, do=self.do)


def refuse_setup() -> int:
    """Refuse to load."""
    raise InputError("no such model", path="runs", mend="train one")


def refuse_run(_state: object, _case_id: str, _item: int, _tell: Tell) -> int:
    """Find in a case that the run is at fault."""
    raise RunError(InputError("the teacher knows the patient"))
