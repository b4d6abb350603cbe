"""The table of two systems and their fusion: every model is scored alike, rules beside figures."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fusion
from pipeline import Pipeline

MEAN = {"mean": 0.5, "lower": 0.25, "upper": 0.75, "n": 4}
SUMMARY = {
    "classes": {"liver_lesion": {"dice_where_present": MEAN, "nsd_where_present": MEAN}},
    "healthy": {"scans": 3, "with_predicted_lesion": 1},
}


def validated(dice: float) -> dict[str, Any]:
    return {"dice": dice, "healthy_correct": 1, "healthy_cases": 2}


FUSION = {
    "parts": [{"name": "a"}, {"name": "b"}],
    "classes": {"liver_lesion": {"text": "0.25 a + 0.75 b"}},
    "validation": {"classes": {"liver_lesion": validated(0.6)}},
    "candidates": [
        {"classes": {"liver_lesion": validated(dice)}} for dice in (0.4, 0.5, 0.55, 0.6)
    ],
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have been run; results are put where the commands would."""
    ran: list[list[str]] = []

    def run(self: Pipeline, command: str, *, stage: str) -> None:
        words = [word.format(**self.values) for word in shlex.split(command)]
        ran.append(words)
        target = Path(words[words.index("--out" if "--out" in words else "--output") + 1])
        target.mkdir(parents=True, exist_ok=True)
        if words[0] == "fit-fusion":
            (target / "fusion.json").write_text(json.dumps(FUSION))
        if words[0] == "evaluate":
            (target / "summary.json").write_text(json.dumps(SUMMARY))

    monkeypatch.setattr(Pipeline, "run", run)
    return ran


def test_trained_systems_and_their_fusion_are_scored_on_the_same_scans(
    tmp_path: Path, commands: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.md").write_text("<!-- fusion:start --><!-- fusion:end -->")
    words = ["--output", str(tmp_path / "out"), "--docs", str(tmp_path), "--data", "store"]
    words += ["--runs", "a", "b", "--images", "images", "--references", "labels"]
    assert fusion.main(words) == 0
    assert [c[0] for c in commands] == ["fit-fusion", *["infer-volume", "evaluate"] * 3]
    scored = [c for c in commands if c[0] == "infer-volume"]
    assert {c[c.index("--input") + 1] for c in scored} == {"images"}
    assert [c[c.index("--model") + 1] for c in scored] == ["a", "b", str(tmp_path / "out/fused")]
    page = (tmp_path / "results.md").read_text()
    assert "| class | a | b | fused |" in page
    assert "| scans | 1 of 3 | 1 of 3 | 1 of 3 |" in page
    rule = "| liver_lesion | 0.400 (1 of 2) | 0.500 (1 of 2) | 0.600 (1 of 2) | 0.25 a + 0.75 b |"
    assert rule in page
    assert rule in capsys.readouterr().out


def test_a_fusion_that_is_there_is_not_fitted_again(
    tmp_path: Path, commands: list[list[str]]
) -> None:
    (tmp_path / "out" / "fused").mkdir(parents=True)
    (tmp_path / "out" / "fused" / "fusion.json").write_text(json.dumps(FUSION))
    words = ["--output", str(tmp_path / "out"), "--data", "store", "--runs", "a", "b"]
    args = fusion._arguments([*words, "--images", "images", "--references", "labels"])
    fusion.measure(args)
    assert "fit-fusion" not in [c[0] for c in commands]


def test_both_systems_are_trained_on_all_folds_and_a_final_run(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: dict[str, list[str]] = {}

    def train(self: Pipeline, trainings: dict[Path, str], *, stage: str) -> None:
        trained[stage] = [folder.name for folder in trainings]

    monkeypatch.setattr(Pipeline, "train_side_by_side", train)
    fusion.measure(fusion._arguments(["--output", str(tmp_path)]))
    folds = [f"fold_{fold}" for fold in range(5)]
    assert trained == {"sam": [*folds, "final"], "unet": [*folds, "final"]}


def test_systems_without_scans_to_score_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fusion._arguments(["--runs", "a", "b"])
    assert "go together" in capsys.readouterr().err
