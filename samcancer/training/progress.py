"""Progress bars: of a run (epoch, loss, Dice per class, the time left) and of a list of cases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, track

_BAR_STEPS = 1000
"""Parts into which the bar divides a run."""

_MIN_PROGRESS_FOR_ESTIMATE = 0.005
"""Progress of this call below which no time left is given."""


class RunProgress:
    """A bar on standard error over the whole run; does nothing when not enabled."""

    def __init__(self, *, enabled: bool) -> None:
        """Make the bar; it appears when the block is entered."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}  {task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not enabled,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=_BAR_STEPS, left="", figures="")
        self._first: tuple[float, float] | None = None

    def __enter__(self) -> RunProgress:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self._progress.stop()

    def update(
        self,
        progress: float,
        *,
        description: str,
        loss: float | None = None,
        class_dice: dict[str, float | None] | None = None,
    ) -> None:
        """Show where the run is.

        Args:
            progress: Of the whole run, 0 to 1.
            description: Such as ``epoch 3/80``.
            loss: Mean of the epoch so far.
            class_dice: Mean soft Dice of the epoch so far.
        """
        figures = [] if loss is None else [f"loss {loss:.3f}"]
        figures += [f"{k} {v:.2f}" for k, v in (class_dice or {}).items() if v is not None]
        self._progress.update(
            self._task,
            completed=progress * _BAR_STEPS,
            description=description,
            left=self._time_left(progress),
            figures="  ".join(figures),
        )

    def _time_left(self, progress: float) -> str:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, progress)
        started, from_progress = self._first
        done = progress - from_progress
        if done < _MIN_PROGRESS_FOR_ESTIMATE:
            return ""
        left_s = (now - started) * (1 - progress) / done
        return f"{left_s / 3600:.1f} h left" if left_s >= 3600 else f"{left_s / 60:.1f} min left"


def tracked(case_ids: Sequence[str], description: str, *, enabled: bool) -> Iterator[str]:
    """Yield the cases under a bar on standard error."""
    yield from track(
        case_ids,
        description=description,
        console=Console(stderr=True),
        disable=not enabled,
        transient=True,
    )
