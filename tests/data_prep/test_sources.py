from __future__ import annotations

import json
from pathlib import Path

import pytest
from raw_data import add_case, label, write_nnunet

from data_prep.sources import find_cases
from samcancer.errors import InputError
from samcancer.taxonomy import load_taxonomy, taxonomy_from_dict

TAXONOMY = load_taxonomy()


def test_an_nnunet_folder_gives_images_labels_and_patients(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Dataset901_Phantom_Liver", 2)
    (folder / "patients.csv").write_text("case,patient\ncase1,p\ncase0,p\n")
    cases, _ = find_cases([folder], TAXONOMY)
    assert [c.case_id for c in cases] == ["case0", "case1"]
    assert cases[0].image == folder / "imagesTr" / "case0_0000.nii.gz"
    assert cases[0].label == folder / "labelsTr" / "case0.nii.gz"
    assert {c.patient_id for c in cases} == {"p"}
    assert cases[0].dataset.name == "Phantom_Liver"
    assert cases[0].annotates == ("liver_lesion",)


def test_without_a_table_each_case_is_a_patient(tmp_path: Path) -> None:
    cases, _ = find_cases([write_nnunet(tmp_path / "Phantom_Liver", 2)], TAXONOMY)
    assert [c.patient_id for c in cases] == ["case0", "case1"]


def test_a_patient_table_that_lacks_a_case_is_refused(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Phantom_Liver", 2)
    (folder / "patients.csv").write_text("case,patient\ncase0,p\n")
    with pytest.raises(InputError, match=r"patients\.csv: lists no case 'case1'"):
        find_cases([folder], TAXONOMY)


def test_an_msd_folder_is_read_by_its_own_names_and_label_order(tmp_path: Path) -> None:
    folder = tmp_path / "Task99_Something"
    add_case(folder, "liver_1", values=label(), channel="")
    description = {"labels": {"0": "background", "1": "liver", "2": "liver_lesion"}}
    (folder / "dataset.json").write_text(json.dumps(description))
    cases, taxonomy = find_cases([folder], TAXONOMY)
    assert [c.case_id for c in cases] == ["liver_1"]
    assert cases[0].dataset.name == "Something"
    assert cases[0].dataset.labels == {1: ("liver",), 2: ("liver_lesion", "liver")}
    assert "Something" in taxonomy.datasets


@pytest.mark.parametrize("name", ["Task06_Lung", "MSD_Lung", "Dataset006_MSD_Lung"])
def test_a_known_data_set_is_found_by_its_folder(tmp_path: Path, name: str) -> None:
    folder = write_nnunet(tmp_path / name, 1, description={"labels": {"0": "background"}})
    assert find_cases([folder], TAXONOMY)[0][0].dataset.name == "MSD_Lung"


def test_a_case_without_a_label_annotates_nothing(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Phantom_Liver", 1)
    add_case(folder, "unlabelled")
    cases, _ = find_cases([folder], TAXONOMY)
    assert [(c.case_id, c.label is None, c.annotates) for c in cases] == [
        ("case0", False, ("liver_lesion",)),
        ("unlabelled", True, ()),
    ]


def test_a_label_without_an_image_is_refused(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Phantom_Liver", 2)
    (folder / "imagesTr" / "case1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"1 labels have no image, such as case1\.nii\.gz"):
        find_cases([folder], TAXONOMY)


def test_a_second_channel_is_refused(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Phantom_Liver", 1)
    add_case(folder, "case0", channel="_0001")
    with pytest.raises(InputError, match=r"case0_0001\.nii\.gz: a second channel"):
        find_cases([folder], TAXONOMY)


def test_test_images_come_only_when_asked_for(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Phantom_Liver", 1)
    add_case(tmp_path / "other", "hidden", values=label())
    (tmp_path / "other" / "imagesTr").rename(folder / "imagesTs")
    (tmp_path / "other" / "labelsTr").rename(folder / "labelsTs")
    assert len(find_cases([folder], TAXONOMY)[0]) == 1
    cases, _ = find_cases([folder], TAXONOMY, include_test=True)
    assert [c.case_id for c in cases] == ["case0", "hidden"]
    assert cases[1].annotates == ("liver_lesion",)


def test_a_table_gives_cases_with_paths_relative_to_it(tmp_path: Path) -> None:
    add_case(tmp_path / "raw", "a", values=label(), channel="")
    (tmp_path / "t.csv").write_text(
        "image,label,patient,dataset\n"
        "raw/imagesTr/a.nii.gz,raw/labelsTr/a.nii.gz,p1,STS_Sarcoma\n"
        "raw/imagesTr/b b.nii.gz,,,STS_Sarcoma\n"
    )
    cases, _ = find_cases([tmp_path / "t.csv"], TAXONOMY)
    assert [(c.case_id, c.patient_id) for c in cases] == [("a", "p1"), ("b b", "b b")]
    assert cases[0].label == tmp_path / "raw/labelsTr/a.nii.gz"
    assert cases[1].annotates == ()


def test_a_table_takes_the_data_set_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,case\nx.nii.gz,one\n")
    with pytest.raises(InputError, match=r"line 2 names no data set.*--dataset"):
        find_cases([tmp_path / "t.csv"], TAXONOMY)
    cases, _ = find_cases([tmp_path / "t.csv"], TAXONOMY, dataset="STS_Sarcoma")
    assert cases[0].dataset.name == "STS_Sarcoma"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\nx,y\n", "lacks the column 'image'"),
        ("image,lable\nx,y\n", "unknown column 'lable'"),
        ("image,dataset\nx.nii.gz\n", "more or fewer fields than the header"),
        ("image,dataset\n", "lists no case"),
        ("image,dataset\nx.nii.gz,Nowhere\n", "unknown data set 'Nowhere'; known are Phantom_Li"),
        ("image,dataset,case\nx.nii.gz,STS_Sarcoma,../up\n", r"'\.\./up' cannot be a case id"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        find_cases([tmp_path / "t.csv"], TAXONOMY)


def test_a_folder_of_data_sets_names_those_inside(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "raw" / "Dataset901_Phantom_Liver", 1)
    with pytest.raises(InputError, match="no imagesTr folder, but Dataset901_Phantom_Liver do"):
        find_cases([tmp_path / "raw"], TAXONOMY)


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [write_nnunet(tmp_path / name, 1) for name in ("Phantom_Liver", "Phantom_Kidney")]
    (folders[1] / "dataset.json").write_text("{}")
    with pytest.raises(InputError, match=r"case 'case0' is also .*Phantom_Liver"):
        find_cases(folders, TAXONOMY)


def test_an_unknown_data_set_with_unknown_names_lists_the_known_ones(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Mine", 1, description={"labels": {"blob": 1}})
    with pytest.raises(InputError, match="its label 'blob' is no known class; known data sets are"):
        find_cases([folder], TAXONOMY)


def test_index_a_dataset_json_with_other_numbers_is_refused(tmp_path: Path) -> None:
    """[UM] inconsistency 1: the same number for another class."""
    folder = write_nnunet(
        tmp_path / "Dataset901_Phantom_Liver", 1, description={"labels": {"kidney_lesion": 1}}
    )
    with pytest.raises(InputError, match=r"says that 1 is 'kidney_lesion'.*has liver_lesion"):
        find_cases([folder], TAXONOMY)


def test_name_a_class_is_found_under_another_spelling(tmp_path: Path) -> None:
    """[UM] inconsistency 2: one class under several names."""
    description = {"labels": {"background": 0, "Liver Lesion": 1}}
    folder = write_nnunet(tmp_path / "My_Set", 1, description=description)
    assert find_cases([folder], TAXONOMY)[0][0].annotates == ("liver_lesion",)


def per_case_taxonomy() -> object:
    return taxonomy_from_dict(
        {
            "classes": {"liver": {"kind": "organ"}, "spleen": {"kind": "organ"}},
            "datasets": {
                "Mixed": {"labels": {1: "liver", 2: "spleen"}, "annotates_per_case": True}
            },
        }
    )


def test_a_set_whose_cases_differ_needs_a_word_from_each_case(tmp_path: Path) -> None:
    folder = write_nnunet(tmp_path / "Mixed", 2, description={})
    with pytest.raises(InputError, match="case 'case0' must say what it annotates"):
        find_cases([folder], per_case_taxonomy())  # type: ignore[arg-type]
    (folder / "patients.csv").write_text(
        "case,patient,annotates\ncase0,p,spleen\ncase1,q,liver;spleen\n"
    )
    cases, _ = find_cases([folder], per_case_taxonomy())  # type: ignore[arg-type]
    assert [c.annotates for c in cases] == [("spleen",), ("liver", "spleen")]
