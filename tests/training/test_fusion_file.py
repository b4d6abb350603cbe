"""A fusion on disk is whole or absent, and any change of it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fused_systems import build, finds, write_system
from real_store import CLASS_NAMES, make_store

import samcancer.files
from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError
from samcancer.files import folder_lock
from samcancer.modeling.fusion import ClassRule
from samcancer.training.fusion_file import (
    FUSION_NAME,
    copy_part,
    is_fusion,
    load_fusion,
    new_fusion_folder,
    write_fusion,
)

LIVER, KIDNEY = CLASS_NAMES
RULES = {LIVER: ClassRule("mean", (0.25, 0.75)), KIDNEY: ClassRule("either")}
THRESHOLDS = {LIVER: 0.35, KIDNEY: 0.6}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Final runs of two systems."""
    store: CaseStore = make_store(tmp_path / "store", patients_per_class=1, healthy=1)
    nets = {"a": finds(LIVER), "b": finds(KIDNEY)}
    return [write_system(store, tmp_path / n, net) / "final" for n, net in nets.items()]


def write(folder: Path, runs: list[Path]) -> None:
    with new_fusion_folder(folder):
        for index, run in enumerate(runs):
            copy_part(folder, index, run)
        write_fusion(
            folder,
            part_names=["a", "b"],
            rules=RULES,
            presence_thresholds=THRESHOLDS,
            figures={"validation": {"score": 0.5}},
        )


@pytest.fixture
def fused(tmp_path: Path, runs: list[Path]) -> Path:
    write(tmp_path / "fused", runs)
    return tmp_path / "fused"


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_was_written_comes_back_without_the_runs(fused: Path, runs: list[Path]) -> None:
    for run in runs:
        shutil.rmtree(run.parent)
    loaded = load_fusion(fused, build=build)
    assert loaded.net.class_names == CLASS_NAMES
    assert loaded.net.rules == tuple(RULES.values())
    assert loaded.presence_thresholds == THRESHOLDS
    assert loaded.sha256 == json.loads((fused / FUSION_NAME).read_text())["json_sha256"]
    assert [len(part) for part in loaded.net.parts] == [1, 1]


def test_a_call_stopped_anywhere_leaves_no_model_and_the_next_one_the_same_bytes(
    fused: Path, runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, again = contents(fused), tmp_path / "again"
    sync = samcancer.files._fsync
    stops = 0
    while not is_fusion(again):
        assert not list(again.glob(FUSION_NAME))
        calls = iter(range(stops))

        def stopped(path: Path, calls: object = calls) -> None:
            if next(calls, None) is None:  # type: ignore[call-overload]
                raise KeyboardInterrupt
            sync(path)

        with monkeypatch.context() as patch:
            patch.setattr(samcancer.files, "_fsync", stopped)
            try:
                write(again, runs)
            except KeyboardInterrupt:
                stops += 1
    assert stops >= 2 * len(runs) + 1
    assert contents(again) == expected


def test_a_folder_that_holds_a_fusion_is_not_written_over(fused: Path, runs: list[Path]) -> None:
    before = contents(fused)
    with pytest.raises(InputError, match="fused: holds a fusion already"):
        write(fused, runs)
    assert contents(fused) == before


def test_a_second_writer_is_refused(tmp_path: Path, runs: list[Path]) -> None:
    with (
        folder_lock(tmp_path / "fused", purpose="fit-fusion"),
        pytest.raises(InputError, match=r"is being written by pid \d+ \(fit-fusion\)"),
    ):
        write(tmp_path / "fused", runs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fusion.json", "fusion.json: "),
        ("parts/1/best.json", "best.json: "),
        ("parts/0/best.safetensors", "SHA-256 differs"),
    ],
)
def test_flipped_bits_are_refused(fused: Path, name: str, message: str) -> None:
    path = fused / name
    intact = path.read_bytes()
    for place in range(0, len(intact), max(1, len(intact) // 25)):
        path.write_bytes(bytes([*intact[:place], intact[place] ^ 4, *intact[place + 1 :]]))
        with pytest.raises(InputError, match=message):
            load_fusion(fused, build=build)


def test_an_edited_rule_is_refused(fused: Path) -> None:
    path = fused / FUSION_NAME
    path.write_text(path.read_text().replace('"either"', '"both"'))
    with pytest.raises(InputError, match=r"fusion\.json: was changed since it was written"):
        load_fusion(fused, build=build)


def test_parts_that_changed_places_are_refused(fused: Path) -> None:
    first, second = (fused / "parts" / name for name in "01")
    first.rename(fused / "waiting")
    second.rename(first)
    (fused / "waiting").rename(second)
    with pytest.raises(InputError, match="parts/0: is not the part that was fused"):
        load_fusion(fused, build=build)


def test_a_missing_part_is_named(fused: Path) -> None:
    shutil.rmtree(fused / "parts" / "1")
    with pytest.raises(InputError, match="parts/1: no such run folder"):
        load_fusion(fused, build=build)


def test_another_format_is_refused(fused: Path) -> None:
    path = fused / FUSION_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(InputError, match="fusion format 2, this version reads 1"):
        load_fusion(fused, build=build)


def test_a_run_killed_between_its_two_files_can_be_fused(runs: list[Path], tmp_path: Path) -> None:
    (runs[0] / "best.safetensors").rename(runs[0] / "best.next.safetensors")
    write(tmp_path / "fused", runs)
    load_fusion(tmp_path / "fused", build=build)
