from __future__ import annotations

from samcancer.evaluation.classes import class_kind, packaged_taxonomy, taxonomy_name
from samcancer.taxonomy import load_taxonomy


def test_kinds_come_from_the_taxonomy_and_unknown_classes_count_as_lesions() -> None:
    kinds = {name: class_kind(name) for name in ("liver", "liver_lesion", "something_new")}
    assert kinds == {"liver": "organ", "liver_lesion": "lesion", "something_new": "lesion"}


def test_a_class_is_known_by_its_aliases() -> None:
    assert taxonomy_name("Pan-Cancer lesion") == "lesion"
    assert taxonomy_name("something_new") == "something_new"


def test_the_taxonomy_is_the_packaged_one_and_read_once() -> None:
    assert packaged_taxonomy() == load_taxonomy()
    assert packaged_taxonomy() is packaged_taxonomy()
