from __future__ import annotations

import math

import numpy as np
import pytest

from samcancer.evaluation.lesions import (
    MIN_OVERLAP,
    SIZE_BANDS_ML,
    Lesion,
    band_name,
    count_components,
    find_lesions,
    tabulate,
    tabulate_by_band,
)

SHAPE = (12, 30, 40)
VOXEL_ML = 0.004


def boxes(*corners: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    for spans in corners:
        mask[tuple(slice(*span) for span in spans)] = True
    return mask


def lesions(reference: np.ndarray, prediction: np.ndarray) -> list[Lesion]:
    return find_lesions(reference, prediction, voxel_volume_ml=VOXEL_ML)


FIRST = ((1, 5), (2, 12), (3, 13))  # 400 voxels
SECOND = ((7, 11), (2, 12), (3, 13))  # 400 voxels
FAR = ((1, 3), (20, 25), (30, 34))  # 40 voxels


def test_a_found_lesion_a_missed_one_and_a_false_one() -> None:
    table = tabulate(lesions(boxes(FIRST, SECOND), boxes(FIRST, FAR)))
    assert (table.reference, table.detected, table.prediction, table.true) == (2, 1, 2, 1)
    assert (table.recall, table.precision, table.f1) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("rows", "detected"), [(1, True), (0, False)])
def test_a_lesion_is_detected_from_a_tenth_of_its_volume_on(rows: int, detected: bool) -> None:
    # One of ten rows of the first lesion is exactly MIN_OVERLAP of its voxels.
    assert MIN_OVERLAP == 0.1
    prediction = boxes(((1, 5), (2, 2 + rows), (3, 13)))
    (lesion,) = [x for x in lesions(boxes(FIRST), prediction) if x.side == "reference"]
    assert lesion.matched is detected


def test_one_prediction_that_joins_two_lesions_finds_both_and_is_one_true_lesion() -> None:
    joined = boxes(((1, 11), (2, 12), (3, 13)))
    table = tabulate(lesions(boxes(FIRST, SECOND), joined))
    assert (table.reference, table.detected, table.prediction, table.true) == (2, 2, 1, 1)


def test_two_predictions_that_split_a_lesion_are_both_true() -> None:
    split = boxes(((1, 5), (2, 6), (3, 13)), ((1, 5), (8, 12), (3, 13)))
    table = tabulate(lesions(boxes(FIRST), split))
    assert (table.reference, table.detected, table.prediction, table.true) == (1, 1, 2, 2)


def test_voxels_that_touch_by_a_corner_are_one_lesion() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2, 3, 4] = mask[3, 4, 5] = True
    assert count_components(mask) == 1
    mask[5, 6, 7] = True
    assert count_components(mask) == 2


def test_volume_overlap_and_centre_are_those_of_the_box() -> None:
    prediction = boxes(((1, 5), (2, 12), (3, 6)))
    (lesion,) = [x for x in lesions(boxes(FIRST), prediction) if x.side == "reference"]
    assert lesion.volume_ml == pytest.approx(400 * VOXEL_ML)
    assert lesion.overlap == pytest.approx(3 / 10)
    assert lesion.centre_zyx == (2.5, 6.5, 7.5)


def test_recall_by_band_goes_by_reference_size_and_precision_by_predicted_size() -> None:
    tables = tabulate_by_band(lesions(boxes(FIRST), boxes(FIRST, FAR)))
    small, medium = (band_name(band) for band in SIZE_BANDS_ML[:2])
    assert 400 * VOXEL_ML > 1 > 40 * VOXEL_ML
    assert (tables[medium].reference, tables[medium].prediction) == (1, 1)
    assert (tables[small].reference, tables[small].prediction, tables[small].true) == (0, 1, 0)
    assert tables["all"].prediction == 2


def test_every_volume_has_one_band() -> None:
    for volume_ml, name in [
        (0.0, "< 1 ml"),
        (1.0, "1-10 ml"),
        (10.0, ">= 10 ml"),
        (9e9, ">= 10 ml"),
    ]:
        assert Lesion("reference", volume_ml, 0.0, (0.0, 0.0, 0.0)).band == name


def test_no_lesion_on_either_side_gives_no_share() -> None:
    table = tabulate(lesions(boxes(), boxes()))
    assert math.isnan(table.recall)
    assert math.isnan(table.precision)
    assert math.isnan(table.f1)
    assert table.to_dict()["recall"] is None


def test_all_wrong_has_an_f1_of_zero() -> None:
    assert tabulate(lesions(boxes(FIRST), boxes(FAR))).f1 == 0.0


def test_lesions_of_a_box_lie_where_they_do_in_the_volume() -> None:
    volume = np.zeros((9, 12, 14), dtype=bool)
    volume[4:6, 5:8, 9:12] = True
    whole = find_lesions(volume, volume, voxel_volume_ml=0.5)
    box = (slice(3, 8), slice(4, 9), slice(7, 13))
    start = (3, 4, 7)
    assert find_lesions(volume[box], volume[box], voxel_volume_ml=0.5, start=start) == whole
    assert whole[0].centre_zyx == (4.5, 6.0, 10.0)
