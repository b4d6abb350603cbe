"""Training on cached features is the training without, and no other features are ever used."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cacheable import cacheable_config, fill_cache, small_sam_is_known
from real_store import make_store
from torch import nn

from samcancer.config import AugmentationConfig, Config, config_to_dict
from samcancer.data.case_store import CaseStore
from samcancer.data.feature_file import DamagedFeaturesError
from samcancer.data.store_index import write_index
from samcancer.errors import InputError
from samcancer.files import folder_lock
from samcancer.training import cached_features
from samcancer.training.cached_features import (
    make_cache,
    plan_fill,
    require_cacheable,
    size_text,
    windows_of,
)
from samcancer.training.epoch_log import read_log
from samcancer.training.loop import TrainResult
from samcancer.training.network import build_network
from samcancer.training.run import RunOptions, train_fold
from samcancer.training.step import Stepper

SAME_LOSS = 1e-4
"""Relative, after 20 steps: features come from other batches, added up in another order."""


@pytest.fixture(scope="module", autouse=True)
def _small_sam() -> Iterator[None]:
    with small_sam_is_known():
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[CaseStore, Path]:
    """A store and the features of all its cases."""
    folder = tmp_path_factory.mktemp("filled")
    store = make_store(folder / "store")
    assert fill_cache(folder / "features", store, cacheable_config()) == 2 * len(store.cases)
    return store, folder / "features"


def run(store: CaseStore, runs: Path, config: Config, **changes: Any) -> TrainResult:
    options = RunOptions(
        store=store.folder,
        output=runs,
        config=config,
        accelerator="cpu",
        show_progress=False,
        **changes,
    )
    return train_fold(options, fold=0)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every step that is taken."""
    found: list[float] = []
    compute = Stepper.compute

    def remembered(self: Stepper, batch: Any, **options: Any) -> Any:
        gradient = compute(self, batch, **options)
        found.append(float(gradient.parts.total))
        return gradient

    monkeypatch.setattr(Stepper, "compute", remembered)
    return found


def test_twenty_steps_have_the_losses_of_training_without_a_cache(
    filled: tuple[CaseStore, Path], tmp_path: Path, losses: list[float]
) -> None:
    store, features = filled
    run(store, tmp_path / "without", cacheable_config())
    without = losses.copy()
    losses.clear()
    run(store, tmp_path / "with", cacheable_config(feature_cache=str(features)))
    assert len(without) == 20
    np.testing.assert_allclose(losses, without, rtol=SAME_LOSS)


def test_the_encoder_never_runs_in_training_with_a_cache(
    filled: tuple[CaseStore, Path], tmp_path: Path
) -> None:
    def build(config: Any, class_names: Any) -> Any:
        model = build_network(config, class_names)
        model.encoder.blocks[1].register_forward_hook(lambda *_: calls.append(1))
        return model

    calls: list[int] = []
    store, features = filled
    config = cacheable_config(feature_cache=str(features), epochs=1)
    run(store, tmp_path / "runs", config, build=build)
    assert calls == [1]  # a blank slice, for the shapes


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_and_going_on_with_a_cache_gives_the_same_bytes(
    workers: int, filled: tuple[CaseStore, Path], tmp_path: Path
) -> None:
    store, features = filled
    config = cacheable_config(feature_cache=str(features))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=workers))
    run(store, tmp_path / "whole", config)
    assert run(store, tmp_path / "cut", config, stop_after_epochs=1).outcome == "stopped"
    assert run(store, tmp_path / "cut", config, resume=True).outcome == "finished"
    for name in ("last.safetensors", "last.json"):
        a, b = (tmp_path / kind / "fold_0" / name for kind in ("whole", "cut"))
        assert a.read_bytes() == b.read_bytes(), name


@pytest.mark.slow
def test_two_processes_train_on_a_cache_as_without(tmp_path: Path) -> None:
    store, features = make_store(tmp_path / "store"), tmp_path / "features"
    fill_cache(features, store, cacheable_config(encoder="medsam_lite"))
    found = []
    for name, folder in (("without", None), ("with", str(features))):
        config = tmp_path / f"{name}.yaml"
        content = config_to_dict(
            cacheable_config(encoder="medsam_lite", feature_cache=folder, epochs=1)
        )
        config.write_text(yaml.safe_dump(content))
        words = ["--data", store.folder, "--output", tmp_path / name, "--config", config]
        train_on_two(*words)
        found.append(read_log(tmp_path / name / "fold_0")[0]["loss"])
    assert found[1] == pytest.approx(found[0], rel=SAME_LOSS)


def train_on_two(*words: object) -> None:
    root = Path(__file__).parents[2]
    script = [sys.executable, str(root / "scripts" / "train_fold.py"), *map(str, words)]
    done = subprocess.run(
        [*script, "--fold", "0", "--devices", "2", "--accelerator", "cpu", "--quiet"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", {"interaction": "exchange"}, r"interaction exchange.*Set model\.interaction"),
        ("model", {"encoder": "vit_tiny"}, r"vit_tiny, which is not frozen.*medsam_lite"),
        ("augmentation", {"probability": 0.5}, r"probability 0\.5.*Set augmentation\.prob"),
    ],
)
def test_features_that_would_change_are_refused(
    section: str, change: dict[str, Any], message: str
) -> None:
    config = cacheable_config()
    part = dataclasses.replace(getattr(config, section), **change)
    with pytest.raises(InputError, match=message):
        require_cacheable(dataclasses.replace(config, **{section: part}))


def test_training_refuses_a_folder_that_lacks_features(
    filled: tuple[CaseStore, Path], tmp_path: Path
) -> None:
    config = cacheable_config(feature_cache=str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"lacks the features of 8 of 8 .*Run cache-features"):
        run(filled[0], tmp_path / "runs", config)


def test_training_refuses_features_of_other_weights(
    filled: tuple[CaseStore, Path], tmp_path: Path
) -> None:
    config = cacheable_config(feature_cache=str(filled[1]), seed=1)
    with pytest.raises(InputError, match=r"holds other features \(encoder sha256 differ\)"):
        run(filled[0], tmp_path / "runs", config)


def test_training_refuses_features_of_a_case_that_was_prepared_again(
    filled: tuple[CaseStore, Path], tmp_path: Path
) -> None:
    store, features = filled
    other = make_store(tmp_path / "store")
    changed = {k: dataclasses.replace(v, file_sha256="0" * 64) for k, v in other.cases.items()}
    config = cacheable_config()
    model = build_network(config.model, store.class_names)
    write_index(other.folder, changed.values())
    other = CaseStore(other.folder)
    with pytest.raises(InputError, match=r"holds other features \(case sha256 differ\)"):
        make_cache(features, other, model, config).require_complete(changed, windows_of(config))


def test_a_network_that_takes_no_features_is_refused(filled: tuple[CaseStore, Path]) -> None:
    with pytest.raises(InputError, match="Identity takes no cached features"):
        make_cache(filled[1], filled[0], nn.Identity(), cacheable_config())


def test_a_damaged_file_is_named_in_training_and_made_anew_by_the_next_filling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path / "store", patients_per_class=1, healthy=1)
    features = tmp_path / "features"
    fill_cache(features, store, cacheable_config())
    victim = features / "healthy_0_-200_300.safetensors"
    good = victim.read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    victim.write_bytes(damaged)
    config = cacheable_config()
    model = build_network(config.model, store.class_names)
    cache = make_cache(features, store, model, config)
    with pytest.raises(DamagedFeaturesError, match=r"healthy_0.*checksum.*made anew"):
        cache.read("healthy_0", (-200.0, 300.0), 0, 5)
    cache.close()
    assert fill_cache(features, store, config) == 1
    assert "the file is damaged" in caplog.text
    assert victim.read_bytes() == good


def test_filling_goes_on_after_a_kill_and_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", patients_per_class=1, healthy=1)
    features, config = tmp_path / "features", cacheable_config()
    blocks = cached_features._blocks
    asked: list[str] = []

    def killed_at_third(*arguments: Any) -> Any:
        asked.append(arguments[2])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return blocks(*arguments)

    monkeypatch.setattr(cached_features, "_blocks", killed_at_third)
    with pytest.raises(KeyboardInterrupt):
        fill_cache(features, store, config)
    (features / ".tmp-0123-left.safetensors").write_bytes(b"of a killed process")
    done = {path.name: path.stat().st_mtime_ns for path in features.glob("*.safetensors")}
    assert fill_cache(features, store, config) == 4
    now = {path.name: path.stat().st_mtime_ns for path in features.glob("*.safetensors")}
    assert len(now) == 6
    assert {name: now[name] for name in done if name in now} == {
        name: when for name, when in done.items() if not name.startswith(".tmp-")
    }


def test_the_predicted_size_is_what_is_written(filled: tuple[CaseStore, Path]) -> None:
    store, features = filled
    config = cacheable_config()
    model = build_network(config.model, store.class_names)
    plan = plan_fill(features / "elsewhere", store, model, config)
    assert plan.needed_bytes == sum(p.stat().st_size for p in features.glob("*.safetensors"))
    assert plan.prediction().startswith(f"needs about {size_text(plan.needed_bytes)} in ")
    assert "8 of 8 cases, 2 windows" in plan.prediction()
    assert not (features / "elsewhere").exists()


def test_a_disk_without_room_is_refused_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "store", patients_per_class=1, healthy=1)
    config = cacheable_config()
    model = build_network(config.model, store.class_names)
    monkeypatch.setattr(cached_features.FillPlan, "free_bytes", property(lambda _: 1000))
    with pytest.raises(InputError, match=r"needs about .* MB .* 0\.0 MB free.*float16"):
        plan_fill(tmp_path / "features", store, model, config)


def test_a_second_filling_process_is_refused(filled: tuple[CaseStore, Path]) -> None:
    with (
        folder_lock(filled[1], purpose="caching features"),
        pytest.raises(InputError, match=r"being written by pid \d+ \(caching features\)"),
    ):
        fill_cache(filled[1], filled[0], cacheable_config())


def test_float16_features_change_the_loss_little(
    tmp_path: Path, losses: list[float], filled: tuple[CaseStore, Path]
) -> None:
    store, features = filled
    run(store, tmp_path / "whole", cacheable_config(feature_cache=str(features), epochs=1))
    whole = losses.copy()
    losses.clear()
    half = cacheable_config(feature_cache=str(tmp_path / "half"), feature_dtype="float16", epochs=1)
    fill_cache(tmp_path / "half", store, half)
    run(store, tmp_path / "half_runs", half)
    np.testing.assert_allclose(losses, whole, rtol=1e-2)
    assert losses != whole


def test_the_checkpoint_says_that_it_was_trained_on_cached_features(
    filled: tuple[CaseStore, Path], tmp_path: Path
) -> None:
    config = cacheable_config(feature_cache=str(filled[1]), epochs=1)
    run(filled[0], tmp_path / "runs", config)
    meta = json.loads((tmp_path / "runs" / "fold_0" / "last.json").read_text())
    assert meta["config"]["train"]["feature_cache"] == str(filled[1])
    assert AugmentationConfig(**meta["config"]["augmentation"]).probability == 0
