"""From a case store and a configuration to a trained run folder: what a command does after parsing.

RUNS/config.yaml, folds.json   written once by the first fold, then compared and reused
RUNS/fold_K/                   trained without the patients of fold K, validated on them
RUNS/final/ (or another name)  trained on labels merged with pseudo labels; its own config.yaml.
                               The patients of ``train.final_held_out_fold`` (default 0) are kept
                               out to select the best epoch, as [SC] selects by local validation
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from torch import nn

from samcancer.config import Config, load_config
from samcancer.data.case_store import CaseStore
from samcancer.data.folds import Folds, load_or_create_folds
from samcancer.data.ledger import Ledger, PseudoLabels
from samcancer.data.sampling import PoolCase, SlicePool
from samcancer.data.selection import balanced_cases
from samcancer.errors import InputError
from samcancer.files import folder_lock, remove_stale_temporaries, require_own_folder
from samcancer.pretrained import checkpoint_sha256
from samcancer.pretrained.text_embeddings import read_text_embeddings
from samcancer.training.cached_features import open_cache
from samcancer.training.checkpoint import CheckpointMeta, ModelBuilder
from samcancer.training.devices import on_rank_zero, start_fabric
from samcancer.training.job import TrainJob
from samcancer.training.loop import TrainResult, train
from samcancer.training.network import build_network
from samcancer.training.shared_files import keep_config, require_same_config, shared_folder
from samcancer.training.start import start_from

_log = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
FOLDS_NAME = "folds.json"
PSEUDO_LABELS_NAME = "pseudo_labels"
TAXONOMY_NAME = "taxonomy.yaml"
FINAL_NAME = "final"

_RESERVED_NAMES = {"", PSEUDO_LABELS_NAME}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how to train."""

    store: Path
    output: Path
    """RUNS, the folder of all runs."""
    config: Config
    resume: bool = False
    accelerator: str = "auto"
    devices: int = 1
    stop_after_epochs: int | None = None
    show_progress: bool = True
    start_from: Path | None = None
    """Run or weight file to start from, with the same classes or fewer; None starts afresh."""
    build: ModelBuilder | None = None
    """Builds another network of the same interface, to be compared; None builds ours."""


def fold_name(fold: int) -> str:
    """Return the name of a fold's run folder."""
    return f"fold_{fold}"


def train_fold(options: RunOptions, *, fold: int) -> TrainResult:
    """Train without the patients of one fold and validate on them.

    Raises:
        InputError: When the store, the configuration or the fold cannot be used.
    """
    config = options.config
    if not 0 <= fold < config.folds:
        raise InputError(
            f"--fold must be 0 to {config.folds - 1} with {config.folds} folds, got {fold}"
        )
    store = open_store(options.store, config)
    fabric = _start(options)
    kept = options.output / CONFIG_NAME
    folds = on_rank_zero(fabric, lambda: _prepare(options, store, kept))
    return _train(
        options,
        fabric,
        store,
        name=fold_name(fold),
        fold=fold,
        kept=kept,
        ledger=Ledger(store, None),
        training=folds.training_cases(fold),
        held_out=folds.held_out_cases(fold),
    )


def train_final(
    options: RunOptions, *, name: str = FINAL_NAME, use_pseudo_labels: bool = True
) -> TrainResult:
    """Train on all folds but the one that selects the best epoch.

    Args:
        options: Where and how.
        name: Of the run folder; one folder of runs may hold several final runs to compare.
        use_pseudo_labels: Merge RUNS/pseudo_labels in; False trains on people's labels alone.

    Raises:
        InputError: When the store, the configuration or the pseudo labels cannot be used.
    """
    if Path(name).name != name or name.startswith((".", "fold_")) or name in _RESERVED_NAMES:
        raise InputError(f"--name must be a plain folder name other than fold_*, got {name!r}")
    config = options.config
    store = open_store(options.store, config)
    fabric = _start(options)
    kept = options.output / name / CONFIG_NAME
    folds = on_rank_zero(fabric, lambda: _prepare(options, store, kept))
    held_out_fold = config.train.final_held_out_fold
    training = sorted(store.cases) if held_out_fold is None else folds.training_cases(held_out_fold)
    pseudo = _open_pseudo_labels(options, store, folds) if use_pseudo_labels else None
    return _train(
        options,
        fabric,
        store,
        name=name,
        fold=None,
        kept=kept,
        ledger=Ledger(store, pseudo),
        training=training,
        held_out=[] if held_out_fold is None else folds.held_out_cases(held_out_fold),
        pseudo=pseudo,
    )


def open_store(path: Path, config: Config) -> CaseStore:
    """Open a store and check that the configured network takes its slices.

    Raises:
        InputError: When it is missing, empty, or of another size.
    """
    store = CaseStore(path)
    if not store.cases:
        raise InputError("holds no case", path=path, mend="run prepare-slices first")
    if store.size != config.model.image_size:
        raise InputError(
            f"holds slices of {store.size} pixels, model.image_size is {config.model.image_size}",
            path=path,
            mend=f"prepare again with that size or set model.image_size={store.size}",
        )
    return store


def stored_config(runs: Path) -> Config | None:
    """Return the configuration that the folds of a folder of runs share; None before the first."""
    path = runs / CONFIG_NAME
    return load_config(path) if path.exists() else None


def _start(options: RunOptions) -> Fabric:
    return start_fabric(
        accelerator=options.accelerator,
        devices=options.devices,
        precision=options.config.train.precision,
    )


def _prepare(options: RunOptions, store: CaseStore, kept: Path) -> Folds:
    """Refuse another configuration than the one kept, if any, and return the folds."""
    if kept.exists():
        require_same_config(kept, options.config)
    with shared_folder(options.output):
        return load_or_create_folds(
            store,
            options.output / FOLDS_NAME,
            count=options.config.folds,
            seed=options.config.train.seed,
        )


def _open_pseudo_labels(options: RunOptions, store: CaseStore, folds: Folds) -> PseudoLabels:
    folder = options.output / PSEUDO_LABELS_NAME
    if not folder.is_dir():
        raise InputError(
            "there are no pseudo labels",
            path=folder,
            mend="run pseudo-label first, or train with --no-pseudo",
        )
    pseudo = PseudoLabels(folder, store)
    for case_id in pseudo.case_ids:
        own_fold = folds.fold_of(store.cases[case_id].patient_id)
        for entry in pseudo.entries(case_id):
            if entry.teacher_fold != own_fold:
                raise InputError(
                    f"{entry.class_name} was labelled by the model of fold {entry.teacher_fold}, "
                    f"which trained on this patient of fold {own_fold}",
                    path=folder / f"{case_id}.h5",
                    mend="delete the pseudo labels and run pseudo-label again",
                )
    return pseudo


def _train(
    options: RunOptions,
    fabric: Fabric,
    store: CaseStore,
    *,
    name: str,
    fold: int | None,
    kept: Path,
    ledger: Ledger,
    training: Sequence[str],
    held_out: Sequence[str],
    pseudo: PseudoLabels | None = None,
) -> TrainResult:
    config, folder = options.config, options.output / name
    training = _selected(store, training, config)
    meta = CheckpointMeta(
        config=config,
        class_names=tuple(store.class_names),
        run=name,
        fold=fold,
        training_patients=_patients(store, training),
        held_out_patients=_patients(store, held_out),
        store_fingerprint=store.fingerprint(),
        pseudo_labels_fingerprint=None if pseudo is None else pseudo.fingerprint(),
        taxonomy_yaml=(options.store / TAXONOMY_NAME).read_text(encoding="utf-8"),
        encoder_sha256=_encoder_sha256(config),
        text=_text_source(config),
    )
    require_disjoint(meta.training_patients, meta.held_out_patients)
    validation = tuple(case for case in held_out if store.annotated_bits(case))
    _check_annotations(store, training, validation)
    pool = _pool(store, ledger, training, pseudo=pseudo, config=config)
    model = _network(options, meta.class_names)
    if options.start_from is not None:
        sha256 = start_from(
            model,
            options.start_from,
            class_names=meta.class_names,
            held_out=meta.held_out_patients,
        )
        meta = replace(meta, started_from=sha256)
    features = open_cache(store, model, config, case_ids=training)
    on_rank_zero(fabric, lambda: keep_config(kept, config))  # it makes a network by now
    job = TrainJob(store, ledger, pool, validation, meta, folder, features)
    with contextlib.ExitStack() as stack:
        on_rank_zero(fabric, lambda: _take_folder(stack, folder))
        return train(
            model,
            job,
            fabric=fabric,
            resume=options.resume,
            stop_after_epochs=options.stop_after_epochs,
            show_progress=options.show_progress,
        )


def _take_folder(stack: contextlib.ExitStack, folder: Path) -> None:
    require_own_folder(folder)
    stack.enter_context(folder_lock(folder, purpose="training"))
    remove_stale_temporaries(folder)


def _selected(store: CaseStore, training: Sequence[str], config: Config) -> Sequence[str]:
    """Return the training cases, so many of a category at most."""
    most = config.data.max_per_category
    if most is None:
        return training
    chosen = balanced_cases(
        {case_id: store.cases[case_id] for case_id in training}, most=most, seed=config.train.seed
    )
    _log.info("%d of %d training cases, at most %d a class", len(chosen), len(training), most)
    return chosen


def _network(options: RunOptions, class_names: tuple[str, ...]) -> nn.Module:
    config = options.config
    if options.build is not None:
        return options.build(config.model, class_names)
    return build_network(config.model, class_names, seed=config.train.seed)


def _encoder_sha256(config: Config) -> str | None:
    named = config.model.encoder_checkpoint
    return None if named is None else checkpoint_sha256(named)


def _text_source(config: Config) -> dict[str, Any] | None:
    named = config.model.text_embeddings
    return None if named is None else read_text_embeddings(Path(named)).source


def require_disjoint(training_patients: Sequence[str], held_out_patients: Sequence[str]) -> None:
    """Refuse a split in which a patient is on both sides.

    Raises:
        InputError: Naming the shared patients.
    """
    shared = sorted(set(training_patients) & set(held_out_patients))
    if shared:
        raise InputError(
            f"patients in training and held out at once: {', '.join(shared)}",
            mend="delete folds.json and the runs, and train again",
        )


def _patients(store: CaseStore, case_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({store.cases[case_id].patient_id for case_id in case_ids}))


def _pool(
    store: CaseStore,
    ledger: Ledger,
    case_ids: Sequence[str],
    *,
    pseudo: PseudoLabels | None,
    config: Config,
) -> SlicePool:
    """Return the slices to draw from, with the slices that pseudo labels made positive."""
    with_pseudo = set() if pseudo is None else set(pseudo.case_ids)
    cases = []
    for case_id in sorted(case_ids):
        info = store.cases[case_id]
        positive = (
            _merged_positive_slices(store, ledger, case_id)
            if case_id in with_pseudo
            else {name: tuple(indices) for name, indices in info.positive_slices.items()}
        )
        cases.append(PoolCase(case_id, info.dataset, info.slices, positive))
    pool = SlicePool(tuple(cases), config.data.slices_per_sample)
    if not pool.positive_classes:
        raise InputError(
            f"none of the {len(cases)} training cases holds a labelled voxel of any class",
            path=store.folder,
            mend="prepare cases with labels, or use fewer folds",
        )
    return pool


def _merged_positive_slices(
    store: CaseStore, ledger: Ledger, case_id: str
) -> dict[str, tuple[int, ...]]:
    labels, known = ledger.merged_bits(case_id, 0, store.cases[case_id].slices)
    shown = np.bitwise_or.reduce(labels & known, axis=(1, 2))
    return {
        name: tuple(int(z) for z in np.flatnonzero(shown >> np.uint32(k) & np.uint32(1)))
        for k, name in enumerate(store.class_names)
    }


def _check_annotations(
    store: CaseStore, training: Sequence[str], validation: Sequence[str]
) -> None:
    """Refuse cases without any label, and warn of what the labels cannot teach or tell."""
    annotated = 0
    for case_id in training:
        annotated |= store.annotated_bits(case_id)
    if not annotated:
        raise InputError(
            f"none of the {len(training)} training cases annotates any class",
            path=store.folder,
            mend="prepare cases with labels",
        )
    never = [name for k, name in enumerate(store.class_names) if not annotated >> k & 1]
    if never:
        _log.warning("no training case annotates %s: not learned", ", ".join(never))
    if not validation:
        _log.warning("no held-out case is annotated: best is the last epoch")
