"""Commands in processes of their own that are killed at random times and run again.

The process is forked from a server that has imported the package already, so that a kill falls into
the command's work and not into its imports.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from samcancer.commands import run_verb
from samcancer.files import TEMPORARY_PREFIX

PRELOADED = [
    *("torch.utils.tensorboard", "lightning.fabric", "albumentations", "kill_storm"),
    *("samcancer.training.pseudo_labels", "samcancer.inference.workers", "data_prep.prepare"),
    *("samcancer.training.run", "samcancer.volume_io"),
    *("samcancer.evaluation.cases", "samcancer.cohort.worker", "distributed.nanny"),
]

PATIENCE_S = 300.0
"""For one process of a loaded machine."""

ATTEMPTS = 50
"""Starts that may end before their kill comes, before a trial is given up."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that writes into a folder, and what it must leave there."""

    verb: str
    words: Callable[[Path, int], Sequence[str]]
    """Output folder and number of the trial -> arguments, as one types them to begin or go on."""
    content: Callable[[Path], dict[str, Any]]
    """Output folder -> what must not depend on kills: name -> bytes."""
    template: Path | None = None
    """Folder that a trial begins with a copy of; None for nothing."""

    def begin(self, output: Path) -> None:
        """Make the output folder as it is before the first start."""
        shutil.rmtree(output, ignore_errors=True)
        if self.template is not None:
            shutil.copytree(self.template, output)


class KillStorm:
    """Knows how long an undisturbed run takes and what it leaves."""

    def __init__(self, command: Command, folder: Path) -> None:
        """Run the command undisturbed, twice, the second time with warm caches."""
        self._command, self._folder = command, folder
        for name in ("first", "whole"):
            command.begin(folder / name)
            started = time.monotonic()
            finish(command, folder / name, trial=0)
            self._seconds = time.monotonic() - started
        self._expected = command.content(folder / "whole")
        assert self._expected
        assert command.content(folder / "first") == self._expected

    def trial(self, number: int) -> None:
        """Kill at a random time, in every other trial the restart too, and compare the end."""
        random = np.random.default_rng(number)
        output = self._folder / f"killed_{number}"
        self._kill_from_the_beginning(output, number, random)
        if number % 2:
            self._killed(output, number, random)
        finish(self._command, output, trial=number)
        require_equal(self._command.content(output), self._expected)
        assert [path.name for path in output.rglob(f"{TEMPORARY_PREFIX}*")] == []
        shutil.rmtree(output)

    def _kill_from_the_beginning(
        self, output: Path, number: int, random: np.random.Generator
    ) -> None:
        """Start afresh until a run was killed before its end."""
        for _ in range(ATTEMPTS):
            self._command.begin(output)
            if self._killed(output, number, random):
                return
        raise AssertionError(f"{ATTEMPTS} runs ended before they were killed")

    def _killed(self, output: Path, number: int, random: np.random.Generator) -> bool:
        process = start(self._command, output, trial=number)
        process.join(random.uniform(0, self._seconds))
        process.kill()
        process.join(PATIENCE_S)
        return process.exitcode != 0


def start(command: Command, output: Path, *, trial: int) -> BaseProcess:
    """Start the command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    words = [*command.words(output, trial), "--quiet"]
    process = context.Process(target=_run, args=(command.verb, words))
    process.start()
    return process


def finish(command: Command, output: Path, *, trial: int) -> None:
    """Run the command to its end."""
    process = start(command, output, trial=trial)
    process.join(PATIENCE_S)
    assert process.exitcode == 0, f"{command.verb} left with {process.exitcode}"


def require_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fail with the names of what is there besides, lacks or differs."""
    names = found.keys() | expected.keys()
    absent = object()
    differing = [n for n in names if found.get(n, absent) != expected.get(n, absent)]
    assert sorted(differing) == []


def files_below(folder: Path, *left_out: str) -> dict[str, bytes]:
    """Return the bytes of every file but locks and those named."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (".lock", *left_out)
    }


def _run(verb: str, words: Sequence[str]) -> None:
    sys.exit(run_verb(verb, words))
