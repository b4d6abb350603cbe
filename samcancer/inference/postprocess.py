"""The post-processing rule of each class, applied to a label map; what goes is always reported.

The rules come from the taxonomy: components smaller than ``min_volume_ml`` are removed, and with
``keep: largest`` all but the largest one (26-connectivity). Overlaps are settled before, so a
lesion's voxels that a more probable lesion took do not count. Small components are removed first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samcancer.inference.components import Components, find_components, remove_components
from samcancer.taxonomy import PostProcess


@dataclass(frozen=True)
class Removal:
    """Components that one rule removed."""

    rule: str
    components: int
    volume_ml: float
    largest_ml: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "rule": self.rule,
            "components": self.components,
            "volume_ml": round(self.volume_ml, 4),
            "largest_ml": round(self.largest_ml, 4),
        }


@dataclass(frozen=True)
class ClassResult:
    """What is left of a class."""

    voxels: int
    components: int
    slices: tuple[int, ...]
    """Indices of the slices that hold a voxel, in the map's order."""
    removed: tuple[Removal, ...]


def postprocess_class(
    values: NDArray[np.uint8], label: int, rule: PostProcess, *, voxel_volume_ml: float
) -> ClassResult:
    """Apply a class's rule to its voxels in a label map, in place.

    Args:
        values: (slice, row, column) label map.
        label: The class's value in it.
        rule: What to keep.
        voxel_volume_ml: Volume of one voxel.
    """
    components = find_components(values, label)
    if components is None:
        return ClassResult(0, 0, (), ())
    keep, removed = _decide(components, rule, voxel_volume_ml)
    remove_components(values, components, remove=~keep)
    span = range(components.box[0].start, components.box[0].stop)
    slices = tuple(z for z in span if (values[z] == label).any())
    return ClassResult(int(components.voxels[keep].sum()), int(keep.sum()), slices, removed)


def _decide(
    components: Components, rule: PostProcess, voxel_volume_ml: float
) -> tuple[NDArray[np.bool_], tuple[Removal, ...]]:
    volumes_ml: NDArray[np.float64] = components.voxels * np.float64(voxel_volume_ml)
    keep = volumes_ml >= rule.min_volume_ml
    removed = []
    if not keep.all():
        removed.append(_removal(f"min_volume_ml {rule.min_volume_ml:g}", volumes_ml[~keep]))
    if rule.keep == "largest" and keep.sum() > 1:
        largest = np.zeros_like(keep)
        largest[np.argmax(np.where(keep, volumes_ml, -1.0))] = True
        removed.append(_removal("keep largest", volumes_ml[keep & ~largest]))
        keep = largest
    return keep, tuple(removed)


def _removal(rule: str, volumes_ml: NDArray[np.float64]) -> Removal:
    return Removal(rule, len(volumes_ml), float(volumes_ml.sum()), float(volumes_ml.max()))
