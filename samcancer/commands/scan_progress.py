"""The progress bar of ``infer-volume``: the case at hand, slices done and slices per second."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class ScanProgress(Protocol):
    """Takes in how far ``infer-volume`` is."""

    def on_case(self, case_id: str) -> None:
        """Show that a case begins."""

    def on_slices(self, count: int) -> None:
        """Show that so many slices more are done."""


@contextmanager
def scan_progress(total: int, *, quiet: bool) -> Iterator[ScanProgress]:
    """Yield something that shows the case at hand, slices done and slices per second."""
    if quiet:
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.fields[case]}"),
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


class _Silent:
    def on_case(self, case_id: str) -> None:
        """Show nothing."""

    def on_slices(self, count: int) -> None:
        """Show nothing."""
