"""The lock of an output folder: one command at a time, or the parts of one partition.

A whole run holds ``.lock`` alone. A part shares it with the other parts and holds one of its own,
so each part runs once; parts of another number of parts would cut the cohort differently, and are
refused while any of these runs. The file system must pass locks on between the machines (NFS from
version 3 on does; Lustre with ``flock``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from samcancer.cohort.partition import Part
from samcancer.errors import InputError
from samcancer.files import LOCK_NAME, folder_lock, is_locked


@contextmanager
def cohort_lock(folder: Path, *, purpose: str, part: Part | None) -> Iterator[None]:
    """Hold the folder's lock for a whole cohort (``part`` None) or for a part of it.

    Raises:
        InputError: When another process does the same part, parts of another partition, or all.
    """
    if part is None:
        with folder_lock(folder, purpose=purpose):
            for path in folder.glob(f"{LOCK_NAME}-part-*"):
                path.unlink()  # nobody holds it: parts share the lock that is held here
            yield
        return
    with (
        folder_lock(folder, purpose=f"{purpose}, parts", shared=True),
        folder_lock(folder, purpose=f"{purpose}, {part.name}", name=f"{LOCK_NAME}-{part.name}"),
    ):
        _require_same_partition(folder, part)
        yield


def _require_same_partition(folder: Path, part: Part) -> None:
    for path in sorted(folder.glob(f"{LOCK_NAME}-part-*-of-*")):
        if not path.name.endswith(f"-of-{part.count}") and is_locked(path):
            other = path.name.removeprefix(f"{LOCK_NAME}-")
            raise InputError(
                f"is being written by {other}, this is {part.name}",
                path=folder,
                mend="use the same --num-parts in all jobs",
            )
