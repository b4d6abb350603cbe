from __future__ import annotations

import numpy as np

from samcancer.report.scan.companding import LEVELS, level_hu, to_levels


def test_every_level_comes_back_as_itself() -> None:
    hu = np.rint(level_hu()).astype(np.int16)
    assert to_levels(hu).tolist() == list(range(LEVELS))


def test_soft_tissue_is_kept_to_a_step_and_a_half_of_a_hu() -> None:
    """500 HU on 168 levels: a step of 2.98 HU, half of it lost at most."""
    hu = np.arange(-200, 301, dtype=np.int16)
    lost = np.abs(level_hu()[to_levels(hu)] - hu)
    assert lost.max() <= 500 / 168 / 2 + 1e-9


def test_lung_and_bone_windows_lose_less_than_a_fiftieth_of_their_width() -> None:
    for low, high in ((-1350, 150), (-500, 1300)):
        hu = np.arange(max(low, -1024), high + 1, dtype=np.int16)
        assert np.abs(level_hu()[to_levels(hu)] - hu).max() <= (high - low) / 50


def test_values_beyond_the_ends_get_the_ends() -> None:
    hu = np.array([-32768, -3024, -1024, 3071, 32767], dtype=np.int16)
    assert to_levels(hu).tolist() == [0, 0, 0, 255, 255]


def test_levels_rise_with_hu() -> None:
    levels = to_levels(np.arange(-1100, 3200, dtype=np.int16)).astype(int)
    assert (np.diff(levels) >= 0).all()
