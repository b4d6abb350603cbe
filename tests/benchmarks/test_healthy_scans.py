"""The benchmark of calibration: its tables say what the report and the scores say."""

from __future__ import annotations

import healthy_scans

NAME = "lung_lesion"


def _state(marked: int, detected: int) -> dict[str, object]:
    rate = {"count": marked, "n": 8, "lower": 0.1, "upper": 0.9}
    found = {
        band: {"detected": detected, "lesions": 5}
        for band in ("< 1 ml", "1-10 ml", ">= 10 ml", "all")
    }
    dice = {"mean": 0.25, "lower": 0.125, "upper": 0.5, "n": 4}
    return {"healthy": rate, "classes": {NAME: {"healthy": rate, "found": found, "dice": dice}}}


def _scores(marked: int) -> dict[str, object]:
    mean = {"mean": 1.5, "lower": 1.0, "upper": 2.0, "n": 3}
    table = {"detected": 2, "reference_lesions": 6, "predicted_lesions": 7, "true": 3}
    return {
        "healthy": {"with_predicted_lesion": marked, "scans": 3, "false_positive_ml": mean},
        "classes": {NAME: {"dice_where_present": mean}},
        "lesions": {NAME: {"all": table, ">= 10 ml": table}},
    }


def test_the_tables_hold_counts_intervals_and_both_arms() -> None:
    markdown = healthy_scans.to_markdown(
        {
            "command": "c",
            "machine": "m",
            "calibration": {
                "max_fp_scans": 0.05,
                "healthy_scans_from_outside": 2,
                "thresholds_before": {
                    NAME: {"presence": 0.5, "probability": 0.5, "min_volume_ml": 0}
                },
                "thresholds_after": {
                    NAME: {"presence": 0.9, "probability": 0.8, "min_volume_ml": 1}
                },
                "before": _state(6, 4),
                "after": _state(0, 3),
                "cross_validated": _state(1, 2),
            },
            "hidden": {"no-calibration": _scores(3), "calibration": _scores(0)},
        }
    )
    assert "8 healthy scans, 2 of them from outside of the store" in markdown
    assert f"| {NAME} | 0.5 -> 0.9 | 0.5 -> 0.8 | 0 -> 1 |" in markdown
    rates = "6 of 8 [0.100, 0.900] | 0 of 8 [0.100, 0.900] | 1 of 8 [0.100, 0.900] |"
    assert f"| **any lesion** | {rates}" in markdown
    assert f"| {NAME} | cross-validated | 2 of 5 |" in markdown
    assert "| healthy scans with a false lesion | 3 of 3 | 0 of 3 |" in markdown
    assert f"| {NAME}, false lesions | 4 | 4 |" in markdown
