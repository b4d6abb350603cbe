"""Run ``samcancer`` commands, echoing each as a user would type it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from samcancer.commands import run_verb
from samcancer.files import read_json, write_json_atomic


@dataclass
class Pipeline:
    """Commands that ran, how long each took, and the end of the whole at the first failure."""

    commands_path: Path
    """Text file that the commands are written to, one a line."""
    values: Mapping[str, Any]
    """What ``{name}`` in a command stands for; a value with spaces stays one argument."""
    commands: list[str] = field(default_factory=list)
    resumed: bool = False
    """Whether some training had begun before, so that the times are not those of the whole."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Stage -> wall-clock time."""

    def run(self, command: str, *, stage: str) -> None:
        """Run one command.

        Args:
            command: As typed after ``samcancer``, quoted for a shell, with ``{name}`` for values.
            stage: Name under which its time is added up.

        Raises:
            SystemExit: With the command's exit status when that is not 0.
        """
        words = self._announce(command)
        started = time.monotonic()
        status = run_verb(words[0], words[1:])
        elapsed = time.monotonic() - started
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed
        if status != 0:
            print(f"stopped: exit status {status}; run again to go on from here", file=sys.stderr)
            raise SystemExit(status)

    def train_side_by_side(self, trainings: Mapping[Path, str], *, stage: str) -> None:
        """Run training commands with one thread each, as many at a time as there are cores.

        Small networks gain little from a second thread, so this is faster than one after the other.

        Args:
            trainings: Run folder -> command, begun in this order; what a command prints is kept
                in ``logs`` beside the list of commands.
            stage: Name under which the time is added up.

        Raises:
            SystemExit: With a command's exit status when that is not 0, after the others ended.
        """
        started = time.monotonic()
        with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
            begun = [
                pool.submit(self._train_apart, self._resumable(command, folder), folder.name)
                for folder, command in trainings.items()
            ]
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started
        failed = [status for status in (job.result() for job in begun) if status != 0]
        if failed:
            print("stopped: see the logs named above; run again to go on", file=sys.stderr)
            raise SystemExit(failed[0])

    def _train_apart(self, command: str, name: str) -> int:
        words = self._announce(command)
        log_path = self.commands_path.parent / "logs" / f"{name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).parent / f"{words[0].replace('-', '_')}.py"
        with log_path.open("a", encoding="utf-8") as log:
            done = subprocess.run(  # noqa: S603 - our own script with our own words
                [sys.executable, str(script), *words[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=False,
            )
        end = "finished" if done.returncode == 0 else f"exit status {done.returncode}"
        print(f"{name}: {end} ({log_path})", flush=True)
        return done.returncode

    def _resumable(self, command: str, folder: Path) -> str:
        begun = (folder / "resume.pt").exists()
        self.resumed = self.resumed or begun
        return command + " --resume" if begun else command

    def _announce(self, command: str) -> list[str]:
        """Print and keep a command; return its words."""
        words = [word.format(**self.values) for word in shlex.split(command)]
        line = f"samcancer {shlex.join(words)}"
        self.commands.append(line)
        self.commands_path.parent.mkdir(parents=True, exist_ok=True)
        self.commands_path.write_text("\n".join(self.commands) + "\n", encoding="utf-8")
        print(f"\n$ {line}", flush=True)
        return words

    def timings(self) -> str:
        """Return the seconds of each stage as lines of text."""
        lines = [f"  {stage:<26}{seconds:7.1f} s" for stage, seconds in self.seconds.items()]
        return "\n".join([*lines, f"  {'all commands':<26}{sum(self.seconds.values()):7.1f} s"])

    def write_summary(self, path: Path, arms: Mapping[str, Path], *, seconds_in_all: float) -> None:
        """Write what docs/results.md is filled from.

        Args:
            path: JSON file.
            arms: Name -> folder of its evaluation.
            seconds_in_all: Wall-clock time of the whole script.
        """
        content = {
            "command": shlex.join(["python", *sys.argv]),
            "cpu_cores": os.cpu_count(),
            "resumed": self.resumed,
            "seconds_in_all": seconds_in_all,
            "seconds": self.seconds,
            "arms": {name: str(folder) for name, folder in arms.items()},
        }
        write_json_atomic(path, content)


def print_scores(evaluations: Mapping[str, Path]) -> None:
    """Print lesion DSC per class and arm, over the cases that hold the class."""
    summaries = {arm: read_json(folder / "summary.json") for arm, folder in evaluations.items()}
    table = Table(title="Lesion DSC, mean [95 % interval] (cases with the class)")
    table.add_column("class")
    for arm in summaries:
        table.add_column(arm)
    names = dict.fromkeys(name for summary in summaries.values() for name in summary["classes"])
    for name in names:
        means = [s["classes"].get(name, {}).get("dice_where_present") for s in summaries.values()]
        table.add_row(name, *map(_interval, means))
    healthy = [summary["healthy"] for summary in summaries.values()]
    if any(row["scans"] for row in healthy):
        cells = [f"{row['with_predicted_lesion']} of {row['scans']}" for row in healthy]
        table.add_row("healthy scans with a false lesion", *cells)
    Console().print(table)


def _interval(mean: Mapping[str, float] | None) -> str:
    if not mean or not mean["n"]:
        return "-"
    return f"{mean['mean']:.3f} \\[{mean['lower']:.3f}, {mean['upper']:.3f}] ({mean['n']})"
