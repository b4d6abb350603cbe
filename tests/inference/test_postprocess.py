from __future__ import annotations

import numpy as np
import pytest

from samcancer.inference.postprocess import postprocess_class
from samcancer.taxonomy import PostProcess

VOXEL_ML = 0.01


def three_lesions() -> np.ndarray:
    values = np.zeros((8, 20, 20), dtype=np.uint8)
    values[1:3, 2:7, 2:12] = 2  # 100 voxels, 1 ml
    values[5:6, 2:7, 2:8] = 2  # 30 voxels, 0.3 ml
    values[7, 15, 15:20] = 2  # 5 voxels, 0.05 ml
    values[4, 10:12, 10:12] = 1
    return values


def test_without_a_rule_everything_stays() -> None:
    values = three_lesions()
    result = postprocess_class(values, 2, PostProcess(), voxel_volume_ml=VOXEL_ML)
    np.testing.assert_array_equal(values, three_lesions())
    assert (result.voxels, result.components, result.removed) == (135, 3, ())
    assert result.slices == (1, 2, 5, 7)


def test_small_components_go_and_are_reported() -> None:
    values = three_lesions()
    rule = PostProcess(min_volume_ml=0.1)
    result = postprocess_class(values, 2, rule, voxel_volume_ml=VOXEL_ML)
    assert np.count_nonzero(values == 2) == result.voxels == 130
    assert result.slices == (1, 2, 5)
    (removal,) = result.removed
    assert removal.to_dict() == {
        "rule": "min_volume_ml 0.1",
        "components": 1,
        "volume_ml": 0.05,
        "largest_ml": 0.05,
    }


def test_a_component_of_exactly_the_smallest_volume_stays() -> None:
    values = three_lesions()
    result = postprocess_class(
        values, 2, PostProcess(min_volume_ml=5 * VOXEL_ML), voxel_volume_ml=VOXEL_ML
    )
    assert result.components == 3


def test_keep_largest_reports_what_went() -> None:
    values = three_lesions()
    result = postprocess_class(values, 2, PostProcess(keep="largest"), voxel_volume_ml=VOXEL_ML)
    assert np.count_nonzero(values == 2) == 100
    (removal,) = result.removed
    assert (removal.rule, removal.components) == ("keep largest", 2)
    assert removal.volume_ml == pytest.approx(0.35)
    assert removal.largest_ml == pytest.approx(0.3)


def test_both_rules_report_apart() -> None:
    rule = PostProcess(keep="largest", min_volume_ml=0.1)
    result = postprocess_class(three_lesions(), 2, rule, voxel_volume_ml=VOXEL_ML)
    assert [r.rule for r in result.removed] == ["min_volume_ml 0.1", "keep largest"]


def test_a_class_that_is_too_small_altogether_vanishes_but_is_reported() -> None:
    values = three_lesions()
    rule = PostProcess(keep="largest", min_volume_ml=50.0)
    result = postprocess_class(values, 2, rule, voxel_volume_ml=VOXEL_ML)
    assert (result.voxels, result.components, result.slices) == (0, 0, ())
    assert result.removed[0].volume_ml == pytest.approx(1.35)


def test_other_classes_are_untouched() -> None:
    values = three_lesions()
    postprocess_class(values, 2, PostProcess(min_volume_ml=50.0), voxel_volume_ml=VOXEL_ML)
    assert np.count_nonzero(values == 1) == 4


def test_an_absent_class_has_nothing_to_report() -> None:
    result = postprocess_class(
        three_lesions(), 5, PostProcess(keep="largest"), voxel_volume_ml=VOXEL_ML
    )
    assert (result.voxels, result.components, result.slices, result.removed) == (0, 0, (), ())
