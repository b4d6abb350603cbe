from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_fakes import fake_result

from samcancer.errors import InputError
from samcancer.evaluation.patients import (
    ANY_LESION,
    healthy_table,
    patient_tables,
    read_patients,
)
from samcancer.files import write_csv_atomic

LIVER, KIDNEY = "liver_lesion", "kidney_lesion"


def counts(table: dict[str, object]) -> tuple[object, ...]:
    return tuple(
        table[key] for key in ("with_lesion", "without_lesion", "sensitivity", "specificity")
    )


def test_scans_of_a_patient_count_once() -> None:
    results = [
        fake_result("a1", reference=5),  # missed in one scan, found in the other
        fake_result("a2", reference=5, prediction=3),
        fake_result("b1"),  # an alarm in one of two healthy scans
        fake_result("b2", prediction=2),
        fake_result("c1"),
    ]
    by_scan = patient_tables(results, [LIVER], None)[LIVER]
    assert counts(by_scan) == (2, 3, 0.5, pytest.approx(2 / 3))
    patients = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}
    by_patient = patient_tables(results, [LIVER], patients)[LIVER]
    assert counts(by_patient) == (1, 2, 1.0, 0.5)
    assert by_patient["harmonic_mean"] == pytest.approx(2 * 1.0 * 0.5 / 1.5)


def test_a_lesion_found_in_another_scan_makes_an_alarm_right() -> None:
    results = [fake_result("a1", reference=5, prediction=5), fake_result("a2", prediction=9)]
    table = patient_tables(results, [LIVER], {"a1": "a", "a2": "a"})[LIVER]
    assert counts(table) == (1, 0, 1.0, None)


def test_a_patient_is_without_a_lesion_only_if_every_scan_says_so() -> None:
    results = [fake_result("a1"), fake_result("a2", annotated=False), fake_result("b1")]
    patients = {"a1": "a", "a2": "a", "b1": "b"}
    assert counts(patient_tables(results, [LIVER], patients)[LIVER]) == (0, 1, None, 1.0)


def test_a_patient_with_a_missing_prediction_is_wrong() -> None:
    results = [
        fake_result("a1", reference=5, prediction=5),
        fake_result("a2", missing=True),
        fake_result("b1", missing=True),
    ]
    patients = {"a1": "a", "a2": "a", "b1": "b"}
    assert counts(patient_tables(results, [LIVER], patients)[LIVER]) == (1, 1, 0.0, 0.0)


def test_any_lesion_looks_at_all_classes() -> None:
    results = [
        fake_result("a", LIVER, reference=4),
        fake_result("a", KIDNEY, prediction=2),
        fake_result("b", LIVER),
        fake_result("b", KIDNEY),
        fake_result("c", LIVER),
        fake_result("c", KIDNEY, annotated=False),
    ]
    tables = patient_tables(results, [LIVER, KIDNEY], None)
    assert counts(tables[ANY_LESION]) == (1, 1, 1.0, 1.0)
    assert counts(tables[LIVER]) == (1, 2, 0.0, 1.0)
    assert counts(tables[KIDNEY]) == (0, 2, None, 0.5)


def test_a_merged_class_annotated_in_part_does_not_make_a_scan_healthy() -> None:
    results = [fake_result("a", "lesion", whole=False), fake_result("b", "lesion", prediction=1)]
    assert healthy_table(results, ["lesion"])["scans"] == 1
    assert counts(patient_tables(results, ["lesion"], None)["lesion"]) == (0, 1, None, 0.0)


def test_patients_are_read_by_case_and_other_columns_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(
        "case,patient,annotates\na1,a,\na2, a ,liver\nunused,z,\n", encoding="utf-8-sig"
    )
    assert read_patients(path, ["a1", "a2"]) == {"a1": "a", "a2": "a", "unused": "z"}


def test_names_copied_from_a_table_of_scores_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    write_csv_atomic(path, ("case", "patient"), [("-7", "=p")])
    assert read_patients(path, ["-7"]) == {"-7": "=p"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,person\na,1\n", r"has the columns \['case', 'person'\]. Name a CSV .* case,patient"),
        ("", r"has the columns \[\]"),
        ("case,patient\na,1\na,2\n", "gives the case 'a' two patients"),
        ("case,patient\na,\n", "gives the case 'a' no patient"),
        ("case,patient\nb,1\n", "gives the case 'a' no patient. Add it"),
    ],
)
def test_a_table_that_does_not_say_it_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_patients(path, ["a"])
