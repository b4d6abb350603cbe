"""Training curves from the ``log.jsonl`` of run folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcancer.errors import InputError
from samcancer.report.charts import Series, legend, line_chart
from samcancer.report.page import Figure

LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class RunLog:
    """One training run."""

    name: str
    folder_name: str
    """Such as ``fold_0`` or ``final``."""
    epochs: tuple[Mapping[str, Any], ...]
    """One mapping per epoch, in order; a run that was resumed holds each epoch once."""


def read_run_logs(name: str, folder: Path) -> list[RunLog]:
    """Read the logs of a run folder, or of every run in a folder of runs.

    Args:
        name: Shown for the run, or before the names of the runs.
        folder: Holds log.jsonl itself or run folders that do.

    Raises:
        InputError: When there is no log, or one is damaged.
    """
    if (folder / LOG_NAME).is_file():
        return [RunLog(name, folder.name, _read(folder / LOG_NAME))]
    paths = sorted(folder.glob(f"*/{LOG_NAME}"))
    if not paths:
        raise InputError(f"holds no {LOG_NAME}", path=folder, mend="name a folder of runs")
    runs = [(path.parent.name, path) for path in paths]
    return [RunLog(f"{name}: {run}", run, _read(path)) for run, path in runs]


def curve_figures(logs: list[RunLog], *, group: str) -> list[Figure]:
    """Return training loss and, where any run was validated, Dice per epoch, one line per run."""
    names = [log.name for log in logs]
    losses = [Series(log.name, _points(log, "loss")) for log in logs]
    dices = [Series(log.name, _validation_points(log)) for log in logs]
    title = f"{group}: " if group else ""
    figures = [
        Figure(
            title=f"{title}training loss",
            chart_svg=line_chart(
                losses, title=f"{title}training loss", x_label="epoch", y_label="mean loss"
            ),
            legend_html=legend(names),
        )
    ]
    if any(series.points for series in dices):
        chart = line_chart(
            dices,
            title=f"{title}validation Dice",
            x_label="epoch",
            y_label="volume Dice, mean over classes",
            y_range=(0.0, 1.0),
        )
        figures.append(
            Figure(
                title=f"{title}validation Dice",
                chart_svg=chart,
                legend_html=legend(names),
                caption="Whole held-out volumes, empty slices included.",
            )
        )
    return figures


def _read(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Read the epochs; a last line that a killed run left unfinished is no epoch."""
    epochs: dict[int, Mapping[str, Any]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for line in lines:
            if line.endswith("\n"):
                entry = json.loads(line)
                epochs[int(entry["epoch"])] = entry
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"not a training log ({error})", path=path, mend="name the folder of one run"
        ) from None
    return tuple(epochs[number] for number in sorted(epochs))


def _points(log: RunLog, key: str) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(entry["epoch"]), float(entry[key]))
        for entry in log.epochs
        if entry.get(key) is not None
    )


def _validation_points(log: RunLog) -> tuple[tuple[float, float], ...]:
    return tuple(
        (float(entry["epoch"]), float(entry["validation"]["score"]))
        for entry in log.epochs
        if "score" in (entry.get("validation") or {})  # a slice classifier has no Dice
    )
