"""The words of a scan's page: its first sentence, warnings, lesion table, classes and model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape

from samcancer.report.scan.case import ScanCase, ShownClass
from samcancer.report.scan.checks import Finding
from samcancer.report.scan.lesions import ShownLesion

_NONE = "–"
"""Shown where nothing was measured."""


def lead(case: ScanCase, lesions: Sequence[ShownLesion]) -> str:
    """Return the sentence under the title."""
    slices, rows, columns = case.hu.shape
    spacing = " × ".join(f"{v:.3g}" for v in case.geometry.spacing_mm)
    size = f"{slices} slices of {columns} × {rows} voxels, {spacing} mm each."
    if not lesions:
        return f"No lesion is outlined on this scan. {size}"
    volume_ml = sum(lesion.volume_ml for lesion in lesions)
    number = "1 lesion is" if len(lesions) == 1 else f"{len(lesions)} lesions are"
    return f"{number} outlined, {volume_ml:.3g} ml in all. {size}"


def volume_words(volume_ml: float) -> str:
    """Return a volume with its unit, with more decimals the smaller it is."""
    decimals = 1 if volume_ml >= 10 else 2 if volume_ml >= 0.1 else 3
    return f"{volume_ml:.{decimals}f} ml"


def warnings_html(findings: Iterable[Finding]) -> str:
    """Return the warnings as a list; nothing when there are none."""
    items = [
        f"<li><strong>Warning:</strong> {escape(finding.text)}</li>"
        for finding in findings
        if finding.severity == "warning"
    ]
    return f'<ul class="alerts" aria-label="Warnings">{"".join(items)}</ul>' if items else ""


def notes_html(findings: Iterable[Finding]) -> str:
    """Return the notes as paragraphs for below the viewer."""
    return "".join(
        f'<p class="note">{escape(finding.text)}</p>'
        for finding in findings
        if finding.severity == "note"
    )


def class_list_html(case: ScanCase) -> str:
    """Return the viewer's list of outlined classes, each with a box that hides it."""
    return "".join(
        f'<li><label><input type="checkbox" data-class="{shown.label}" checked>'
        f'<span class="chip" style="border-color:{shown.colour}"></span>{escape(shown.title)}'
        f'<span class="volume">{volume_words(shown.volume_ml)}</span></label></li>'
        for shown in case.classes
        if shown.label is not None and shown.volume_ml > 0
    )


def lesion_section(case: ScanCase, lesions: Sequence[ShownLesion], *, left_out: int = 0) -> str:
    """Return the table of lesions; its buttons lead to their key slices."""
    if not lesions:
        return _section("lesions", "Lesions", "<p>No lesion is outlined on this scan.</p>")
    columns: list[tuple[str, Callable[[ShownLesion], str]]] = [
        ("Volume", lambda lesion: volume_words(lesion.volume_ml)),
        ("Long axis", lambda lesion: f"{lesion.long_axis_mm:.1f} mm"),
        ("Short axis", lambda lesion: f"{lesion.short_axis_mm:.1f} mm"),
        ("Slices", lambda lesion: f"{lesion.first_slice + 1} to {lesion.last_slice + 1}"),
        ("HU", lambda lesion: f"{lesion.mean_hu:.0f} ± {lesion.sd_hu:.0f}"),
    ]
    note = (
        "Diameters follow RECIST 1.1: the longest line of the lesion in one axial slice, and the "
        "longest perpendicular to it in that slice. Slices count from 1 at the feet. HU are mean "
        "and standard deviation in the outline."
    )
    if any(lesion.probability is not None for lesion in lesions):
        columns.append(("Probability", lambda lesion: _figure(lesion.probability, ".2f")))
        note += " Probability is the network's mean in the outline."
    if any(lesion.agreement is not None for lesion in lesions):
        columns.append(("Agreement", lambda lesion: _figure(lesion.agreement, ".0%")))
        note += " Agreement is the share of the networks that mark a voxel of the lesion."
    if left_out:
        note += f" {left_out} smaller lesions are not listed."
    rows = []
    for index, lesion in enumerate(lesions):
        colour = case.class_of(lesion.label).colour
        button = (
            f'<button class="jump" type="button" data-lesion="{index}"><span class="chip" '
            f'style="border-color:{colour}"></span>{escape(lesion.name)}</button>'
        )
        rows.append(
            f'<tr data-lesion="{index}"><th scope="row">{button}</th>'
            f"<td>{escape(lesion.class_title)}</td>"
            + "".join(f'<td class="number">{cell(lesion)}</td>' for _, cell in columns)
            + "</tr>"
        )
    head = ("Lesion", "Class", *(name for name, _ in columns))
    return _section("lesions", "Lesions", _table("Lesions", head, rows, text=2) + _note(note))


def class_section(case: ScanCase, lesions: Sequence[ShownLesion]) -> str:
    """Return what was looked for, found or not."""
    counts = {shown.label: 0 for shown in case.classes}
    for lesion in lesions:
        counts[lesion.label] += 1
    rows = [
        f'<tr><th scope="row">{escape(shown.title)}</th><td>{shown.kind}</td>'
        f"<td>{_found(shown, counts)}</td>"
        f'<td class="number">{_figure(shown.presence, ".2f")}</td>'
        f'<td class="number">{_figure(shown.threshold, ".2f")}</td></tr>'
        for shown in sorted(case.classes, key=lambda s: (s.kind != "lesion", s.volume_ml == 0))
    ]
    head = ("Class", "Kind", "Found", "Highest presence", "Threshold")
    table = _table("Classes", head, rows, text=3)
    if "model" not in case.report:
        return _section("classes", "Classes of the mask", table)
    note = (
        "A class is outlined only where its presence probability on a slice reaches the threshold. "
        "What is not in this table was not looked for; a class not found may still be there."
    )
    return _section("classes", "What was looked for", table + _note(note))


def model_section(case: ScanCase) -> str:
    """Return where the mask comes from."""
    model = case.report.get("model", {})
    hashes = "".join(f'<code class="sha">{escape(str(v))}</code>' for v in model.get("sha256", ()))
    facts = [
        ("Software", escape(str(case.report.get("software", "not stated")))),
        ("Networks (sha256)", hashes or "not stated: the mask has no report beside it"),
        ("Text embeddings (sha256)", _code(model.get("text_sha256"))),
        ("Slice classifier (sha256)", _code(model.get("region_sha256"))),
        ("Manual prompts", escape(str(case.report.get("prompts", 0)))),
        ("Scan (sha256)", _code(case.report.get("input", {}).get("sha256"))),
        ("Mask (sha256)", _code(case.report.get("mask", {}).get("sha256"))),
        (
            "Intended use",
            "Research on CT. Not a medical device; not for diagnosis or treatment. Performance on "
            "scanners, protocols and diseases other than those it was tested on is unknown.",
        ),
    ]
    items = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in facts if text)
    return _section("model", "Model", f'<dl class="facts">{items}</dl>')


def _found(shown: ShownClass, counts: dict[int | None, int]) -> str:
    if shown.volume_ml == 0:
        return "not found"
    number = counts.get(shown.label, 0) if shown.label is not None else 0
    if number == 0:
        return volume_words(shown.volume_ml)
    return f"{number} lesion{'s' if number > 1 else ''}, {volume_words(shown.volume_ml)}"


def _table(caption: str, head: Sequence[str], rows: Sequence[str], *, text: int) -> str:
    cells = "".join(
        f'<th scope="col"{" class=number" if column >= text else ""}>{name}</th>'
        for column, name in enumerate(head)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(key: str, title: str, content: str) -> str:
    return f'<section id="{key}"><h2>{title}</h2>{content}</section>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>" if value else ""


def _figure(value: float | None, form: str) -> str:
    return _NONE if value is None else f"{value:{form}}"
