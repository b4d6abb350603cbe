"""Segment many scans with several worker processes, each with its own model: a task per scan.

One process uses several cores well while the network runs, and one core while a scan is read or
post-processed; with many small scans, processes side by side leave fewer cores idle. Large scans
begin first, so that no worker is left alone with one at the end. The caller's process holds the
lock of the output folder and joins what the workers tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from samcancer.cohort.executor import CaseWork, Executor, Outcome, Tell
from samcancer.cohort.partition import Part
from samcancer.cohort.run import run_cases
from samcancer.errors import InputError, fact_of
from samcancer.files import require_writable_folder
from samcancer.inference.batch import (
    BatchResult,
    locked_output,
    remove_stale_files,
    segment_share,
)
from samcancer.inference.models import Ensemble
from samcancer.inference.nnunet_folder import write_nnunet_files
from samcancer.inference.options import InferenceOptions
from samcancer.inference.prompts import NO_PROMPTS, CasePrompts
from samcancer.taxonomy import ClassSpec


@dataclass(frozen=True)
class _Scan:
    """What a task is given."""

    path: Path
    prompts: CasePrompts


@dataclass(frozen=True, kw_only=True)
class _Segmenting:
    """What all tasks have in common."""

    output: Path
    load: Callable[[], Ensemble]
    options: InferenceOptions
    skip_finished: bool
    threads: int | None
    """Of a worker; None leaves its own number."""

    def setup(self) -> Ensemble:
        """Load the networks."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return self.load()

    def segment(self, ensemble: Ensemble, case_id: str, scan: _Scan, tell: Tell) -> BatchResult:
        """Segment one scan; what goes wrong with it is in the result."""
        result = BatchResult()
        segment_share(
            {case_id: scan.path},
            self.output,
            result=result,
            ensemble=ensemble,
            options=self.options,
            prompts={case_id: scan.prompts},
            skip_finished=self.skip_finished,
            on_case=lambda _: None,
            on_slices=tell,
        )
        return result


def segment_in_workers(
    scans: Mapping[str, Path],
    output: Path,
    *,
    executor: Executor,
    load: Callable[[], Ensemble],
    classes: tuple[ClassSpec, ...],
    options: InferenceOptions,
    prompts: Mapping[str, CasePrompts] | None = None,
    skip_finished: bool = False,
    part: Part | None = None,
    threads: int | None = None,
    on_case: Callable[[str], None] = lambda _: None,
    on_slices: Callable[[int], None] = lambda _: None,
    on_done: Callable[[str], None] = lambda _: None,
) -> BatchResult:
    """Segment every scan into ``output``, in workers.

    Args:
        scans: Case id -> scan.
        output: Folder of the results; one command at a time.
        executor: Where; processes of this machine share out the memory budget.
        load: Loads the networks, in each worker; to be pickled.
        classes: Of the networks.
        options: What to compute and write.
        prompts: Case id -> what a person says about the case.
        skip_finished: Leave cases alone whose report and mask prove to be finished.
        part: Which part of a larger cohort the scans are; None for all of it.
        threads: Of each worker; None shares out this process's on this machine, and elsewhere
            leaves a worker its own.
        on_case: Called with the case id when a case begins.
        on_slices: Called with the number of slices done since the last call.
        on_done: Called with the case id when a case has ended.

    Raises:
        InputError: When the output folder cannot be written, another process writes to it, the
            networks cannot be loaded, or the cluster is lost.
    """
    require_writable_folder(output)
    prompts = prompts or {}
    if not executor.elsewhere:
        workers = max(1, min(executor.workers, len(scans)))
        budget = options.engine.budget_bytes
        engine = replace(options.engine, budget_bytes=budget and budget // workers)
        options = replace(options, engine=engine)
    threads = threads or executor.threads_of_worker(torch.get_num_threads(), cases=len(scans))
    segmenting = _Segmenting(
        output=output, load=load, options=options, skip_finished=skip_finished, threads=threads
    )
    work = CaseWork(
        stage="infer-volume",
        setup=segmenting.setup,
        do=segmenting.segment,
        modules=(__name__,),
    )
    items = {
        case_id: _Scan(scans[case_id], prompts.get(case_id, NO_PROMPTS))
        for case_id in largest_first(scans)
    }
    told: dict[str, BatchResult] = {}
    with locked_output(output, part):
        for outcome in run_cases(
            work, items, executor=executor, on_case=on_case, on_steps=on_slices
        ):
            told[outcome.case_id] = outcome.result or _failed(outcome, scans)
            on_done(outcome.case_id)
        result = _joined(scans, told)
        if part is None:
            remove_stale_files(output)  # of a worker that died
            if result.finished or result.skipped:
                write_nnunet_files(output, scans, classes, merged=options.merge_lesions)
    return result


def largest_first(scans: Mapping[str, Path]) -> list[str]:
    """Return the case ids by the bytes of their files; equal ones stay in order."""
    return sorted(scans, key=lambda case_id: -_bytes_of(scans[case_id]))


def _bytes_of(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _failed(outcome: Outcome[BatchResult], scans: Mapping[str, Path]) -> BatchResult:
    """Return what is said of a case whose workers died."""
    case_id, error = outcome.case_id, outcome.error
    assert error is not None
    named = InputError(error.fact, path=scans[case_id].name, mend=error.mend)
    return BatchResult(failures={case_id: str(named)}, facts={case_id: fact_of(named)})


def _joined(order: Mapping[str, Path], told: Mapping[str, BatchResult]) -> BatchResult:
    """Return the results of single cases as one, in the order of the input."""
    joined = BatchResult()
    for result in (told[case_id] for case_id in order):
        joined.finished += result.finished
        joined.skipped += result.skipped
        joined.failures |= result.failures
        joined.facts |= result.facts
    return joined
