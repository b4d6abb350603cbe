"""The training loop: steps, epochs, validation, checkpoints, and stopping and going on exactly.

The loop takes the network as an argument: anything that maps a batch of images to one of the
outputs of samcancer.modeling.outputs; presence and drawn prompts go only to a network that takes
them. What is left behind in the run folder:

best.*, last.*   checkpoints (see checkpoint.py): best by validation, and the latest epoch's
resume.pt        the whole state, written at the start, after every epoch and when asked to stop
log.jsonl, tensorboard/   one line per epoch

The global random state of torch is set at the start, since dropout layers draw from it; nothing
else does. Without such layers a run takes the same steps on any number of processes, up to the
order in which sums are taken. Stopping after any step and going on with as many processes gives the
same bytes as not stopping, on the CPU and without a time budget.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from lightning.fabric import Fabric
from torch import nn

from samcancer.data.dataset import Sample
from samcancer.errors import InputError
from samcancer.training.checkpoint import BEST, LAST, save_checkpoint
from samcancer.training.devices import explaining_lost_processes, gathered, largest, on_rank_zero
from samcancer.training.epoch_log import EpochLog, EpochMeter
from samcancer.training.job import TrainJob, make_loader, make_schedule
from samcancer.training.loader import WorkerDiedError
from samcancer.training.progress import RunProgress
from samcancer.training.region_validation import validate_region
from samcancer.training.resume import RESUME_NAME, read_resume, write_resume
from samcancer.training.schedule import progress_of
from samcancer.training.state import (
    RunPosition,
    capture,
    random_state,
    require_same_run,
    restore_model,
    restore_random_state,
    run_identity,
)
from samcancer.training.step import Stepper
from samcancer.training.stopping import StopRequest, stop_on_signal
from samcancer.training.validate import DEFAULT_THRESHOLD, Validation, validate

__all__ = ["Outcome", "TrainJob", "TrainResult", "train"]

_log = logging.getLogger(__name__)

Outcome = Literal["finished", "stopped"]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    outcome: Outcome
    epochs: int
    """Epochs done, the last one in part when the time was up."""
    steps: int
    best_score: float | None
    """Validation score of ``best``; None when nothing was validated."""
    best_epoch: int | None


def train(
    model: nn.Module,
    job: TrainJob,
    *,
    fabric: Fabric,
    resume: bool = False,
    stop_after_epochs: int | None = None,
    show_progress: bool = True,
) -> TrainResult:
    """Train until the epochs or the time are used up, or until SIGINT or SIGTERM.

    Args:
        model: The network, on any device, initialised alike in every process.
        job: Data and labels.
        fabric: From :func:`samcancer.training.devices.start_fabric`.
        resume: Go on from the folder's resume.pt; without it the folder must hold no run.
        stop_after_epochs: Leave after so many epochs of this call, as if asked to stop; None for
            no limit. The learning rate follows the configured number of epochs.
        show_progress: Draw a progress bar in the first process.

    Raises:
        InputError: When there is no state to resume from or it is of another run, when the folder
            already holds a run, when a file is damaged or the loss is not finite, or when another
            process of the run is lost.
    """
    with explaining_lost_processes():
        return _train(
            model,
            job,
            fabric=fabric,
            resume=resume,
            stop_after_epochs=stop_after_epochs,
            show_progress=show_progress,
        )


def _train(
    model: nn.Module,
    job: TrainJob,
    *,
    fabric: Fabric,
    resume: bool,
    stop_after_epochs: int | None,
    show_progress: bool,
) -> TrainResult:
    state = on_rank_zero(fabric, lambda: _initial_state(job, resume=resume))
    run = _Run(model, job, fabric, state)
    if run.position.finished:
        return run.result("finished")
    if state is None:
        run.save_start()
    with (
        stop_on_signal() as stop,
        RunProgress(enabled=show_progress and fabric.is_global_zero) as progress,
    ):
        return run.train(stop, progress, stop_after_epochs=stop_after_epochs)


def _initial_state(job: TrainJob, *, resume: bool) -> dict[str, Any] | None:
    if resume:
        return read_resume(job.folder)
    names = (RESUME_NAME, f"{BEST}.json", f"{LAST}.json")
    left = [name for name in names if (job.folder / name).exists()]
    if left:
        raise InputError(
            f"already holds a run ({left[0]})",
            path=job.folder,
            mend="go on with --resume, or delete the folder to train anew",
        )
    return None


class _Run:
    """A run in one process: the network, its optimiser, and where the run is."""

    def __init__(
        self, model: nn.Module, job: TrainJob, fabric: Fabric, state: dict[str, Any] | None
    ) -> None:
        self._job, self._fabric, self._model = job, fabric, model
        self._config = job.meta.config.train
        self._omit_frozen = job.meta.encoder_sha256 is not None
        self._identity = run_identity(job.meta, job.pool, world_size=fabric.world_size)
        if state is not None:
            require_same_run(state, self._identity, path=job.folder / RESUME_NAME)
            restore_model(model, state["model"], omit_frozen=self._omit_frozen)
        torch.manual_seed(self._config.seed + fabric.global_rank)
        self._stepper = Stepper(
            model, self._config, class_count=len(job.meta.class_names), fabric=fabric
        )
        self._meter = EpochMeter(len(job.meta.class_names))
        self._time_up = False
        self._validates = bool(job.validation_cases) and self._config.validate_every is not None
        self.position = RunPosition(
            presence_thresholds=dict.fromkeys(job.meta.class_names, DEFAULT_THRESHOLD)
        )
        if state is not None:
            self._restore(state)
        self._schedule = make_schedule(job, rank=fabric.global_rank, world_size=fabric.world_size)
        self._loader = make_loader(job, self._schedule, device=fabric.device)
        self._clock_start: float | None = None

    def train(
        self, stop: StopRequest, progress: RunProgress, *, stop_after_epochs: int | None
    ) -> TrainResult:
        """Run epochs until the end or until asked to stop."""
        log = (
            EpochLog(self._job.folder, first_epoch=self.position.epoch + 1)
            if self._fabric.is_global_zero
            else None
        )
        epochs_here = 0
        try:
            while not self.position.finished:
                if not self._train_epoch(stop, progress):
                    self._save_stopped()
                    return self.result("stopped")
                self._end_epoch(log)
                epochs_here += 1
                leave = stop.requested or epochs_here == stop_after_epochs
                if largest(self._fabric, [float(leave)])[0] and not self.position.finished:
                    return self.result("stopped")
        finally:
            self._loader.close()
            if log is not None:
                log.close()
        return self.result("finished")

    def save_start(self) -> None:
        """Save the state before the first step.

        A run killed after its first checkpoint, before its first state, could not be gone on with.
        """
        self._save_resume()

    def result(self, outcome: Outcome) -> TrainResult:
        """Return how the run stands."""
        position = self.position
        return TrainResult(
            outcome=outcome,
            epochs=position.epoch,
            steps=position.step,
            best_score=position.best_score,
            best_epoch=position.best_epoch,
        )

    def _train_epoch(self, stop: StopRequest, progress: RunProgress) -> bool:
        """Take the remaining steps of the epoch; return False when asked to stop before its end."""
        self._stepper.train_mode()
        batches = self._loader.batches(self.position.epoch, position=self.position.batch)
        while True:
            step_started, waited_before = time.monotonic(), self._loader.waiting_s
            batch, failure = self._fetch(batches, stop)
            if self._clock_start is None:  # the loader has started
                self._clock_start = time.monotonic() - self.position.elapsed_s
                step_started, waited_before = time.monotonic(), self._loader.waiting_s
            failed, ended, elapsed_s = largest(
                self._fabric, [float(failure is not None), float(batch is None), self._elapsed_s()]
            )
            if failed:
                raise next(error for error in gathered(self._fabric, failure) if error is not None)
            if ended or batch is None:
                return self.position.batch >= self._schedule.batches_per_epoch
            stopping = self._step(batch, elapsed_s, stop)
            self._meter.waiting_s += self._loader.waiting_s - waited_before
            self._meter.seconds += time.monotonic() - step_started
            self._show(progress, elapsed_s)
            budget_s = self._config.time_budget_s
            if budget_s is not None and elapsed_s >= budget_s:
                self._time_up = True
                return True
            if stopping and self.position.batch < self._schedule.batches_per_epoch:
                return False

    def _fetch(
        self, batches: Iterator[Sample], stop: StopRequest
    ) -> tuple[Sample | None, InputError | None]:
        """Return the next batch, None at the end of the epoch, or what went wrong."""
        try:
            return next(batches, None), None
        except WorkerDiedError as error:
            # the signal that asks this process to stop may have ended its workers
            return None, None if stop.requested else error
        except InputError as error:
            return None, error

    def _step(self, batch: Sample, elapsed_s: float, stop: StopRequest) -> bool:
        """Take one optimisation step; return whether some process was asked to stop.

        Nothing has changed when it raises because the loss is not finite.
        """
        number = self.position.batch
        gradient = self._stepper.compute(batch, counts=self._schedule.has_share(number))
        bad = not gradient.finite
        someone_bad, stopping = largest(self._fabric, [float(bad), float(stop.requested)])
        if someone_bad:
            self._raise_not_finite(self._loader.case_names(batch) if bad else [])
        self._stepper.apply(self._progress(elapsed_s))
        stacks = self._schedule.batch_length(number) * batch["label_bits"].shape[1]
        self._meter.add(gradient.parts, samples=stacks)
        self.position.step += 1
        self.position.batch += 1
        return bool(stopping)

    def _raise_not_finite(self, own_case_names: list[str]) -> NoReturn:
        names = gathered(self._fabric, own_case_names)
        cases = ", ".join(sorted({name for some in names for name in some}))
        raise InputError(
            f"the loss or its gradient is not finite at epoch {self.position.epoch + 1}, step "
            f"{self.position.step + 1}, in a batch of the cases {cases}",
            path=self._job.folder,
            mend="look at these cases or lower train.learning_rate; the files of the last good "
            "epoch are untouched and --resume goes on from there",
        )

    def _end_epoch(self, log: EpochLog | None) -> None:
        """Validate if it is time to, save, and write the epoch's line."""
        position, config = self.position, self._config
        position.epoch, position.batch = position.epoch + 1, 0
        position.finished = position.epoch >= config.epochs or self._time_up
        started = time.monotonic()
        validation = self._validate() if self._validation_due() else None
        seconds = time.monotonic() - started
        metrics = {} if validation is None else validation.to_dict()
        better = not self._validates
        if validation is not None:
            position.presence_thresholds = validation.presence_thresholds
            better = position.best_score is None or validation.score >= position.best_score
        if better:
            position.best_epoch = position.epoch
            position.best_score = None if validation is None else validation.score
        if log is not None:
            self._save_checkpoint(LAST, metrics)
            if better:
                self._save_checkpoint(BEST, metrics)
            log.write(
                {
                    "epoch": position.epoch,
                    "step": position.step,
                    "learning_rate": self._stepper.learning_rate,
                    **self._meter.to_line(self._job.meta.class_names),
                    "elapsed_s": self._elapsed_s(),
                    "validation_seconds": seconds,
                    "validation": metrics or None,
                }
            )
        self._meter = EpochMeter(len(self._job.meta.class_names))
        self._save_resume()

    def _validation_due(self) -> bool:
        every = self._config.validate_every
        return self._validates and (
            self.position.finished or (every is not None and self.position.epoch % every == 0)
        )

    def _validate(self) -> Validation:
        """Run over the held-out cases, shared out over the processes."""
        config = self._job.meta.config
        run: Callable[..., Validation] = (
            validate_region if config.model.system == "region" else validate
        )
        result = run(
            self._model,
            self._job.store,
            case_ids=self._job.validation_cases,
            config=config,
            fabric=self._fabric,
        )
        _log.info("epoch %d: validation score %.3f", self.position.epoch, result.score)
        return result

    def _save_checkpoint(self, name: str, metrics: dict[str, Any]) -> None:
        meta = dataclasses.replace(
            self._job.meta,
            presence_thresholds=self.position.presence_thresholds,
            epoch=self.position.epoch,
            step=self.position.step,
            metrics=metrics,
        )
        save_checkpoint(self._job.folder / name, self._model, meta)

    def _save_stopped(self) -> None:
        if self._fabric.is_global_zero:
            self._save_checkpoint(LAST, {})
        self._save_resume()

    def _save_resume(self) -> None:
        self.position.elapsed_s = self._elapsed_s()
        random_states = gathered(self._fabric, random_state(self._fabric.device))
        if self._fabric.is_global_zero:
            state = capture(
                self.position,
                model=self._model,
                optimizer=self._stepper.optimizer,
                scaler=self._stepper.scaler_state(),
                meter=self._meter.state(),
                random_states=random_states,
                identity=self._identity,
                omit_frozen=self._omit_frozen,
            )
            write_resume(self._job.folder, state)
        self._fabric.barrier()

    def _restore(self, state: dict[str, Any]) -> None:
        """Put back what :func:`capture` took, except the network, which is back already."""
        self.position = RunPosition(**state["position"])
        self._stepper.restore(state["optimizer"], state["scaler"])
        self._meter.load_state(state["meter"])
        restore_random_state(state["random_states"][self._fabric.global_rank], self._fabric.device)

    def _progress(self, elapsed_s: float) -> float:
        return progress_of(
            self.position.step,
            self._config.epochs * self._schedule.batches_per_epoch,
            elapsed_s=elapsed_s,
            time_budget_s=self._config.time_budget_s,
        )

    def _elapsed_s(self) -> float:
        """Seconds since the first batch, those of earlier calls included."""
        if self._clock_start is None:
            return self.position.elapsed_s
        return time.monotonic() - self._clock_start

    def _show(self, progress: RunProgress, elapsed_s: float) -> None:
        progress.update(
            self._progress(elapsed_s),
            description=f"epoch {self.position.epoch + 1}/{self._config.epochs}",
            loss=self._meter.loss,
            class_dice=self._meter.class_dice(self._job.meta.class_names),
        )
