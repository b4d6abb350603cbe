from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
from evaluation_fakes import WriteLabels


@pytest.fixture
def write_labels(tmp_path: Path) -> WriteLabels:
    """Write a (z, y, x) label map as FOLDER/NAME below the test's folder."""

    def write(
        name: str,
        values: np.ndarray,
        *,
        spacing_mm: tuple[float, float, float] = (0.7, 0.8, 5.0),
        origin_mm: tuple[float, float, float] = (-12.0, 30.0, 4.5),
    ) -> Path:
        image = sitk.GetImageFromArray(values.astype(np.uint8))
        image.SetSpacing(spacing_mm)
        image.SetOrigin(origin_mm)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path))
        return path

    return write
