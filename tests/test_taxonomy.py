"""The label tables, and the four inconsistencies between data sets that they settle."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from samcancer.errors import InputError
from samcancer.taxonomy import (
    MAX_CLASSES,
    load_taxonomy,
    normalise_name,
    taxonomy_from_dict,
    taxonomy_from_yaml,
)

UNIVERSAL_MODEL_SETS = (
    *("Pancreas_CT", "LiTS", "KiTS", "AbdomenCT_1K", "CT_ORG", "CHAOS", "BTCV", "AMOS22", "WORD"),
    *("MSD_Liver", "MSD_Lung", "MSD_Pancreas", "MSD_HepaticVessel", "MSD_Spleen", "MSD_Colon"),
)
SMALL = {
    "classes": {
        "liver": {"kind": "organ"},
        "kidneys": {"kind": "organ", "members": ["kidney_right", "kidney_left"]},
        "kidney_right": {"kind": "organ"},
        "kidney_left": {"kind": "organ"},
        "liver_tumor": {"kind": "lesion", "organ": "liver"},
    },
    "datasets": {},
    "class_sets": {"all": ["liver", "liver_tumor"]},
}


def small(**datasets: object) -> dict[str, object]:
    return {**SMALL, "datasets": datasets}


def with_rule(name: str, **rule: object) -> dict[str, object]:
    classes = {**SMALL["classes"], name: {**SMALL["classes"][name], "postprocess": rule}}
    return {**SMALL, "classes": classes}


def paired(**lefts: str) -> dict[str, object]:
    """The small taxonomy with the left counterpart of some classes."""
    changed = {n: {**SMALL["classes"][n], "left_counterpart": left} for n, left in lefts.items()}
    return {**SMALL, "classes": {**SMALL["classes"], **changed}}


def verhoeff_is_right(code: str) -> bool:
    """SNOMED CT identifiers end in a Verhoeff check digit: multiplication in the dihedral group."""
    permutation = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    for _ in range(6):
        permutation.append([permutation[-1][permutation[1][j]] for j in range(10)])
    check = 0
    for position, digit in enumerate(reversed(code)):
        other = permutation[position % 8][int(digit)]
        if check < 5:
            check = (check + other) % 5 if other < 5 else 5 + (check + other) % 5
        else:
            check = 5 + (check - other) % 5 if other < 5 else (check - other) % 5
    return check == 0


def test_the_universal_model_set_has_25_organs_and_7_lesion_classes() -> None:
    taxonomy = load_taxonomy()
    names = taxonomy.class_names("universal_model")
    kinds = [taxonomy.classes[name].kind for name in names]
    assert kinds == ["organ"] * 25 + ["lesion"] * 7
    assert len(names) == MAX_CLASSES


def test_flare23_has_13_organs_and_a_tumor_and_flare24_one_lesion() -> None:
    taxonomy = load_taxonomy()
    kinds = [taxonomy.classes[name].kind for name in taxonomy.class_names("flare23")]
    assert kinds == ["organ"] * 13 + ["lesion"]
    assert taxonomy.class_names("flare24") == ("lesion",)
    assert taxonomy.dataset("FLARE23").annotates_per_case
    assert set(taxonomy.dataset("FLARE23").labels) == set(range(1, 15))


@pytest.mark.parametrize("name", UNIVERSAL_MODEL_SETS)
def test_every_public_set_annotates_exactly_what_it_labels(name: str) -> None:
    taxonomy = load_taxonomy()
    spec = taxonomy.dataset(name)
    labelled = {c for classes in spec.labels.values() for c in classes}
    assert labelled == set(spec.annotates)
    assert sorted(spec.labels) == list(range(1, len(spec.labels) + 1))


def test_index_one_value_means_other_classes_in_other_sets() -> None:
    taxonomy = load_taxonomy()
    firsts = {name: taxonomy.dataset(name).labels[1] for name in ("LiTS", "BTCV", "MSD_Lung")}
    assert firsts == {"LiTS": ("liver",), "BTCV": ("spleen",), "MSD_Lung": ("lung_tumor",)}
    assert taxonomy.dataset("WORD").labels[3][0] == "kidney_left"
    assert taxonomy.dataset("FLARE22").labels[3] == ("spleen",)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("postcava", "inferior_vena_cava"),
        ("Inferior Vena Cava", "inferior_vena_cava"),
        ("gall bladder", "gallbladder"),
        ("Left-Kidney", "kidney_left"),
        ("prostate/uterus", "prostate"),
        ("Head of Femur L", "femur_head_left"),
    ],
)
def test_name_synonyms_are_one_class(theirs: str, ours: str) -> None:
    found = load_taxonomy().find_class(theirs)
    assert found is not None
    assert found.name == ours


def test_background_what_a_set_does_not_annotate_is_not_among_its_classes() -> None:
    spec = load_taxonomy().dataset("Pancreas_CT")
    assert spec.annotates == ("pancreas",)
    healthy = load_taxonomy().dataset("Phantom_Healthy")
    assert healthy.labels == {}
    assert len(healthy.annotates) == 4


def test_organ_overlap_a_tumor_is_part_of_its_organ_where_that_is_annotated() -> None:
    taxonomy = load_taxonomy()
    assert taxonomy.dataset("LiTS").labels[2] == ("liver_tumor", "liver")
    assert taxonomy.dataset("KiTS").labels[3] == ("kidney_cyst", "kidneys")
    assert taxonomy.dataset("MSD_Lung").labels[1] == ("lung_tumor",)


def test_both_sides_annotated_make_the_union_annotated_but_not_the_reverse() -> None:
    taxonomy = load_taxonomy()
    assert taxonomy.dataset("BTCV").labels[2] == ("kidney_right", "kidneys")
    assert "kidneys" in taxonomy.dataset("BTCV").annotates
    assert "kidney_left" not in taxonomy.dataset("KiTS").annotates


def test_no_name_stands_for_two_classes() -> None:
    taxonomy = load_taxonomy()
    for spec in taxonomy.classes.values():
        for name in (spec.name, spec.title, *spec.aliases):
            assert taxonomy.find_class(name) is spec, name


def test_snomed_codes_have_right_check_digits() -> None:
    codes = [c.snomed for c in load_taxonomy().classes.values() if c.snomed is not None]
    assert len(codes) > 20
    assert [c.code for c in codes if not verhoeff_is_right(c.code)] == []
    assert not verhoeff_is_right("10200005")


def test_snomed_codes_are_those_of_the_dicom_dictionary() -> None:
    dictionary = pytest.importorskip("pydicom.sr._concepts_dict").concepts["SCT"]
    known = {code for entry in dictionary.values() for code in entry}
    sided = {"kidney_right", "kidney_left", "lung_right", "lung_left"}
    for spec in load_taxonomy().classes.values():
        if spec.snomed is not None and spec.name not in sided:
            assert spec.snomed.code in known, spec.name


def test_templates_take_a_class_title() -> None:
    templates = load_taxonomy().prompt_templates
    assert templates["tomography"].format("liver tumor") == (
        "A computerized tomography of a liver tumor."
    )
    assert all(text.count("{}") == 1 for text in templates.values())


def test_a_taxonomy_written_out_reads_back_equal(tmp_path: Path) -> None:
    taxonomy = load_taxonomy()
    path = tmp_path / "taxonomy.yaml"
    path.write_text(yaml.safe_dump(taxonomy.to_dict(), sort_keys=False), encoding="utf-8")
    assert taxonomy_from_yaml(path) == taxonomy


def test_a_taxonomy_stored_before_these_rules_still_loads_and_has_none_of_them() -> None:
    content = load_taxonomy().to_dict()
    for entry in content["classes"].values():
        del entry["left_counterpart"], entry["postprocess"]["inside_organ_mm"]
    classes = taxonomy_from_dict(content).classes.values()
    assert {spec.left_counterpart for spec in classes} == {None}
    assert {spec.postprocess.inside_organ_mm for spec in classes} == {None}


def test_every_right_organ_names_the_left_one() -> None:
    classes = load_taxonomy().classes
    rights = [name.removesuffix("_right") for name in classes if name.endswith("_right")]
    assert sorted(rights) == ["adrenal_gland", "femur_head", "kidney", "lung"]
    for name in rights:
        assert classes[f"{name}_right"].left_counterpart == f"{name}_left"


def test_every_lesion_of_an_organ_is_kept_near_it() -> None:
    for spec in load_taxonomy().classes.values():
        is_near = spec.postprocess.inside_organ_mm is not None
        assert is_near == (spec.kind == "lesion" and spec.organ is not None), spec.name


def test_a_users_file_adds_to_the_packaged_tables_and_overrides_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "classes: {bone_metastasis: {kind: lesion}}\n"
        "datasets: {LiTS: {labels: {7: liver_tumor}}, Ours: {labels: {2: bone_metastasis}}}\n",
        encoding="utf-8",
    )
    taxonomy = load_taxonomy(path)
    assert taxonomy.dataset("lits").labels == {7: ("liver_tumor",)}
    assert taxonomy.dataset("Ours").annotates == ("bone_metastasis",)
    assert taxonomy.dataset("BTCV") == load_taxonomy().dataset("BTCV")


def test_names_are_compared_without_case_and_signs() -> None:
    assert normalise_name("  Head_of-Femur (L) ") == "head_of_femur_l"
    assert load_taxonomy().dataset("abdomenct-1k").name == "AbdomenCT_1K"


def test_an_unknown_data_set_or_class_set_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown data set 'Nope'; known are .*LiTS"):
        load_taxonomy().dataset("Nope")
    with pytest.raises(InputError, match=r"unknown class set 'Nope'; known are phantom"):
        load_taxonomy().class_names("Nope")


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (small(a={"labels": {1: "heart"}}), "unknown class 'heart'"),
        (small(a={"labels": {0: "liver"}}), "label value 0"),
        (small(a={"labels": {True: "liver"}}), "label value True"),
        (
            small(a={"labels": {1: "liver"}, "annotates": ["liver_tumor"]}),
            "labels 'liver' but does not annotate it",
        ),
        (small(a={"labels": {1: "liver"}, "colour": "red"}), "malformed taxonomy.*colour"),
        (small(a={"labels": {}}, A={"labels": {}}), "data set name 'a' belongs to both"),
        ({**SMALL, "class_sets": {"s": ["liver", "liver"]}}, "class set 's' must hold"),
        ({**SMALL, "class_sets": {"s": []}}, "class set 's' must hold"),
        ({**SMALL, "classes": {"Liver": {"kind": "organ"}}}, "class name 'Liver' must be"),
        ({"classes": {"liver": {"kind": "blob"}}}, "bad kind"),
        ({"classes": {"a": {"kind": "lesion", "organ": "b"}}}, "unknown class 'b'"),
        (
            {"classes": {"a": {"kind": "organ", "aliases": ["x"]}, "x": {"kind": "organ"}}},
            "class name 'x' belongs to both 'a' and 'x'",
        ),
        ({"classes": {"a": {"kind": "organ", "window_hu": [9, 1]}}}, "not lower, upper"),
        (with_rule("liver", inside_organ_mm=3.0), "'liver' has inside_organ_mm 3.0"),
        (with_rule("liver_tumor", inside_organ_mm=-1.0), "'liver_tumor' has inside_organ_mm -1.0"),
        (with_rule("liver_tumor", inside_organ_mm="near"), "malformed taxonomy"),
        (paired(kidney_right="kidney"), "unknown class 'kidney'"),
        (paired(kidney_right="kidney_right"), "left_counterpart 'kidney_right'"),
        (paired(kidney_right="liver_tumor"), "left_counterpart 'liver_tumor'"),
        (paired(kidney_right="kidney_left", liver="kidney_left"), "a pair is of one kind"),
        (paired(kidney_right="kidney_left", kidney_left="liver"), "shares no class"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(content: dict[str, object], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        taxonomy_from_dict(content, path=Path("mine.yaml"))


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("classes: [", "not valid YAML"),
        ("- 1\n", "must be a mapping of sections, got list"),
        ("colours: {a: 1}\n", "unknown section 'colours'"),
        ("classes: 3\n", "unknown section 'classes'"),
    ],
)
def test_a_broken_users_file_is_named(tmp_path: Path, text: str, fact: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"mine.yaml: {fact}"):
        load_taxonomy(path)
    with pytest.raises(InputError, match="no such file"):
        load_taxonomy(tmp_path / "absent.yaml")
