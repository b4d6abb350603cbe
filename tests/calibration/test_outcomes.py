"""What a candidate does to a scan is what inference and evaluation would make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samcancer.calibration.grid import Grid
from samcancer.calibration.outcomes import (
    ClassOfScan,
    HealthyOutcome,
    LesionOutcome,
    judge,
    levels_of_logits,
)
from samcancer.evaluation.lesions import SIZE_BANDS_ML, find_lesions, tabulate_by_band

GRID = Grid(presence=(0.2, 0.5, 0.9), probability=(0.5, 0.8), min_volume_ml=(0.0, 1.0, 5.0))
SHAPE = (6, 12, 12)


def subject(
    probability: np.ndarray, presence: list[float], reference: np.ndarray | None = None
) -> ClassOfScan:
    levels = levels_of_logits(torch.logit(torch.from_numpy(probability)), GRID).numpy()
    return ClassOfScan(
        "scan", "lesion", 1, levels, np.array(presence, np.float32), reference, voxel_volume_ml=0.5
    )


def test_a_voxel_exceeds_the_thresholds_under_its_probability() -> None:
    logits = torch.logit(torch.tensor([0.49, 0.5, 0.51, 0.79, 0.81], dtype=torch.float64))
    assert levels_of_logits(logits, GRID).tolist() == [0, 0, 1, 1, 2]


def test_a_healthy_scan_is_false_while_a_component_is_sure_large_and_present_enough() -> None:
    probability = np.full(SHAPE, 0.1)
    probability[2, 3:5, 3:5] = 0.6  # 4 voxels, 2 ml
    probability[4, 8, 8] = 0.9  # 1 voxel, 0.5 ml
    outcome = judge(subject(probability, [0, 0, 0.5, 0, 0.95, 0]), GRID)
    assert isinstance(outcome, HealthyOutcome)
    expected = np.zeros(GRID.shape, dtype=bool)
    expected[:2, 0, :2] = True  # the 2 ml one, where its slice is present, at probability 0.5
    expected[:, :, 0] = True  # the 0.5 ml one, wherever no volume is asked for
    np.testing.assert_array_equal(outcome.false, expected)


def test_a_scan_without_a_marked_voxel_is_clean_for_every_candidate() -> None:
    outcome = judge(subject(np.full(SHAPE, 0.4), [1.0] * 6), GRID)
    assert isinstance(outcome, HealthyOutcome)
    assert not outcome.false.any()


def test_a_person_who_marked_nothing_makes_a_healthy_scan() -> None:
    empty = np.zeros(SHAPE, dtype=bool)
    outcome = judge(subject(np.full(SHAPE, 0.4), [1.0] * 6, empty), GRID)
    assert isinstance(outcome, HealthyOutcome)


def test_lesions_are_found_by_the_tenth_that_is_covered_in_their_size_band() -> None:
    probability, reference = np.full(SHAPE, 0.1), np.zeros(SHAPE, dtype=bool)
    reference[1, 0:5, 0:4] = True  # 20 voxels, 10 ml: the third band
    probability[1, 0, 0:2] = 0.9  # a tenth of it, 1 ml
    reference[4, 8, 8] = True  # 0.5 ml: the first band
    probability[4, 8, 8] = 0.7
    outcome = judge(subject(probability, [0, 0.6, 0, 0, 1.0, 0], reference), GRID)
    assert isinstance(outcome, LesionOutcome)
    assert outcome.lesions.tolist() == [1, 0, 1]
    large, small = outcome.detected[2], outcome.detected[0]
    assert not outcome.detected[1].any()
    expected = np.zeros(GRID.shape, dtype=int)
    expected[:2, :, :2] = 1  # presence 0.6, probability 0.9, 1 ml
    np.testing.assert_array_equal(large, expected)
    expected[:] = 0
    expected[:, 0, 0] = 1  # presence 1, probability 0.7, 0.5 ml
    np.testing.assert_array_equal(small, expected)
    # 3 of 21 reference voxels are marked: 2 * 3 / (3 + 21)
    assert outcome.dice[0, 0, 0] == pytest.approx(0.25)
    assert outcome.dice[2, 1, 0] == 0


def test_every_candidate_is_judged_as_evaluation_judges_its_mask() -> None:
    rng = np.random.default_rng(3)
    probability = rng.random(SHAPE) ** 3
    presence = rng.random(6).round(1)
    reference = np.zeros(SHAPE, dtype=bool)
    reference[1:3, 2:7, 2:6] = reference[4:, 9:, 1:4] = reference[0, 11, 11] = True
    outcome = judge(subject(probability, presence.tolist(), reference), GRID)
    assert isinstance(outcome, LesionOutcome)
    for place in np.ndindex(*GRID.shape):
        p, t, v = (GRID.presence[place[0]], GRID.probability[place[1]], place[2])
        mask = (probability > t) & (presence.astype(np.float32) >= np.float32(p))[:, None, None]
        mask = large_enough(mask, GRID.min_volume_ml[v])
        lesions = find_lesions(reference, mask, voxel_volume_ml=0.5)
        tables = list(tabulate_by_band(lesions).values())[1:]
        assert [t.detected for t in tables] == outcome.detected[(slice(None), *place)].tolist()
        dice = 2 * (mask & reference).sum() / (mask.sum() + reference.sum())
        assert outcome.dice[place] == pytest.approx(dice)
    assert len(outcome.lesions) == len(SIZE_BANDS_ML)


def large_enough(mask: np.ndarray, min_volume_ml: float) -> np.ndarray:
    """Remove components one by one, each grown from a voxel (no labelling of SciPy's)."""
    left, kept = {tuple(v) for v in np.argwhere(mask)}, np.zeros_like(mask)
    while left:
        front = [left.pop()]
        component = list(front)
        while front:
            z, y, x = front.pop()
            near = {
                (z + i, y + j, x + k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)
            } & left
            left -= near
            front += near
            component += near
        if len(component) * 0.5 >= min_volume_ml:
            kept[tuple(np.array(component).T)] = True
    return kept
