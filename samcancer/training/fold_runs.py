"""The models of a cross-validation, each with the patients that it never saw.

Pseudo labels, fusions and calibrations are made by them: whatever a fold's model says of its own
held-out patients is said of strangers. A model of another fold or store, or that trained on the
patient, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcancer.config import Config, config_from_dict
from samcancer.data.case_store import CaseStore
from samcancer.data.folds import Folds, load_or_create_folds
from samcancer.data.ledger import require_unseen
from samcancer.errors import InputError
from samcancer.training.checkpoint import BEST, LoadedModel, ModelBuilder, load_checkpoint
from samcancer.training.run import FOLDS_NAME, fold_name, open_store, stored_config


@dataclass(frozen=True)
class FoldRuns:
    """A folder of runs on a store."""

    path: Path
    config: Config
    store: CaseStore
    folds: Folds

    def require_models(self, folds: Sequence[int]) -> None:
        """Refuse to begin without the models of these folds.

        Raises:
            InputError: Naming the folds that are not trained.
        """
        missing = [f for f in folds if not (self.path / fold_name(f) / f"{BEST}.json").exists()]
        if missing:
            raise InputError(
                f"folds without a trained model: {', '.join(map(str, missing))}",
                path=self.path,
                mend=f"run train-fold --fold {missing[0]} first",
            )

    def load_model(
        self,
        fold: int,
        case_ids: Sequence[str],
        *,
        device: str,
        build: ModelBuilder | None = None,
    ) -> LoadedModel:
        """Load a fold's model to predict cases that it never saw.

        Raises:
            InputError: When it is missing or damaged, of another fold or store, or trained on a
                patient of the cases.
        """
        path = self.path / fold_name(fold)
        model = load_checkpoint(path, device=device, build=build)
        if model.meta["fold"] != fold:
            raise InputError(
                f"is the model of fold {model.meta['fold']}, not of fold {fold}",
                path=path,
                mend=f"run train-fold --fold {fold} into a new folder",
            )
        require_same_store(model.meta["store_fingerprint"], self.store, path)
        for case_id in case_ids:
            patient = self.store.cases[case_id].patient_id
            require_unseen(
                patient, model.meta["training_patients"], case_id=case_id, teacher_fold=fold
            )
        return model

    def require_like_folds(self, final: Mapping[str, Any], name: str) -> None:
        """Refuse a final model that the figures of the folds say nothing about.

        Args:
            final: What the JSON of its checkpoint says.
            name: Of its run folder.

        Raises:
            InputError: When it is of another store, network or window than the folds.
        """
        path = self.path / name
        require_same_store(final["store_fingerprint"], self.store, path)
        config = config_from_dict(final["config"])
        pairs = {
            "model": (config.model, self.config.model),
            "data.inference_window_hu": (
                config.data.inference_window_hu,
                self.config.data.inference_window_hu,
            ),
        }
        for what, (found, expected) in pairs.items():
            if found != expected:
                raise InputError(
                    f"has another {what} in its configuration than its folds",
                    path=path,
                    mend="train the final model with the configuration of the folds",
                )


def open_fold_runs(store_folder: Path, runs: Path) -> FoldRuns:
    """Open a folder of runs with the store that the folds were trained on.

    Raises:
        InputError: When it holds no folds that segment, or the store is not theirs.
    """
    config = stored_config(runs)
    if config is None:
        raise InputError(
            "holds no fold runs (no config.yaml)", path=runs, mend="run train-fold for every fold"
        )
    if config.model.system == "region":
        raise InputError(
            "holds slice classifiers, which outline nothing",
            path=runs,
            mend="name the folder of the segmentation runs",
        )
    store = open_store(store_folder, config)
    folds_path = runs / FOLDS_NAME
    if not folds_path.exists():
        raise InputError("no such file", path=folds_path, mend="run train-fold for every fold")
    folds = load_or_create_folds(store, folds_path, count=config.folds, seed=config.train.seed)
    return FoldRuns(runs, config, store, folds)


def require_same_store(fingerprint: str, store: CaseStore, path: Path) -> None:
    """Refuse a model of another store.

    Raises:
        InputError: Naming the run.
    """
    if fingerprint != store.fingerprint():
        raise InputError(
            "was trained on another case store", path=path, mend="name the store it was trained on"
        )
