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
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, Security, WorkerPlugin
from distributed.comm.addressing import get_address_host_port
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

_LOOPBACK = "127.0.0.1"

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
        waiting: dict[Any, tuple[str, Future[Any]]] = {}

        def submit(case_ids: list[str]) -> None:
            attempt = uuid.uuid4().hex[:8]
            keys = [f"{work.stage}-{errand.run_id}-{attempt}-{case_id}" for case_id in case_ids]
            given = [items[case_id] for case_id in case_ids]
            futures = client.map(execute, case_ids, given, key=keys, errand=errand, pure=False)
            for case_id, future in zip(case_ids, futures, strict=True):
                waiting[future.key] = case_id, future
                future.add_done_callback(news.put)

        try:
            submit(list(items))
            while waiting:
                message = _next(news, client)
                if not isinstance(message, Future):
                    _take(message, on_case, on_steps)
                elif message.key in waiting:
                    case_id, future = waiting.pop(message.key)
                    outcome = _outcome(future, case_id, client)
                    future.release()
                    if outcome is None:
                        submit([case_id])
                    else:
                        yield outcome
        finally:
            unfinished = [future for _, future in waiting.values()]
            _leave(client, unfinished, errand.run_id, executor)


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


def _outcome(future: Future[Any], case_id: str, client: Client) -> Outcome[Any] | None:
    """Return what became of a case; None when its result was lost with the worker that held it.

    Raises:
        InputError: When no case can be done, or the scheduler is gone.
    """
    try:
        if future.status in ("cancelled", "lost"):
            raise CancelledError
        error = future.exception()
        value = future.result() if error is None else None
    except CancelledError:
        if client.status != "running":
            raise _lost() from None
        return None
    if isinstance(error, RunError):
        raise error.args[0]
    if isinstance(error, KilledWorker):
        return Outcome(case_id, None, _died(error.allowed_failures + 1))
    if error is not None:
        raise error  # what a task should never raise
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
    _quiet_dask()
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
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="samcancer-"))
        stack.enter_context(_forked_workers(scratch, modules))
        cluster = stack.enter_context(_local_cluster(min(executor.workers, cases)))
        client = stack.enter_context(Client(cluster, set_as_default=False))
        client.register_plugin(_LocalWorker())
        yield client


def _client_of(address: str) -> Client:
    try:
        get_address_host_port(address, strict=True)  # a client of what is none closes very slowly
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers ({reason})",
            mend="start one with `dask scheduler`, and give the address that it prints",
        ) from None


@contextmanager
def _forked_workers(scratch: str, modules: Sequence[str]) -> Iterator[None]:
    """Fork workers from a server that imports once for all of them, also where one starts anew."""
    settings = {
        "distributed.worker.multiprocessing-method": "forkserver",
        "distributed.worker.profile.enabled": False,  # it would look at every thread each 10 ms
        # Giving memory back at once costs more than half of the time: pages are cleared anew.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
        "distributed.scheduler.http.routes": [],  # nobody is to look in
        "distributed.worker.http.routes": [],
        "temporary-directory": scratch,
    }
    with dask.config.set(settings):
        context = get_mp_context()  # sets what Dask wants imported, the first time
        context.set_forkserver_preload([*_PRELOADED, *modules])
        yield


def _local_cluster(workers: int) -> LocalCluster:
    """Return worker processes that nobody else on this machine can give work to.

    Dask runs what it is sent, so even on the loopback device it asks for certificates, made for
    this run. Its limits of memory are off: they pause or kill a worker for what torch sets aside.
    """
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host=_LOOPBACK,
        protocol="tls://",
        security=Security.temporary(),
        dashboard_address=f"{_LOOPBACK}:0",
        worker_dashboard_address=f"{_LOOPBACK}:0",
        scheduler_kwargs={"dashboard": False},
        memory_limit=None,
    )


def _quiet_dask() -> None:
    """Leave out what Dask tells of its own connections."""
    logger = logging.getLogger("distributed")
    logger.setLevel(max(logger.level, logging.WARNING))


class _LocalWorker(WorkerPlugin):
    """A worker process of this machine: leaves Ctrl-C to its parent, and ends with it."""

    def setup(self, worker: Any) -> None:
        """Run in the main thread of each worker, as it starts."""
        del worker
        _quiet_dask()
        start_as_worker()
