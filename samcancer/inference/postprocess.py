"""The post-processing rules of the classes, applied to label maps; what they change is reported.

The rules come from the taxonomy and look at whole components (26-connectivity), in this order:
components of paired organs on the wrong side change sides (``left_counterpart``), those smaller
than ``min_volume_ml`` go, a lesion's go that do not come within ``inside_organ_mm`` of its organ,
and with ``keep: largest`` all go but the largest. Organs are done before lesions. Overlaps are
settled before, so a lesion's voxels that a more probable lesion took do not count.

A rule may remove all of a lesion class but leaves an organ its largest component; either is warned
of. Source: the organ-wise post-processing of [UM].
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer.inference.components import Components, find_components, relabel_components
from samcancer.inference.organ_region import OrganRegion
from samcancer.inference.sides import settle_sides
from samcancer.taxonomy import ClassSpec, PostProcess

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """Components that one rule removed."""

    rule: str
    components: int
    volume_ml: float
    largest_ml: float
    emptied_class: bool = False
    """Nothing of the class is left."""
    kept_because_last: bool = False
    """The rule was broken: it would have left nothing of an organ."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "rule": self.rule,
            "components": self.components,
            "volume_ml": round(self.volume_ml, 4),
            "largest_ml": round(self.largest_ml, 4),
            "emptied_class": self.emptied_class,
            "kept_because_last": self.kept_because_last,
        }


@dataclass(frozen=True)
class Move:
    """Components that went to another class, since they lie on its side."""

    to: str
    components: int
    volume_ml: float
    largest_ml: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "to": self.to,
            "components": self.components,
            "volume_ml": round(self.volume_ml, 4),
            "largest_ml": round(self.largest_ml, 4),
        }


@dataclass(frozen=True)
class ClassResult:
    """What is left of a class, and what was changed."""

    voxels: int
    components: int
    slices: tuple[int, ...]
    """Indices of the slices that hold a voxel, in the map's order."""
    removed: tuple[Removal, ...] = ()
    moved: tuple[Move, ...] = ()
    not_applied: tuple[str, ...] = ()
    """Rules that the scan or the model gave no ground for, and why."""

    def changes(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "removed": [removal.to_dict() for removal in self.removed],
            "moved": [move.to_dict() for move in self.moved],
            "not_applied": list(self.not_applied),
        }

    def log_changes(self, name: str) -> None:
        """Log what happened to the class of this name; warn when nothing is or would be left."""
        for move in self.moved:
            what = (move.components, move.volume_ml, move.to)
            _log.info("%s: moved %d components, %.2f ml, to %s", name, *what)
        if self.moved and not self.voxels:
            _log.warning("%s: nothing is left after components changed sides", name)
        for removal in self.removed:
            what = (removal.components, removal.volume_ml, removal.rule)
            _log.info("%s: removed %d components, %.2f ml (%s)", name, *what)
            if removal.emptied_class:
                _log.warning("%s: nothing is left (%s)", name, removal.rule)
            if removal.kept_because_last:
                _log.warning("%s: kept the largest, else nothing is left (%s)", name, removal.rule)


@dataclass(frozen=True, kw_only=True)
class PredictedMaps:
    """Label maps of one scan and what the rules need to know about it, in canonical orientation."""

    lesions: NDArray[np.uint8]
    """(slice, row, column)."""
    organs: NDArray[np.uint8] | None
    """None when the model has no organ class."""
    volume_hu: NDArray[np.int16]
    spacing_mm: tuple[float, float, float]
    """Distance between slices, rows and columns."""

    @property
    def voxel_volume_ml(self) -> np.float64:
        """Volume of one voxel."""
        return np.prod(self.spacing_mm, dtype=np.float64) / 1000.0

    def of(self, spec: ClassSpec) -> NDArray[np.uint8]:
        """Return the map that holds a class."""
        return self.lesions if spec.kind == "lesion" or self.organs is None else self.organs


class _Sides(NamedTuple):
    """What became of a class when sides were settled."""

    moved: tuple[Move, ...] = ()
    not_applied: tuple[str, ...] = ()


def postprocess_maps(
    maps: PredictedMaps,
    classes: Sequence[ClassSpec],
    *,
    unions: Mapping[str, tuple[str, ...]],
    enabled: bool = True,
) -> tuple[ClassResult, ...]:
    """Apply the rules of all classes to the label maps of a scan, in place.

    Args:
        maps: The label maps; label k + 1 is class k.
        classes: The model's classes.
        unions: Classes that are unions -> their members, which stand for an organ that the model
            predicts in parts.
        enabled: Whether there are rules; without them the maps stay as they are.

    Returns:
        One result per class, in the order of the classes.
    """
    if not enabled:
        blank = PostProcess()
        classes = [replace(c, postprocess=blank, left_counterpart=None) for c in classes]
    sides = _settle_all_sides(maps, classes)
    results: dict[str, ClassResult] = {}
    for spec in sorted(classes, key=lambda spec: spec.kind == "lesion"):
        region, obstacle = _organ_region(maps, spec, classes, unions, results)
        result = postprocess_class(
            maps.of(spec),
            _label(classes, spec.name),
            spec.postprocess,
            voxel_volume_ml=maps.voxel_volume_ml,
            region=region,
            keep_last=spec.kind == "organ",
        )
        moved, not_applied = sides.get(spec.name, _Sides())
        if obstacle and (result.voxels or result.removed):
            not_applied = (*not_applied, obstacle)
        results[spec.name] = replace(result, moved=moved, not_applied=not_applied)
    return tuple(results[spec.name] for spec in classes)


def postprocess_class(
    values: NDArray[np.uint8],
    label: int,
    rule: PostProcess,
    *,
    voxel_volume_ml: float,
    region: OrganRegion | None = None,
    keep_last: bool = False,
) -> ClassResult:
    """Apply a class's rule to its voxels in a label map, in place.

    Args:
        values: (slice, row, column) label map.
        label: The class's value in it.
        rule: What to keep.
        voxel_volume_ml: Volume of one voxel.
        region: Where ``inside_organ_mm`` wants a lesion; None lets it lie anywhere.
        keep_last: Keep the largest component when a rule would remove all.
    """
    components = find_components(values, label)
    if components is None:
        return ClassResult(0, 0, ())
    choice = _Choice(components.voxels * np.float64(voxel_volume_ml), keep_last=keep_last)
    choice.apply(f"min_volume_ml {rule.min_volume_ml:g}", choice.volumes_ml >= rule.min_volume_ml)
    if region is not None:
        touched = region.touched_by(values, components, asked=choice.keep)
        choice.apply(f"inside_organ_mm {region.reach_mm:g}", touched)
    if rule.keep == "largest":
        choice.apply("keep largest", choice.is_largest())
    keep = choice.keep
    relabel_components(values, components, chosen=~keep)
    return ClassResult(
        int(components.voxels[keep].sum()),
        int(keep.sum()),
        _slices_with(values, label, components),
        tuple(choice.removed),
    )


@dataclass
class _Choice:
    """Which components of a class are kept, rule by rule."""

    volumes_ml: NDArray[np.float64]
    keep_last: bool
    removed: list[Removal] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keep = np.ones(len(self.volumes_ml), dtype=bool)

    def apply(self, rule: str, passes: NDArray[np.bool_]) -> None:
        kept = self.keep & passes
        saved = self.keep_last and not kept.any()
        if saved:
            kept = self.is_largest()
        gone = self.volumes_ml[self.keep & ~kept]
        self.keep = kept
        if len(gone) or saved:
            self.removed.append(
                Removal(
                    rule,
                    components=len(gone),
                    volume_ml=float(gone.sum()),
                    largest_ml=float(gone.max(initial=0.0)),
                    emptied_class=not kept.any(),
                    kept_because_last=saved,
                )
            )

    def is_largest(self) -> NDArray[np.bool_]:
        """Return a flag per component, set for the largest of those kept so far, if any."""
        largest = np.zeros_like(self.keep)
        largest[np.argmax(np.where(self.keep, self.volumes_ml, -1.0))] = True
        return largest & self.keep


def _slices_with(values: NDArray[np.uint8], label: int, components: Components) -> tuple[int, ...]:
    span = range(components.box[0].start, components.box[0].stop)
    return tuple(z for z in span if (values[z] == label).any())


def _settle_all_sides(maps: PredictedMaps, classes: Sequence[ClassSpec]) -> dict[str, _Sides]:
    """Return what became of each class that is one of a pair."""
    sides: dict[str, _Sides] = {}
    for spec in classes:
        left = spec.left_counterpart
        if left is None or not _label(classes, left):
            continue
        changes = settle_sides(
            maps.of(spec),
            right=_label(classes, spec.name),
            left=_label(classes, left),
            volume_hu=maps.volume_hu,
            column_mm=maps.spacing_mm[2],
        )
        obstacle = (f"sides: {changes.obstacle}",) if changes.obstacle else ()
        for name, other, voxels in (
            (spec.name, left, changes.to_left),
            (left, spec.name, changes.to_right),
        ):
            sides[name] = _Sides(_moves(other, voxels * maps.voxel_volume_ml), obstacle)
    return sides


def _moves(to: str, volumes_ml: NDArray[np.float64]) -> tuple[Move, ...]:
    if not len(volumes_ml):
        return ()
    return (Move(to, len(volumes_ml), float(volumes_ml.sum()), float(volumes_ml.max())),)


def _organ_region(
    maps: PredictedMaps,
    spec: ClassSpec,
    classes: Sequence[ClassSpec],
    unions: Mapping[str, tuple[str, ...]],
    results: Mapping[str, ClassResult],
) -> tuple[OrganRegion | None, str | None]:
    """Return where a lesion may lie, or None and, if there is a rule, why it cannot be applied."""
    reach_mm = spec.postprocess.inside_organ_mm
    if reach_mm is None or spec.organ is None:
        return None, None
    organs = {c.name for c in classes if c.kind == "organ"}
    members = set(unions.get(spec.organ, ()))
    parts = {spec.organ, *members} & organs
    whole = spec.organ in parts or (members and members <= parts)
    rule = f"inside_organ_mm {reach_mm:g}: organ {spec.organ}"
    if maps.organs is None or not whole:
        return None, f"{rule} not predicted"
    if not any(results[name].voxels for name in parts):
        return None, f"{rule} empty"
    labels = tuple(_label(classes, name) for name in sorted(parts))
    return OrganRegion(maps.organs, labels, reach_mm, maps.spacing_mm), None


def _label(classes: Sequence[ClassSpec], name: str) -> int:
    """Return the label of a class; 0, which is background, when the model does not predict it."""
    return next((k + 1 for k, spec in enumerate(classes) if spec.name == name), 0)
