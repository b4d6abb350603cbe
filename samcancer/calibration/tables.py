"""Write a calibration's ``calibration_report.json`` and ``calibration.csv``, and show it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Group
from rich.table import Table

from samcancer.calibration.figures import ALL_SIZES, ClassFigures, Figures
from samcancer.calibration.fit import Fitted
from samcancer.calibration.rates import Rate
from samcancer.evaluation.lesions import SIZE_BANDS_ML, band_name
from samcancer.evaluation.patients import ANY_LESION
from samcancer.evaluation.statistics import none_if_nan
from samcancer.files import folder_lock, write_csv_atomic, write_json_atomic
from samcancer.training.calibration_file import ClassThresholds

REPORT_NAME = "calibration_report.json"
TABLE_NAME = "calibration.csv"

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

_COLUMNS = ("before", "after", "cross-val.")
"""What stands side by side; see samcancer.calibration.figures."""

_DECIMALS = 6


def write_report(folder: Path, fitted: Fitted) -> None:
    """Write both files into ``folder``, the JSON last."""
    with folder_lock(folder, purpose="calibrate"):
        write_csv_atomic(folder / TABLE_NAME, COLUMNS, _rows(fitted))
        write_json_atomic(folder / REPORT_NAME, fitted.to_dict())


def printed(fitted: Fitted) -> Group:
    """Return the tables for a terminal of 80 columns."""
    return Group(_threshold_table(fitted), _healthy_table(fitted), _lesion_table(fitted))


def _threshold_table(fitted: Fitted) -> Table:
    table = _table("Thresholds", "class", "presence", "probability", "smallest lesion (ml)")
    for name, own in fitted.own.items():
        new = fitted.chosen[name]
        table.add_row(
            name,
            _change(own.presence, new.presence),
            _change(own.probability, new.probability),
            _change(own.min_volume_ml, new.min_volume_ml),
        )
    return table


def _healthy_table(fitted: Fitted) -> Table:
    table = _table("Healthy scans with a false lesion", "class", *_COLUMNS)
    for name in fitted.own:
        rates = [figures.classes[name].healthy for figures in _columns(fitted)]
        table.add_row(name, *map(_count, rates))
    rates = [figures.healthy for figures in _columns(fitted)]
    ends = [rate.interval for rate in rates]
    table.add_row(ANY_LESION, *map(_count, rates), style="bold")
    table.add_row("  95 % interval", *(f"{a:.0%} to {b:.0%}" for a, b in ends))
    return table


def _lesion_table(fitted: Fitted) -> Table:
    table = _table("Lesions found, by size, and Dice", "class", "", *BANDS, "Dice")
    for name in fitted.own:
        for column, figures in zip(_COLUMNS, _columns(fitted), strict=True):
            found = figures.classes[name].found
            dice = figures.classes[name].dice
            cells = [_count(found[band]) for band in BANDS]
            table.add_row(name, column, *cells, f"{dice.mean:.3f}" if dice.n else "-")
    return table


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, no_wrap=True)
    return table


def _columns(fitted: Fitted) -> tuple[Figures, ...]:
    return fitted.before, fitted.after, fitted.cross_validated


def _rows(fitted: Fitted) -> Iterator[Sequence[object]]:
    thresholds = dict(zip(_COLUMNS, (fitted.own, fitted.chosen), strict=False))
    for column, figures in zip(_COLUMNS, _columns(fitted), strict=True):
        for name, of_class in figures.classes.items():
            own = thresholds.get(column, {}).get(name)
            yield [name, column, *_three(own), *_share(of_class.healthy), *_found_cells(of_class)]
        blank = [""] * (2 * len(BANDS) + 4)
        yield [ANY_LESION, column, *_three(None), *_share(figures.healthy), *blank]


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


def _count(rate: Rate) -> str:
    return f"{rate.count} of {rate.n}" if rate.n else "-"
