from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]

for neighbour in ("volume_io", "data_prep", "training", "inference"):
    sys.path.append(str(TESTS / neighbour))  # what they make faulty files with is used here, too
sys.path.append(str(TESTS.parent / "benchmarks"))

from harness import Command, infer_among_good, run_command, save_run  # noqa: E402 - after the path


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs verbs in this process as a shell would see them."""
    return run_command


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an untrained network that the real command accepts."""
    return save_run(tmp_path_factory.mktemp("model") / "final")


@pytest.fixture(scope="module")
def batch_lines(
    faulty: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
    command: Command,
    model: Path,
) -> list[str]:
    """What one command says about the module's faulty scans among good ones, which it finishes."""
    folder = tmp_path_factory.mktemp("batch")
    return infer_among_good(command, list(faulty.values()), folder, model).lines


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
