"""What a terminal shows while scans are segmented and pages are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol


class ScanProgress(Protocol):
    """What is told while scans are segmented."""

    def on_case(self, case_id: str) -> None:
        """Take the case at hand."""

    def on_slices(self, count: int) -> None:
        """Take the number of slices done since the last call."""


class _Silent:
    def on_case(self, case_id: str) -> None:
        """Show nothing."""

    def on_slices(self, count: int) -> None:
        """Show nothing."""


@contextmanager
def scan_progress(total: int, *, quiet: bool) -> Iterator[ScanProgress]:
    """Yield something that shows the case at hand, slices done and slices per second."""
    if quiet:
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.fields[case]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("scans, {task.fields[slices]} slices, {task.fields[rate]:.2f} slices/s"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task("", total=total, case="", slices=0, rate=0.0)

    class Shown:
        cases = 0
        slices = 0

        def on_case(self, case_id: str) -> None:
            bar.update(task, case=case_id, completed=self.cases)
            self.cases += 1

        def on_slices(self, count: int) -> None:
            self.slices += count
            elapsed = bar.tasks[0].elapsed or 0.0
            rate = self.slices / elapsed if elapsed > 0 else 0.0
            bar.update(task, slices=self.slices, rate=rate)

    with bar:
        yield Shown()
        bar.update(task, completed=total)


@contextmanager
def page_progress(total: int, *, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield what shows the case whose page is being written."""
    if quiet:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.fields[case]}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pages"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    task = bar.add_task("", total=total, case="")
    begun = 0

    def on_case(case_id: str) -> None:
        nonlocal begun
        bar.update(task, case=case_id, completed=begun)
        begun += 1

    with bar:
        yield on_case
        bar.update(task, completed=total)
