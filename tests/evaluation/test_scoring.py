"""One case scored inside boxes gives the figures of whole volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_fakes import WriteLabels

from samcancer.errors import InputError
from samcancer.evaluation.lesions import find_lesions
from samcancer.evaluation.protocols import ClassRules, Protocol, count_voxels, score_masks
from samcancer.evaluation.scoring import CaseTask, ClassTask, score_case

SHAPE = (9, 40, 44)
SPACING_XYZ_MM = (0.75, 0.8125, 5.0)
"""Numbers that the float32 of a header holds exactly."""
VOXEL_ML = 0.75 * 0.8125 * 5.0 / 1000


def class_task(value: int, *, annotated: bool = True, tolerance_mm: float = 2.0) -> ClassTask:
    return ClassTask(
        name=f"lesion_{value}",
        kind="lesion",
        annotated=annotated,
        reference=(value,),
        prediction=(value,) if annotated else (),
        unverified=() if annotated else (value,),
        rules=ClassRules(tolerance_mm),
        whole=annotated,
    )


def case_task(
    folder: Path, *classes: ClassTask, protocol: Protocol = "nnunet", predicted: bool = True
) -> CaseTask:
    known = frozenset(range(1, 10))
    return CaseTask(
        case_id="a",
        reference=folder / "reference.nii.gz",
        prediction=folder / "prediction.nii.gz" if predicted else None,
        classes=classes,
        reference_values=known,
        prediction_values=known,
        protocol=protocol,
    )


def blocks(seed: int) -> np.ndarray:
    """Blocks of the values 1 to 6, some at the border of the volume, each over the ones before."""
    random = np.random.default_rng(seed)
    values = np.zeros(SHAPE, dtype=np.uint8)
    for value in range(1, 7):
        for _ in range(2):
            start = [int(random.integers(0, n - 2)) for n in SHAPE]
            stop = [s + int(random.integers(1, n // 2)) for s, n in zip(start, SHAPE, strict=True)]
            values[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    return values


@pytest.mark.parametrize("protocol", ["nnunet", "flare24", "flare23"])
def test_boxes_give_the_figures_of_whole_volumes(
    protocol: Protocol, write_labels: WriteLabels, tmp_path: Path
) -> None:
    reference, prediction = blocks(1), np.roll(blocks(1), (1, 2, -3), (0, 1, 2))
    write_labels("reference.nii.gz", reference, spacing_mm=SPACING_XYZ_MM)
    write_labels("prediction.nii.gz", prediction, spacing_mm=SPACING_XYZ_MM)
    classes = [class_task(value, tolerance_mm=value) for value in range(1, 9)]
    results = score_case(case_task(tmp_path, *classes, protocol=protocol))
    for value, result in enumerate(results, start=1):
        masks = (reference == value, prediction == value)
        score = score_masks(
            *masks, spacing_mm=SPACING_XYZ_MM[::-1], protocol=protocol, tolerance_mm=value
        )
        # 7 and 8 are in neither: NaN equals itself only by its text.
        assert repr(result.score) == repr(score)
        assert result.counts == count_voxels(*masks)
        assert result.lesions == tuple(find_lesions(*masks, voxel_volume_ml=VOXEL_ML))


def test_what_is_not_annotated_is_counted_in_its_own_box(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference.nii.gz", blocks(2))
    write_labels("prediction.nii.gz", blocks(3))
    (result,) = score_case(case_task(tmp_path, class_task(4, annotated=False)))
    assert result.unverified_voxels == np.count_nonzero(blocks(3) == 4)
    assert (result.counts.reference, result.counts.prediction) == (0, 0)
    assert result.counts.true_negative == np.prod(SHAPE)
    assert result.unverified_in_reference == 0


def test_unverified_voxels_inside_a_merged_reference_are_told_apart(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    reference, prediction = np.zeros((2, *SHAPE), dtype=np.uint8)
    reference[2:5, 4:10, 4:10] = 1
    prediction[2:5, 4:10, 8:14] = 2
    write_labels("reference.nii.gz", reference)
    write_labels("prediction.nii.gz", prediction)
    merged = ClassTask("lesion", "lesion", True, (1,), (1,), (2,), ClassRules(), whole=False)
    (result,) = score_case(case_task(tmp_path, merged))
    assert (result.unverified_voxels, result.unverified_in_reference) == (3 * 6 * 6, 3 * 6 * 2)
    assert (result.annotated, result.whole) == (True, False)


def test_a_missing_prediction_misses_every_lesion(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference.nii.gz", blocks(1))
    (result,) = score_case(case_task(tmp_path, class_task(6), predicted=False))
    assert (result.missing, result.score.dice, result.counts.prediction) == (True, 0.0, 0)
    assert {(x.side, x.matched) for x in result.lesions} == {("reference", False)}


def test_unknown_values_of_a_reference_are_listed_with_their_counts(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    values = blocks(1)
    values[0, 0, :3] = 77
    write_labels("reference.nii.gz", values)
    write_labels("prediction.nii.gz", blocks(1))
    with pytest.raises(InputError, match=r"without a class: 77 \(3 voxels\); known are \[1, 2"):
        score_case(case_task(tmp_path, class_task(1)))
