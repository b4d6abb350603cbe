"""The console command: every verb answers --help at once, and bad usage is one line and exit 2."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from samcancer import __version__
from samcancer.commands import EXIT_BAD_INPUT, EXIT_OK, VERBS, main

ROOT = Path(__file__).resolve().parents[2]

SLOW_PACKAGES = (
    "torch",
    "SimpleITK",
    "h5py",
    "scipy",
    "lightning",
    "albumentations",
    "timm",
    "open_clip",
)
"""What no ``--help`` may import: each costs from a tenth of a second to several seconds."""


def test_overview_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == EXIT_OK
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == EXIT_OK
    assert capsys.readouterr().out.strip() == f"samcancer {__version__}"


def test_the_package_runs_as_a_module_as_launchers_take_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "samcancer", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"samcancer {__version__}"


def test_unknown_verb_is_one_line_that_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment"]) == EXIT_BAD_INPUT
    message = capsys.readouterr().err
    assert message.startswith("error: unknown command 'segment'; choose from classes")
    assert message.count("\n") == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_and_imports_nothing_slow(verb: str) -> None:
    code = (
        "import sys; from samcancer.commands import main\n"
        f"try: main([{verb!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print('SLOW', [name for name in {SLOW_PACKAGES!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "example:" in done.stdout
    assert f"samcancer {verb}" in done.stdout
    assert done.stdout.rstrip().endswith("SLOW []")


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_script_of_the_same_name(verb: str) -> None:
    script = ROOT / "scripts" / f"{verb.replace('-', '_')}.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=True
    )
    assert "example:" in done.stdout


@pytest.mark.parametrize("verb", ["prepare-slices", "train-fold", "infer-volume", "evaluate"])
def test_missing_arguments_exit_with_two(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb])
    assert end.value.code == EXIT_BAD_INPUT
    assert "required" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_anywhere_is_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> int:
        raise OSError(number, "no room", "out/index.jsonl")

    monkeypatch.setattr("samcancer.commands.classes.run", full)
    assert main(["classes"]) == EXIT_BAD_INPUT
    expected = "error: out/index.jsonl: the disk is full. Free some space or choose another disk.\n"
    assert capsys.readouterr().err == expected


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: object) -> int:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr("samcancer.commands.classes.run", broken)
    with pytest.raises(OSError, match="the disk is broken"):
        main(["classes"])
