"""The private folder of one running server: nothing of it outlives the server.

The folder's name begins with a prefix of its own, its lock is held as long as the server runs, and
only the user may enter it. What a killed server left is recognised by the lock that nobody holds
any more, and removed when the next server starts. A new folder gets its final name only once its
lock is held, so that two servers that start together never take each other's for a leftover.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from os import getuid
from pathlib import Path

from samcancer.errors import InputError
from samcancer.files import folder_lock

WORKSPACE_PREFIX = "samcancer-serve-"

_UNLOCKED_PREFIX = "samcancer-new-"
"""Of a folder whose lock is not held yet."""

_UNLOCKED_S = 60.0
"""Age from which such a folder is a leftover; locking takes milliseconds."""

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def open_workspace() -> Iterator[Path]:
    """Yield an empty private folder and remove it, whatever happens.

    It lies in the folder for temporary files (``TMPDIR`` where that is set).

    Raises:
        InputError: When no folder can be made there.
    """
    parent = Path(tempfile.gettempdir())
    remove_stale_workspaces(parent)
    try:
        unlocked = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
    except OSError as error:
        raise InputError(
            f"cannot create a folder in it ({error.strerror})",
            path=parent,
            mend="set TMPDIR to another folder",
        ) from None
    folder = unlocked
    try:
        with folder_lock(unlocked, purpose="serve"):
            name = WORKSPACE_PREFIX + unlocked.name.removeprefix(_UNLOCKED_PREFIX)
            folder = unlocked.rename(unlocked.with_name(name))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale_workspaces(parent: Path) -> int:
    """Remove the folders of servers that were killed; return how many."""
    removed = 0
    for folder in parent.glob(f"{WORKSPACE_PREFIX}*"):
        if not _is_own_folder(folder):
            continue
        # A server that runs holds the lock, and is left alone.
        with contextlib.suppress(InputError), folder_lock(folder, purpose="clean up"):
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    for folder in parent.glob(f"{_UNLOCKED_PREFIX}*"):
        if _is_own_folder(folder) and time.time() - folder.stat().st_mtime > _UNLOCKED_S:
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
    if removed:
        _log.info("removed %d folders that a killed server had left", removed)
    return removed


def _is_own_folder(path: Path) -> bool:
    """Tell whether it is a folder of this user, and no link to one."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == getuid()
