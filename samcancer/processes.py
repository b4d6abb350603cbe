"""What every worker process does first: leave Ctrl-C to its parent, and end when that is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def start_as_worker() -> None:
    """Ignore Ctrl-C, and watch the parent process.

    Ctrl-C reaches the whole process group, and the parent decides what becomes of the work. A
    parent that was killed, however, tells nobody: without the watch its workers stay for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this process at once when its parent ends.

    The parent is the process that asked for this one. Its pid would not do: under a fork server
    that is the server's, which in turn lives as long as its workers.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
