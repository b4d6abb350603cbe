"""What a terminal shows while pages are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
