"""Fitting a fusion: every class gets the rule that strangers validate, and nothing leaks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from fused_systems import FOLDS, build, finds, save_run, write_system
from real_store import CLASS_NAMES, SIZE, SPACING_MM, make_store

from samcancer.commands import EXIT_BAD_INPUT, EXIT_OK, run_verb
from samcancer.config import Config, ModelConfig, UniversalConfig
from samcancer.data.case_store import CaseStore
from samcancer.errors import InputError
from samcancer.modeling.build import build_system
from samcancer.modeling.fusion import ClassRule
from samcancer.modeling.predict import predict_ensemble
from samcancer.training.fusion_file import load_fusion
from samcancer.training.fusion_fit import Fit, candidate_rules, fit_fusion
from samcancer.training.validate import PaddedSlices, count_case, summarise

LIVER, KIDNEY = CLASS_NAMES


@pytest.fixture
def store(tmp_path: Path) -> CaseStore:
    return make_store(tmp_path / "store")


def fit(folder: Path, *runs: Path, output: str = "fused") -> Fit:
    return fit_fusion(
        folder / "store", runs, folder / output, device="cpu", show_progress=False, build=build
    )


def test_candidates_come_from_simple_to_less_simple() -> None:
    assert candidate_rules(2) == (
        ClassRule("mean", (1.0, 0.0)),
        ClassRule("mean", (0.0, 1.0)),
        ClassRule("mean", (0.5, 0.5)),
        ClassRule("mean", (0.25, 0.75)),
        ClassRule("mean", (0.75, 0.25)),
        ClassRule("both"),
        ClassRule("either"),
    )
    three = candidate_rules(3)
    assert len(set(three)) == len(three) == 3 + 1 + 12 + 2
    assert all(sum(rule.weights) == pytest.approx(1) for rule in three if rule.rule == "mean")


def test_each_class_goes_to_the_system_that_knows_it(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "sam", finds(LIVER))
    b = write_system(store, tmp_path / "unet", finds(KIDNEY))
    found = fit(tmp_path, a, b)
    assert found.rules == {
        LIVER: ClassRule("mean", (1.0, 0.0)),
        KIDNEY: ClassRule("mean", (0.0, 1.0)),
    }
    assert found.part_names == ("sam", "unet")
    alone = [result.classes for result in found.results[:2]]
    assert [a[LIVER].dice for a in alone] == [pytest.approx(1, abs=0.05), 0]
    assert [a[KIDNEY].dice for a in alone] == [0, pytest.approx(1, abs=0.05)]
    assert found.validation.score == pytest.approx(1, abs=0.05)


def test_systems_that_each_find_a_half_are_taken_together(store: CaseStore, tmp_path: Path) -> None:
    upper = write_system(store, tmp_path / "a", finds(*CLASS_NAMES, rows=(0, 12)))
    lower = write_system(store, tmp_path / "b", finds(*CLASS_NAMES, rows=(12, SIZE)))
    assert fit(tmp_path, upper, lower).rules[LIVER] == ClassRule("either")


def test_of_equal_rules_the_first_part_alone_is_taken(store: CaseStore, tmp_path: Path) -> None:
    runs = [write_system(store, tmp_path / name, finds(LIVER)) for name in "ab"]
    assert set(fit(tmp_path, *runs).rules.values()) == {ClassRule("mean", (1.0, 0.0))}


def test_a_part_alone_validates_as_the_network_itself(store: CaseStore, tmp_path: Path) -> None:
    net = finds(LIVER, rows=(0, 12))
    runs = [
        write_system(store, tmp_path / "a", net),
        write_system(store, tmp_path / "b", finds(KIDNEY)),
    ]
    counts = [
        count_case(net, store, case_id, config=Config(), device=torch.device("cpu"))
        for case_id in store.cases
    ]
    assert fit(tmp_path, *runs).results[0] == summarise(counts, store.class_names)


def test_what_was_written_predicts_as_it_was_fitted(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    b = write_system(store, tmp_path / "b", finds(KIDNEY))
    found = fit(tmp_path, a, b)
    fusion = load_fusion(tmp_path / "fused", build=build)
    assert fusion.net.rules == tuple(found.rules.values())
    assert fusion.presence_thresholds == found.validation.presence_thresholds
    assert fusion.meta["validation"] == found.validation.to_dict()
    assert len(fusion.meta["candidates"]) == len(candidate_rules(2))
    for class_name in CLASS_NAMES:
        case_id = f"{class_name}_0"
        stream = predict_ensemble([fusion.net], PaddedSlices(store, case_id))
        predicted = torch.cat([piece.logits for piece in stream]) > 0
        k = CLASS_NAMES.index(class_name)
        reference = torch.from_numpy(store.label_bits(case_id, 0, 5).astype("int64")) > 0
        overlap = (predicted[:, k] & reference).sum()
        assert 2 * overlap / (predicted[:, k].sum() + reference.sum()) > 0.9


def test_a_model_that_trained_on_its_held_out_patient_is_refused(
    store: CaseStore, tmp_path: Path
) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    b = write_system(store, tmp_path / "b", finds(KIDNEY))
    config = Config(model=ModelConfig(image_size=SIZE), folds=FOLDS)
    save_run(store, b / "fold_1", finds(LIVER), config, fold=1, training=sorted(store.cases))
    with pytest.raises(InputError, match="model of fold 1 trained on this patient"):
        fit(tmp_path, a, b)
    assert not (tmp_path / "fused" / "fusion.json").exists()


def test_systems_on_other_folds_are_refused(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    b = write_system(store, tmp_path / "b", finds(KIDNEY), seed=3)
    with pytest.raises(InputError, match=r"b/folds\.json: splits the patients otherwise than.*/a/"):
        fit(tmp_path, a, b)


def test_systems_on_other_stores_are_refused(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    other = make_store(tmp_path / "other", slices=6)
    b = write_system(other, tmp_path / "b", finds(KIDNEY))
    with pytest.raises(InputError, match="b/final: was trained on another case store"):
        fit(tmp_path, a, b)


def test_a_final_model_unlike_its_folds_is_refused(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    b = write_system(store, tmp_path / "b", finds(KIDNEY))
    config = Config(model=ModelConfig(image_size=SIZE, cnn_width=8), folds=FOLDS)
    save_run(store, b / "final", finds(KIDNEY), config, training=sorted(store.cases))
    with pytest.raises(InputError, match="b/final: has another model in its configuration"):
        fit(tmp_path, a, b)


def test_missing_folds_are_named(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    b = write_system(store, tmp_path / "b", finds(KIDNEY))
    (b / "fold_1" / "best.json").unlink()
    with pytest.raises(InputError, match=r"b: folds without a trained model: 1\. Run train-fold"):
        fit(tmp_path, a, b)


@pytest.mark.parametrize("names", [("a",), ("a", "a")])
def test_fewer_than_two_systems_are_refused(
    names: tuple[str, ...], store: CaseStore, tmp_path: Path
) -> None:
    runs = [tmp_path / name for name in names]
    write_system(store, runs[0], finds(LIVER))
    with pytest.raises(InputError, match="--runs must name two or more systems"):
        fit(tmp_path, *runs)


def test_classifiers_of_slices_are_refused(store: CaseStore, tmp_path: Path) -> None:
    a = write_system(store, tmp_path / "a", finds(LIVER))
    model = dataclasses.replace(ModelConfig(image_size=SIZE), system="region")
    b = write_system(store, tmp_path / "b", finds(KIDNEY), model=model)
    with pytest.raises(InputError, match="b: holds slice classifiers"):
        fit(tmp_path, a, b)


def test_a_sam_and_a_volume_network_are_fused_and_segment_a_scan_by_commands(
    store: CaseStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {
        "sam": ModelConfig(image_size=SIZE, cnn_width=4),
        "unet": ModelConfig(
            image_size=SIZE,
            system="universal",
            universal=UniversalConfig(
                head="plain", width=4, patch_size=(16, 32, 32), spacing_mm=(4.0, 2.0, 2.0)
            ),
        ),
    }
    torch.manual_seed(0)
    runs = [
        write_system(store, tmp_path / name, build_system(model, CLASS_NAMES), model=model)
        for name, model in models.items()
    ]
    words = ["--data", str(tmp_path / "store"), "--runs", *map(str, runs), "--device", "cpu"]
    fused = tmp_path / "fused"
    assert run_verb("fit-fusion", [*words, "--output", str(fused), "--quiet"]) == EXIT_OK
    assert "liver_lesion" in capsys.readouterr().out
    assert run_verb("fit-fusion", [*words, "--output", str(fused), "--quiet"]) == EXIT_BAD_INPUT
    assert "fused: holds a fusion already" in capsys.readouterr().err
    image = sitk.GetImageFromArray(store.slices_hu(f"{LIVER}_0", 2, 7))
    image.SetSpacing(SPACING_MM)
    sitk.WriteImage(image, str(tmp_path / "scan.nii.gz"))
    words = ["--input", str(tmp_path / "scan.nii.gz"), "--output", str(tmp_path / "masks")]
    words += ["--model", str(fused), "--device", "cpu", "--budget", "1GB", "--quiet"]
    assert run_verb("infer-volume", words) == EXIT_OK
    assert sitk.ReadImage(str(tmp_path / "masks" / "scan.nii.gz")).GetSize() == (SIZE, SIZE, 5)
    report = json.loads((tmp_path / "masks" / "scan.json").read_text())
    fusion = json.loads((fused / "fusion.json").read_text())
    assert report["model"]["sha256"] == [fusion["json_sha256"]]
