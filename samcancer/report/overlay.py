"""One CT slice with the outlines of reference and prediction: as inline SVG and as a PNG picture.

Conventions: slices are (row, column) of a canonical volume, rows towards the patient's back and
columns towards the patient's left, so the patient's right is on the left of the picture. SVG
drawings are laid out in millimetres, which keeps the in-plane aspect right for any voxel shape.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from samcancer.config import WindowHu
from samcancer.files import atomic_path
from samcancer.report.outlines import outlines, svg_path

REFERENCE_RGB = (86, 180, 233)
"""Sky blue and orange of Okabe and Ito: apart for every kind of colour vision, and on grey."""
PREDICTION_RGB = (255, 170, 0)

BODY_HU = -400.0
"""Voxels above this count as patient when a picture is cropped."""
_CROP_MARGIN_MM = 12.0
_FOCUS_MARGIN_MM = 40.0
"""Surroundings shown on every side of what is marked."""
_LEAST_FOCUS_MM = 150.0
_SCALE_BAR_MM = 50
_WEBP_QUALITY = 78
LABEL_SHARE = 0.036
"""Height of lettering as a share of the picture's width."""

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CropBox:
    """A rectangle of voxels; the stops are excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def of(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return the part of a (rows, columns) array."""
        return array[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Mark:
    """A word put beside a region of a slice."""

    text: str
    row: float
    column: float
    kind: str
    """``missed``, ``false`` or ``name``; decides the colour."""


@dataclass(frozen=True)
class SlicePicture:
    """What is drawn of one slice."""

    hu: npt.NDArray[np.int16]
    row_spacing_mm: float
    column_spacing_mm: float
    window_hu: WindowHu
    crop: CropBox


def body_box(hu: npt.NDArray[np.int16], spacing_mm: tuple[float, float]) -> CropBox:
    """Return the rectangle around everything denser than air, with a margin.

    Args:
        hu: (rows, columns).
        spacing_mm: Between rows and between columns.
    """
    body = hu > BODY_HU
    if not body.any():
        return CropBox(0, hu.shape[0], 0, hu.shape[1])
    ends = []
    for axis, spacing in ((1, spacing_mm[0]), (0, spacing_mm[1])):
        inside = np.flatnonzero(np.count_nonzero(body, axis=axis) > 1)
        inside = inside if inside.size else np.arange(body.shape[1 - axis])
        margin = round(_CROP_MARGIN_MM / spacing)
        ends += [max(int(inside[0]) - margin, 0), int(inside[-1]) + 1 + margin]
    return CropBox(ends[0], min(ends[1], hu.shape[0]), ends[2], min(ends[3], hu.shape[1]))


def focus_box(marked: Mask, body: CropBox, spacing_mm: tuple[float, float]) -> CropBox:
    """Return the part of the body around what is marked; the whole body when nothing is.

    Args:
        marked: (rows, columns) voxels that have to be seen.
        body: From :func:`body_box`; the result stays inside where it can.
        spacing_mm: Between rows and between columns.
    """
    if not marked.any():
        return body
    limits = ((body.top, body.bottom), (body.left, body.right))
    ends = []
    for axis, (low, high) in enumerate(limits):
        inside = np.flatnonzero(marked.any(axis=1 - axis))
        centre = (inside[0] + inside[-1] + 1) / 2
        extent_mm = (inside[-1] + 1 - inside[0]) * spacing_mm[axis] + 2 * _FOCUS_MARGIN_MM
        half = max(extent_mm, _LEAST_FOCUS_MM) / 2 / spacing_mm[axis]
        start = min(max(round(centre - half), low), int(inside[0]))
        stop = max(min(round(centre + half), high), int(inside[-1]) + 1)
        ends += [start, stop]
    return CropBox(*ends)


def grey(picture: SlicePicture) -> npt.NDArray[np.uint8]:
    """Return the cropped slice as grey levels of its window."""
    low, high = picture.window_hu
    part = picture.crop.of(picture.hu).astype(np.float32)
    return np.asarray(np.clip((part - low) / (high - low), 0, 1) * 255 + 0.5, dtype=np.uint8)


def image_symbol(picture: SlicePicture, identifier: str) -> str:
    """Return the CT as an SVG image in mm, to be shown by :func:`panel` through its identifier."""
    buffer = io.BytesIO()
    Image.fromarray(grey(picture)).save(buffer, format="WEBP", quality=_WEBP_QUALITY, method=6)
    width_mm, height_mm = extent_mm(picture)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<image id="{identifier}" width="{width_mm:.2f}" height="{height_mm:.2f}" '
        f'preserveAspectRatio="none" href="data:image/webp;base64,{data}"/>'
    )


def panel(
    picture: SlicePicture,
    identifier: str,
    *,
    reference: Mapping[str, Mask],
    prediction: Mapping[str, Mask],
    marks: tuple[Mark, ...],
    description: str,
) -> str:
    """Return one picture with outlines as SVG.

    Args:
        picture: The slice.
        identifier: Of the image that :func:`image_symbol` defined.
        reference: Class title -> (rows, columns) mask.
        prediction: Likewise.
        marks: Words beside regions, in voxels of the uncropped slice.
        description: Said by screen readers.
    """
    width_mm, height_mm = extent_mm(picture)
    row_mm, column_mm = picture.row_spacing_mm, picture.column_spacing_mm
    layers = [
        f'<path class="outline {kind}" d="{path}"><title>{kind}: {escape(title)}</title></path>'
        for kind, masks in (("reference", reference), ("prediction", prediction))
        for title, mask in masks.items()
        if (path := svg_path(outlines(picture.crop.of(mask).astype(np.bool_))))
    ]
    size = LABEL_SHARE * width_mm
    letters = [_svg_mark(mark, picture, size) for mark in marks]
    return (
        f'<svg class="slice" viewBox="0 0 {width_mm:.2f} {height_mm:.2f}" role="img" '
        f'aria-label="{escape(description, quote=True)}" style="font-size:{size:.2f}px">'
        f'<use href="#{identifier}"/>'
        f'<g transform="scale({column_mm:.6g} {row_mm:.6g})">{"".join(layers)}</g>'
        f'<g class="marks">{"".join(letters)}</g>{scale_and_sides(picture)}</svg>'
    )


def extent_mm(picture: SlicePicture) -> tuple[float, float]:
    """Return width and height of the cropped picture."""
    box = picture.crop
    return (
        (box.right - box.left) * picture.column_spacing_mm,
        (box.bottom - box.top) * picture.row_spacing_mm,
    )


def scale_and_sides(picture: SlicePicture) -> str:
    """Return the scale bar and the letters of the patient's sides as SVG."""
    width_mm, height_mm = extent_mm(picture)
    size_mm = LABEL_SHARE * width_mm
    bar = _SCALE_BAR_MM if width_mm > 2 * _SCALE_BAR_MM else _SCALE_BAR_MM // 5
    x, y = width_mm - bar - size_mm, height_mm - size_mm
    return (
        f'<path class="scale" d="M{x:.1f} {y:.1f}h{bar}"/>'
        f'<text class="scale-text" text-anchor="middle" x="{x + bar / 2:.1f}" '
        f'y="{y - 0.4 * size_mm:.1f}">{bar} mm</text>'
        f'<text class="scale-text" x="{0.5 * size_mm:.1f}" y="{height_mm / 2:.1f}">R</text>'
        f'<text class="scale-text" text-anchor="end" x="{width_mm - 0.5 * size_mm:.1f}" '
        f'y="{height_mm / 2:.1f}">L</text>'
    )


def write_picture(
    path: Path,
    picture: SlicePicture,
    *,
    reference: Mask,
    predictions: Mapping[str, Mask],
    zoom: int = 3,
) -> None:
    """Write a PNG row of pictures, one per prediction, isotropic, outlines at ``zoom`` times."""
    parts = [
        _drawn(picture, title, reference, prediction, zoom)
        for title, prediction in predictions.items()
    ]
    gap = 2 * zoom
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (width, parts[0].height), (255, 255, 255))
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _drawn(
    picture: SlicePicture, title: str, reference: Mask, prediction: Mask, zoom: int
) -> Image.Image:
    width_mm, height_mm = extent_mm(picture)
    scale = zoom / min(picture.row_spacing_mm, picture.column_spacing_mm)
    size = (round(width_mm * scale), round(height_mm * scale))
    image = Image.fromarray(grey(picture)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    draw = ImageDraw.Draw(image)
    for mask, colour, width in (
        (reference, REFERENCE_RGB, zoom),
        (prediction, PREDICTION_RGB, max(zoom // 2, 1)),
    ):
        for loop in outlines(picture.crop.of(mask).astype(np.bool_)):
            places = [
                (
                    column * picture.column_spacing_mm * scale,
                    row * picture.row_spacing_mm * scale,
                )
                for column, row in [*loop, loop[0]]
            ]
            draw.line(places, fill=colour, width=width, joint="curve")
    draw.text(
        (4 * zoom, 3 * zoom),
        title,
        fill=(255, 255, 255),
        font_size=max(4 * zoom, 10),
        stroke_width=1,
        stroke_fill=(0, 0, 0),
    )
    return image


def _svg_mark(mark: Mark, picture: SlicePicture, size_mm: float) -> str:
    width_mm, height_mm = extent_mm(picture)
    x = (mark.column - picture.crop.left) * picture.column_spacing_mm
    y = (mark.row - picture.crop.top) * picture.row_spacing_mm - 0.4 * size_mm
    half = 0.3 * size_mm * len(mark.text)
    x = min(max(x, half), max(width_mm - half, half))
    y = min(max(y, size_mm), height_mm - 0.3 * size_mm)
    return (
        f'<text class="mark {mark.kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">'
        f"{escape(mark.text)}</text>"
    )
