from __future__ import annotations

import json
from pathlib import Path

import pytest

from samcancer.errors import InputError
from samcancer.evaluation.labels import (
    choose_labels,
    labels_of_dataset_json,
    parse_labels,
    prediction_labels,
    read_annotations,
)

CLASSES = frozenset({"liver_lesion", "kidney_lesion"})


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_labels_from_the_command_line_may_share_a_name() -> None:
    assert parse_labels("liver=1, tumour=2,liver=3") == {"liver": (1, 3), "tumour": (2,)}


@pytest.mark.parametrize("text", ["liver", "liver=0", "liver=-1", "=1", "liver=one", ""])
def test_labels_that_are_not_pairs_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not NAME=VALUE"):
        parse_labels(text)


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "liver": [1, 2], "tumour": 2},
        {"0": "background", "1": "liver", "2": "liver", "3": "other"},
    ],
)
def test_both_forms_of_dataset_json_are_read(labels: dict[str, object], tmp_path: Path) -> None:
    path = write_json(tmp_path / "dataset.json", {"labels": labels})
    found = labels_of_dataset_json(path)
    assert found["liver"] == (1, 2)
    assert "background" not in found
    assert parse_labels(str(path)) == found


@pytest.mark.parametrize("content", [[], {}, {"labels": {"background": 0}}, {"labels": {"a": "b"}}])
def test_a_dataset_json_without_classes_is_refused(content: object, tmp_path: Path) -> None:
    path = write_json(tmp_path / "dataset.json", content)
    with pytest.raises(InputError, match="labels"):
        labels_of_dataset_json(path)


def test_labels_are_looked_for_beside_and_above_the_references(tmp_path: Path) -> None:
    folder = tmp_path / "labelsTs"
    folder.mkdir()
    assert choose_labels(None, folder, protocol="flare24") == {"lesion": (1,)}
    with pytest.raises(InputError, match="names no classes"):
        choose_labels(None, folder, protocol="nnunet")
    write_json(tmp_path / "dataset.json", {"labels": {"above": 1}})
    assert choose_labels(None, folder, protocol="nnunet") == {"above": (1,)}
    write_json(folder / "dataset.json", {"labels": {"beside": 2}})
    assert choose_labels(None, folder, protocol="nnunet") == {"beside": (2,)}
    assert choose_labels("given=3", folder, protocol="nnunet") == {"given": (3,)}


def test_a_prediction_is_read_by_its_own_report(tmp_path: Path) -> None:
    mask = tmp_path / "case.nii.gz"
    default = {"tumour": (1,)}
    assert prediction_labels(mask, "case", default=default) == default
    write_json(tmp_path / "case.json", {"labels": {"background": 0, "organ": 1, "tumour": 2}})
    assert prediction_labels(mask, "case", default=default) == {"organ": (1,), "tumour": (2,)}


def test_without_a_word_every_case_annotates_every_class() -> None:
    assert read_annotations(None, CLASSES).of("any", CLASSES) == CLASSES


def test_a_list_of_classes_holds_for_every_case() -> None:
    annotations = read_annotations("liver_lesion", CLASSES)
    assert annotations.of("any", CLASSES) == {"liver_lesion"}


def test_a_table_holds_case_by_case(tmp_path: Path) -> None:
    path = tmp_path / "annotated.csv"
    path.write_text("case,classes\na,liver_lesion; kidney_lesion\nb,\n")
    annotations = read_annotations(str(path), CLASSES)
    assert annotations.of("a", CLASSES) == CLASSES
    assert annotations.of("b", CLASSES) == frozenset()
    with pytest.raises(InputError, match="has no line for the case 'c'"):
        annotations.of("c", CLASSES)


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown class 'lever'.*kidney_lesion, liver_lesion"):
        read_annotations("lever", CLASSES)


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "annotated.csv"
    path.write_text("id,labels\na,liver_lesion\n")
    with pytest.raises(InputError, match="Name a CSV table with the columns case,classes"):
        read_annotations(str(path), CLASSES)
