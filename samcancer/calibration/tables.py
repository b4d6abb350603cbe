"""Write a calibration's ``calibration_report.json`` and ``calibration.csv``, and show it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group
from rich.table import Table

from samcancer.calibration.figures import ALL_SIZES, ClassFigures, Figures
from samcancer.calibration.fit import Fitted
from samcancer.calibration.rates import Rate
from samcancer.evaluation.lesions import SIZE_BANDS_ML, band_name
from samcancer.evaluation.statistics import Mean, none_if_nan
from samcancer.files import folder_lock, write_json_atomic, write_text_atomic
from samcancer.training.calibration_file import ClassThresholds

REPORT_NAME = "calibration_report.json"
TABLE_NAME = "calibration.csv"

ANY_CLASS = "any lesion"
"""Row of what a user meets: a false lesion of whatever class."""

BANDS = (*(band_name(band) for band in SIZE_BANDS_ML), ALL_SIZES)

COLUMNS = (
    "class",
    "thresholds",
    "presence_threshold",
    "probability_threshold",
    "min_volume_ml",
    "healthy_scans",
    "false_scans",
    "false_share",
    "false_share_lower",
    "false_share_upper",
    *(f"{what} {band}" for band in BANDS for what in ("lesions", "detected")),
    "dice",
    "dice_lower",
    "dice_upper",
    "dice_scans",
)
"""Columns of the CSV: one line for each class and each of before, after and cross-validated."""

_DECIMALS = 6


def write_report(folder: Path, fitted: Fitted) -> None:
    """Write both files into ``folder``, the JSON last."""
    with folder_lock(folder, purpose="calibrate"):
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_rows(fitted))
        write_text_atomic(folder / TABLE_NAME, stream.getvalue())
        write_json_atomic(folder / REPORT_NAME, fitted.to_dict())


def printed(fitted: Fitted) -> Group:
    """Return the tables for a terminal."""
    return Group(_healthy_table(fitted), _sensitivity_table(fitted))


def _healthy_table(fitted: Fitted) -> Table:
    table = Table(title="Healthy scans with a false lesion (95 % interval)")
    for head in (
        "class",
        "presence",
        "probability",
        "min ml",
        "before",
        "after",
        "cross-validated",
    ):
        table.add_column(head)
    for name, own in fitted.own.items():
        new = fitted.chosen[name]
        shares = [figures.classes[name].healthy.describe() for figures in _columns(fitted).values()]
        table.add_row(
            name,
            _change(own.presence, new.presence),
            _change(own.probability, new.probability),
            _change(own.min_volume_ml, new.min_volume_ml),
            *shares,
        )
    every = [figures.healthy.describe() for figures in _columns(fitted).values()]
    table.add_row(ANY_CLASS, "", "", "", *every, style="bold")
    return table


def _sensitivity_table(fitted: Fitted) -> Table:
    table = Table(title="Lesions found, and volume Dice")
    for head in ("class", "thresholds", *BANDS, "Dice"):
        table.add_column(head)
    for name in fitted.own:
        for column, figures in _columns(fitted).items():
            of_class = figures.classes[name]
            found = [_found(of_class.found[band]) for band in BANDS]
            table.add_row(name, column, *found, _dice(of_class.dice))
    return table


def _columns(fitted: Fitted) -> dict[str, Figures]:
    return {
        "before": fitted.before,
        "after": fitted.after,
        "cross-validated": fitted.cross_validated,
    }


def _rows(fitted: Fitted) -> Iterator[list[object]]:
    thresholds = {"before": fitted.own, "after": fitted.chosen}
    for column, figures in _columns(fitted).items():
        for name, of_class in figures.classes.items():
            own = thresholds.get(column, {}).get(name)
            yield [name, column, *_three(own), *_share(of_class.healthy), *_found_cells(of_class)]
        blank = [""] * (2 * len(BANDS) + 4)
        yield [ANY_CLASS, column, *_three(None), *_share(figures.healthy), *blank]


def _three(thresholds: ClassThresholds | None) -> list[object]:
    """Return the thresholds; those of a cross-validation differ from fold to fold."""
    if thresholds is None:
        return ["", "", ""]
    return [thresholds.presence, thresholds.probability, thresholds.min_volume_ml]


def _share(rate: Rate) -> list[object]:
    return [rate.n, rate.count, *map(_number, (rate.share, *rate.interval))]


def _found_cells(figures: ClassFigures) -> list[object]:
    counts = [n for band in BANDS for n in (figures.found[band].n, figures.found[band].count)]
    dice = figures.dice
    return [*counts, *map(_number, (dice.mean, dice.lower, dice.upper)), dice.n]


def _number(value: float) -> object:
    return "" if none_if_nan(value) is None else round(value, _DECIMALS)


def _change(before: float, after: float) -> str:
    return f"{before:g}" if before == after else f"{before:g} -> {after:g}"


def _found(rate: Rate) -> str:
    return f"{rate.count} of {rate.n}" if rate.n else "-"


def _dice(mean: Mean) -> str:
    return f"{mean.mean:.3f} [{mean.lower:.3f}, {mean.upper:.3f}]" if mean.n else "-"
