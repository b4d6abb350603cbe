"""A worker of a Dask cluster is killed in the middle of each stage: the bytes of a serial run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
from inference_fakes import bright_box
from kill_storm import Command, files_below, finish, require_equal
from loopback_cluster import LoopbackCluster, killing_one
from real_store import make_store
from small_run import save_run
from stages import preparation, pseudo_labelling, segmentation, training
from volume_fakes import save_by_itk

from samcancer.commands import run_verb
from samcancer.files import TEMPORARY_PREFIX

CASES = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCluster]:
    started = LoopbackCluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.close()


def lose_a_worker(command: Command, folder: Path, cluster: LoopbackCluster) -> None:
    """Compare a run that loses one of two workers with a run of one process."""
    finish_here(command, folder / "serial")
    names = [f"{command.verb}-{number}" for number in range(2 - len(cluster.alive()))]
    cluster.add(*names)
    before = cluster.retried()
    with killing_one(cluster):
        finish_here(command, folder / "shared", "--scheduler", cluster.address)
    assert cluster.retried() > before
    require_equal(command.content(folder / "shared"), command.content(folder / "serial"))
    assert len(command.content(folder / "serial")) >= 3
    assert list((folder / "shared").rglob(f"{TEMPORARY_PREFIX}*")) == []


def finish_here(command: Command, output: Path, *words: str) -> None:
    command.begin(output)
    assert run_verb(command.verb, [*command.words(output, 0), *words, "--quiet"]) == 0


def evaluation(folder: Path) -> Command:
    """Score masks against references, all made below ``folder``."""
    random = np.random.default_rng(3)
    for number in range(CASES):
        for kind in ("labels", "masks"):
            (folder / kind).mkdir(exist_ok=True)
            image = sitk.GetImageFromArray((random.random((24, 96, 96)) > 0.97).astype(np.uint8))
            sitk.WriteImage(image, str(folder / kind / f"case_{number}.nii.gz"))

    def words(output: Path, _trial: int) -> list[str]:
        pair = ["--reference", str(folder / "labels"), "--prediction", str(folder / "masks")]
        return [*pair, "--output", str(output), "--labels", "lesion=1"]

    return Command(verb="evaluate", words=words, content=files_below)


def test_infer_volume_loses_a_worker(cluster: LoopbackCluster, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(CASES):
        save_by_itk(scans / f"case_{number}.nii.gz", bright_box(20 + number))
    lose_a_worker(segmentation(scans, save_run(tmp_path / "run")), tmp_path, cluster)


@pytest.mark.slow
def test_evaluate_loses_a_worker(cluster: LoopbackCluster, tmp_path: Path) -> None:
    lose_a_worker(evaluation(tmp_path), tmp_path, cluster)


@pytest.mark.slow
def test_prepare_slices_loses_a_worker(cluster: LoopbackCluster, tmp_path: Path) -> None:
    lose_a_worker(preparation(tmp_path, cases=CASES), tmp_path, cluster)


@pytest.mark.slow
def test_pseudo_label_loses_a_worker(cluster: LoopbackCluster, tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", slices=48).folder
    for fold in (0, 1):
        finish(training(store, epochs=1, fold=fold), tmp_path / "trained", trial=0)
    lose_a_worker(pseudo_labelling(store, tmp_path / "trained"), tmp_path, cluster)
