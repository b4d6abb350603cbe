"""Prompts of a person: from millimetres in the patient to pixels of the network's slices.

Positions are those of DICOM and ITK: millimetres in LPS (x to the patient's left, y to posterior, z
to superior). A box spans slices; each of them gets its rectangle. A RECIST line is a lesion's
longest diameter, drawn in one slice: the lesion is taken for a ball around it, of which each slice
gets the square it needs. Only on the line's own slice is the lesion certain; above and below the
network decides whether it is still there.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.geometry import Geometry, canonicalise, require_same_grid
from samcancer.inplane import InPlaneGrid, resize_mask
from samcancer.modeling.manual_prompts import (
    BOX_FIRST,
    BOX_SECOND,
    NEGATIVE,
    POSITIVE,
    SlicePrompt,
)
from samcancer.volume_io import read_labels

PromptKind = Literal["recist", "box", "point", "negative"]

TABLE_COLUMNS = ("case", "class", "x1", "y1", "z1", "x2", "y2", "z2")
"""Of a table of prompts; ``kind`` is optional and ``recist`` without it."""

_FORM = "write CLASS=x1,y1,z1,x2,y2,z2 in mm (LPS)"
_POINT_FORM = "write CLASS=x,y,z in mm (LPS), and ,0 behind it for a point outside of the lesion"


@dataclass(frozen=True)
class PhysicalPrompt:
    """A point, a box or a line in the patient."""

    class_name: str
    kind: PromptKind
    first_mm: tuple[float, float, float]
    second_mm: tuple[float, float, float]
    """The opposite corner of a box, the other end of a line; of a point the point again."""


@dataclass(frozen=True)
class CasePrompts:
    """Everything a person says about one case."""

    given: tuple[PhysicalPrompt, ...] = ()
    mask: Path | None = None
    """Label map on the scan's own grid, in the model's numbers: rough masks to start from."""

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return bool(self.given) or self.mask is not None

    def sha256(self) -> str | None:
        """Return a hash of what is said; None when nothing is."""
        if not self:
            return None
        mask = None if self.mask is None else sha256_of(self.mask)
        return hashlib.sha256(repr((self.given, mask)).encode()).hexdigest()


NO_PROMPTS = CasePrompts()


def parse_box(text: str) -> PhysicalPrompt:
    """Read ``CLASS=x1,y1,z1,x2,y2,z2``.

    Raises:
        InputError: When it is anything else.
    """
    name, numbers = _parse(text, (6,), option="--box", mend=_FORM)
    return PhysicalPrompt(name, "box", _triple(numbers[:3]), _triple(numbers[3:]))


def parse_point(text: str) -> PhysicalPrompt:
    """Read ``CLASS=x,y,z``, or with SAM's label behind it: 1 on the lesion, 0 outside of it.

    Raises:
        InputError: When it is anything else.
    """
    name, numbers = _parse(text, (3, 4), option="--point", mend=_POINT_FORM)
    if len(numbers) == 4 and numbers[3] not in (0, 1):
        raise InputError(f"--point {text!r} ends with neither 0 nor 1", mend=_POINT_FORM)
    kind: PromptKind = "negative" if numbers[3:] == [0] else "point"
    place = _triple(numbers[:3])
    return PhysicalPrompt(name, kind, place, place)


def read_prompt_table(path: Path) -> dict[str, tuple[PhysicalPrompt, ...]]:
    """Read a CSV table of prompts, one a line; return case id -> prompts.

    Columns ``case,class,x1,y1,z1,x2,y2,z2`` and optionally ``kind``: recist (default), box, point,
    negative. Points leave the second position empty.

    Raises:
        InputError: Naming file and line.
    """
    prompts: dict[str, list[PhysicalPrompt]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [c for c in TABLE_COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"has no column {missing[0]!r}",
                    path=path,
                    mend=f"begin it with the line {','.join(TABLE_COLUMNS)}",
                )
            for row in reader:
                prompt = _row_prompt(row, path, reader.line_num)
                prompts.setdefault(row["case"].strip(), []).append(prompt)
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend="check --prompts") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"not a readable table ({error})", path=path, mend="save it as CSV"
        ) from None
    return {case_id: tuple(given) for case_id, given in prompts.items()}


def slice_prompts(
    prompts: CasePrompts,
    *,
    geometry: Geometry,
    canonical: Geometry,
    grid: InPlaneGrid,
    class_names: Sequence[str],
) -> list[SlicePrompt]:
    """Return what the prompts say slice by slice, in pixels of the network's slices.

    Args:
        prompts: Of the case.
        geometry: The scan's own grid, which a mask has to lie on.
        canonical: The grid of the scan turned to canonical orientation.
        grid: In-plane grid of its slices.
        class_names: Of the model.

    Raises:
        InputError: When a class is unknown, a position lies outside of the scan, or the mask does
            not lie on its grid or holds other labels.
    """
    found = [
        one
        for prompt in prompts.given
        for one in _slices_of(prompt, canonical, grid, _class_index(prompt, class_names))
    ]
    if prompts.mask is not None:
        found += _mask_slices(prompts.mask, geometry, grid, class_names)
    return found


def require_known_classes(prompts: Mapping[str, CasePrompts], class_names: Sequence[str]) -> None:
    """Refuse a prompt of a class that the model does not know.

    Raises:
        InputError: Naming the class.
    """
    for case in prompts.values():
        for prompt in case.given:
            _class_index(prompt, class_names)


def _class_index(prompt: PhysicalPrompt, class_names: Sequence[str]) -> int:
    if prompt.class_name not in class_names:
        raise InputError(
            f"a prompt is of the class {prompt.class_name!r}, which the model does not know",
            mend=f"choose from {', '.join(class_names)}",
        )
    return list(class_names).index(prompt.class_name)


def _slices_of(
    prompt: PhysicalPrompt, canonical: Geometry, grid: InPlaneGrid, k: int
) -> list[SlicePrompt]:
    if prompt.kind in ("point", "negative"):
        x, y, z = _index_of(prompt.first_mm, canonical, prompt)
        kind = POSITIVE if prompt.kind == "point" else NEGATIVE
        place = (*grid.pixel_of(x, y), kind)
        return [SlicePrompt(round(z), k, (place,), shows_class=prompt.kind == "point")]
    first = _index_of(prompt.first_mm, canonical, prompt)
    second = _index_of(prompt.second_mm, canonical, prompt)
    if prompt.kind == "box":
        low, high = np.minimum(first, second), np.maximum(first, second)
        rows = range(round(low[2]), round(high[2]) + 1)
        return [SlicePrompt(z, k, _corners(low, high, grid)) for z in rows]
    return _ball_slices(np.array([first, second]), canonical, grid, k)


def _ball_slices(
    ends: NDArray[np.float64], canonical: Geometry, grid: InPlaneGrid, k: int
) -> list[SlicePrompt]:
    """Return the squares of the ball whose diameter runs between two indices (2, 3) in xyz."""
    spacing = np.asarray(canonical.spacing_mm)
    centre = ends.mean(axis=0)
    radius_mm = float(np.linalg.norm((ends[1] - ends[0]) * spacing)) / 2
    own = round(centre[2])
    reach = math.floor(radius_mm / spacing[2])
    found = []
    for z in range(max(own - reach, 0), min(own + reach, canonical.shape[0] - 1) + 1):
        height_mm = abs(z - own) * spacing[2]
        half = np.sqrt(radius_mm**2 - height_mm**2) / spacing[:2]
        low, high = centre[:2] - half, centre[:2] + half
        found.append(SlicePrompt(z, k, _corners(low, high, grid), shows_class=z == own))
    return found


def _mask_slices(
    path: Path, geometry: Geometry, grid: InPlaneGrid, class_names: Sequence[str]
) -> list[SlicePrompt]:
    labels = read_labels(path)
    require_same_grid(geometry, labels.geometry, image_path=Path("scan"), label_path=path)
    highest = int(labels.values.max())
    if highest > len(class_names):
        raise InputError(
            f"holds the label {highest}, the model has {len(class_names)} classes",
            path=path,
            mend="number it as the model's masks: label k + 1 is class k",
        )
    values = canonicalise(labels.values, labels.geometry)[0]
    found = []
    for k in range(len(class_names)):
        slices = np.flatnonzero((values == k + 1).any(axis=(1, 2)))
        resized = resize_mask(values[slices] == k + 1, grid)
        for z, mask in zip(slices, resized, strict=True):
            found.append(SlicePrompt(int(z), k, mask=mask, shows_class=False))
    return found


def _index_of(
    place_mm: tuple[float, float, float], canonical: Geometry, prompt: PhysicalPrompt
) -> NDArray[np.float64]:
    """Return the voxel index (x, y, z), with fractions, of a position inside the scan."""
    index = canonical.index_xyz(np.asarray(place_mm))
    if np.any(index < -0.5) or np.any(index > np.asarray(canonical.size_xyz) - 0.5):
        corners = canonical.corners_mm()
        raise InputError(
            f"a {prompt.kind} of {prompt.class_name} lies outside of the scan: {place_mm} mm, the "
            f"scan spans {_rounded(corners.min(axis=0))} to {_rounded(corners.max(axis=0))}",
            mend="give positions in mm in LPS, as DICOM and ITK do; from RAS turn the signs of x "
            "and y",
        )
    inside: NDArray[np.float64] = np.clip(index, 0, np.asarray(canonical.size_xyz) - 1)
    return inside


def _corners(
    low: NDArray[np.float64], high: NDArray[np.float64], grid: InPlaneGrid
) -> tuple[tuple[float, float, int], ...]:
    return (
        (*grid.pixel_of(float(low[0]), float(low[1])), BOX_FIRST),
        (*grid.pixel_of(float(high[0]), float(high[1])), BOX_SECOND),
    )


def _parse(
    text: str, counts: tuple[int, ...], *, option: str, mend: str
) -> tuple[str, list[float]]:
    name, equals, rest = text.partition("=")
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    if not name or not equals or len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        raise InputError(f"{option} {text!r} is not understood", mend=mend)
    return name.strip(), numbers


def _row_prompt(row: Mapping[str, str | None], path: Path, line: int) -> PhysicalPrompt:
    kind = (row.get("kind") or "recist").strip().lower()
    if kind not in get_args(PromptKind):
        raise InputError(
            f"line {line}: unknown kind {kind!r}",
            path=path,
            mend=f"choose from {', '.join(get_args(PromptKind))}",
        )
    names = ["x1", "y1", "z1"] + ([] if kind in ("point", "negative") else ["x2", "y2", "z2"])
    try:
        numbers = [float(row[name] or "") for name in names]
    except ValueError:
        numbers = []
    case, class_name = (row["case"] or "").strip(), (row["class"] or "").strip()
    if not numbers or not all(map(math.isfinite, numbers)) or not case or not class_name:
        raise InputError(
            f"line {line}: needs case, class and the numbers {', '.join(names)}",
            path=path,
            mend="give positions in mm",
        )
    first = _triple(numbers[:3])
    second = _triple(numbers[3:]) if len(numbers) == 6 else first
    return PhysicalPrompt(class_name, kind, first, second)  # type: ignore[arg-type]


def _triple(numbers: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = numbers
    return (x, y, z)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 1) for v in values)
