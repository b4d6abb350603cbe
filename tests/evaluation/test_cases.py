from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import surface_distance
from evaluation_fakes import WriteLabels

from samcancer.cohort.executor import Executor
from samcancer.errors import InputError
from samcancer.evaluation.cases import Evaluated, evaluate_cases, plan
from samcancer.evaluation.labels import Annotations, LabelValues
from samcancer.evaluation.protocols import Protocol
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.summary import summarise

SHAPE = (10, 30, 36)
TWO = {"liver_lesion": (1,), "kidney_lesion": (2,)}
VOXEL_ML = 0.7 * 0.8 * 5.0 / 1000


def box(value: int, start: int, length: int = 8, *, first_slice: int = 3) -> np.ndarray:
    values = np.zeros(SHAPE, dtype=np.uint8)
    values[first_slice : first_slice + 4, 5:20, start : start + length] = value
    return values


EMPTY = np.zeros(SHAPE, dtype=np.uint8)


def evaluate(
    folder: Path,
    *,
    labels: LabelValues | None = None,
    annotated: Annotations | None = None,
    protocol: Protocol = "flare24",
    merge: bool = False,
    workers: int = 1,
) -> Evaluated:
    tasks, extra = plan(
        folder / "reference",
        folder / "prediction",
        labels=labels or {"lesion": (1,)},
        annotations=annotated or Annotations(),
        protocol=protocol,
        tolerance_mm=2.0,
        merge=merge,
    )
    return evaluate_cases(tasks, extra=extra, executor=Executor(workers=workers))


def by_case(evaluated: Evaluated) -> dict[str, ClassResult]:
    return {r.case_id: r for r in evaluated.results}


def flare24_script(reference: Path, prediction: Path) -> tuple[float, float]:
    """The challenge's task 1 rules, written down plainly, with DeepMind's functions."""
    image = sitk.ReadImage(str(reference))
    actual = sitk.GetArrayFromImage(image).T
    predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(prediction))).T
    if predicted.max() > 1:
        return 0.0, 0.0
    if actual.sum() == 0 and predicted.sum() == 0:
        return 1.0, 1.0
    if actual.sum() == 0 or predicted.sum() == 0:
        return 0.0, 0.0
    dice = 2 * (actual & predicted).sum() / (actual.sum() + predicted.sum())
    if dice < 0.2:
        return round(float(dice), 4), 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports from old SciPy namespaces
        distances = surface_distance.compute_surface_distances(
            actual.astype(bool), predicted.astype(bool), image.GetSpacing()
        )
    nsd = surface_distance.compute_surface_dice_at_tolerance(distances, 2)
    return round(float(dice), 4), round(float(nsd), 4)


def noisy(values: np.ndarray, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.where(generator.random(values.shape) < 0.02, 1 - values, values)


def test_flare24_equals_the_script_of_the_challenge(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    pairs = {
        "both_empty": (EMPTY, EMPTY),
        "false_alarm": (EMPTY, box(1, 5)),
        "missed": (box(1, 5), EMPTY),
        "perfect": (box(1, 5), box(1, 5)),
        "shifted": (box(1, 5), box(1, 8)),
        "under_a_fifth": (box(1, 5), box(1, 12)),
        "value_two": (box(1, 5), box(2, 5)),
        "noisy": (box(1, 5), noisy(box(1, 6), 1)),
        "two_lesions": (box(1, 5) + box(1, 25), noisy(box(1, 4) + box(1, 26), 2)),
    }
    for name, (reference, prediction) in pairs.items():
        write_labels(f"reference/{name}.nii.gz", reference)
        write_labels(f"prediction/{name}.nii.gz", prediction)
    results = by_case(evaluate(tmp_path))
    assert set(results) == set(pairs)
    for name in pairs:
        expected = flare24_script(
            tmp_path / "reference" / f"{name}.nii.gz", tmp_path / "prediction" / f"{name}.nii.gz"
        )
        assert (results[name].score.dice, results[name].score.nsd) == expected, name


def test_a_missing_prediction_scores_zero_and_is_named(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    for name, values in {"there": box(1, 5), "healthy": EMPTY, "gone": box(1, 9)}.items():
        write_labels(f"reference/{name}.nii.gz", values)
    write_labels("prediction/there.nii.gz", box(1, 5))
    write_labels("prediction/stray.nii.gz", box(1, 5))
    evaluated = evaluate(tmp_path)
    assert evaluated.missing == ("gone", "healthy")
    assert evaluated.extra == ("stray",)
    assert {c: r.score.dice for c, r in by_case(evaluated).items()} == {
        "there": 1.0,
        "healthy": 0.0,
        "gone": 0.0,
    }


def test_cases_match_across_formats(write_labels: WriteLabels, tmp_path: Path) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.mha", box(1, 5))
    assert by_case(evaluate(tmp_path))["a"].score.dice == 1.0


@pytest.mark.parametrize(
    "change", [{"spacing_mm": (0.7, 0.8, 4.0)}, {"origin_mm": (-12.0, 31.0, 4.5)}]
)
def test_another_grid_is_a_failure_and_never_resampled(
    change: dict[str, tuple[float, float, float]], write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.nii.gz", box(1, 5), **change)
    write_labels("reference/b.nii.gz", box(1, 5))
    write_labels("prediction/b.nii.gz", box(1, 5))
    evaluated = evaluate(tmp_path)
    assert list(evaluated.failures) == ["a"]
    assert "a.nii.gz" in evaluated.failures["a"]
    assert list(by_case(evaluated)) == ["b"]


def test_unknown_label_values_are_a_failure_that_lists_them(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.nii.gz", box(1, 5) + box(7, 25))
    evaluated = evaluate(tmp_path, labels=TWO, protocol="nnunet")
    assert (
        "label values without a class: 7 (480 voxels); known are [1, 2]"
        in (evaluated.failures["a"])
    )


def test_classes_are_matched_by_name_when_the_numbers_differ(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", box(1, 5) + box(2, 25))
    write_labels("prediction/a.nii.gz", box(5, 5) + box(3, 25))
    labels = {"background": 0, "kidney_lesion": 3, "liver_lesion": 5}
    (tmp_path / "prediction" / "a.json").write_text(json.dumps({"labels": labels}))
    evaluated = evaluate(tmp_path, labels=TWO, protocol="nnunet")
    assert [(r.class_name, r.score.dice) for r in evaluated.results] == [
        ("liver_lesion", 1.0),
        ("kidney_lesion", 1.0),
    ]


def test_a_model_of_other_classes_is_refused(write_labels: WriteLabels, tmp_path: Path) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.nii.gz", box(1, 5))
    (tmp_path / "prediction" / "a.json").write_text('{"labels": {"lung_tumor": 1}}')
    with pytest.raises(InputError, match=r"predicts lung_tumor, the references name liver_lesion"):
        evaluate(tmp_path, labels=TWO, protocol="nnunet")


def test_what_a_case_does_not_annotate_is_unverified_and_never_wrong(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.nii.gz", box(1, 5) + box(2, 25))
    annotated = Annotations(of_all=frozenset({"liver_lesion"}))
    liver, kidney = evaluate(tmp_path, labels=TWO, annotated=annotated, protocol="nnunet").results
    assert liver.score.dice == 1.0
    assert math.isnan(kidney.score.dice)
    assert kidney.counts.false_positive == 0
    assert kidney.lesions == ()
    assert kidney.unverified_voxels == np.count_nonzero(box(2, 25))
    assert kidney.unverified_lesions == 1


def test_merged_lesions_are_scored_as_one_class(write_labels: WriteLabels, tmp_path: Path) -> None:
    write_labels("reference/a.nii.gz", box(1, 5) + box(2, 25))
    write_labels("prediction/a.nii.gz", box(2, 5) + box(1, 25))
    (result,) = evaluate(tmp_path, labels=TWO, merge=True).results
    assert (result.class_name, result.score.dice) == ("lesion", 1.0)


def test_merged_lesions_leave_out_what_is_not_annotated(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.nii.gz", box(1, 5) + box(2, 25))
    annotated = Annotations(of_all=frozenset({"liver_lesion"}))
    (result,) = evaluate(tmp_path, labels=TWO, annotated=annotated, merge=True).results
    assert result.score.dice == 1.0
    assert result.unverified_voxels == np.count_nonzero(box(2, 25))


def test_merging_leaves_organs_out(write_labels: WriteLabels, tmp_path: Path) -> None:
    labels = {"liver": (1,), "liver_lesion": (2,)}
    write_labels("reference/a.nii.gz", box(2, 5))
    write_labels("prediction/a.nii.gz", box(2, 5) + box(1, 25))
    (result,) = evaluate(tmp_path, labels=labels, merge=True).results
    assert result.score.dice == 1.0


def test_flare24_without_merging_wants_one_class(write_labels: WriteLabels, tmp_path: Path) -> None:
    write_labels("reference/a.nii.gz", box(1, 5))
    write_labels("prediction/a.nii.gz", box(1, 5))
    with pytest.raises(InputError, match=r"scores one lesion class.*--merge-lesions"):
        evaluate(tmp_path, labels=TWO)


@pytest.mark.usefixtures("_imported_once")
def test_several_workers_give_the_same_results(write_labels: WriteLabels, tmp_path: Path) -> None:
    for index in range(3):
        write_labels(f"reference/c{index}.nii.gz", box(1, 5))
        write_labels(f"prediction/c{index}.nii.gz", box(1, 5 + index))
    assert evaluate(tmp_path, workers=2) == evaluate(tmp_path)


@pytest.mark.parametrize("name", ["reference", "prediction"])
def test_a_missing_folder_is_refused(name: str, write_labels: WriteLabels, tmp_path: Path) -> None:
    other = {"reference": "prediction", "prediction": "reference"}[name]
    write_labels(f"{other}/a.nii.gz", box(1, 5))
    with pytest.raises(InputError, match=f"{name}: no such folder"):
        evaluate(tmp_path)


class TestSummary:
    def summary(self, folder: Path, **options: object) -> dict[str, object]:
        protocol = options.get("protocol", "flare24")
        evaluated = evaluate(folder, **options)  # type: ignore[arg-type]
        return summarise(evaluated, protocol=protocol, tolerance_mm=2.0)  # type: ignore[arg-type]

    def write(self, write_labels: WriteLabels, pairs: dict[str, tuple[np.ndarray, ...]]) -> None:
        for name, (reference, *prediction) in pairs.items():
            write_labels(f"reference/{name}.nii.gz", reference)
            for values in prediction:
                write_labels(f"prediction/{name}.nii.gz", values)

    def test_healthy_scans_count_their_false_positives(
        self, write_labels: WriteLabels, tmp_path: Path
    ) -> None:
        alarm = box(1, 5) + box(1, 25)
        self.write(
            write_labels,
            {
                "clean": (EMPTY, EMPTY),
                "alarm": (EMPTY, alarm),
                "ill": (box(1, 5), box(1, 5)),
                "no_prediction": (EMPTY,),
            },
        )
        healthy = self.summary(tmp_path)["healthy"]
        assert isinstance(healthy, dict)
        assert (healthy["scans"], healthy["missing_predictions"]) == (3, 1)
        assert healthy["false_positive_rate"] == 0.5
        assert healthy["false_positive_ml"]["mean"] == pytest.approx(
            np.count_nonzero(alarm) * VOXEL_ML / 2
        )
        assert healthy["false_positive_lesions"]["mean"] == 1.0

    def test_patients_are_counted_right_and_wrong(
        self, write_labels: WriteLabels, tmp_path: Path
    ) -> None:
        self.write(
            write_labels,
            {
                "found": (box(1, 5), box(1, 25)),  # a lesion is predicted, wherever it lies
                "missed": (box(1, 5), EMPTY),
                "lost": (box(1, 5),),
                "clean": (EMPTY, EMPTY),
                "alarm": (EMPTY, box(1, 5)),
            },
        )
        table = self.summary(tmp_path)["patients"]["any lesion"]  # type: ignore[index]
        sensitivity, specificity = 1 / 3, 1 / 2
        assert table == {
            "with_lesion": 3,
            "without_lesion": 2,
            "sensitivity": pytest.approx(sensitivity),
            "specificity": specificity,
            "harmonic_mean": pytest.approx(0.4),
            # All of a resample are right with 1/27 and 1/4, both over 2.5 %; together less, and
            # then 2/3 and 1 come next.
            "intervals": {
                "sensitivity": [0.0, 1.0],
                "specificity": [0.0, 1.0],
                "harmonic_mean": [0.0, pytest.approx(0.8)],
            },
        }

    def test_a_case_that_annotates_a_part_is_not_called_healthy(
        self, write_labels: WriteLabels, tmp_path: Path
    ) -> None:
        self.write(write_labels, {"a": (EMPTY, box(1, 5)), "b": (EMPTY, EMPTY)})
        annotated = Annotations(
            of_case={"a": frozenset({"liver_lesion"}), "b": frozenset(TWO)}, source=None
        )
        summary = self.summary(tmp_path, labels=TWO, annotated=annotated, protocol="nnunet")
        assert summary["healthy"]["scans"] == 1  # type: ignore[index]
        patients = summary["patients"]
        assert patients["any lesion"]["without_lesion"] == 1  # type: ignore[index]
        assert patients["liver_lesion"]["without_lesion"] == 2  # type: ignore[index]

    def test_nnunet_means_leave_nan_out_and_average_classes_plainly(
        self, write_labels: WriteLabels, tmp_path: Path
    ) -> None:
        # liver: Dice 1, 0.5 and NaN (absent in c) -> 0.75; kidney: 0 in a, NaN else -> 0.
        self.write(
            write_labels,
            {
                "a": (box(1, 5) + box(2, 25), box(1, 5)),
                "b": (box(1, 5), box(1, 9)),
                "c": (EMPTY, EMPTY),
            },
        )
        summary = self.summary(tmp_path, labels=TWO, protocol="nnunet")
        nnunet = summary["nnunet"]
        assert nnunet["mean"]["liver_lesion"]["Dice"] == pytest.approx(0.75)  # type: ignore[index]
        assert nnunet["mean"]["kidney_lesion"]["Dice"] == 0.0  # type: ignore[index]
        assert nnunet["foreground_mean"]["Dice"] == pytest.approx(0.375)  # type: ignore[index]
        voxels = np.count_nonzero(box(1, 5))
        assert nnunet["mean"]["liver_lesion"]["n_ref"] == pytest.approx(2 * voxels / 3)  # type: ignore[index]
        assert summary["classes"]["liver_lesion"]["dice"]["n"] == 2  # type: ignore[index]

    def test_a_class_that_no_case_has_gives_no_foreground_mean(
        self, write_labels: WriteLabels, tmp_path: Path
    ) -> None:
        self.write(write_labels, {"a": (box(1, 5), box(1, 5))})
        nnunet = self.summary(tmp_path, labels=TWO, protocol="nnunet")["nnunet"]
        assert nnunet["mean"]["kidney_lesion"]["Dice"] is None  # type: ignore[index]
        assert nnunet["foreground_mean"]["Dice"] is None  # type: ignore[index]

    def test_unverified_volume_is_told_apart(
        self, write_labels: WriteLabels, tmp_path: Path
    ) -> None:
        self.write(write_labels, {"a": (box(1, 5), box(1, 5) + box(2, 25))})
        annotated = Annotations(of_all=frozenset({"liver_lesion"}))
        summary = self.summary(tmp_path, labels=TWO, annotated=annotated, protocol="nnunet")
        volume_ml = np.count_nonzero(box(2, 25)) * VOXEL_ML
        assert summary["unverified"] == {
            "kidney_lesion": {"cases": 1, "volume_ml": pytest.approx(volume_ml), "lesions": 1}
        }
        assert list(summary["classes"]) == ["liver_lesion"]  # type: ignore[call-overload]
