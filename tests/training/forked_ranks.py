"""Forked processes of one interpreter that train together, since importing torch takes seconds.

As a script it trains what ddp_script trains in 1, 2 and 4 of them. Arguments: folder, the numbers
of processes as ``1,2,4``, then those of ddp_script.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def fork(count: int, action: Callable[[int], None]) -> None:
    """Call the action with the rank in so many processes and wait for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    shared |= {"LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "forked"}
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            status = 1
            try:
                os.environ.update(shared, RANK=str(rank), LOCAL_RANK=str(rank))
                action(rank)
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
        children.append(child)
    for child in children:
        _, ended = os.waitpid(child, 0)
        if ended:
            sys.exit(f"a process of {count} ended with {os.waitstatus_to_exitcode(ended)}")


if __name__ == "__main__":
    import ddp_script
    import torch.utils.tensorboard  # noqa: F401 - once for all processes

    given = dict(word.split("=") for word in sys.argv[3:])
    for number in map(int, sys.argv[2].split(",")):
        own = Path(sys.argv[1]) / str(number)
        fork(number, lambda _, folder=own: ddp_script.main(folder, given))
