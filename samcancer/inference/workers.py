"""Segment many scans in several processes on a CPU, each with its own model and its share of them.

One process uses several cores well while the network runs, and one core while a scan is read or
post-processed; with many small scans, processes side by side leave fewer cores idle. The parent
holds the lock of the output folder, deals out the scans and joins what the workers tell it. A
worker that dies takes its own unfinished scans with it and no others.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch

from samcancer.errors import InputError, fact_of
from samcancer.files import folder_lock, require_writable_folder
from samcancer.inference.batch import BatchResult, remove_stale_files, segment_share
from samcancer.inference.models import Ensemble
from samcancer.inference.nnunet_folder import write_nnunet_files
from samcancer.inference.options import InferenceOptions
from samcancer.inference.prompts import CasePrompts
from samcancer.processes import start_as_worker
from samcancer.taxonomy import ClassSpec

_PRELOADED = ["samcancer.inference.batch"]
"""Modules the fork server imports once for all workers."""


@dataclass(frozen=True, kw_only=True)
class _Share:
    """All that a worker needs."""

    scans: Mapping[str, Path]
    output: Path
    load: Callable[[], Ensemble]
    options: InferenceOptions
    prompts: Mapping[str, CasePrompts]
    skip_finished: bool
    threads: int
    log_level: int


@dataclass
class _Worker:
    """A running worker, and what it has told."""

    share: _Share
    process: BaseProcess
    told: BatchResult = field(default_factory=BatchResult)
    error: Exception | None = None
    """Why it could not begin."""


def segment_in_workers(
    scans: Mapping[str, Path],
    output: Path,
    *,
    workers: int,
    load: Callable[[], Ensemble],
    classes: tuple[ClassSpec, ...],
    options: InferenceOptions,
    prompts: Mapping[str, CasePrompts] | None = None,
    skip_finished: bool = False,
    on_case: Callable[[str], None] = lambda _: None,
    on_slices: Callable[[int], None] = lambda _: None,
) -> BatchResult:
    """Segment every scan into ``output``, in ``workers`` processes at most.

    Args:
        scans: Case id -> scan.
        output: Folder of the results; one command at a time.
        workers: Processes; they share out this process's threads and the memory budget.
        load: Loads the networks, in each worker; to be pickled.
        classes: Of the networks.
        options: What to compute and write.
        prompts: Case id -> what a person says about the case.
        skip_finished: Leave cases alone whose report and mask prove to be finished.
        on_case: Called with the case id when a case begins.
        on_slices: Called with the number of slices done since the last call.

    Raises:
        InputError: When the output folder cannot be written, another process writes to it, or the
            networks cannot be loaded.
    """
    require_writable_folder(output)
    prompts = prompts or {}
    shares = deal_out(scans, workers)
    budget = options.engine.budget_bytes
    engine = replace(options.engine, budget_bytes=budget and budget // len(shares))
    given = [
        _Share(
            scans={case_id: scans[case_id] for case_id in share},
            output=output,
            load=load,
            options=replace(options, engine=engine),
            prompts={
                case_id: (prompts or {})[case_id] for case_id in share if case_id in (prompts or {})
            },
            skip_finished=skip_finished,
            threads=max(1, torch.get_num_threads() // len(shares)),
            log_level=logging.getLogger().level,
        )
        for share in shares
    ]
    with folder_lock(output, purpose="infer-volume"):
        remove_stale_files(output)
        with _running(given) as running:
            _listen(running, on_case, on_slices)
        remove_stale_files(output)  # of a worker that died
        result = _joined(list(scans), list(running.values()))
        if result.finished or result.skipped:
            write_nnunet_files(output, scans, classes, merged=options.merge_lesions)
    return result


def deal_out(scans: Mapping[str, Path], workers: int) -> list[list[str]]:
    """Return the case ids of each worker: the largest scan goes to who has least.

    Args:
        scans: Case id -> a file, or a folder of files.
        workers: The most shares; there are no empty ones.
    """
    sizes = {case_id: _bytes_of(path) for case_id, path in scans.items()}
    shares: list[list[str]] = [[] for _ in range(min(workers, len(scans)))]
    for case_id in sorted(sizes, key=lambda name: -sizes[name]):
        min(shares, key=lambda share: (sum(sizes[c] for c in share), len(share))).append(case_id)
    order = {case_id: index for index, case_id in enumerate(scans)}
    return [sorted(share, key=lambda case_id: order[case_id]) for share in shares]


def _bytes_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def _running(shares: list[_Share]) -> Iterator[dict[Connection, _Worker]]:
    """Start a worker for each share; none is left when the block ends, however it ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    running = {}
    try:
        for share in shares:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(share, theirs), daemon=True)
            process.start()
            theirs.close()  # so that ours ends with the worker
            running[ours] = _Worker(share, process)
        yield running
    finally:
        for connection, worker in running.items():
            worker.process.terminate()
            worker.process.join()
            connection.close()


def _listen(
    running: Mapping[Connection, _Worker],
    on_case: Callable[[str], None],
    on_slices: Callable[[int], None],
) -> None:
    """Take in what the workers tell until each has ended."""
    open_ends = dict(running)
    while open_ends:
        for ready in wait(list(open_ends)):
            connection = cast(Connection, ready)
            worker = open_ends[connection]
            try:
                message = connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                del open_ends[connection]
                continue
            if isinstance(message, logging.LogRecord):
                logging.getLogger(message.name).handle(message)
            elif isinstance(message, BatchResult):
                worker.told = message
            elif isinstance(message, Exception):
                worker.error = message
            elif isinstance(message, str):
                on_case(message)
            else:
                on_slices(message)


def _joined(order: list[str], workers: list[_Worker]) -> BatchResult:
    """Return the results in the order of the input; scans nobody told of have failed.

    Raises:
        InputError: When a worker could not load the networks.
    """
    for worker in workers:
        if worker.error is not None:
            raise worker.error
    finished = {case_id for worker in workers for case_id in worker.told.finished}
    skipped = {case_id for worker in workers for case_id in worker.told.skipped}
    failures = {c: text for worker in workers for c, text in worker.told.failures.items()}
    facts = {c: text for worker in workers for c, text in worker.told.facts.items()}
    for worker in workers:
        for case_id in worker.share.scans.keys() - finished - skipped - failures.keys():
            error = InputError(
                f"its worker process died (exit status {worker.process.exitcode}), most likely "
                "for lack of memory",
                path=worker.share.scans[case_id],
                mend="use fewer --workers, with --skip-finished",
            )
            failures[case_id], facts[case_id] = str(error), fact_of(error)
    return BatchResult(
        finished=[case_id for case_id in order if case_id in finished],
        skipped=[case_id for case_id in order if case_id in skipped],
        failures={case_id: failures[case_id] for case_id in order if case_id in failures},
        facts={case_id: facts[case_id] for case_id in order if case_id in facts},
    )


class _Teller(logging.handlers.QueueHandler):
    """Sends the parent log records and progress; threads of a worker take turns."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(cast(Any, connection))
        self._connection = connection
        self._turn = threading.Lock()

    def tell(self, message: object) -> None:
        with self._turn:
            self._connection.send(message)

    def enqueue(self, record: logging.LogRecord) -> None:
        self.tell(record)


def _work(share: _Share, connection: Connection) -> None:
    """Segment a share of the scans: the body of a worker process."""
    start_as_worker()
    torch.set_num_threads(share.threads)
    teller, result = _Teller(connection), BatchResult()
    logging.basicConfig(level=share.log_level, handlers=[teller], force=True)

    def on_case(case_id: str) -> None:
        teller.tell(result)
        teller.tell(case_id)

    try:
        segment_share(
            share.scans,
            share.output,
            result=result,
            ensemble=share.load(),
            options=share.options,
            prompts=share.prompts,
            skip_finished=share.skip_finished,
            on_case=on_case,
            on_slices=teller.tell,
        )
        teller.tell(result)
    except Exception as error:
        teller.tell(error)
