"""Arms of an experiment: their commands, their table, and one small experiment from end to end."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import ablations
import arms
import pytest
import systems
from pipeline import Pipeline

from samcancer.config import load_config, with_overrides
from samcancer.errors import InputError

FIELDS = ("case", "class", "dice", "reference_ml", "prediction_ml")


def write_scores(folder: Path, dice: dict[tuple[str, str], float], *, false_lesions: int) -> Path:
    folder.mkdir(parents=True)
    with (folder / "per_case.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        for (case, name), value in dice.items():
            row = {"case": case, "class": name, "dice": value, "reference_ml": 1.0}
            writer.writerow({**row, "prediction_ml": 2.0})
            healthy = {**row, "case": f"{case}_healthy", "reference_ml": 0.0}
            writer.writerow({**healthy, "prediction_ml": false_lesions})
    summary = {"scans": 3, "with_predicted_lesion": false_lesions}
    (folder / "summary.json").write_text(json.dumps({"healthy": summary}))
    return folder


def all_arms() -> list[arms.Arm]:
    text = argparse.Namespace(name="any", text=[Path("a.safetensors"), Path("b.safetensors")])
    return [*systems.ARMS, *(arm for make in ablations.ABLATIONS.values() for arm in make(text))]


def test_arms_are_compared_over_the_patients_that_hold_a_class(tmp_path: Path) -> None:
    first = {("p0", "liver_lesion"): 0.5, ("p1", "lung_lesion"): 0.3}
    second = {("p0", "liver_lesion"): 0.7, ("p1", "lung_lesion"): 0.3}
    scores = {
        "one": write_scores(tmp_path / "one", first, false_lesions=3),
        "two": write_scores(tmp_path / "two", second, false_lesions=1),
    }
    args = argparse.Namespace(cases=2, fold_seconds=1.0, final_seconds=2.0)
    figures = arms._figures(scores, args)
    assert figures["arms"]["one"]["classes"]["liver_lesion"]["mean"] == 0.5
    assert figures["arms"]["two"]["all"] == pytest.approx(
        {"mean": 0.5, "lower": 0.3, "upper": 0.7, "n": 2}
    )
    assert figures["arms"]["two"]["difference"]["mean"] == pytest.approx(0.1)
    table = arms.to_markdown({**figures, "command": "c", "machine": "m"})
    assert "| two | 0.700 [0.700, 0.700] (n = 1) | - |" in table
    assert "| 1 of 3 | 1.0 [1.0, 1.0] (n = 2) |" in table


@pytest.mark.parametrize("arm", all_arms(), ids=lambda arm: arm.title)
def test_the_configuration_of_every_arm_is_valid(arm: arms.Arm) -> None:
    config = with_overrides(load_config(arms.ROOT / arm.config), arm.sets)
    assert config.model.image_size == 96


def test_arms_of_one_experiment_keep_their_masks_apart() -> None:
    text = argparse.Namespace(name="any", text=[Path("a.safetensors"), Path("b.safetensors")])
    for made in (systems.ARMS, *(make(text) for make in ablations.ABLATIONS.values())):
        assert len({arm.masks for arm in made}) == len(made)


def test_a_fusion_that_is_there_is_not_fitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []
    monkeypatch.setattr(Pipeline, "run", lambda _, command, stage: commands.append(command))
    steps = Pipeline(commands_path=tmp_path / "commands.txt", values={})
    made = [arms.Arm(title=name, runs=name, fused=("a", "b")) for name in ("there", "missing")]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "fusion.json").write_text("{}")
    arms._train(steps, made, tmp_path)
    assert [command.split()[-1] for command in commands] == ["{output}/missing"]


def test_fusions_of_different_systems_keep_apart() -> None:
    fused = {arm.runs: arm.fused for arm in all_arms() if arm.fused}
    assert len(fused) == len(set(fused.values())) == 2


def test_templates_need_files_to_compare() -> None:
    with pytest.raises(InputError, match=r"compares 2 or more files.*build-text-embeddings"):
        ablations.templates(argparse.Namespace(name="templates", text=[]))


@pytest.mark.slow
def test_an_ablation_runs_from_patients_to_its_table(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("<!-- ablation-presence:start --><!-- ablation-presence:end -->")
    words = ["presence", "--output", str(tmp_path / "out"), "--docs", str(tmp_path)]
    assert ablations.main([*words, "--cases", "2", "--final-seconds", "5"]) == 0
    found = json.loads((tmp_path / "ablation-presence.json").read_text())["arms"]
    assert set(found) == {"with the presence gate", "without"}
    assert "| without |" in page.read_text()
