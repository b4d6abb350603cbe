"""What a terminal shows while a cohort is worked on: cases at work, cases per minute, time left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SHOWN = 3
"""Case names shown at a time."""

_WIDE = 110
"""Columns of a terminal from which on everything is shown at its full width."""

_BAR_WIDTH = 24

_MINUTE_S = 60.0


class CohortProgress:
    """Counts cases; shows nothing by itself."""

    def __init__(self) -> None:
        """Begin with no case."""
        self.at_work: dict[str, None] = {}
        self.done = 0
        self.steps = 0

    def on_case(self, case_id: str) -> None:
        """Take a case that begins, or begins anew."""
        self.at_work[case_id] = None
        self.show()

    def on_steps(self, count: int) -> None:
        """Take the number of steps done since the last call."""
        self.steps += count
        self.show()

    def on_done(self, case_id: str, *, detail: str = "") -> None:
        """Take a case that has ended, and what else to show from now on."""
        self.at_work.pop(case_id, None)
        self.done += 1
        self.show(detail)

    def names(self) -> str:
        """Return the cases at work, the first few by name."""
        names = list(self.at_work)
        more = f" +{len(names) - _SHOWN}" if len(names) > _SHOWN else ""
        return ", ".join(names[:_SHOWN]) + more

    def show(self, detail: str | None = None) -> None:
        """Bring the terminal up to date; ``detail`` None leaves the last one."""


@contextmanager
def cohort_progress(total: int, *, show: bool, steps: str = "") -> Iterator[CohortProgress]:
    """Yield what is told of a cohort of ``total`` cases.

    Args:
        total: Cases.
        show: Whether a bar is drawn on standard error, where that is a terminal.
        steps: Name of the steps, such as ``slices``, where their rate is shown too.
    """
    if not show or not sys.stderr.isatty():
        yield CohortProgress()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    console = Console(stderr=True)
    wide = console.width >= _WIDE
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # names take what the others leave
    bar = Progress(
        TextColumn("{task.fields[names]}", markup=False, table_column=rest),
        BarColumn(_BAR_WIDTH if wide else _BAR_WIDTH // 3),
        MofNCompleteColumn(),
        TextColumn("cases, {task.fields[rate]}"),
        *([TimeElapsedColumn()] if wide else []),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        expand=True,
    )
    task = bar.add_task("", total=total, names="", rate="")

    class Shown(CohortProgress):
        detail = ""

        def show(self, detail: str | None = None) -> None:
            self.detail = self.detail if detail is None else detail
            elapsed_s = bar.tasks[0].elapsed or 0.0
            rates = []
            if elapsed_s > 0:
                rates.append(f"{self.done * _MINUTE_S / elapsed_s:.1f}/min")
                if steps:
                    rates.append(f"{self.steps / elapsed_s:.1f} {steps}/s")
            rate = ", ".join([*rates, self.detail] if self.detail else rates)
            bar.update(task, completed=self.done, names=self.names(), rate=rate)

    with bar:
        yield Shown()
