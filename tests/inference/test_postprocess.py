from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pytest

from samcancer.inference.postprocess import (
    ClassResult,
    PredictedMaps,
    postprocess_class,
    postprocess_maps,
)
from samcancer.taxonomy import ClassSpec, PostProcess

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
        "emptied_class": False,
        "kept_because_last": False,
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
    (removal,) = result.removed
    assert removal.volume_ml == pytest.approx(1.35)
    assert removal.emptied_class


def test_other_classes_are_untouched() -> None:
    values = three_lesions()
    postprocess_class(values, 2, PostProcess(min_volume_ml=50.0), voxel_volume_ml=VOXEL_ML)
    assert np.count_nonzero(values == 1) == 4


def test_an_absent_class_has_nothing_to_report() -> None:
    result = postprocess_class(
        three_lesions(), 5, PostProcess(keep="largest"), voxel_volume_ml=VOXEL_ML
    )
    assert (result.voxels, result.components, result.slices, result.removed) == (0, 0, (), ())


def test_an_organ_that_is_too_small_altogether_keeps_its_largest_component() -> None:
    values = three_lesions()
    rule = PostProcess(min_volume_ml=50.0)
    result = postprocess_class(values, 2, rule, voxel_volume_ml=VOXEL_ML, keep_last=True)
    assert np.count_nonzero(values == 2) == result.voxels == 100
    (removal,) = result.removed
    assert (removal.components, removal.kept_because_last) == (2, True)
    assert not removal.emptied_class


def test_the_last_component_of_an_organ_is_kept_and_reported_though_nothing_went() -> None:
    values = three_lesions()
    rule = PostProcess(keep="largest", min_volume_ml=50.0)
    result = postprocess_class(values, 1, rule, voxel_volume_ml=VOXEL_ML, keep_last=True)
    assert result.voxels == 4
    (removal,) = result.removed
    assert (removal.components, removal.volume_ml, removal.kept_because_last) == (0, 0.0, True)


SPACING_MM = (5.0, 2.0, 4.0)
SHAPE = (6, 30, 61)
KIDNEY_RIGHT, KIDNEY_LEFT, TUMOR = 1, 2, 3
UNIONS = {"kidneys": ("kidney_right", "kidney_left")}

LARGEST = PostProcess(keep="largest")
RIGHT = ClassSpec(
    name="kidney_right",
    title="",
    kind="organ",
    postprocess=LARGEST,
    left_counterpart="kidney_left",
)
LEFT = ClassSpec(name="kidney_left", title="", kind="organ", postprocess=LARGEST)
TUMORS = ClassSpec(
    name="kidney_tumor",
    title="",
    kind="lesion",
    organ="kidneys",
    postprocess=PostProcess(inside_organ_mm=10.0),
)


def kidneys_with_tumors() -> PredictedMaps:
    """A body from column 3 to 57, kidneys, a tumor in the left one, one 12 mm off, one far off."""
    volume_hu = np.full(SHAPE, -1000, dtype=np.int16)
    volume_hu[:, 2:28, 3:58] = 40
    lesions, organs = (np.zeros(SHAPE, dtype=np.uint8) for _ in range(2))
    organs[1:5, 10:16, 8:14] = KIDNEY_RIGHT
    organs[1:5, 10:16, 44:50] = KIDNEY_LEFT
    lesions[2:4, 12:14, 48:52] = TUMOR  # 16 voxels
    lesions[2, 12, 16] = TUMOR  # 3 columns, 12 mm, from the right kidney
    lesions[5, 25, 30:32] = TUMOR
    return PredictedMaps(lesions=lesions, organs=organs, volume_hu=volume_hu, spacing_mm=SPACING_MM)


def postprocess(
    maps: PredictedMaps,
    *classes: ClassSpec,
    enabled: bool = True,
    unions: Mapping[str, tuple[str, ...]] = UNIONS,
) -> dict[str, ClassResult]:
    specs = classes or (RIGHT, LEFT, TUMORS)
    results = postprocess_maps(maps, specs, unions=unions, enabled=enabled)
    return {spec.name: result for spec, result in zip(specs, results, strict=True)}


def test_tumors_away_from_both_members_of_the_union_go() -> None:
    maps = kidneys_with_tumors()
    result = postprocess(maps)["kidney_tumor"]
    assert (result.voxels, result.components, result.slices) == (16, 1, (2, 3))
    assert np.count_nonzero(maps.lesions) == 16
    (removal,) = result.removed
    assert (removal.rule, removal.components) == ("inside_organ_mm 10", 2)
    assert removal.volume_ml == pytest.approx(3 * 5.0 * 2.0 * 4.0 / 1000)
    assert result.not_applied == ()


def test_organs_on_the_wrong_side_move_before_the_largest_is_kept() -> None:
    maps = kidneys_with_tumors()
    organs = maps.organs
    assert organs is not None
    organs[1:5, 10:16, 47:50] = KIDNEY_RIGHT  # 72 voxels, half of the left kidney
    organs[5, 20, 50] = KIDNEY_LEFT
    results = postprocess(maps)
    assert results["kidney_left"].voxels == np.count_nonzero(organs == KIDNEY_LEFT) == 144
    assert [r.components for r in results["kidney_left"].removed] == [1]
    assert results["kidney_right"].removed == ()
    (move,) = results["kidney_right"].moved
    assert move.to_dict() == {
        "to": "kidney_left",
        "components": 1,
        "volume_ml": pytest.approx(72 * 0.04),
        "largest_ml": pytest.approx(72 * 0.04),
    }


def test_a_fragment_that_goes_from_the_organ_takes_its_stray_tumor_along() -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.organs[5, 25, 29:33] = KIDNEY_RIGHT
    assert postprocess(maps)["kidney_tumor"].voxels == 16


def test_a_side_that_the_model_does_not_predict_leaves_the_union_unknown() -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.organs[maps.organs == KIDNEY_LEFT] = 0
    maps.lesions[maps.lesions == TUMOR] = 2
    result = postprocess(maps, RIGHT, TUMORS)["kidney_tumor"]
    assert (result.components, result.removed) == (3, ())
    assert result.not_applied == ("inside_organ_mm 10: organ kidneys not predicted",)


def test_a_union_that_the_model_predicts_itself_is_the_organ() -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.organs[maps.organs > 0] = 1
    maps.lesions[maps.lesions == TUMOR] = 2
    both = ClassSpec(name="kidneys", title="", kind="organ", members=UNIONS["kidneys"])
    assert postprocess(maps, both, TUMORS)["kidney_tumor"].components == 1


@pytest.mark.parametrize("has_organs", [False, True])
def test_an_organ_that_is_not_predicted_or_empty_removes_nothing(has_organs: bool) -> None:
    whole = kidneys_with_tumors()
    empty = np.zeros(SHAPE, dtype=np.uint8) if has_organs else None
    maps = PredictedMaps(
        lesions=whole.lesions, organs=empty, volume_hu=whole.volume_hu, spacing_mm=SPACING_MM
    )
    background = ClassSpec(name="liver_tumor", title="", kind="lesion")
    classes = (RIGHT, LEFT, TUMORS) if has_organs else (background, background, TUMORS)
    result = postprocess(maps, *classes)["kidney_tumor"]
    why = "empty" if has_organs else "not predicted"
    assert result.not_applied == (f"inside_organ_mm 10: organ kidneys {why}",)
    assert (result.components, result.removed) == (3, ())


def test_a_rule_without_a_voxel_to_apply_to_is_not_mentioned() -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.lesions[:] = 0
    maps.organs[:] = 0
    assert {r.not_applied for r in postprocess(maps).values()} == {()}


def test_unknown_sides_are_reported() -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.volume_hu[:] = -1000
    maps.organs[maps.organs == KIDNEY_RIGHT] = 0
    result = postprocess(maps)["kidney_left"]
    assert result.not_applied == ("sides: the patient's mid-plane is not known",)
    assert (result.components, result.moved) == (1, ())


def test_without_rules_the_maps_are_left_alone_and_counted() -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.organs[5, 20, 50] = KIDNEY_RIGHT
    before = maps.organs.copy()
    results = postprocess(maps, enabled=False)
    np.testing.assert_array_equal(maps.organs, before)
    np.testing.assert_array_equal(maps.lesions, kidneys_with_tumors().lesions)
    assert [r.components for r in results.values()] == [2, 1, 3]
    assert results["kidney_tumor"].changes() == {"removed": [], "moved": [], "not_applied": []}


def test_what_empties_a_class_or_would_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.organs[:, :, 40:] = 0
    maps.lesions[:, :, 40:] = 0
    tiny = PostProcess(min_volume_ml=1000.0)
    right = ClassSpec(name="kidney_right", title="", kind="organ", postprocess=tiny)
    with caplog.at_level(logging.INFO):
        for name, result in postprocess(maps, right, LEFT, TUMORS).items():
            result.log_changes(name)
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings == [
        "kidney_right: kept the largest, else nothing is left (min_volume_ml 1000)",
        "kidney_tumor: nothing is left (inside_organ_mm 10)",
    ]
    assert "kidney_tumor: removed 2 components, 0.12 ml (inside_organ_mm 10)" in caplog.text


def test_an_organ_that_changes_sides_altogether_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    maps = kidneys_with_tumors()
    assert maps.organs is not None
    maps.organs[:, :, :40] = 0
    maps.organs[maps.organs > 0] = KIDNEY_RIGHT
    results = postprocess(maps)
    assert (results["kidney_right"].voxels, results["kidney_left"].voxels) == (0, 144)
    with caplog.at_level(logging.INFO):
        results["kidney_right"].log_changes("kidney_right")
    assert [r.getMessage() for r in caplog.records] == [
        "kidney_right: moved 1 components, 5.76 ml, to kidney_left",
        "kidney_right: nothing is left after components changed sides",
    ]
