"""Fit how several systems are fused: per class, on patients that none of the models saw.

[SC] (abstract) combines its predictions with those of a UNet-based model to cut false positives and
omissions, and does not say how. Here every fold's models of all systems segment the fold's held-out
patients once; for each class, each candidate rule (see samcancer.modeling.fusion) is scored on what
they say as validation scores a network, its presence threshold calibrated alike, and the one worth
most is taken. Candidates are each part alone, means of the parts, ``both`` and ``either``, and of
equal ones the first in this order. The rules are then applied to the systems' final models.

As with any choice by validation, the figure of the chosen rule is optimistic, the more so the fewer
patients hold the class; figures to report come from patients of neither side.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError
from samcancer.modeling.devices import chosen_device
from samcancer.modeling.fusion import ClassRule, combine_class
from samcancer.modeling.predict import aligned
from samcancer.training.checkpoint import LoadedModel, ModelBuilder
from samcancer.training.fold_runs import FoldRuns, open_fold_runs
from samcancer.training.fusion_file import copy_part, new_fusion_folder, write_fusion
from samcancer.training.progress import tracked
from samcancer.training.run import FINAL_NAME, FOLDS_NAME
from samcancer.training.validate import (
    CaseCounter,
    CaseCounts,
    ClassResult,
    ValidationResult,
    predict_case,
    reference_masks,
    summarise,
)

_log = logging.getLogger(__name__)

WEIGHT_STEPS = 4
"""Steps from 0 to 1 in which the weights of a mean are tried."""


@dataclass(frozen=True)
class Fit:
    """What was tried and what was taken."""

    part_names: tuple[str, ...]
    candidates: tuple[ClassRule, ...]
    results: tuple[ValidationResult, ...]
    """Of each candidate, were it the rule of every class."""
    chosen: dict[str, int]
    """Class -> index of its candidate."""

    @property
    def rules(self) -> dict[str, ClassRule]:
        """Class -> rule."""
        return {name: self.candidates[i] for name, i in self.chosen.items()}

    @property
    def validation(self) -> ValidationResult:
        """Of the fusion."""
        return ValidationResult(
            {name: self.results[i].classes[name] for name, i in self.chosen.items()}
        )


def fit_fusion(
    store_folder: Path,
    runs: Sequence[Path],
    output: Path,
    *,
    name: str = FINAL_NAME,
    device: str = "auto",
    show_progress: bool = True,
    build: ModelBuilder | None = None,
) -> Fit:
    """Fit the rules on the folds and write the fusion of the final models.

    Args:
        store_folder: The case store that all systems were trained on.
        runs: Of each system, the folder with its fold runs and a final one.
        output: Folder of the fusion.
        name: Of the final runs.
        device: ``auto`` takes a GPU when there is one.
        show_progress: Draw a progress bar.
        build: Builds the networks; None builds those of the stored configurations.

    Raises:
        InputError: When the systems differ in store, folds or classes, a model is missing, of
            another network than its folds, or trained on a patient that it would be judged by.
    """
    if len(runs) < 2 or len({path.resolve() for path in runs}) < len(runs):
        raise InputError(
            f"--runs must name two or more systems, each once, got {', '.join(map(str, runs))}",
            mend="name the folder of runs of each system",
        )
    systems = [open_fold_runs(store_folder, path) for path in runs]
    _require_alike(systems)
    folds = range(systems[0].folds.count)
    for system in systems:
        system.require_models(folds)
    with new_fusion_folder(output):
        for index, system in enumerate(systems):
            system.require_like_folds(copy_part(output, index, system.path / name), name)
        fit = _fit(systems, device=chosen_device(device), show_progress=show_progress, build=build)
        write_fusion(
            output,
            part_names=fit.part_names,
            rules=fit.rules,
            presence_thresholds=fit.validation.presence_thresholds,
            figures=_figures(fit, systems[0].store),
        )
    return fit


def candidate_rules(parts: int) -> tuple[ClassRule, ...]:
    """Return every rule that is tried for P parts, simple ones first."""
    single = [tuple(float(i == j) for j in range(parts)) for i in range(parts)]
    even = (1 / parts,) * parts
    steps = itertools.product(range(WEIGHT_STEPS + 1), repeat=parts)
    shares = [tuple(n / WEIGHT_STEPS for n in ns) for ns in steps if sum(ns) == WEIGHT_STEPS]
    means = [even, *(weights for weights in shares if weights not in (even, *single))]
    return (
        *(ClassRule("mean", weights) for weights in (*single, *means)),
        ClassRule("both"),
        ClassRule("either"),
    )


def _fit(
    systems: Sequence[FoldRuns], *, device: str, show_progress: bool, build: ModelBuilder | None
) -> Fit:
    store, folds = systems[0].store, systems[0].folds
    candidates = candidate_rules(len(systems))
    counts: list[list[CaseCounts]] = [[] for _ in candidates]
    for fold in range(folds.count):
        case_ids = [case for case in folds.held_out_cases(fold) if store.annotated_bits(case)]
        if not case_ids:
            continue
        models = [
            system.load_model(fold, case_ids, device=device, build=build) for system in systems
        ]
        for case_id in tracked(case_ids, f"fold {fold}: fusion", enabled=show_progress):
            found = _count_candidates(models, store, case_id, candidates, device=device)
            for cases, one in zip(counts, found, strict=True):
                cases.append(one)
    results = tuple(summarise(cases, store.class_names) for cases in counts)
    chosen = {
        name: _worth_most([result.classes[name] for result in results])
        for name in store.class_names
    }
    unseen = [n for n, i in chosen.items() if not _was_validated(results[i].classes[n])]
    if unseen:
        _log.warning("no case annotates %s: the first part alone is taken", ", ".join(unseen))
    return Fit(tuple(_names(systems)), candidates, results, chosen)


def _count_candidates(
    models: Sequence[LoadedModel],
    store: CaseStore,
    case_id: str,
    candidates: Sequence[ClassRule],
    *,
    device: str,
) -> list[CaseCounts]:
    """Run every part over a case once and count for all candidates as the pieces come."""
    place = torch.device(device)
    counters = [CaseCounter(store, case_id) for _ in candidates]
    streams = [
        predict_case(model.model, store, case_id, config=model.config, device=place)
        for model in models
    ]
    for parts in aligned(streams):
        reference = reference_masks(store, case_id, parts.start, parts.stop, device=place)
        for rule, counter in zip(candidates, counters, strict=True):
            counter.add(parts.combined(partial(combine_class, rule=rule)), reference)
    return [counter.counts() for counter in counters]


def _worth_most(results: Sequence[ClassResult]) -> int:
    """Return the first of the results that are worth most."""
    return max(range(len(results)), key=lambda i: results[i].worth())


def _was_validated(result: ClassResult) -> bool:
    return bool(result.cases or result.healthy_cases)


def _names(systems: Sequence[FoldRuns]) -> list[str]:
    """Return the names of the folders of runs, numbered where they are equal."""
    names = [system.path.resolve().name for system in systems]
    return [f"{n}_{i}" if names.count(n) > 1 else n for i, n in enumerate(names)]


def _require_alike(systems: Sequence[FoldRuns]) -> None:
    """Refuse systems on other folds."""
    first = systems[0]
    for system in systems:
        if system.folds.to_dict() != first.folds.to_dict():
            raise InputError(
                f"splits the patients otherwise than {first.path / FOLDS_NAME}",
                path=system.path / FOLDS_NAME,
                mend="train the folds again beside a copy of that file",
            )


def _figures(fit: Fit, store: CaseStore) -> dict[str, object]:
    return {
        "store_fingerprint": store.fingerprint(),
        "validation": fit.validation.to_dict(),
        "candidates": [
            {**rule._asdict(), **result.to_dict()}
            for rule, result in zip(fit.candidates, fit.results, strict=True)
        ],
    }
