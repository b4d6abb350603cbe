"""The ``model`` command: its table, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from samcancer.commands import main


def row(printed: str, name: str) -> list[str]:
    line = next(line for line in printed.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_the_table_tells_trained_from_frozen_and_shows_the_paper(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["model", "--encoder", "sam_vit_b", "--quiet"]) == 0
    printed = capsys.readouterr().out
    _, trained, frozen, parameters, _ = row(printed, "encoder")
    assert (trained, frozen) == ("0.00", parameters)
    assert float(parameters) == pytest.approx(86.3, abs=0.1)
    assert row(printed, "SAMCancer paper")[3:] == ["153.53", "106.83"]
    _, trained, frozen, parameters, _ = row(printed, "all")
    assert float(trained) + float(frozen) == pytest.approx(float(parameters), abs=0.011)


def test_a_frozen_decoder_is_counted_as_frozen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--image-size", "64", "--cnn-width", "8", "--freeze-decoder"]) == 0
    _, trained, frozen, _, _ = row(capsys.readouterr().out, "decoder")
    assert float(trained) == 0.0
    assert float(frozen) > 0.3


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (["--encoder", "resnet"], "unknown encoder 'resnet'"),
        (["--image-size", "100"], "model.image_size (a multiple of 16) is out of range: 100"),
        (["--classes", "0"], "--classes must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_line_and_status_2(
    options: list[str], fact: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", *options]) == 2
    error = capsys.readouterr().err
    assert fact in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "part", "least", "most"),
    [
        ("two_stage_student", "backbone", 1.43, 1.45),
        ("universal_model_flare23", "head", 0.2, 0.4),
        ("region", "net", 11.0, 11.4),
    ],
)
def test_the_network_of_any_system_is_counted(
    name: str, part: str, least: float, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[2] / "configs" / f"{name}.yaml"
    assert main(["model", "--config", str(config), "--quiet"]) == 0
    printed = capsys.readouterr().out
    _, trained, _, _, multiply_adds = row(printed, part)
    assert least < float(trained) < most
    assert float(multiply_adds) > 0
    assert "SAMCancer paper" not in printed
