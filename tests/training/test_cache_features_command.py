"""The command says what it will take, asks, and needs --yes where nobody can answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cacheable import cacheable_config, small_sam_is_known
from real_store import make_store

from samcancer.commands import EXIT_BAD_INPUT, EXIT_OK, run_verb
from samcancer.config import config_to_dict


@pytest.fixture(scope="module", autouse=True)
def _small_sam() -> Iterator[None]:
    with small_sam_is_known():
        yield


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    make_store(tmp_path / "store", patients_per_class=1, healthy=0, slices=3)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(config_to_dict(cacheable_config())))
    words = ["--data", tmp_path / "store", "--config", config, "--output", tmp_path / "features"]
    return [*map(str, words), "--device", "cpu", "--quiet"]


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: text)


def test_without_a_terminal_it_needs_yes(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb("cache-features", arguments) == EXIT_BAD_INPUT
    said = capsys.readouterr()
    assert said.out.startswith("needs about ")
    assert "2 of 2 cases, 2 windows" in said.out
    assert said.err.strip().endswith("no terminal to ask on. Add --yes.")
    assert not (tmp_path / "features").exists()
    assert run_verb("cache-features", [*arguments, "--yes"]) == EXIT_OK
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == 4


@pytest.mark.parametrize(("text", "files"), [("", 0), ("n", 0), ("y", 4), (" YES ", 4)])
def test_it_fills_the_folder_only_after_a_yes(
    text: str,
    files: int,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, text)
    assert run_verb("cache-features", arguments) == EXIT_OK
    assert len(list((tmp_path / "features").glob("*.safetensors"))) == files


def test_a_complete_folder_is_not_asked_about(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_verb("cache-features", [*arguments, "--yes"])
    capsys.readouterr()
    assert run_verb("cache-features", arguments) == EXIT_OK
    assert capsys.readouterr().out == ""


def test_the_folder_may_come_from_the_configuration(arguments: list[str], tmp_path: Path) -> None:
    at = arguments.index("--output")
    del arguments[at : at + 2]
    assert run_verb("cache-features", [*arguments, "--yes"]) == EXIT_BAD_INPUT
    named = ["--set", f"train.feature_cache={tmp_path / 'named'}"]
    assert run_verb("cache-features", [*arguments, *named, "--yes"]) == EXIT_OK
    assert len(list((tmp_path / "named").glob("*.safetensors"))) == 4


def test_a_configuration_that_augments_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--set", "augmentation.probability=0.5", "--yes"]
    assert run_verb("cache-features", [*arguments, *more]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: features cannot be cached with augmentation.probability 0.5")
    assert "\n" not in error
