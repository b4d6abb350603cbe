"""Bounds under partial labels; the expected values are counted by hand from the definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_fakes import WriteLabels, fake_result

from samcancer.evaluation.bounds import bound_tables
from samcancer.evaluation.cases import evaluate_cases, plan
from samcancer.evaluation.labels import Annotations
from samcancer.evaluation.patients import ANY_LESION
from samcancer.evaluation.scoring import ClassResult
from samcancer.evaluation.summary import summarise

LIVER, KIDNEY = "liver_lesion", "kidney_lesion"


def figures(row: dict[str, object]) -> tuple[object, object, object]:
    return row["pessimistic"], row["measured"], row["optimistic"]


def study() -> list[ClassResult]:
    """Six scans; the first three annotate the liver alone, the fourth the kidney alone."""
    unknown = {"annotated": False}
    return [
        # a liver lesion found, one missed, a false one; two unverified ones in the kidney
        fake_result(
            "a", LIVER, reference=9, prediction=9, common=4, detected=1, missed=1, true=1, false=1
        ),
        fake_result("a", KIDNEY, **unknown, unverified=7, unverified_lesions=2),
        # nothing in the liver; one unverified in the kidney
        fake_result("b", LIVER),
        fake_result("b", KIDNEY, **unknown, unverified=3),
        # nothing at all
        fake_result("c", LIVER),
        fake_result("c", KIDNEY, **unknown),
        # a false kidney lesion, nothing in the liver
        fake_result("d", LIVER, **unknown),
        fake_result("d", KIDNEY, prediction=2, false=1),
        # both annotated: healthy and clear; healthy with a false liver lesion
        fake_result("e", LIVER),
        fake_result("e", KIDNEY),
        fake_result("f", LIVER, prediction=2, false=1),
        fake_result("f", KIDNEY),
    ]


def test_precision_and_f1_of_a_class_take_its_unverified_lesions_as_right_or_wrong() -> None:
    liver, kidney = (
        bound_tables(study(), [LIVER, KIDNEY], None)["classes"][n] for n in (LIVER, KIDNEY)
    )
    # Liver: 1 true of 3 predicted, none unverified. Kidney: 0 of 1, 3 unverified.
    assert liver["unverified_lesions"] == 0
    assert figures(liver["precision"]) == (pytest.approx(1 / 3),) * 3
    assert kidney["unverified_lesions"] == 3
    assert figures(kidney["precision"]) == (0.0, 0.0, 3 / 4)
    # No kidney lesion is annotated, so there is no recall and no F1.
    assert figures(kidney["f1"]) == (None, None, None)


def test_the_pooled_row_adds_lesions_of_all_classes() -> None:
    row = bound_tables(study(), [LIVER, KIDNEY], None)["classes"][ANY_LESION]
    # 1 true of 4 predicted, 3 unverified; recall 1 of 2.
    precision = (1 / 7, 1 / 4, 4 / 7)
    assert figures(row["precision"]) == pytest.approx(precision)
    expected = tuple(2 * p * 0.5 / (p + 0.5) for p in precision)
    assert figures(row["f1"]) == pytest.approx(expected)


def test_specificity_counts_patients_of_whom_it_is_not_known() -> None:
    classes = bound_tables(study(), [LIVER, KIDNEY], None)["classes"]
    # Any lesion: a holds one. Known without: e right, f wrong. Unknown: b unverified, c clear,
    # d wrong in what it annotates.
    assert figures(classes[ANY_LESION]["specificity"]) == (2 / 5, 1 / 2, 2 / 4)
    # Liver: a holds one; b, c, e right and f wrong; d unknown and clear.
    assert figures(classes[LIVER]["specificity"]) == (4 / 5, 3 / 4, 4 / 5)
    # Kidney: d wrong, e and f right; a and b unverified, c clear.
    specificity = classes[KIDNEY]["specificity"]
    assert figures(specificity) == (3 / 6, pytest.approx(2 / 3), 3 / 4)
    assert (specificity["known"], specificity["unknown"], specificity["with_unverified"]) == (
        3,
        3,
        2,
    )


def test_the_healthy_false_positive_share_is_over_scans_without_an_annotated_lesion() -> None:
    row = bound_tables(study(), [LIVER, KIDNEY], None)["healthy_false_positive_rate"]
    # Of the known e and f, f; optimistic f and d of c, d, e, f; pessimistic b as well, of five.
    assert (row["measured"], row["optimistic"], row["pessimistic"]) == (
        1 / 2,
        2 / 4,
        pytest.approx(3 / 5),
    )


def test_a_missing_prediction_is_wrong_for_patients_and_in_no_false_positive_share() -> None:
    results = [*study(), fake_result("g", LIVER, missing=True)]
    results.append(fake_result("g", KIDNEY, annotated=False, missing=True))
    bounds = bound_tables(results, [LIVER, KIDNEY], None)
    assert figures(bounds["classes"][ANY_LESION]["specificity"]) == (2 / 6, 1 / 2, 2 / 5)
    assert bounds["healthy_false_positive_rate"]["pessimistic"] == pytest.approx(3 / 5)


def test_scans_of_a_patient_are_bounded_together() -> None:
    patients = {c: ("bc" if c in "bc" else c) for c in "abcdef"}
    row = bound_tables(study(), [LIVER, KIDNEY], patients)["classes"][ANY_LESION]["specificity"]
    # As above with b and c one patient, who is predicted an unverified lesion.
    assert figures(row) == (1 / 4, 1 / 2, 1 / 3)


def test_optimism_is_never_under_pessimism() -> None:
    random = np.random.default_rng(6)
    for _ in range(50):
        results = []
        for case in range(6):
            for name in (LIVER, KIDNEY):
                annotated = bool(random.random() < 0.6)
                size, found = (int(v) for v in random.integers(0, 3, 2))
                counted = {"reference": size, "prediction": found, "detected": size, "true": found}
                unverified = {"annotated": False, "unverified": found}
                results.append(
                    fake_result(str(case), name, **(counted if annotated else unverified))
                )
        bounds = bound_tables(results, [LIVER, KIDNEY], None)
        rows = [
            row[key]
            for row in bounds["classes"].values()
            for key in ("precision", "f1", "specificity")
        ]
        for row in rows:
            if None not in figures(row):
                assert row["pessimistic"] <= row["optimistic"]
        share = bounds["healthy_false_positive_rate"]
        if None not in figures(share):
            assert share["optimistic"] <= share["pessimistic"]


def test_there_are_no_bounds_where_all_is_annotated() -> None:
    assert bound_tables([fake_result("a"), fake_result("b")], [LIVER], None) == {}


def test_a_class_that_no_case_annotates_is_not_bounded() -> None:
    results = [fake_result("a", LIVER), fake_result("a", KIDNEY, annotated=False, unverified=5)]
    assert bound_tables(results, [LIVER], None) == {}


def test_dice_is_bounded_for_all_lesions_as_one_class_only() -> None:
    classes = bound_tables(study(), [LIVER, KIDNEY], None)["classes"]
    assert not any("dice" in row for row in classes.values())
    results = [
        # 10 reference and 8 predicted voxels share 6; 4 unverified, 1 of them in the reference
        fake_result(
            "a", "lesion", reference=10, prediction=8, common=6, dice=12 / 18, whole=False,
            unverified=4, unverified_in_reference=1,
        ),
        fake_result("b", "lesion", reference=5, prediction=5, common=5, dice=1.0),
    ]  # fmt: skip
    row = bound_tables(results, ["lesion"], None)["classes"]["lesion"]["dice"]
    wrong = 2 * (6 + 1) / (10 + 8 + 4)
    right = 2 * (6 + 1 + 3) / (10 + 3 + 8 + 4)
    expected = [(value + 1.0) / 2 for value in (wrong, 12 / 18, right)]
    assert figures(row) == pytest.approx(tuple(expected))


@pytest.fixture
def two_cases(write_labels: WriteLabels, tmp_path: Path) -> Path:
    """Case a annotates the liver alone; b both, and its kidney lesion is missed."""
    liver, kidney = np.zeros((2, 8, 24, 30), dtype=np.uint8)
    liver[2:6, 3:9, 3:9] = 1
    kidney[2:6, 3:9, 15:21] = 2
    write_labels("reference/a.nii.gz", liver)
    write_labels("prediction/a.nii.gz", liver + kidney)
    write_labels("reference/b.nii.gz", liver + kidney)
    write_labels("prediction/b.nii.gz", liver)
    return tmp_path


def bounds_of(folder: Path, *, merge: bool) -> dict[str, Any]:
    annotated = {"a": frozenset({LIVER}), "b": frozenset({LIVER, KIDNEY})}
    tasks, _ = plan(
        folder / "reference",
        folder / "prediction",
        labels={LIVER: (1,), KIDNEY: (2,)},
        annotations=Annotations(of_case=annotated),
        protocol="nnunet",
        merge=merge,
    )
    content: dict[str, Any] = summarise(evaluate_cases(tasks), protocol="nnunet")["bounds"]
    return content["classes"]


def test_bounds_follow_from_label_maps(two_cases: Path) -> None:
    classes = bounds_of(two_cases, merge=False)
    # Kidney: none of the one reference lesion found, no verified prediction, one unverified.
    assert figures(classes[KIDNEY]["precision"]) == (0.0, None, 1.0)
    assert figures(classes[KIDNEY]["f1"]) == (0.0, None, 0.0)
    # Pooled: 2 true of 2, one unverified.
    assert figures(classes[ANY_LESION]["precision"]) == (pytest.approx(2 / 3), 1.0, 1.0)


def test_bounds_of_merged_lesions_follow_from_label_maps(two_cases: Path) -> None:
    classes = bounds_of(two_cases, merge=True)
    # Four masks of 144 voxels. a: DSC 1, and 2 x 144 / (144 + 288) if the kidney's is wrong.
    # b: 2 x 144 / (288 + 144).
    wrong, right, half_found = 2 / 3, 1.0, 2 / 3
    expected = ((wrong + half_found) / 2, (right + half_found) / 2, (right + half_found) / 2)
    assert figures(classes["lesion"]["dice"]) == pytest.approx(expected)
