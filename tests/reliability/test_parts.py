"""A cohort done in parts by jobs of their own, and closed: the bytes of one run."""

from __future__ import annotations

from pathlib import Path

import pytest
from inference_fakes import bright_box
from kill_storm import Command, finish, require_equal
from real_store import make_store
from small_run import save_run
from stages import preparation, pseudo_labelling, segmentation, training
from volume_fakes import save_by_itk

from samcancer.cohort.partition import part_of
from samcancer.commands import run_verb
from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError

PARTS = 3


def call(command: Command, output: Path, *words: str) -> int:
    return run_verb(command.verb, [*command.words(output, 0), *words, "--quiet"])


def run_parts(command: Command, output: Path, *, parts: int = PARTS) -> None:
    for index in reversed(range(parts)):
        words = ["--num-parts", str(parts), "--part-id", str(index)]
        assert call(command, output, *words) == 0


def test_parts_of_infer_volume_write_their_own_cases_and_the_whole_the_rest(
    tmp_path: Path,
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    names = [f"case_{number}" for number in range(5)]
    for number, name in enumerate(names):
        save_by_itk(scans / f"{name}.nii.gz", bright_box(6 + number))
    command = segmentation(scans, save_run(tmp_path / "run"))
    words = ["--num-parts", str(PARTS), "--part-id", "0"]
    assert call(command, tmp_path / "parts", *words) == 0
    done = {path.stem for path in (tmp_path / "parts").glob("*.json")}
    assert done == {name for name in names if part_of(name, PARTS) == 0}
    run_parts(command, tmp_path / "parts")
    assert not (tmp_path / "parts" / "dataset.json").exists()
    for folder in ("parts", "whole"):
        assert call(command, tmp_path / folder) == 0
    require_equal(command.content(tmp_path / "parts"), command.content(tmp_path / "whole"))


def test_parts_of_a_store_are_merged_by_a_whole_run(tmp_path: Path) -> None:
    command = preparation(tmp_path, cases=5)
    run_parts(command, tmp_path / "parts")
    with pytest.raises(InputError, match="3 parts of its cases are not in its index yet"):
        CaseStore(tmp_path / "parts")
    for folder in ("parts", "whole"):
        assert call(command, tmp_path / folder) == 0
    require_equal(command.content(tmp_path / "parts"), command.content(tmp_path / "whole"))
    CaseStore(tmp_path / "parts").verify()


def test_a_part_keeps_what_it_has_prepared(tmp_path: Path) -> None:
    command = preparation(tmp_path, cases=5)
    run_parts(command, tmp_path / "parts")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "parts" / "cases").rglob("*.h5")}
    run_parts(command, tmp_path / "parts")
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "parts" / "cases").rglob("*.h5")}
    assert len(times) == 5


@pytest.mark.slow
def test_parts_of_pseudo_labels_make_the_whole(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store").folder
    for fold in (0, 1):
        finish(training(store, epochs=1, fold=fold), tmp_path / "trained", trial=0)
    command = pseudo_labelling(store, tmp_path / "trained")
    for folder in ("parts", "whole"):
        command.begin(tmp_path / folder)
    run_parts(command, tmp_path / "parts")
    for folder in ("parts", "whole"):
        assert call(command, tmp_path / folder) == 0
    require_equal(command.content(tmp_path / "parts"), command.content(tmp_path / "whole"))
