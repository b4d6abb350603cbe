"""The index of a folder of scan pages: ``index.html``, one row a scan, and what they add up to.

The index is made of the pages themselves: each holds a summary in its head, so that pages of
earlier runs are listed as well, and nothing has to be kept beside them.
"""

from __future__ import annotations

import datetime
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from urllib.parse import quote

from samcancer import __version__
from samcancer.files import TEMPORARY_PREFIX, write_text_atomic
from samcancer.report.charts import bar_chart
from samcancer.report.scan.page import SUMMARY_ID, script_hash

INDEX_NAME = "index.html"

_SUMMARY_BYTES = 1 << 18
"""The summary lies within so many bytes of a page's start."""

_SUMMARY = re.compile(f'<script type="application/json" id="{SUMMARY_ID}">(.*?)</script>', re.S)
_PICTURE = re.compile(r"data:image/webp;base64,[A-Za-z0-9+/=]+")

_SIZE_BANDS_ML = (0.1, 1.0, 10.0, 100.0)
"""Borders between the bars of lesion sizes."""

_MOST_COUNTED = 5
"""Scans with more lesions than this share a bar."""


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """What a page says of its scan."""

    page: str
    case_id: str
    slices: int
    lesion_volumes_ml: tuple[float, ...]
    volumes_ml: Mapping[str, float]
    """Title of a lesion class -> volume."""
    warnings: tuple[str, ...]
    thumbnail: str
    """Data URI; empty where there is none."""


def page_name(case_id: str) -> str:
    """Return the file name of a case's page; a case called ``index`` steps aside for the index."""
    name = f"{case_id}.html"
    return f"{case_id}_.html" if name.lower() == INDEX_NAME else name


def write_index(
    folder: Path, *, title: str = "Scans", failures: Mapping[str, str] | None = None
) -> None:
    """Write ``index.html`` of all scan pages in a folder, atomically.

    Args:
        folder: Where the pages are.
        title: Heading.
        failures: Case id -> why it has no page; no paths.

    Raises:
        InputError: When the folder cannot be written.
    """
    failures = failures or {}
    rows = read_rows(folder)
    resource = resources.files("samcancer.report")
    script = resource.joinpath("scan/index.js").read_text(encoding="utf-8")
    style = [resource.joinpath(name).read_text("utf-8") for name in ("page.css", "scan/scan.css")]
    text = Template(resource.joinpath("scan/index.html").read_text("utf-8")).substitute(
        version=escape(__version__),
        title=escape(title),
        lead=escape(_lead(rows, failures)),
        style="".join(style),
        sections=_failures(failures) + _table(rows) + _charts(rows),
        script=script,
        script_hash=script_hash(script),
        date=datetime.date.today().isoformat(),
    )
    write_text_atomic(folder / INDEX_NAME, text)


def read_rows(folder: Path) -> list[CaseRow]:
    """Return the rows of all scan pages in a folder by case id; other pages are left out."""
    rows = []
    for path in sorted(folder.glob("*.html")):
        if path.name == INDEX_NAME or path.name.startswith(TEMPORARY_PREFIX):
            continue
        with path.open("rb") as stream:
            head = stream.read(_SUMMARY_BYTES).decode("utf-8", errors="replace")
        found = _SUMMARY.search(head)
        if found and (row := _row(path.name, found[1])):
            rows.append(row)
    return sorted(rows, key=lambda row: row.case_id)


def _row(page: str, summary: str) -> CaseRow | None:
    """Return the row of a page; None where its summary is not of this program's form."""
    try:
        content = json.loads(summary)
        thumbnail = str(content["thumbnail"])
        return CaseRow(
            page=page,
            case_id=str(content["case"]),
            slices=int(content["slices"]),
            lesion_volumes_ml=tuple(float(v) for v in content["lesion_volumes_ml"]),
            volumes_ml={str(n): float(v) for n, v in content["volumes_ml"].items()},
            warnings=tuple(str(line) for line in content["warnings"]),
            thumbnail=thumbnail if _PICTURE.fullmatch(thumbnail) else "",
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _lead(rows: Sequence[CaseRow], failures: Mapping[str, str]) -> str:
    found = sum(bool(row.lesion_volumes_ml) for row in rows)
    lesions = sum(len(row.lesion_volumes_ml) for row in rows)
    warned = sum(bool(row.warnings) for row in rows)
    return (
        f"Scans: {len(rows)}, of them {found} with lesions and {warned} with warnings. "
        f"Lesions: {lesions}. Failed: {len(failures)}."
    )


def _failures(failures: Mapping[str, str]) -> str:
    if not failures:
        return ""
    items = "".join(
        f"<li><strong>{escape(case_id)}:</strong> {escape(fact)}.</li>"
        for case_id, fact in failures.items()
    )
    return f'<section id="failures"><h2>Failed</h2><ul class="alerts">{items}</ul></section>'


def _table(rows: Sequence[CaseRow]) -> str:
    if not rows:
        return '<section id="scans"><h2>Scans</h2><p>There is no page of a scan here.</p></section>'
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update(row.volumes_ml)
    titles = [title for title, volume_ml in totals.most_common() if volume_ml > 0]
    heads = [("Case", False), ("Slices", True), ("Lesions", True), ("Largest, ml", True)]
    heads += [("Warnings", True), *((f"{title}, ml", True) for title in titles)]
    cells = "".join(
        f'<th scope="col"{" class=number" if number else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        for name, number in heads
    )
    return (
        '<section id="scans"><h2>Scans</h2><label class="filter" hidden>Find a case '
        '<input id="filter" type="search" autocomplete="off"></label>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Scans"><table class="cases">'
        f'<thead><tr><th scope="col"><span class="hidden">Picture</span></th>{cells}</tr></thead>'
        f"<tbody>{''.join(_case(row, titles) for row in rows)}</tbody></table></div></section>"
    )


def _case(row: CaseRow, titles: Sequence[str]) -> str:
    link = escape(quote(row.page), quote=True)
    largest_ml = max(row.lesion_volumes_ml, default=0.0)
    picture = f'<img alt="" src="{row.thumbnail}">' if row.thumbnail else ""
    warnings = ""
    if row.warnings:
        lines = "".join(f"<li>{escape(line)}</li>" for line in row.warnings)
        warnings = f"<details><summary>{len(row.warnings)}</summary><ul>{lines}</ul></details>"
    numbers = [
        (row.slices, str(row.slices)),
        (len(row.lesion_volumes_ml), str(len(row.lesion_volumes_ml))),
        (largest_ml, _ml(largest_ml)),
        (len(row.warnings), warnings or "0"),
        *((v, _ml(v)) for v in (row.volumes_ml.get(title, 0.0) for title in titles)),
    ]
    return (
        f'<tr><td class="thumb"><a href="{link}" tabindex="-1" aria-hidden="true">{picture}</a>'
        f'</td><th scope="row" data-key="{escape(row.case_id, quote=True)}">'
        f'<a href="{link}">{escape(row.case_id)}</a></th>'
        + "".join(f'<td class="number" data-key="{key}">{text}</td>' for key, text in numbers)
        + "</tr>"
    )


def _charts(rows: Sequence[CaseRow]) -> str:
    sizes_ml = [volume for row in rows for volume in row.lesion_volumes_ml]
    if not sizes_ml:
        return ""
    counts = Counter(min(len(row.lesion_volumes_ml), _MOST_COUNTED + 1) for row in rows)
    names = [*map(str, range(_MOST_COUNTED + 1)), f"over {_MOST_COUNTED}"]
    per_scan = [(name, counts[number]) for number, name in enumerate(names)]
    bands = Counter(sum(size >= border for border in _SIZE_BANDS_ML) for size in sizes_ml)
    classes: Counter[str] = Counter()
    for row in rows:
        classes.update(title for title, volume_ml in row.volumes_ml.items() if volume_ml > 0)
    figures = (
        ("Lesions of a scan", per_scan, "scans"),
        ("Size of lesions", [(n, bands[i]) for i, n in enumerate(_band_names())], "lesions"),
        ("Scans with a class", classes.most_common(), "scans"),
    )
    drawn = "".join(
        f"<figure><h3>{name}</h3>{bar_chart(bars, title=name, x_label=unit)}</figure>"
        for name, bars, unit in figures
    )
    return f'<section id="charts"><h2>In all</h2><div class="figures">{drawn}</div></section>'


def _band_names() -> list[str]:
    pairs = itertools.pairwise(_SIZE_BANDS_ML)
    return [
        f"under {_SIZE_BANDS_ML[0]:g} ml",
        *(f"{low:g} to {high:g} ml" for low, high in pairs),
        f"{_SIZE_BANDS_ML[-1]:g} ml and more",
    ]


def _ml(volume_ml: float) -> str:
    if volume_ml == 0:
        return "–"
    return f"{volume_ml:.2f}" if volume_ml < 10 else f"{volume_ml:.1f}"
