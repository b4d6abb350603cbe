"""The benchmark of --region: lost voxels by their place in the patient, and the table."""

from __future__ import annotations

import numpy as np
import region

from samcancer.geometry import Geometry

UPWARDS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
DOWNWARDS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def test_slices_are_counted_from_the_feet_however_a_scan_is_stored() -> None:
    lesions = np.zeros((6, 3, 4), dtype=bool)
    lesions[1, :2] = True  # 8 voxels
    lesions[4, 0, 0] = True
    for direction, kept, lost in (
        (UPWARDS, range(1, 5), 0),
        (UPWARDS, range(2, 6), 8),
        (DOWNWARDS, range(2, 6), 1),
        (DOWNWARDS, range(3), 8),
    ):
        geometry = Geometry((4, 3, 6), (1.0, 1.0, 5.0), (0.0, 0.0, 0.0), direction)
        assert region.lost_voxels(lesions, geometry, kept) == lost


def test_the_table_sums_over_the_scans_and_says_what_was_lost() -> None:
    scans = [
        region.ScanRegion("a", 100, 60, None, 50, 0),
        region.ScanRegion("b", 100, 0, "no slice is positive", 0, 0),
    ]
    seconds = {"read": 1.0, "predict": 20.0, "write": 1.0, "total": 22.0}
    markdown = region.to_markdown(
        {
            "command": "c",
            "machine": "m",
            "scans": [scan._asdict() for scan in scans],
            "seconds": {
                "off": seconds,
                "auto": {**seconds, "predict": 14.0, "region": 2.0, "total": 18.0},
            },
        }
    )
    assert "| slices segmented | 200 | 140 (70%) |" in markdown
    assert "| seconds, segmentation | 20.0 | 14.0 |" in markdown
    assert "| seconds, slice classifier | - | 2.0 |" in markdown
    assert "left out: 0 of 50, in 0 scans" in markdown
    assert "positive slice: 1 scans" in markdown
