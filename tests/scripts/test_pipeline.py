"""The drivers of the demos: commands as typed, stops, resumes, and one whole tiny demo."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Record the commands instead of running them."""
    recorded: list[list[str]] = []
    monkeypatch.setattr(load("pipeline"), "run_verb", lambda v, a: recorded.append([v, *a]) or 0)
    return recorded


def pipeline(tmp_path: Path, **values: Any) -> Any:
    return sys.modules["pipeline"].Pipeline(tmp_path / "commands.txt", values)


def test_a_value_with_spaces_stays_one_argument(tmp_path: Path, calls: list[list[str]]) -> None:
    steps = pipeline(tmp_path, output=Path("my demo"), cases=3)
    steps.run("make-phantoms --out {output}/raw --cases {cases} --title 'two words'", stage="a")
    expected = ["make-phantoms", "--out", "my demo/raw", "--cases", "3", "--title", "two words"]
    assert calls == [expected]


def test_the_commands_file_can_be_pasted_into_a_shell(
    tmp_path: Path, calls: list[list[str]]
) -> None:
    steps = pipeline(tmp_path, output=Path("my demo"))
    steps.run("evaluate --output {output}", stage="a")
    (line,) = (tmp_path / "commands.txt").read_text().splitlines()
    assert shlex.split(line) == ["samcancer", *calls[0]]


def test_trainings_side_by_side_resume_and_all_end_before_a_failure_stops(
    tmp_path: Path, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    (tmp_path / "fold_2").mkdir()
    (tmp_path / "fold_2" / "resume.pt").touch()

    def fake_run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        threads.append(options["env"]["OMP_NUM_THREADS"])
        return subprocess.CompletedProcess(words, 2 if "1" in words else 0)

    monkeypatch.setattr(sys.modules["pipeline"].subprocess, "run", fake_run)
    steps = pipeline(tmp_path)
    trainings = {tmp_path / f"fold_{k}": f"train-fold --fold {k}" for k in range(3)}
    with pytest.raises(SystemExit) as end:
        steps.train_side_by_side(trainings, stage="folds")
    assert end.value.code == 2
    assert threads == ["1", "1", "1"]
    assert sorted(steps.commands) == [
        "samcancer train-fold --fold 0",
        "samcancer train-fold --fold 1",
        "samcancer train-fold --fold 2 --resume",
    ]
    assert steps.resumed
    assert calls == []


def test_a_failing_command_ends_the_whole_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("pipeline")
    monkeypatch.setattr(module, "run_verb", lambda *_: 2)
    with pytest.raises(SystemExit, match="2"):
        pipeline(tmp_path).run("evaluate", stage="a")


@pytest.mark.slow
def test_a_tiny_demo_runs_from_phantoms_to_the_page_and_again(tmp_path: Path) -> None:
    """Two patients a set, seconds of training: the path is tested here, not its accuracy."""
    output = tmp_path / "demo with spaces"
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--output", str(output)]
    command += ["--cases", "2", "--fold-seconds", "3", "--final-seconds", "3"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for resumed in (False, True):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert (output / "report.html").stat().st_size > 50_000
        assert json.loads((output / "run.json").read_text())["resumed"] is resumed
