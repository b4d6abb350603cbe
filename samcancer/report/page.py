"""The HTML page: parts as plain dataclasses, put together into one self-contained file.

The page asks for nothing: styles, drawings and pictures are inside it, and a content-security
policy forbids any request. Strings of the dataclasses are plain text and are escaped here; fields
whose name ends in ``_html`` or ``_svg`` hold markup made by this package.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from string import Template

from samcancer import __version__
from samcancer.report.overlay import PREDICTION_RGB, REFERENCE_RGB


@dataclass(frozen=True)
class Cell:
    """A table cell with a main text and, under it, its interval or count."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose columns after ``text_columns`` hold numbers."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    text_columns: int = 1
    groups: tuple[int, ...] = ()
    """Row indices above which a stronger rule is drawn."""


@dataclass(frozen=True)
class Figure:
    """A chart with its key and caption."""

    title: str
    chart_svg: str
    legend_html: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Panel:
    """One picture of a slice."""

    title: str
    slice_svg: str
    caption: str


@dataclass(frozen=True)
class View:
    """One slice of a patient, seen with each arm's prediction."""

    caption: str
    image_svg: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Card:
    """One patient."""

    case_id: str
    summary: str
    views: tuple[View, ...]
    table: Table | None = None


@dataclass(frozen=True)
class Page:
    """Everything on the page; empty parts are left out."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    score_figures: tuple[Figure, ...] = ()
    training_figures: tuple[Figure, ...] = ()
    cards: tuple[Card, ...] = ()
    cards_note: str = ""
    notes: tuple[str, ...] = ()
    date: datetime.date = field(default_factory=datetime.date.today)


def render(page: Page) -> str:
    """Return the page as HTML text."""
    sections = [
        ("run", "What was run", _facts(page)),
        (
            "results",
            "Results",
            "".join(map(_table, page.tables)) + _figures(page.score_figures),
        ),
        ("training", "Training", _figures(page.training_figures)),
        ("patients", "Patients", _patients(page)),
    ]
    kept = [section for section in sections if section[2]]
    folder = resources.files("samcancer.report")
    return Template(folder.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        version=escape(__version__),
        title=escape(page.title),
        lead=escape(page.lead),
        style=_outline_colours() + folder.joinpath("page.css").read_text(encoding="utf-8"),
        symbols="".join(view.image_svg for card in page.cards for view in card.views),
        navigation="".join(f'<a href="#{key}">{name}</a>' for key, name, _ in kept),
        sections="".join(
            f'<section id="{key}"><h2>{name}</h2>{content}</section>' for key, name, content in kept
        ),
        notes="".join(f"<p>{escape(note)}</p>" for note in page.notes),
        date=page.date.isoformat(),
    )


def _outline_colours() -> str:
    """Return the style sheet's variables that the pictures share with drawn PNG files."""
    red_green_blue = {"reference": REFERENCE_RGB, "prediction": PREDICTION_RGB}
    rules = (f"--{name}: rgb{value};" for name, value in red_green_blue.items())
    return f":root {{ {' '.join(rules)} }}\n"


def _facts(page: Page) -> str:
    parts = []
    if page.facts:
        items = "".join(
            f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in page.facts
        )
        parts.append(f'<dl class="facts">{items}</dl>')
    if page.commands:
        lines = "\n".join(map(escape, page.commands))
        parts.append(
            f"<details><summary>Commands ({len(page.commands)})</summary><pre>{lines}</pre>"
            "</details>"
        )
    return "".join(parts)


def _table(table: Table) -> str:
    def classes(column: int) -> str:
        return ' class="number"' if column >= table.text_columns else ""

    head = "".join(
        f'<th scope="col"{classes(column)}>{escape(name)}</th>'
        for column, name in enumerate(table.header)
    )
    rows = []
    for number, row in enumerate(table.rows):
        cells = "".join(
            f"<th scope=row>{_cell(cell)}</th>"
            if column == 0
            else f"<td{classes(column)}>{_cell(cell)}</td>"
            for column, cell in enumerate(row)
        )
        start = ' class="group-start"' if number in table.groups else ""
        rows.append(f"<tr{start}>{cells}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f"<table><caption>{escape(table.caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _cell(cell: Cell) -> str:
    below = f'<span class="range">{escape(cell.below)}</span>' if cell.below else ""
    return f"{escape(cell.text)}{below}"


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    parts = [
        f"<figure><h3>{escape(figure.title)}</h3>{figure.chart_svg}{figure.legend_html}"
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        for figure in figures
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


_KEY = """<div class="key" role="group" aria-label="What the outlines mean">
<label><input type="checkbox" data-layer="reference" checked><span class="stroke reference"></span>reference (wide)</label>
<label><input type="checkbox" data-layer="prediction" checked><span class="stroke prediction"></span>prediction (narrow)</label>
<label><input type="checkbox" data-layer="marks" checked>names, missed and false lesions</label>
</div>"""  # noqa: E501 - markup reads best unbroken
"""The legend of the overlays; its boxes switch the layers."""


def _patients(page: Page) -> str:
    if not page.cards:
        return ""
    note = f'<p class="note">{escape(page.cards_note)}</p>' if page.cards_note else ""
    return note + _KEY + "".join(map(_card, page.cards))


def _card(card: Card) -> str:
    table = _table(card.table) if card.table else ""
    views = "".join(map(_view, card.views))
    return (
        f"<article><h3>{escape(card.case_id)}</h3><p>{escape(card.summary)}</p>{table}{views}"
        "</article>"
    )


def _view(view: View) -> str:
    panels = []
    for panel in view.panels:
        whole = escape(f"{panel.title}: {panel.caption}. {view.caption}", quote=True)
        panels.append(
            f'<figure class="panel"><button class="enlarge" type="button" data-caption="{whole}" '
            f'aria-label="Enlarge: {whole}">{panel.slice_svg}</button>'
            f'<figcaption class="caption"><strong>{escape(panel.title)}</strong> '
            f"{escape(panel.caption)}</figcaption></figure>"
        )
    return (
        f'<div class="view"><p class="caption">{escape(view.caption)}</p>'
        f'<div class="panels">{"".join(panels)}</div></div>'
    )
