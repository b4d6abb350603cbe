"""One Dask task per case; imported only where more than this process works.

A case whose worker dies is done again by another, ``allowed_failures`` times, then it is given up
and named. Tasks write whole files or none, and the same bytes each time, so that a case done twice
does no harm.
"""

from __future__ import annotations

import logging
import queue
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, Security, WorkerPlugin
from distributed.utils import get_mp_context

from samcancer.cohort.executor import (
    CaseWork,
    Executor,
    Item,
    Outcome,
    Outcomes,
    Result,
    RunError,
    State,
)
from samcancer.cohort.worker import Errand, execute, release
from samcancer.errors import InputError
from samcancer.processes import start_as_worker

_log = logging.getLogger(__name__)

_LOOK_S = 2.0
"""Time without news after which the client looks whether scheduler and workers are there."""

_CONNECT_S = 20.0
"""Time for a scheduler to answer."""

_CLUSTER_STATES = ("closed", "closing")

_PRELOADED = ("distributed.nanny", "samcancer.cohort.worker")
"""Modules that every worker of this machine needs."""

_KEPT = "finished cases are kept"


def run_on_dask(
    work: CaseWork[State, Item, Result],
    items: Mapping[str, Item],
    *,
    executor: Executor,
    on_case: Callable[[str], None],
    on_steps: Callable[[int], None],
) -> Outcomes[Result]:
    """Yield the outcome of every case as it comes; arguments as for ``run_cases``."""
    errand = Errand(
        run_id=uuid.uuid4().hex, work=work, log_level=logging.getLogger().getEffectiveLevel()
    )
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with _connected(executor, len(items), work.modules) as client:
        client.subscribe_topic(errand.topic, lambda event: news.put(event[1]))
        names: dict[Any, str] = {
            f"{work.stage}-{errand.run_id}-{case_id}": case_id for case_id in items
        }
        futures = client.map(
            execute, list(items), list(items.values()), key=list(names), errand=errand, pure=False
        )
        waiting = {future.key: future for future in futures}
        try:
            for future in futures:
                future.add_done_callback(news.put)
            del futures, future  # a result is kept by its future
            while waiting:
                message = _next(news, client)
                if not isinstance(message, Future):
                    _take(message, on_case, on_steps)
                elif (done := waiting.pop(message.key, None)) is not None:
                    yield _outcome(done, names[message.key])
                    done.release()
        finally:
            _leave(client, list(waiting.values()), errand.run_id, executor)


def _next(news: queue.SimpleQueue[Any], client: Client) -> Any:
    """Return the next event or finished task.

    Raises:
        InputError: When the scheduler is gone.
    """
    told = False
    while True:
        with suppress(queue.Empty):
            return news.get(timeout=_LOOK_S)
        if client.status in _CLUSTER_STATES:
            raise _lost()
        if not told and client.status == "running" and not _worker_count(client):
            _log.warning("no worker is there; waiting for one")
            told = True


def _worker_count(client: Client) -> int:
    with suppress(OSError, TimeoutError):
        return len(client.scheduler_info(n_workers=-1)["workers"])
    return 0


def _lost() -> InputError:
    return InputError(f"the Dask scheduler is gone; {_KEPT}", mend="run the same command again")


def _take(
    message: list[Any], on_case: Callable[[str], None], on_steps: Callable[[int], None]
) -> None:
    """Pass on what a worker told."""
    kind, *content = message
    if kind == "case":
        on_case(content[0])
    elif kind == "steps":
        on_steps(content[0])
    else:
        name, level, text = content
        logging.getLogger(name).log(level, "%s", text)


def _outcome(future: Future[Any], case_id: str) -> Outcome[Any]:
    """Return what became of a case.

    Raises:
        InputError: When no case can be done, or the scheduler is gone.
    """
    if future.status in ("cancelled", "lost"):
        raise _lost()
    error = future.exception()
    if isinstance(error, RunError):
        raise error.args[0]
    if isinstance(error, KilledWorker):
        return Outcome(case_id, None, _died(error.allowed_failures + 1))
    value = future.result()  # raises what a task should never raise
    failed = isinstance(value, InputError)
    return Outcome(case_id, None if failed else value, value if failed else None)


def _died(times: int) -> InputError:
    return InputError(
        f"its worker process died {times} times, most likely for lack of memory",
        mend="give it fewer workers or more memory, and run the same command again",
    )


def _leave(client: Client, unfinished: list[Future[Any]], run_id: str, executor: Executor) -> None:
    """Leave workers that live on as they were before; those of this process end anyway."""
    if not executor.elsewhere or client.status != "running":
        return
    if unfinished:
        client.cancel(unfinished)
    else:
        client.run(release, run_id, on_error="ignore")


@contextmanager
def _connected(executor: Executor, cases: int, modules: Sequence[str]) -> Iterator[Client]:
    """Yield a client of the cluster; one that was started here ends with the block."""
    with ExitStack() as stack:
        if executor.scheduler is not None:
            yield stack.enter_context(_client_of(executor.scheduler))
            return
        stack.enter_context(
            dask.config.set({"distributed.scheduler.allowed-failures": executor.allowed_failures})
        )
        if executor.slurm is not None:
            from samcancer.cohort.slurm import slurm_cluster

            cluster = stack.enter_context(slurm_cluster(executor.slurm))
            yield stack.enter_context(Client(cluster, set_as_default=False))
            return
        stack.enter_context(_forked_workers(modules))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="samcancer-"))
        cluster = stack.enter_context(_local_cluster(min(executor.workers, cases), Path(scratch)))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(_LocalWorker())
        yield client


def _client_of(address: str) -> Client:
    try:
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers ({reason})",
            mend="start one with `dask scheduler`, and give the address that it prints",
        ) from None


@contextmanager
def _forked_workers(modules: Sequence[str]) -> Iterator[None]:
    """Fork workers from a server that imports once for all of them, also where one starts anew."""
    settings = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.profile.enabled": False,  # it would look at every thread each 10 ms
    }
    with dask.config.set(settings):
        context = get_mp_context()  # sets what Dask wants imported, the first time
        context.set_forkserver_preload([*_PRELOADED, *modules])
        yield


def _local_cluster(workers: int, scratch: Path) -> LocalCluster:
    """Return worker processes that nobody else on this machine can give work to.

    Dask runs what it is sent, so even on the loopback device it asks for certificates, made for
    this run. Its limits of memory are off: they pause or kill a worker for what torch sets aside.
    """
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        protocol="tls://",
        security=Security.temporary(),
        dashboard_address=None,
        memory_limit=None,
        local_directory=str(scratch),
    )


class _LocalWorker(WorkerPlugin):
    """A worker process of this machine: leaves Ctrl-C to its parent, and ends with it."""

    def setup(self, worker: Any) -> None:
        """Run in the main thread of each worker, as it starts."""
        del worker
        start_as_worker()
