from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
from inference_fakes import WriteScan

sys.path.insert(0, str(Path(__file__).parents[1] / "volume_io"))  # for ct_series

LPS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def write_scan(tmp_path: Path) -> WriteScan:
    """Write a (z, y, x) array as a volume; returns its path."""

    def write(
        name: str,
        values: np.ndarray,
        *,
        spacing_mm: tuple[float, float, float] = (0.6, 0.8, 5.0),
        origin_mm: tuple[float, float, float] = (-31.0, 17.5, 203.0),
        direction: tuple[float, ...] = LPS,
    ) -> Path:
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(spacing_mm)
        image.SetOrigin(origin_mm)
        image.SetDirection(direction)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        return path

    return write
