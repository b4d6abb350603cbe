"""A page of a whole-body scan stays under 15 MB at full resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from samcancer.geometry import Geometry
from samcancer.report.scan import write_scan_page
from samcancer.volume_io import CtVolume

SLICES, SIDE = 300, 512
NOISE_HU = 20.0
"""Of thin slices of the abdomen; the more noise, the more bytes."""
LIMIT_BYTES = 15_000_000


def noisy_body() -> np.ndarray:
    """Return organs as blobs in an ellipse, a spine, and noise as coarse as a soft kernel's."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    body = ((y - 256) / 180) ** 2 + ((x - 256) / 235) ** 2 < 1
    spine = (y - 380) ** 2 + (x - 256) ** 2 < 30**2
    hu = np.empty((SLICES, SIDE, SIDE), dtype=np.int16)
    organs = ndimage.zoom(rng.normal(size=(34, 34)).astype(np.float32), SIDE / 34, order=1)
    for z in range(SLICES):
        tissue = 40 + 60 * np.round(np.roll(organs, 3 * z, axis=1))
        plane = np.where(spine, 500, np.where(body, tissue, -1000))
        noise = ndimage.gaussian_filter(rng.normal(size=plane.shape).astype(np.float32), 0.7)
        hu[z] = np.rint(plane + noise * (NOISE_HU / noise.std()))
    return hu


@pytest.mark.slow
def test_300_slices_of_512_by_512_noisy_voxels_take_under_15_mb(tmp_path: Path) -> None:
    geometry = Geometry(
        (SIDE, SIDE, SLICES), (0.75, 0.75, 1.5), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1)
    )
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    labels[100:130, 200:260, 150:220] = 1
    page = tmp_path / "page.html"
    write_scan_page(
        page,
        scan=tmp_path / "scan.nii.gz",
        mask=tmp_path / "mask.nii.gz",
        report={"labels": {"liver_lesion": 1}},
        ct=CtVolume(noisy_body(), geometry, tmp_path / "scan.nii.gz", "0" * 64, (), "nifti"),
        labels=labels,
    )
    assert page.stat().st_size < LIMIT_BYTES
    assert '"reduction":1,' in page.read_text(encoding="utf-8")
