"""Bad usage of the command is one line, and ends before anything is loaded or left."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import pytest
import torch

from samcancer.commands import run_verb
from samcancer.serve.server import listen


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    logging.getLogger().addHandler(logging.NullHandler())
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def serve(*options: str) -> int:
    return run_verb("serve", ["--model", "absent-run", "--port", "0", *options])


FAULTS = {
    ("--max-upload", "2"): "'2' is not a size. Write it like 4GB or 512MiB.",
    ("--max-upload", "0GB"): "--max-upload must be above 0, got 0",
    ("--keep", "soon"): "'soon' is not a duration. Write it like 30min, 2h or 45s.",
    ("--keep", "0s"): "--keep must be above 0, got 0 s",
    ("--token", "short"): "--token has 5 characters.",
    ("--host", "192.0.2.1"): "cannot listen at 192.0.2.1 port 0",
    ("--device", "cpu"): "absent-run: no such model.",
}


@pytest.mark.parametrize("options", FAULTS)
def test_a_fault_is_one_line_and_status_2(
    options: tuple[str, str], temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(*options) == 2
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].startswith(f"error: {FAULTS[options]}")
    assert told.out == ""
    assert list(temporary.iterdir()) == []


def test_a_port_that_is_taken_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with listen("127.0.0.1", 0) as taken:
        assert serve("--port", str(taken.getsockname()[1])) == 2
    assert "Choose another --port or --host." in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--port", "65536"), ("--port", "-1"), ("--threads", "0")])
def test_numbers_out_of_range_are_refused(options: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as stop:
        serve(*options)
    assert stop.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--device", "cuda") == 2
    assert "no usable GPU was found. Use --device cpu." in capsys.readouterr().err


def test_a_network_is_warned_of_and_its_token_is_not_logged(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    token = "correct-horse-battery"
    assert serve("--host", "0.0.0.0", "--token", token) == 2
    assert "other machines can reach the server" in caplog.text
    assert token not in caplog.text + capsys.readouterr().err
