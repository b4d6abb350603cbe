"""The whole scan seen from the front and from the side: maximum intensity projections.

Conventions: rows of a projection run from the head down; columns towards the patient's left (from
the front) or back (from the side, face to the left). Drawings are laid out in millimetres.
"""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from samcancer.report.outlines import outlines, svg_path
from samcancer.report.scan.case import ScanCase

_WINDOW_HU = (-150.0, 800.0)
"""Bone is bright and soft tissue is still seen behind it."""

_QUALITY = 75
_FRONT, _SIDE = 1, 2
"""Array axes along which to look."""

_WIDE = 1.3
"""Width over height from which one projection is shown below the other."""

_TINT = 0.6
"""Share of the lesion's colour in a thumbnail."""

_THUMBNAIL_SIDE = 120
"""Largest side of a thumbnail in pixels."""


def projections_html(case: ScanCase) -> str:
    """Return both projections as figures with lesion outlines and a line for the slice shown."""
    column_mm, _, slice_mm = case.geometry.spacing_mm
    slices, _, columns = case.hu.shape
    layout = " wide" if columns * column_mm > _WIDE * slices * slice_mm else ""
    front = _figure(case, _FRONT, "From the front", ("R", "L"))
    side = _figure(case, _SIDE, "From the side", ("A", "P"))
    return f'<div class="projections{layout}">{front}{side}</div>'


def thumbnail(case: ScanCase) -> str:
    """Return the view from the front, lesions coloured, as a data URI of a small picture."""
    grey = _projected(case.hu, _FRONT)
    picture = np.repeat(grey[..., None], 3, axis=2)
    for shown in _lesion_classes(case):
        seen = _seen(case.labels, shown[0], _FRONT)
        colour = np.array([int(shown[2][start : start + 2], 16) for start in (1, 3, 5)])
        picture[seen] = (1 - _TINT) * picture[seen] + _TINT * colour
    column_mm, _, slice_mm = case.geometry.spacing_mm
    width_mm, height_mm = picture.shape[1] * column_mm, picture.shape[0] * slice_mm
    scale = _THUMBNAIL_SIDE / max(width_mm, height_mm)
    size = (max(round(width_mm * scale), 1), max(round(height_mm * scale), 1))
    return _data_uri(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _figure(case: ScanCase, axis: int, title: str, sides: tuple[str, str]) -> str:
    slices = len(case.hu)
    column_mm, row_mm, slice_mm = case.geometry.spacing_mm
    step_mm = column_mm if axis == _FRONT else row_mm
    grey = _projected(case.hu, axis)
    width_mm, height_mm = grey.shape[1] * step_mm, slices * slice_mm
    paths = [
        f'<path class="outline lesion" style="stroke:{colour}" d="{path}">'
        f"<title>{escape(name)}</title></path>"
        for label, name, colour in _lesion_classes(case)
        if (path := svg_path(outlines(_seen(case.labels, label, axis))))
    ]
    size = 0.045 * max(width_mm, height_mm)
    left, right = sides
    letters = "".join(
        f'<text class="scale-text" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{letter}</text>'
        for letter, x, y, anchor in (
            (left, 0.3 * size, height_mm / 2, "start"),
            (right, width_mm - 0.3 * size, height_mm / 2, "end"),
            ("H", width_mm / 2, 1.1 * size, "middle"),
            ("F", width_mm / 2, height_mm - 0.4 * size, "middle"),
        )
    )
    return (
        f'<figure class="projection"><svg class="slice" viewBox="0 0 {width_mm:.2f} '
        f'{height_mm:.2f}" role="img" aria-label="Maximum intensity projection, {title.lower()}" '
        f'style="font-size:{size:.2f}px"><image width="{width_mm:.2f}" height="{height_mm:.2f}" '
        f'preserveAspectRatio="none" href="{_data_uri(Image.fromarray(grey))}"/>'
        f'<g transform="scale({step_mm:.6g} {slice_mm:.6g})">{"".join(paths)}</g>{letters}'
        f'<line class="cut" x1="0" x2="{width_mm:.2f}" y1="0" y2="0" data-slices="{slices}" '
        f'data-height="{height_mm:.3f}"/></svg><figcaption>{title}</figcaption></figure>'
    )


def _lesion_classes(case: ScanCase) -> list[tuple[int, str, str]]:
    return [
        (shown.label, shown.title, shown.colour)
        for shown in case.classes
        if shown.kind == "lesion" and shown.label is not None
    ]


def _projected(hu: npt.NDArray[np.int16], axis: int) -> npt.NDArray[np.uint8]:
    low, high = _WINDOW_HU
    densest = hu.max(axis=axis)[::-1].astype(np.float32)
    return np.asarray(np.clip((densest - low) / (high - low), 0, 1) * 255, dtype=np.uint8)


def _seen(labels: npt.NDArray[np.uint8], label: int, axis: int) -> npt.NDArray[np.bool_]:
    return np.asarray((labels == label).any(axis=axis)[::-1])


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
