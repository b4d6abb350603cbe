"""Write an evaluation: ``per_case.csv``, ``lesions.csv``, ``summary.json`` and a printed table.

A comparison adds ``comparison.csv``, ``comparison.json`` and ``per_case_compared.csv``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

from samcancer.evaluation.scoring import ClassResult
from samcancer.files import write_csv_atomic, write_json_atomic

_SCORE_DECIMALS = 6
_VOLUME_DECIMALS = 4

CASE_COLUMNS = (
    "case",
    "class",
    "annotated",
    "missing",
    "dice",
    "nsd",
    "iou",
    "reference_ml",
    "prediction_ml",
    "reference_lesions",
    "detected_lesions",
    "predicted_lesions",
    "true_predicted_lesions",
    "unverified_ml",
    "unverified_lesions",
)
"""Columns of ``per_case.csv``; an empty score is not defined or not annotated."""

LESION_COLUMNS = (
    "case",
    "class",
    "side",
    "volume_ml",
    "band",
    "overlap",
    "matched",
    "slice",
    "row",
    "column",
)
"""Columns of ``lesions.csv``, one line for each lesion of either side."""


COMPARISON_COLUMNS = (
    "class",
    "figure",
    "n",
    "prediction",
    "compared",
    "mean",
    "lower",
    "upper",
    "better",
    "equal",
    "worse",
    "p_value",
)
"""Columns of ``comparison.csv``: means of both, then their paired difference."""


_DIFFERENCE = COMPARISON_COLUMNS[5:]
"""Those that a comparison holds by the same name."""


def write_tables(output: Path, results: Sequence[ClassResult], summary: dict[str, Any]) -> None:
    """Write the three files into ``output``, the summary last."""
    write_csv_atomic(output / "per_case.csv", CASE_COLUMNS, map(_case_row, results))
    rows = (row for result in results for row in _lesion_rows(result))
    write_csv_atomic(output / "lesions.csv", LESION_COLUMNS, rows)
    write_json_atomic(output / "summary.json", summary)


def write_comparison(
    output: Path, compared: Sequence[ClassResult], comparison: dict[str, Any]
) -> None:
    """Write the compared predictions' scores and the paired differences, the JSON last."""
    write_csv_atomic(output / "per_case_compared.csv", CASE_COLUMNS, map(_case_row, compared))
    rows = [
        (name, figure, row["n"], *(_cell(row[key]) for key in ("first", "second", *_DIFFERENCE)))
        for name, figures in comparison["classes"].items()
        for figure, row in figures.items()
    ]
    write_csv_atomic(output / "comparison.csv", COMPARISON_COLUMNS, rows)
    write_json_atomic(output / "comparison.json", comparison)


def render(summary: dict[str, Any]) -> Group:
    """Return the summary as tables for a terminal."""
    tables = [_class_table(summary), _lesion_table(summary), _patient_table(summary)]
    if summary["bounds"]:
        tables.append(_bounds_table(summary["bounds"]))
    healthy = summary["healthy"]
    lines = []
    if healthy["scans"]:
        lines.append(
            f"healthy scans: {healthy['scans']}, with a predicted lesion:"
            f" {healthy['with_predicted_lesion']} ({_share(healthy['false_positive_rate'])}),"
            f" false-positive ml a scan: {_mean(healthy['false_positive_ml'])}"
        )
    if "flare23" in summary:
        overall = summary["flare23"]
        lines.append(
            f"flare23, {overall['organs']} of {overall['organs_of_the_challenge']} organs: "
            f"DSC {_share(overall['organ_dice'])}, NSD {_share(overall['organ_nsd'])}; "
            f"tumor: DSC {_share(overall['tumor_dice'])}, NSD {_share(overall['tumor_nsd'])}"
        )
    lines += [
        f"unverified (not annotated) {name}: {u['volume_ml']:.1f} ml in {u['cases']} cases"
        for name, u in summary["unverified"].items()
    ]
    if summary["missing_predictions"]:
        lines.append(f"missing predictions, scored 0: {', '.join(summary['missing_predictions'])}")
    if summary["failures"]:
        lines.append(f"failed, not scored: {', '.join(summary['failures'])}")
    return Group(*tables, *lines)


def _case_row(result: ClassResult) -> tuple[Any, ...]:
    sides = {
        side: [x for x in result.lesions if x.side == side] for side in ("reference", "prediction")
    }
    scores = (result.score.dice, result.score.nsd, result.score.iou)
    return (
        result.case_id,
        result.class_name,
        int(result.annotated),
        int(result.missing),
        *("" if math.isnan(v) else round(v, _SCORE_DECIMALS) for v in scores),
        round(result.reference_ml, _VOLUME_DECIMALS),
        round(result.prediction_ml, _VOLUME_DECIMALS),
        len(sides["reference"]),
        sum(x.matched for x in sides["reference"]),
        len(sides["prediction"]),
        sum(x.matched for x in sides["prediction"]),
        round(result.unverified_ml, _VOLUME_DECIMALS),
        result.unverified_lesions,
    )


def _lesion_rows(result: ClassResult) -> Iterable[tuple[Any, ...]]:
    for lesion in result.lesions:
        yield (
            result.case_id,
            result.class_name,
            lesion.side,
            round(lesion.volume_ml, _VOLUME_DECIMALS),
            lesion.band,
            round(lesion.overlap, _SCORE_DECIMALS),
            int(lesion.matched),
            *(round(x, 1) for x in lesion.centre_zyx),
        )


def _class_table(summary: dict[str, Any]) -> Table:
    title = f"{summary['protocol']}, {summary['cases']} cases, mean [95 % interval] (n)"
    table = Table(title=title, title_justify="left")
    tolerance_mm = summary["tolerance_mm"]
    nsd = "NSD" if tolerance_mm is None else f"NSD {tolerance_mm:g} mm"
    columns = ("class", "DSC", nsd, "DSC where present")
    _add_columns(table, columns)
    for name, means in summary["classes"].items():
        cells = (_mean(means[key]) for key in ("dice", "nsd", "dice_where_present"))
        table.add_row(name, *cells)
    return table


def _lesion_table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"lesions; found means {summary['lesion_matching']}", title_justify="left")
    columns = ("class", "size", "reference", "recall", "predicted", "precision", "F1")
    _add_columns(table, columns)
    for name, bands in summary["lesions"].items():
        for band, row in bands.items():
            table.add_row(
                name,
                band,
                str(row["reference_lesions"]),
                _share(row["recall"]),
                str(row["predicted_lesions"]),
                _share(row["precision"]),
                _share(row["f1"]),
            )
    return table


def _patient_table(summary: dict[str, Any]) -> Table:
    table = Table(title="patients, share [95 % interval]", title_justify="left")
    columns = ("class", "with", "without", "sensitivity", "specificity", "harmonic mean")
    _add_columns(table, columns)
    for name, row in summary["patients"].items():
        table.add_row(
            name,
            str(row["with_lesion"]),
            str(row["without_lesion"]),
            *(
                _with_ends(row[key], *row["intervals"][key])
                for key in ("sensitivity", "specificity", "harmonic_mean")
            ),
        )
    return table


def _bounds_table(bounds: dict[str, Any]) -> Table:
    table = Table(
        title="partial labels: measured \\[pessimistic, optimistic]", title_justify="left"
    )
    titles = {"precision": "precision", "f1": "F1", "specificity": "specificity"}
    if any("dice" in row for row in bounds["classes"].values()):
        titles["dice"] = "DSC"
    _add_columns(table, ("class", "unverified", *titles.values()))
    for name, row in bounds["classes"].items():
        table.add_row(name, str(row["unverified_lesions"]), *(_bounded(row[key]) for key in titles))
    healthy = bounds["healthy_false_positive_rate"]
    table.caption = f"healthy scans with a predicted lesion: {_bounded(healthy)}"
    return table


def render_comparison(comparison: dict[str, Any]) -> Table:
    """Return the paired differences as a table for a terminal."""
    title = f"{comparison['difference']}, {comparison['cases']} cases, mean [95 % interval] (n)"
    table = Table(title=title, title_justify="left", caption=comparison["test"])
    _add_columns(table, ("class", "figure", "difference", "better, equal, worse", "p"))
    for name, figures in comparison["classes"].items():
        for number, (figure, row) in enumerate(figures.items()):
            counts = ", ".join(str(row[key]) for key in ("better", "equal", "worse"))
            p_value = "-" if row["p_value"] is None else f"{row['p_value']:.2g}"
            title = "" if number else name
            table.add_row(title, figure.replace("_", " "), _mean(row), counts, p_value)
    return table


def _add_columns(table: Table, columns: Sequence[str]) -> None:
    """Add columns; class names, in the first, are never cut."""
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")


def _mean(content: dict[str, Any]) -> str:
    if content["n"] == 0:
        return "- (0)"
    return (
        f"{content['mean']:.3f} \\[{content['lower']:.3f}, {content['upper']:.3f}] ({content['n']})"
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bounded(row: dict[str, Any]) -> str:
    return _with_ends(row["measured"], row["pessimistic"], row["optimistic"])


def _with_ends(value: float | None, first: float | None, second: float | None) -> str:
    if first is None and second is None:
        return _share(value)
    return f"{_share(value)} \\[{_share(first)}, {_share(second)}]"


def _cell(value: float | None) -> float | str:
    """Return a number for a table; empty where it is not defined."""
    return "" if value is None else value
