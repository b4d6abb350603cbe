"""Calibrating a model whose best thresholds are known, by library and by command."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from fused_systems import FOLDS, save_run, write_system
from halves import (
    LEFT,
    RIGHT,
    SIZE,
    VOXEL_ML,
    Block,
    HalvesNet,
    build,
    make_store,
    square,
    write_halves,
    write_scan,
)

import samcancer.files
from samcancer.calibration.fit import Fitted, calibrate
from samcancer.calibration.tables import COLUMNS, REPORT_NAME, TABLE_NAME
from samcancer.commands import EXIT_BAD_INPUT, EXIT_OK, EXIT_SOME_FAILED, run_verb
from samcancer.config import Config, ModelConfig, UniversalConfig
from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX, folder_lock
from samcancer.inference.models import load_ensemble
from samcancer.modeling.build import build_system
from samcancer.training.calibration_file import (
    CALIBRATION_NAME,
    ClassThresholds,
    read_calibration,
)
from samcancer.training.checkpoint import load_checkpoint

BOTH = (LEFT, RIGHT)
OWN = ClassThresholds(presence=0.5, probability=0.5, min_volume_ml=0.0)

SPECK = Block(range(3, 4), range(4, 5), range(4, 6), 150)
"""False: 2 voxels, 0.032 ml, in the left half; so sure that only its size gives it away."""
SHADOW = square(5, 20, 110, 4)
"""False: 16 voxels, 0.256 ml, in the right half, of the probability 0.731."""
LARGE = Block(range(2, 4), range(8, 16), range(4, 12), 120, LEFT)
"""Lesion: 128 voxels, 2.05 ml, of the probability 0.881."""
SMALL = square(5, 24, 130, 4, labelled=RIGHT)
"""Lesion: 16 voxels, 0.256 ml, of the probability 0.953."""
FAINT = square(2, 20, 110, 4, labelled=RIGHT)
"""Lesion that cannot be told from the shadow."""


def cases(**more: tuple[tuple[str, ...], list[Block]]) -> dict[str, tuple[tuple[str, ...], list]]:
    """Four healthy patients, two of them marked falsely, and two with a lesion each."""
    return {
        "healthy_0": (BOTH, [SPECK]),
        "healthy_1": (BOTH, [SHADOW]),
        "healthy_2": (BOTH, []),
        "healthy_3": (BOTH, [square(1, 4, 90, 6)]),
        "left_0": ((LEFT,), [LARGE]),
        "right_0": ((RIGHT,), [SMALL]),
        **more,
    }


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return make_store(tmp_path / "store", cases())


@pytest.fixture
def runs(store: CaseStore, tmp_path: Path) -> Path:
    return write_halves(store, tmp_path / "runs")


def fit(folder: Path, max_fp_scans: float = 0.0, **options: object) -> Fitted:
    return calibrate(
        folder / "store",
        folder / "runs",
        max_fp_scans=max_fp_scans,
        device="cpu",
        show_progress=False,
        build=build,
        **options,  # type: ignore[arg-type]
    )


def stored(folder: Path) -> dict[str, ClassThresholds] | None:
    run = folder / "runs" / "final"
    calibration = read_calibration(run, model_sha256=load_checkpoint(run, build=build).sha256)
    return None if calibration is None else calibration.classes


@pytest.mark.usefixtures("runs")
def test_each_class_gets_the_mildest_thresholds_that_tell_false_from_true(tmp_path: Path) -> None:
    found = fit(tmp_path)
    assert found.chosen == {
        # The speck is surer than every threshold. 0.05 ml is one step away and under the lesion.
        LEFT: ClassThresholds(presence=0.5, probability=0.5, min_volume_ml=0.05),
        # Presence would take five steps (0.75), size the lesion, probability three steps.
        RIGHT: ClassThresholds(presence=0.5, probability=0.8, min_volume_ml=0.0),
    }
    assert found.own == {LEFT: OWN, RIGHT: OWN}
    assert found.met
    assert stored(tmp_path) == found.chosen


@pytest.mark.usefixtures("runs")
def test_figures_before_and_after_are_those_of_the_blocks(tmp_path: Path) -> None:
    found = fit(tmp_path)
    assert (found.before.healthy.count, found.before.healthy.n) == (2, 4)
    assert (found.after.healthy.count, found.after.healthy.n) == (0, 4)
    for figures in (found.before, found.after):
        left, right = (figures.classes[name] for name in BOTH)
        assert (left.found["1-10 ml"].count, left.found["1-10 ml"].n) == (1, 1)
        assert (right.found["< 1 ml"].count, right.found["< 1 ml"].n) == (1, 1)
        assert (left.found["all"].n, right.found["all"].n) == (1, 1)
        assert left.dice.mean == right.dice.mean == 1
    # left_0 annotates the left class alone: the right one is unknown there, not healthy.
    assert [found.after.classes[name].healthy.n for name in BOTH] == [4, 4]


def test_a_lesion_like_the_false_one_is_kept_only_where_a_scan_may_be_paid(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", cases(right_1=((RIGHT,), [FAINT])))
    write_halves(store, tmp_path / "runs")
    strict, paid = fit(tmp_path), fit(tmp_path, 0.25)
    assert (strict.after.classes[RIGHT].found["all"].count, strict.after.healthy.count) == (1, 0)
    assert (paid.after.classes[RIGHT].found["all"].count, paid.after.healthy.count) == (2, 1)
    assert paid.chosen == {
        LEFT: ClassThresholds(presence=0.5, probability=0.5, min_volume_ml=0.05),
        RIGHT: OWN,
    }


def test_what_was_fitted_to_a_scan_is_not_claimed_of_others(tmp_path: Path) -> None:
    """Cross-validation does not know the only speck when it judges it."""
    store = make_store(tmp_path / "store", cases())
    write_halves(store, tmp_path / "runs")
    found = fit(tmp_path)
    assert found.after.healthy.count == 0
    assert found.cross_validated.healthy.count == 2


@pytest.mark.usefixtures("runs")
def test_scans_from_outside_are_healthy_for_every_class(tmp_path: Path) -> None:
    speck = SPECK._replace(columns=range(4, 8), rows=range(4, 6))  # 8 voxels, 0.128 ml
    write_scan(tmp_path / "more" / "a.nii.gz", [speck])
    write_scan(tmp_path / "more" / "b.nii.gz", [])
    found = fit(tmp_path, healthy=[tmp_path / "more"])
    assert found.strangers == 2
    assert found.before.healthy.n == 6
    assert found.before.healthy.count == 3
    assert 8 * VOXEL_ML < found.chosen[LEFT].min_volume_ml == 0.2
    assert found.after.healthy.count == 0


def test_partly_labelled_healthy_scans_count_for_their_class_only(tmp_path: Path) -> None:
    more = {"part_0": ((LEFT,), [SPECK]), "part_1": ((LEFT,), [])}
    store = make_store(tmp_path / "store", cases(**more))
    write_halves(store, tmp_path / "runs")
    found = fit(tmp_path)
    assert found.before.healthy.n == 4
    assert [found.before.classes[name].healthy.n for name in BOTH] == [6, 4]
    assert found.before.classes[LEFT].healthy.count == 2


def test_without_a_scan_free_of_every_class_it_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {**cases(), "healthy_0": ((LEFT,), [])})
    few = {name: store.cases[name] for name in store.cases if name.startswith(("left", "right"))}
    shutil.rmtree(tmp_path / "store")
    made = {name: value for name, value in cases().items() if name in few}
    write_halves(make_store(tmp_path / "store", made), tmp_path / "runs")
    with pytest.raises(InputError, match=f"no scan is known to be free of every.*{RIGHT}.*healthy"):
        fit(tmp_path)


HOPELESS = Block(range(0, 8), range(0, 32), range(0, 16), 200)
"""All of the left half, 65 ml, as sure as can be: no candidate removes it."""


def test_a_budget_that_cannot_be_kept_stores_nothing_unless_forced(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {**cases(), "healthy_2": (BOTH, [HOPELESS])})
    write_halves(store, tmp_path / "runs")
    found = fit(tmp_path)
    assert not found.met
    assert not found.stored
    assert stored(tmp_path) is None
    assert found.after.healthy.count == 1
    assert "no candidate keeps the budget: at best 1 of 4" in found.cautions[0]
    forced = fit(tmp_path, force=True)
    assert forced.stored
    assert stored(tmp_path) == forced.chosen


@pytest.mark.usefixtures("runs")
def test_few_scans_are_told_honestly(tmp_path: Path) -> None:
    few, unsure = fit(tmp_path, 0.05).cautions
    assert few == (
        "4 healthy scans are too few for a share of 0.05: one of them is 0.250 already, so none "
        "may be marked; 20 scans allow one"
    )
    # (1 - upper)^4 = 0.025
    assert unsure.startswith("with 0 of 4 healthy scans marked, the true share may be up to 0.602")
    assert unsure.endswith("to show 0.05 takes 72 clean scans")


def test_a_class_that_is_lost_altogether_is_named(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", {**cases(), "right_0": ((RIGHT,), [FAINT])})
    write_halves(store, tmp_path / "runs")
    assert fit(tmp_path).cautions[-1] == f"no lesion is found any more of {RIGHT} (before 1 of 1)"


@pytest.mark.usefixtures("runs")
def test_a_calibration_stopped_anywhere_leaves_none_and_the_next_one_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "runs" / "final" / CALIBRATION_NAME
    fit(tmp_path)
    expected = path.read_bytes()
    path.unlink()

    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(samcancer.files, "_fsync", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert not path.exists()
    (path.parent / f"{TEMPORARY_PREFIX}left-{CALIBRATION_NAME}").write_text("half")
    fit(tmp_path)
    assert path.read_bytes() == expected
    assert not list(path.parent.glob(f"{TEMPORARY_PREFIX}*"))
    fit(tmp_path)
    assert path.read_bytes() == expected


def test_a_run_that_is_being_written_is_refused(runs: Path, tmp_path: Path) -> None:
    with (
        folder_lock(runs / "final", purpose="training"),
        pytest.raises(InputError, match=r"final: is being written by pid \d+ \(training\)"),
    ):
        fit(tmp_path)


def test_a_fold_model_that_trained_on_its_own_patients_is_refused(
    store: CaseStore, runs: Path, tmp_path: Path
) -> None:
    config = Config(model=ModelConfig(image_size=SIZE), folds=FOLDS)
    save_run(store, runs / "fold_1", HalvesNet(), config, fold=1, training=sorted(store.cases))
    with pytest.raises(InputError, match="model of fold 1 trained on this patient"):
        fit(tmp_path)


def test_a_final_model_unlike_its_folds_is_refused(
    store: CaseStore, runs: Path, tmp_path: Path
) -> None:
    config = Config(model=ModelConfig(image_size=SIZE, cnn_width=8), folds=FOLDS)
    save_run(store, runs / "final", HalvesNet(), config, training=sorted(store.cases))
    with pytest.raises(InputError, match="runs/final: has another model in its configuration"):
        fit(tmp_path)


def test_missing_models_are_named(runs: Path, tmp_path: Path) -> None:
    shutil.rmtree(runs / "final")
    with pytest.raises(InputError, match="runs/final: no such run folder"):
        fit(tmp_path)
    (runs / "fold_1" / "best.json").unlink()
    with pytest.raises(InputError, match="runs: folds without a trained model: 1"):
        fit(tmp_path)


@pytest.mark.usefixtures("runs")
def test_a_damaged_scan_is_named_and_nothing_is_stored(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "more" / "a.nii.gz", [SPECK])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"more/a\.nii\.gz: "):
        fit(tmp_path, healthy=[path.parent])
    assert stored(tmp_path) is None


def test_a_volume_network_is_calibrated_alike(store: CaseStore, tmp_path: Path) -> None:
    patches = UniversalConfig(
        head="plain", width=4, patch_size=(16, 32, 32), spacing_mm=(4.0, 2.0, 2.0)
    )
    model = ModelConfig(image_size=SIZE, system="universal", universal=patches)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        write_system(store, tmp_path / "runs", build_system(model, BOTH), model=model)
    found = calibrate(
        store.folder, tmp_path / "runs", max_fp_scans=0.0, device="cpu", show_progress=False
    )
    assert (found.after.healthy.count, found.after.healthy.n) == (0, 4)
    assert load_ensemble([tmp_path / "runs"], device="cpu").calibrations[0].classes == found.chosen


def test_a_fusion_is_refused(runs: Path, tmp_path: Path) -> None:
    (runs / "fusion.json").write_text("{}")
    with pytest.raises(InputError, match="runs: is a fusion, which cannot be calibrated"):
        fit(tmp_path)


@pytest.fixture
def _made_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands build the made network too."""
    monkeypatch.setattr(
        "samcancer.training.checkpoint._build_default",
        lambda _text, config, names: build(config, names),
    )


def words(folder: Path, *more: str) -> list[str]:
    return [
        *("--data", str(folder / "store"), "--runs", str(folder / "runs")),
        *("--max-fp-scans", "0", "--device", "cpu", "--quiet", *more),
    ]


@pytest.mark.usefixtures("_made_networks", "runs")
def test_the_command_reports_and_inference_keeps_a_healthy_scan_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report"
    assert run_verb("calibrate", words(tmp_path, "--output", str(output))) == EXIT_OK
    assert "any lesion" in capsys.readouterr().out
    report = json.loads((output / REPORT_NAME).read_text())
    assert report["stored"]
    assert report["before"]["healthy"]["count"] == 2
    assert report["after"]["healthy"] == {
        "count": 0,
        "n": 4,
        "share": 0.0,
        "lower": 0.0,
        "upper": pytest.approx(1 - 0.025**0.25),
    }
    with (output / TABLE_NAME).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    (row,) = [r for r in rows if (r["class"], r["thresholds"]) == (RIGHT, "after")]
    assert (row["probability_threshold"], row["detected < 1 ml"], row["dice"]) == (
        "0.8",
        "1",
        "1.0",
    )
    assert len(rows) == 3 * 3

    scan = write_scan(tmp_path / "scan.nii.gz", [SPECK, SHADOW])
    marked = {}
    for name, options in {"with": (), "without": ("--no-calibration",)}.items():
        words_ = ["--input", str(scan), "--output", str(tmp_path / name), "--quiet"]
        words_ += ["--model", str(tmp_path / "runs" / "final"), "--device", "cpu", *options]
        assert run_verb("infer-volume", words_) == EXIT_OK
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name / "scan.nii.gz")))
        marked[name] = set(np.unique(mask).tolist())
    assert marked == {"with": {0}, "without": {0, 1, 2}}
    told = json.loads((tmp_path / "with" / "scan.json").read_text())
    assert told["classes"][LEFT]["removed"][0]["rule"] == "min_volume_ml 0.05"
    assert told["model"]["calibration"]["classes"][RIGHT]["probability_threshold"] == 0.8
    assert told["model"]["calibration"]["max_fp_scans"] == [0.0]
    plain = json.loads((tmp_path / "without" / "scan.json").read_text())
    assert plain["model"]["calibration"] is None
    assert plain["request"] != told["request"]


@pytest.mark.usefixtures("_made_networks")
def test_a_missed_budget_is_one_line_and_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path / "store", {**cases(), "healthy_2": (BOTH, [HOPELESS])})
    write_halves(store, tmp_path / "runs")
    assert run_verb("calibrate", words(tmp_path)) == EXIT_SOME_FAILED
    assert "nothing was stored; --force stores the thresholds" in caplog.text
    report = tmp_path / "runs" / "final" / "calibration" / REPORT_NAME
    assert not json.loads(report.read_text())["stored"]
    assert run_verb("calibrate", words(tmp_path, "--force")) == EXIT_OK
    assert json.loads(report.read_text())["stored"]
    assert "Traceback" not in capsys.readouterr().err


def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb("calibrate", words(tmp_path)) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'runs'}: holds no fold runs")
    assert message.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("share", ["1", "-0.1", "many"])
def test_a_share_that_is_none_is_bad_usage(
    share: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run_verb("calibrate", [*words(tmp_path), "--max-fp-scans", share])
    assert end.value.code == EXIT_BAD_INPUT
    assert "--max-fp-scans" in capsys.readouterr().err
