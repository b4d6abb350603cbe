from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_job, small_config
from lightning.fabric import Fabric
from memory_store import CLASS_NAMES, MemoryStore, partly_labelled_store
from real_store import SIZE, make_store

from samcancer.config import Config, DataConfig, ModelConfig, RegionConfig, TrainConfig
from samcancer.errors import InputError
from samcancer.modeling.outputs import PresenceOutput
from samcancer.training.checkpoint import load_checkpoint
from samcancer.training.loop import train
from samcancer.training.network import build_network
from samcancer.training.pseudo_labels import write_pseudo_labels
from samcancer.training.region_validation import (
    SAFETY,
    LabelledCurve,
    RegionResult,
    calibrate,
    validate_region,
)
from samcancer.training.run import RunOptions, train_final, train_fold

REGION = ModelConfig(
    system="region", image_size=SIZE, region=RegionConfig(backbone="test_resnet", margin_mm=3.0)
)


def curve(probability: list[float], labelled: list[int], margin: int = 0) -> LabelledCurve:
    flags = np.zeros(len(probability), dtype=bool)
    flags[labelled] = True
    return LabelledCurve(np.array(probability, dtype=np.float32), flags, margin)


@pytest.mark.parametrize(
    ("labelled", "margin", "limit"),
    [
        ([2, 3], 0, 0.5),  # 0.5 at slice 2 opens the range, 0.75 at slice 3 closes it
        ([2, 3], 1, 0.75),  # slice 3 alone reaches both with a margin of one
        ([1, 2, 3, 4], 0, 0.125),
        ([1, 4], 1, 0.5),  # a gap between labelled slices needs nothing
        ([5], 0, 0.25),  # a border slice
        ([5], 9, 0.75),  # the margin covers the scan
        ([0, 5], 0, 0.0625),
    ],
)
def test_the_limit_is_the_largest_threshold_that_loses_nothing(
    labelled: list[int], margin: int, limit: float
) -> None:
    case = curve([0.0625, 0.125, 0.5, 0.75, 0.125, 0.25], labelled, margin)
    assert case.limit == limit
    assert case.lost(limit) == 0
    assert case.lost(float(np.nextafter(np.float32(limit), np.float32(1)))) > 0


def test_the_limit_of_any_curve_is_that_of_trying_every_threshold() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        z = int(rng.integers(1, 15))
        labelled = rng.choice(z, size=int(rng.integers(1, z + 1)), replace=False)
        case = curve(rng.random(z).tolist(), labelled.tolist(), int(rng.integers(0, 4)))
        lossless = [float(p) for p in case.probability if case.lost(float(p)) == 0]
        assert case.limit == max(lossless)


def test_the_threshold_stays_under_the_smallest_limit_by_a_known_share() -> None:
    found = calibrate([curve([0, 0.75, 0], [1]), curve([0, 0.5, 0, 0], [1])])
    assert found.threshold == SAFETY * 0.5
    assert (found.cases, found.slices, found.kept_slices, found.labelled_span) == (2, 7, 2, 2)
    assert (found.lossy_cases, found.lost_slices) == (0, 0)
    assert found.saved_share == found.score == 1


def test_what_could_be_left_out_and_is_not_lowers_the_score() -> None:
    found = calibrate([curve([0, 0.5, 0.75, 0.5, 0], [2])])
    # 0.375 keeps three slices of five, where one would do
    assert found.saved_share == pytest.approx(2 / 4)


def test_a_case_that_the_others_would_have_cut_outweighs_all_that_is_saved() -> None:
    easy, hard = curve([0, 0.9, 0.9, 0], [1, 2]), curve([0, 0.9, 0.1, 0], [1, 2])
    found = calibrate([easy, easy, hard])
    assert (found.lossy_cases, found.lost_slices) == (1, 1)
    assert found.threshold == pytest.approx(SAFETY * 0.1)
    assert found.score == 0


def test_a_single_case_calibrates_and_proves_nothing() -> None:
    found = calibrate([curve([0, 0.5, 0], [1])])
    assert (found.threshold, found.lossy_cases) == (SAFETY * 0.5, 0)


def test_where_everything_is_labelled_there_is_nothing_to_save() -> None:
    assert calibrate([curve([0.5, 0.5], [0, 1])]).saved_share == 1


def test_a_class_without_a_case_has_no_threshold_and_no_say() -> None:
    result = RegionResult({"a": calibrate([curve([0, 0.5], [1])]), "b": calibrate([])})
    assert result.presence_thresholds == {"a": 0.25}
    assert result.score == 1
    assert result.to_dict()["classes"]["b"] == {
        "presence_threshold": None,
        "cases": 0,
        "kept_share": None,
        "saved_share": None,
        "lossy_cases": 0,
        "lost_slices": 0,
    }
    assert RegionResult({"b": calibrate([])}).score == 0


class BrightestSlice(torch.nn.Module):
    """Every class is as present as the slice's brightest pixel."""

    def forward(self, chunk: torch.Tensor) -> PresenceOutput:
        peak = chunk[:, 2:-2].amax(dim=(-2, -1)).clamp(1e-3, 1 - 1e-3)
        return PresenceOutput(torch.logit(peak)[..., None].expand(-1, -1, len(CLASS_NAMES)))


def test_held_out_cases_count_for_the_classes_they_are_known_to_hold(fabric: Fabric) -> None:
    store: Any = partly_labelled_store()
    config = Config(model=REGION, data=DataConfig(inference_window_hu=(0.0, 1000.0)))
    result = validate_region(
        BrightestSlice(), store, case_ids=list(store.cases), config=config, fabric=fabric
    )
    peaks = {
        name: min(_limit_by_hand(store, case_id) for case_id in store.cases if name in case_id)
        for name in CLASS_NAMES
    }
    for name in CLASS_NAMES:
        assert result.classes[name].cases == 2
        assert result.presence_thresholds[name] == pytest.approx(SAFETY * peaks[name])


def _limit_by_hand(store: MemoryStore, case_id: str) -> float:
    """With slices 3 mm apart the margin of 3 mm is one; slices 1 to 3 of six are labelled."""
    peaks = store.hu[case_id][2:-2].max(axis=(1, 2)) / 1000
    return float(min(peaks[:3].max(), peaks[2:].max()))


def region_config(**train_fields: Any) -> Config:
    return dataclasses.replace(small_config(**train_fields), model=REGION)


def run(folder: Path, fabric: Fabric, config: Config, *, seed: int = 0, **options: Any) -> Any:
    folder.mkdir(exist_ok=True)
    model = build_network(config.model, CLASS_NAMES, seed=seed)
    return train(model, make_job(folder, config), fabric=fabric, show_progress=False, **options)


def test_a_classifier_learns_and_stops_and_goes_on_to_the_same_bytes(
    tmp_path: Path, fabric: Fabric
) -> None:
    config = region_config()
    whole = run(tmp_path / "whole", fabric, config)
    assert whole.outcome == "finished"
    run(tmp_path / "halves", fabric, config, stop_after_epochs=3)
    run(tmp_path / "halves", fabric, config, seed=9, resume=True)
    for name in ("best.safetensors", "best.json", "last.safetensors", "last.json"):
        a, b = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "halves"))
        assert a == b, name
    loaded = load_checkpoint(tmp_path / "whole")
    assert loaded.presence_thresholds.keys() == set(CLASS_NAMES)
    assert loaded.meta["metrics"]["region_score"] == whole.best_score


def quick(store: Path, runs: Path) -> RunOptions:
    config = Config(
        model=REGION,
        data=DataConfig(workers=0),
        train=TrainConfig(epochs=1, samples_per_epoch=4, batch_size=2),
        folds=2,
    )
    return RunOptions(
        store=store, output=runs, config=config, accelerator="cpu", show_progress=False
    )


def test_a_run_beside_segmentation_runs_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    options = quick(tmp_path / "store", tmp_path / "runs")
    train_final(options, name="region", use_pseudo_labels=False)
    assert not (tmp_path / "runs" / "config.yaml").exists()
    assert load_checkpoint(tmp_path / "runs" / "region").config.model.system == "region"


def test_folds_of_classifiers_train_and_are_no_teachers(tmp_path: Path) -> None:
    make_store(tmp_path / "store")
    result = train_fold(quick(tmp_path / "store", tmp_path / "runs"), fold=0)
    assert result.best_score is not None
    with pytest.raises(InputError, match="holds slice classifiers, which outline nothing"):
        write_pseudo_labels(tmp_path / "store", tmp_path / "runs", device="cpu")
