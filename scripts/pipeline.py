"""Run ``samcancer`` commands one after the other, echoing each as a user would type it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samcancer.commands import run_verb


@dataclass
class Pipeline:
    """Commands that ran, how long each took, and the end of the whole at the first failure."""

    commands_path: Path
    """Text file that the commands are written to, one a line."""
    commands: list[str] = field(default_factory=list)
    seconds: list[tuple[str, float]] = field(default_factory=list)

    def run(self, verb: str, arguments: Sequence[str | Path], *, stage: str) -> None:
        """Run one command.

        Args:
            verb: Of the ``samcancer`` command.
            arguments: As on the command line.
            stage: Name under which its time is added up.

        Raises:
            SystemExit: With the command's exit status when that is not 0.
        """
        words = [verb, *map(str, arguments)]
        self.commands.append(f"samcancer {shlex.join(words)}")
        self.commands_path.parent.mkdir(parents=True, exist_ok=True)
        self.commands_path.write_text("\n".join(self.commands) + "\n", encoding="utf-8")
        print(f"\n$ {self.commands[-1]}", flush=True)
        started = time.monotonic()
        status = run_verb(verb, words[1:])
        self.seconds.append((stage, time.monotonic() - started))
        if status != 0:
            print(f"stopped: exit status {status}. Run again to go on from here.", file=sys.stderr)
            raise SystemExit(status)

    def timings(self) -> str:
        """Return the seconds of each stage as lines of text."""
        totals: dict[str, float] = {}
        for stage, seconds in self.seconds:
            totals[stage] = totals.get(stage, 0.0) + seconds
        lines = [f"  {stage:<24}{seconds:7.1f} s" for stage, seconds in totals.items()]
        return "\n".join([*lines, f"  {'total':<24}{sum(totals.values()):7.1f} s"])
