from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import small_config, small_net
from memory_store import CLASS_NAMES, partly_labelled_store

from samcancer.training.validate import CaseCounts, count_case, summarise


def case(
    name: str,
    *,
    presence: list[float],
    predicted: list[int],
    reference: list[int],
    overlap: list[int],
    annotated: bool = True,
) -> CaseCounts:
    def column(values: list[int]) -> np.ndarray:
        return np.array(values, dtype=np.int64)[:, None]

    return CaseCounts(
        name,
        np.array([annotated]),
        np.array(presence)[:, None],
        column(predicted),
        column(reference),
        column(overlap),
    )


def test_volume_dice_counts_voxels_of_empty_slices_too() -> None:
    held = case(
        "a", presence=[1, 1, 1], predicted=[5, 10, 0], reference=[0, 10, 5], overlap=[0, 8, 0]
    )
    result = summarise([held], ["lesion"]).classes["lesion"]
    # the false slice has presence 1 as the true one: no threshold parts them
    assert result.dice == pytest.approx(2 * 8 / (15 + 15))


def test_calibration_finds_a_threshold_that_removes_false_slices() -> None:
    held = case(
        "a",
        presence=[0.62, 0.9, 0.1],
        predicted=[5, 10, 7],
        reference=[0, 10, 0],
        overlap=[0, 10, 0],
    )
    result = summarise([held], ["lesion"]).classes["lesion"]
    assert result.dice == 1
    # of the candidates in (0.62, 0.9] the one nearest to 0.5
    assert result.threshold == 0.65


def test_a_healthy_case_is_counted_apart_and_pulls_the_threshold_up() -> None:
    positive = case("a", presence=[0.9], predicted=[10], reference=[10], overlap=[10])
    healthy = case("b", presence=[0.7], predicted=[3], reference=[0], overlap=[0])
    result = summarise([positive, healthy], ["lesion"]).classes["lesion"]
    assert (result.dice, result.cases) == (1, 1)
    assert (result.healthy_cases, result.healthy_correct, result.false_positives) == (1, 1, 0)
    assert result.threshold == 0.75


def test_a_false_positive_that_no_threshold_removes_is_counted() -> None:
    positive = case("a", presence=[0.9], predicted=[10], reference=[10], overlap=[10])
    healthy = case("b", presence=[0.99], predicted=[3], reference=[0], overlap=[0])
    result = summarise([positive, healthy], ["lesion"]).classes["lesion"]
    assert result.false_positives == 1
    assert result.dice == 1


def test_predicting_nothing_is_never_the_best_threshold_while_something_is_found() -> None:
    weak = case("a", presence=[0.6], predicted=[20], reference=[10], overlap=[2])
    healthy = case("b", presence=[0.9], predicted=[3], reference=[0], overlap=[0])
    result = summarise([weak, healthy], ["lesion"]).classes["lesion"]
    assert result.threshold == 0.5
    assert result.dice == pytest.approx(4 / 30)
    assert result.false_positives == 1


def test_where_nothing_is_found_the_cleaner_threshold_wins() -> None:
    blind = case("a", presence=[0.6], predicted=[20], reference=[10], overlap=[0])
    healthy = case("b", presence=[0.7], predicted=[3], reference=[0], overlap=[0])
    result = summarise([blind, healthy], ["lesion"]).classes["lesion"]
    assert (result.threshold, result.false_positives) == (0.75, 0)


def test_cases_that_do_not_annotate_the_class_do_not_count() -> None:
    held = case("a", presence=[0.9], predicted=[9], reference=[0], overlap=[0], annotated=False)
    result = summarise([held], ["lesion"]).classes["lesion"]
    assert (result.dice, result.cases, result.healthy_cases) == (None, 0, 0)


@pytest.mark.parametrize("reference", [[0, 0], [4, 4]])
def test_without_both_kinds_of_slices_the_threshold_is_one_half(reference: list[int]) -> None:
    held = case("a", presence=[0.2, 0.8], predicted=[4, 4], reference=reference, overlap=[0, 0])
    assert summarise([held], ["lesion"]).classes["lesion"].threshold == 0.5


def test_the_score_is_the_mean_over_classes_with_positive_cases() -> None:
    perfect = case("a", presence=[1], predicted=[10], reference=[10], overlap=[10])
    result = summarise([perfect], ["lesion"])
    assert result.score == 1
    assert summarise([], ["lesion"]).score == 0


def test_counts_of_a_case_equal_a_direct_comparison() -> None:
    store, model = partly_labelled_store(), small_net().eval()
    config = small_config()
    counts = count_case(
        model,
        store,  # type: ignore[arg-type]
        "liver_lesion_1",
        config=config,
        device=torch.device("cpu"),
    )
    lower, upper = config.data.inference_window_hu
    image = np.clip((store.hu["liver_lesion_1"] - lower) / (upper - lower), 0, 1)
    with torch.no_grad():
        logits = model(torch.from_numpy(image).float()[None]).mask_logits[0]
    predicted = (logits > 0).numpy()
    reference = store.bits["liver_lesion_1"] & 1 > 0
    assert counts.predicted.tolist() == predicted.sum(axis=(2, 3)).tolist()
    assert counts.reference[:, 0].tolist() == reference.sum(axis=(1, 2)).tolist()
    assert counts.overlap[:, 0].tolist() == (predicted[:, 0] & reference).sum(axis=(1, 2)).tolist()
    assert counts.annotated.tolist() == [name == "liver_lesion" for name in CLASS_NAMES]
