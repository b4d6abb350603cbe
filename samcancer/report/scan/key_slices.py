"""A still picture per lesion, with outline and diameters on its key slice, for print as well."""

from __future__ import annotations

from html import escape

import numpy as np
import numpy.typing as npt

from samcancer.config import WindowHu
from samcancer.report.outlines import outlines, svg_path
from samcancer.report.overlay import (
    LABEL_SHARE,
    CropBox,
    SlicePicture,
    body_box,
    extent_mm,
    focus_box,
    image_symbol,
    scale_and_sides,
)
from samcancer.report.scan.case import ScanCase
from samcancer.report.scan.lesions import ShownLesion
from samcancer.report.scan.sections import volume_words

MAX_PICTURES = 24
"""Largest lesions that get a picture of their own; the viewer shows them all."""


def key_slices_html(case: ScanCase, lesions: tuple[ShownLesion, ...]) -> str:
    """Return figures of the largest lesions in the order of the table."""
    largest = sorted(range(len(lesions)), key=lambda i: -lesions[i].volume_ml)[:MAX_PICTURES]
    return "".join(_figure(case, lesions[index], index) for index in sorted(largest))


def _figure(case: ScanCase, lesion: ShownLesion, index: int) -> str:
    shown = case.class_of(lesion.label)
    plane = np.ascontiguousarray(case.hu[lesion.key_slice])
    labels = case.labels[lesion.key_slice]
    column_mm, row_mm, _ = case.geometry.spacing_mm
    picture = SlicePicture(
        hu=plane,
        row_spacing_mm=row_mm,
        column_spacing_mm=column_mm,
        window_hu=shown.window_hu,
        crop=_crop(lesion, plane, (row_mm, column_mm)),
    )
    where = f"Slice {lesion.key_slice + 1} of {len(case.hu)} from the feet"
    identifier = f"key-{index}"
    return (
        f'<figure class="key-slice"><svg class="slice" viewBox="0 0 {_size(picture)}" role="img" '
        f'aria-label="{escape(f"{lesion.name}, {where}", quote=True)}" '
        f'style="font-size:{LABEL_SHARE * extent_mm(picture)[0]:.2f}px">'
        f"{image_symbol(picture, identifier)}{_layers(case, picture, labels)}"
        f"{_diameters(lesion, picture)}{scale_and_sides(picture)}</svg>"
        f"<figcaption><strong>{escape(lesion.name)}</strong> {_caption(lesion, where)}, "
        f"{_window(shown.window_hu)}</figcaption></figure>"
    )


def _crop(
    lesion: ShownLesion,
    plane: npt.NDArray[np.int16],
    spacing_mm: tuple[float, float],
) -> CropBox:
    """Surround the diameters of the lesion."""
    xs, ys = zip(*lesion.long_axis, *lesion.short_axis, strict=True)
    marked = np.zeros(plane.shape, dtype=np.bool_)
    rows = slice(max(round(min(ys)), 0), round(max(ys)) + 1)
    columns = slice(max(round(min(xs)), 0), round(max(xs)) + 1)
    marked[rows, columns] = True
    return focus_box(marked, body_box(plane, spacing_mm), spacing_mm)


def _layers(case: ScanCase, picture: SlicePicture, labels: npt.NDArray[np.uint8]) -> str:
    paths = []
    for shown in case.classes:
        if shown.label is None:
            continue
        mask = picture.crop.of(labels == shown.label).astype(np.bool_)
        if path := svg_path(outlines(mask)):
            paths.append(
                f'<path class="outline {shown.kind}" style="stroke:{shown.colour}" d="{path}">'
                f"<title>{escape(shown.title)}</title></path>"
            )
    scale = f"{picture.column_spacing_mm:.6g} {picture.row_spacing_mm:.6g}"
    return f'<g transform="scale({scale})">{"".join(paths)}</g>'


def _diameters(lesion: ShownLesion, picture: SlicePicture) -> str:
    drawn = []
    for (x0, y0), (x1, y1) in (lesion.long_axis, lesion.short_axis):
        ends = (
            (x0 + 0.5 - picture.crop.left) * picture.column_spacing_mm,
            (y0 + 0.5 - picture.crop.top) * picture.row_spacing_mm,
            (x1 + 0.5 - picture.crop.left) * picture.column_spacing_mm,
            (y1 + 0.5 - picture.crop.top) * picture.row_spacing_mm,
        )
        drawn.append("M{:.2f} {:.2f}L{:.2f} {:.2f}".format(*ends))
    return f'<path class="diameter" d="{"".join(drawn)}"/>'


def _caption(lesion: ShownLesion, where: str) -> str:
    size = f"{lesion.long_axis_mm:.1f} × {lesion.short_axis_mm:.1f} mm"
    return f"{size}, {volume_words(lesion.volume_ml)}. {where}"


def _window(window_hu: WindowHu) -> str:
    return f"window {window_hu[0]:g} to {window_hu[1]:g} HU"


def _size(picture: SlicePicture) -> str:
    width_mm, height_mm = extent_mm(picture)
    return f"{width_mm:.2f} {height_mm:.2f}"
