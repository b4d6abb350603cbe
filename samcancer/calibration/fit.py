"""Calibrate a model on healthy scans: run every model on strangers once, choose, judge, store.

The steps: :mod:`~samcancer.calibration.predictions` runs the networks and keeps, per scan and
lesion class, what every candidate of the :mod:`~samcancer.calibration.grid` would do;
:mod:`~samcancer.calibration.search` chooses; :mod:`~samcancer.calibration.figures` judges. What is
stored holds no times: the same command writes the same bytes, and one that was killed is run again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samcancer.calibration.figures import ALL_SIZES, Figures, cross_validated, figures_of
from samcancer.calibration.grid import Grid, Index, grid_with
from samcancer.calibration.outcomes import Outcome
from samcancer.calibration.predictions import judge_case, judge_healthy_scan
from samcancer.calibration.rates import allowed_scans, scans_to_allow_one, scans_to_show
from samcancer.calibration.search import Choice, choose, healthy_scans
from samcancer.calibration.strangers import HealthyScan, Strangers
from samcancer.errors import InputError
from samcancer.files import folder_lock, remove_stale_temporaries
from samcancer.modeling.devices import chosen_device
from samcancer.modeling.slice_prediction import MASK_THRESHOLD, UNCALIBRATED_THRESHOLD
from samcancer.training.calibration_file import ClassThresholds, write_calibration
from samcancer.training.checkpoint import LoadedModel, ModelBuilder, load_checkpoint
from samcancer.training.fold_runs import FoldRuns, open_fold_runs
from samcancer.training.fusion_file import is_fusion
from samcancer.training.progress import tracked
from samcancer.training.run import FINAL_NAME

_log = logging.getLogger(__name__)


_OUTSIDE = "outside/"
"""Start of what further scans are called, so that none is taken for a case of the store."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a calibration found."""

    max_fp_scans: float
    own: dict[str, ClassThresholds]
    """Lesion class -> thresholds of the model before."""
    chosen: dict[str, ClassThresholds]
    met: bool
    """Whether the budget is kept on the scans that the thresholds were fitted to."""
    stored: bool
    """Whether the model has the thresholds now."""
    before: Figures
    after: Figures
    cross_validated: Figures
    grid: Grid
    model_sha256: str
    store_fingerprint: str
    strangers: int
    """Healthy scans that came from outside of the training store."""
    cautions: tuple[str, ...]
    """What the figures cannot carry, one sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "max_fp_scans": self.max_fp_scans,
            "met": self.met,
            "stored": self.stored,
            "model_sha256": self.model_sha256,
            **self.figures(),
        }

    def figures(self) -> dict[str, Any]:
        """Return what a model keeps of how it was calibrated."""
        return {
            "budget_met": self.met,
            "store_fingerprint": self.store_fingerprint,
            "healthy_scans_from_outside": self.strangers,
            "cautions": list(self.cautions),
            "thresholds_before": {name: vars(t) for name, t in self.own.items()},
            "thresholds_after": {name: vars(t) for name, t in self.chosen.items()},
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "cross_validated": self.cross_validated.to_dict(),
            "candidates": self.grid.to_dict(),
        }


def calibrate(
    store_folder: Path,
    runs: Path,
    *,
    max_fp_scans: float,
    healthy: Sequence[Path] = (),
    name: str = FINAL_NAME,
    force: bool = False,
    device: str = "auto",
    show_progress: bool = True,
    build: ModelBuilder | None = None,
) -> Fitted:
    """Fit the thresholds of a final model and store them beside it.

    Args:
        store_folder: The case store that the runs were trained on.
        runs: Folder with the fold runs and the final one.
        max_fp_scans: Share of healthy scans that may have a false lesion of any class.
        healthy: Folders of scans, or case stores, of healthy patients that no model has seen.
        name: Of the final run.
        force: Store thresholds that miss the budget too.
        device: ``auto`` takes a GPU when there is one.
        show_progress: Draw a progress bar.
        build: Builds the networks; None builds those of the stored configurations.

    Raises:
        InputError: When a model is missing, damaged, unlike its folds, or has seen a scan that it
            would judge, when there is no healthy scan, or the run is being written.
    """
    if is_fusion(runs) or is_fusion(runs / name):
        raise InputError(
            "is a fusion, which cannot be calibrated: its parts have no folds in it",
            path=runs,
            mend="calibrate the runs of one system",
        )
    system = open_fold_runs(store_folder, runs)
    system.require_models(range(system.folds.count))
    run = runs / name
    place = chosen_device(device)
    final = load_checkpoint(run, device=place, build=build)
    system.require_like_folds(final.meta, name)
    strangers = Strangers(system.store).scans_of(healthy)
    with folder_lock(run, purpose="calibrate"):
        remove_stale_temporaries(run)
        own = _own_thresholds(final)
        grid = grid_with(own.values())
        bench = _Bench(system, final, strangers, grid, place, show_progress, build)
        fitted = _fit(bench, list(bench.outcomes()), own, max_fp_scans, store=force)
        if fitted.stored:
            write_calibration(
                run,
                model_sha256=final.sha256,
                classes=fitted.chosen,
                max_fp_scans=max_fp_scans,
                figures=fitted.figures(),
            )
    return fitted


@dataclass(frozen=True)
class _Bench:
    """Networks and the scans that they are judged on."""

    system: FoldRuns
    final: LoadedModel
    strangers: Sequence[HealthyScan]
    grid: Grid
    device: str
    show_progress: bool
    build: ModelBuilder | None

    @property
    def lesions(self) -> dict[str, int]:
        """Lesion class -> its place in the network's output."""
        return _lesion_classes(self.final)

    def outcomes(self) -> Iterator[Outcome]:
        """Yield those of further scans first: what is wrong with one is told at once."""
        yield from self._of_strangers()
        for fold in range(self.system.folds.count):
            yield from self._of_fold(fold)

    def _of_strangers(self) -> Iterator[Outcome]:
        numbers = [str(i) for i in range(len(self.strangers))]
        for i in map(int, tracked(numbers, "healthy scans", enabled=self.show_progress)):
            yield from judge_healthy_scan(
                self.final,
                self.strangers[i],
                scan=f"{_OUTSIDE}{i}",
                lesions=self.lesions,
                grid=self.grid,
                fold=i % self.system.folds.count,
                device=torch.device(self.device),
            )

    def _of_fold(self, fold: int) -> Iterator[Outcome]:
        store, lesions = self.system.store, self.lesions
        case_ids = [
            case_id
            for case_id in self.system.folds.held_out_cases(fold)
            if lesions.keys() & set(store.cases[case_id].annotated)
        ]
        if not case_ids:
            return
        model = self.system.load_model(fold, case_ids, device=self.device, build=self.build)
        for case_id in tracked(case_ids, f"fold {fold}", enabled=self.show_progress):
            yield from judge_case(
                model,
                store,
                case_id,
                lesions=lesions,
                grid=self.grid,
                fold=fold,
                device=torch.device(self.device),
            )


def _fit(
    bench: _Bench,
    outcomes: Sequence[Outcome],
    own: Mapping[str, ClassThresholds],
    max_fp_scans: float,
    *,
    store: bool,
) -> Fitted:
    """Choose and judge; ``store`` keeps thresholds that miss the budget too."""
    grid = bench.grid
    if not healthy_scans(outcomes, list(own)):
        raise InputError(
            f"no scan is known to be free of every lesion class ({', '.join(own)})",
            path=bench.system.store.folder,
            mend="name healthy scans with --healthy",
        )
    indices = {name: grid.index_of(thresholds) for name, thresholds in own.items()}
    choice = choose(outcomes, grid, own=indices, max_fp_scans=max_fp_scans)
    before, after = (figures_of(outcomes, of) for of in (indices, choice.indices))
    cautions = (*_cautions(after, choice, max_fp_scans), *_losses(before, after))
    for caution in cautions:
        _log.warning("%s", caution)
    return Fitted(
        max_fp_scans=max_fp_scans,
        own=dict(own),
        chosen=_thresholds(grid, choice.indices),
        met=choice.met,
        stored=choice.met or store,
        before=before,
        after=after,
        cross_validated=cross_validated(outcomes, grid, own=indices, max_fp_scans=max_fp_scans),
        grid=grid,
        model_sha256=bench.final.sha256,
        store_fingerprint=bench.system.store.fingerprint(),
        strangers=len(bench.strangers),
        cautions=cautions,
    )


def _lesion_classes(model: LoadedModel) -> dict[str, int]:
    kinds = model.taxonomy.classes
    found = {n: k for k, n in enumerate(model.class_names) if kinds[n].kind == "lesion"}
    if not found:
        raise InputError(
            f"the model knows no lesion class, only {', '.join(model.class_names)}",
            mend="name the runs of a model that finds lesions",
        )
    return found


def _own_thresholds(model: LoadedModel) -> dict[str, ClassThresholds]:
    """Return what the model lets through as it is, without any calibration."""
    return {
        name: ClassThresholds(
            presence=model.presence_thresholds.get(name, UNCALIBRATED_THRESHOLD),
            probability=MASK_THRESHOLD,
            min_volume_ml=model.taxonomy.classes[name].postprocess.min_volume_ml,
        )
        for name in _lesion_classes(model)
    }


def _thresholds(grid: Grid, indices: Mapping[str, Index]) -> dict[str, ClassThresholds]:
    return {name: grid.thresholds(index) for name, index in indices.items()}


def _cautions(after: Figures, choice: Choice, max_fp_scans: float) -> tuple[str, ...]:
    """Return what the number of scans does not allow to say."""
    n = after.healthy.n
    cautions = []
    if not choice.met:
        cautions.append(
            f"no candidate keeps the budget: at best {after.healthy.describe()} healthy scans have "
            f"a false lesion, {allowed_scans(max_fp_scans, n)} may"
        )
    if max_fp_scans > 0 and n < scans_to_allow_one(max_fp_scans):
        cautions.append(
            f"{n} healthy scans are too few for a share of {max_fp_scans:g}: one of them is "
            f"{1 / n:.3f} already, so none may be marked; "
            f"{scans_to_allow_one(max_fp_scans):g} scans allow one"
        )
    upper = after.healthy.interval[1]
    if choice.met and upper > max_fp_scans:
        cautions.append(
            f"with {after.healthy.count} of {n} healthy scans marked, the true share may be up to "
            f"{upper:.3f} (95 % interval)"
            + (
                f"; to show {max_fp_scans:g} takes {scans_to_show(max_fp_scans):g} clean scans"
                if max_fp_scans
                else ""
            )
        )
    return tuple(cautions)


def _losses(before: Figures, after: Figures) -> tuple[str, ...]:
    """Return which classes are found no more, or were in no scan to be found."""
    found = {name: figures.found[ALL_SIZES] for name, figures in after.classes.items()}
    had = {name: figures.found[ALL_SIZES] for name, figures in before.classes.items()}
    blind = [name for name, rate in found.items() if not rate.n]
    lost = [name for name, rate in found.items() if rate.n and not rate.count]
    lost = [f"{name} (before {had[name].count} of {had[name].n})" for name in lost]
    cautions = []
    if blind:
        cautions.append(f"no scan holds {', '.join(blind)}: what the thresholds lose is not known")
    if lost:
        cautions.append(f"no lesion is found any more of {', '.join(lost)}")
    return tuple(cautions)
