from __future__ import annotations

import math

import numpy as np
import pytest

from samcancer.evaluation.protocols import Counts, count_voxels, failed_score, score_masks

SPACING_MM = (5.0, 0.8, 0.7)
SHAPE = (12, 40, 40)


def box(start: int, length: int) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[3:8, 5:25, start : start + length] = True
    return mask


EMPTY = np.zeros(SHAPE, dtype=bool)


def score(reference: np.ndarray, prediction: np.ndarray, protocol: str) -> tuple[float, float]:
    result = score_masks(
        reference,
        prediction,
        spacing_mm=SPACING_MM,
        protocol=protocol,  # type: ignore[arg-type]
    )
    return result.dice, result.nsd


def test_flare24_gives_one_to_a_healthy_case_left_empty() -> None:
    assert score(EMPTY, EMPTY, "flare24") == (1.0, 1.0)


def test_nnunet_leaves_a_case_without_the_class_out() -> None:
    assert all(math.isnan(v) for v in score(EMPTY, EMPTY, "nnunet"))


@pytest.mark.parametrize("protocol", ["flare24", "nnunet"])
@pytest.mark.parametrize(("reference", "prediction"), [(EMPTY, box(5, 4)), (box(5, 4), EMPTY)])
def test_one_empty_mask_scores_zero(
    protocol: str, reference: np.ndarray, prediction: np.ndarray
) -> None:
    assert score(reference, prediction, protocol) == (0.0, 0.0)


@pytest.mark.parametrize("protocol", ["flare24", "nnunet"])
def test_identical_masks_score_one(protocol: str) -> None:
    assert score(box(5, 7), box(5, 7), protocol) == (1.0, 1.0)


@pytest.mark.parametrize(("shift", "length"), [(3, 10), (1, 9), (7, 21)])
def test_dice_of_shifted_boxes_is_the_common_share(shift: int, length: int) -> None:
    # Both boxes have the same cross-section, so Dice = (length - shift) / length.
    dice, _ = score(box(5, length), box(5 + shift, length), "flare24")
    assert dice == round((length - shift) / length, 4)


def test_flare24_sets_the_surface_score_to_zero_under_a_dice_of_a_fifth() -> None:
    length, shift = 10, 9  # Dice 0.1; the long common faces keep the surface score above 0
    dice, nsd = score(box(5, length), box(5 + shift, length), "flare24")
    assert (dice, nsd) == (0.1, 0.0)
    assert score(box(5, length), box(5 + shift, length), "nnunet")[1] > 0.2


def test_flare24_keeps_the_surface_score_at_a_dice_of_exactly_a_fifth() -> None:
    dice, nsd = score(box(5, 10), box(13, 10), "flare24")
    assert dice == 0.2
    assert nsd > 0.2


def test_flare24_rounds_each_case_to_four_decimals_and_nnunet_does_not() -> None:
    assert score(box(5, 7), box(6, 7), "flare24")[0] == round(6 / 7, 4)
    assert score(box(5, 7), box(6, 7), "nnunet")[0] == 6 / 7


def test_iou_follows_from_dice() -> None:
    result = score_masks(box(5, 10), box(8, 10), spacing_mm=SPACING_MM, protocol="nnunet")
    assert result.iou == pytest.approx(7 / 13)
    assert result.dice == pytest.approx(2 * result.iou / (1 + result.iou))


def test_voxels_are_counted_by_outcome() -> None:
    cross_section = 5 * 20
    assert count_voxels(box(5, 10), box(12, 4)) == Counts(
        true_positive=3 * cross_section,
        false_positive=1 * cross_section,
        false_negative=7 * cross_section,
        true_negative=math.prod(SHAPE) - 11 * cross_section,
    )


def test_a_failed_case_scores_zero() -> None:
    assert (failed_score().dice, failed_score().iou, failed_score().nsd) == (0.0, 0.0, 0.0)
