"""The measured network writes masks, and a run folder of it can be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import workload as made
from workload import Workload

from samcancer.inference.models import load_ensemble
from samcancer.volume_io import read_ct


def test_every_class_is_positive_in_a_share_of_the_pixels(tiny: Workload) -> None:
    network = made.build(tiny, ["a", "b", "c"])
    masks = network(torch.rand(1, 6, 32, 32)).mask_logits > 0
    assert masks.shape[2] == 3
    assert bool(masks.any())


def test_equal_workloads_have_equal_weights(tiny: Workload) -> None:
    first, second = (made.build(tiny, ["a"]).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_scan_is_tissue_in_air() -> None:
    scan = made.scan_hu(2, 40)
    assert scan.shape == (2, 40, 40)
    assert scan[0, 0, 0] == -1000
    assert abs(float(scan[:, 18:22, 18:22].mean()) - 40) < 25


def test_a_scan_is_read_back_with_its_spacing(tmp_path: Path) -> None:
    path = made.write_scan(tmp_path / "scan.nii.gz", 3, 20)
    ct = read_ct(path)
    np.testing.assert_array_equal(ct.hu, made.scan_hu(3, 20))
    np.testing.assert_allclose(ct.geometry.spacing_mm, made.SPACING_MM, rtol=1e-6)


def test_a_run_is_loaded_with_its_class_always_present(tmp_path: Path, tiny: Workload) -> None:
    ensemble = load_ensemble([made.write_run(tmp_path / "run", tiny)], device="cpu")
    assert ensemble.class_names == (made.CLASS_NAME,)
    assert ensemble.thresholds.tolist() == [made.ALWAYS]
    assert ensemble.image_size == tiny.image_size
