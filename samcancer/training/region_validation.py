"""Held-out cases for the slice classifier: thresholds that lose no lesion, and what they save.

A case counts for a class where a person annotated it and it is there; a scan without any positive
slice is segmented whole, so healthy cases have nothing to tell. What is labelled lies between a
first and a last slice, and nothing of it is lost if the range of positive slices, padded by the
margin, reaches both. The *limit* of a case is the largest threshold of which that is true: the
smaller of the largest probabilities up to the first labelled slice and from the last one on, each
moved inwards by the margin.

Held-out cases are few and the next one may be harder, so the threshold is half of the smallest
limit. How that does for a case that had no say is seen by leaving out each in turn: a case is lossy
where half of the smallest limit of the others loses one of its labelled slices. A single case has
no others and is not. A class that no held-out case holds has no threshold; inference then segments
the whole scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from samcancer.config import Config
from samcancer.data.case_store import CaseStore
from samcancer.modeling.region_net import margin_slices, predict_presence, slices_around
from samcancer.modeling.slice_prediction import Member
from samcancer.training.devices import gathered, in_order
from samcancer.training.validate import PaddedSlices

SAFETY = 0.5
"""The threshold against the smallest limit of the held-out cases."""


@dataclass(frozen=True)
class LabelledCurve:
    """One class in one case that holds it."""

    probability: NDArray[np.float32]
    """(Z,)"""
    labelled: NDArray[np.bool_]
    """(Z,), with at least one set."""
    margin: int
    """Slices."""

    @property
    def limit(self) -> float:
        """Largest threshold that loses no labelled slice."""
        places = np.flatnonzero(self.labelled)
        inner_first, inner_last = places[0] + self.margin, places[-1] - self.margin
        upwards = self.probability[: inner_first + 1].max()
        downwards = self.probability[max(inner_last, 0) :].max()
        return float(min(upwards, downwards))

    def kept(self, threshold: float) -> range:
        """Return the slices that a threshold keeps."""
        return slices_around(self.probability >= threshold, margin=self.margin)

    def lost(self, threshold: float) -> int:
        """Return the number of labelled slices that a threshold loses."""
        kept = self.kept(threshold)
        return int(self.labelled.sum() - self.labelled[kept.start : kept.stop].sum())


@dataclass(frozen=True)
class ClassRegion:
    """Validation of one class; the sums are over its cases."""

    threshold: float | None
    """None without a case."""
    cases: int
    slices: int
    kept_slices: int
    """Segmented at the threshold."""
    labelled_span: int
    """From the first to the last labelled slice, the least that has to be kept."""
    lossy_cases: int
    """That lose a labelled slice at the threshold of the others."""
    lost_slices: int
    """Labelled slices that they lose."""

    @property
    def saved_share(self) -> float:
        """Share of the slices left out of those that could be; 1 where none could."""
        could = self.slices - self.labelled_span
        return (self.slices - self.kept_slices) / could if could else 1.0

    @property
    def score(self) -> float:
        """Share saved; a lossy case outweighs all that there is to save."""
        return self.saved_share - self.lossy_cases


@dataclass(frozen=True)
class RegionResult:
    """Validation of a slice classifier."""

    classes: dict[str, ClassRegion]

    @property
    def score(self) -> float:
        """What selects the best network: the mean over the classes that held-out cases hold."""
        scores = [result.score for result in self.classes.values() if result.cases]
        return sum(scores) / len(scores) if scores else 0.0

    @property
    def presence_thresholds(self) -> dict[str, float]:
        """Class -> threshold, of the classes that have one."""
        return {n: r.threshold for n, r in self.classes.items() if r.threshold is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON; the score has another name than a Dice."""
        classes = {
            name: {
                "presence_threshold": result.threshold,
                "cases": result.cases,
                "kept_share": result.kept_slices / result.slices if result.slices else None,
                "saved_share": result.saved_share if result.cases else None,
                "lossy_cases": result.lossy_cases,
                "lost_slices": result.lost_slices,
            }
            for name, result in self.classes.items()
        }
        return {"region_score": self.score, "classes": classes}


def validate_region(
    model: nn.Module,
    store: CaseStore,
    *,
    case_ids: Sequence[str],
    config: Config,
    fabric: Fabric,
) -> RegionResult:
    """Run a slice classifier over held-out cases; the counterpart of ``validate.validate``."""
    mine = case_ids[fabric.global_rank :: fabric.world_size]
    found = [_curves(model, store, case_id, config=config, fabric=fabric) for case_id in mine]
    everything = in_order(gathered(fabric, found))
    return RegionResult(
        {
            name: calibrate([curves[name] for curves in everything if name in curves])
            for name in store.class_names
        }
    )


def calibrate(curves: Sequence[LabelledCurve]) -> ClassRegion:
    """Return the threshold of a class and what it does to the cases it was taken from."""
    if not curves:
        return ClassRegion(None, 0, 0, 0, 0, 0, 0)
    limits = [curve.limit for curve in curves]
    threshold = SAFETY * min(limits)
    unseen = [SAFETY * min(limits[:i] + limits[i + 1 :], default=0.0) for i in range(len(limits))]
    lost = [curve.lost(other) for curve, other in zip(curves, unseen, strict=True)]
    return ClassRegion(
        threshold=threshold,
        cases=len(curves),
        slices=sum(len(curve.labelled) for curve in curves),
        kept_slices=sum(len(curve.kept(threshold)) for curve in curves),
        labelled_span=sum(len(slices_around(curve.labelled, margin=0)) for curve in curves),
        lossy_cases=sum(count > 0 for count in lost),
        lost_slices=sum(lost),
    )


def _curves(
    model: nn.Module, store: CaseStore, case_id: str, *, config: Config, fabric: Fabric
) -> dict[str, LabelledCurve]:
    """Return class -> curve of the classes that a case is known to hold."""
    info = store.cases[case_id]
    presence = predict_presence(
        Member(model, config.data.inference_window_hu),
        PaddedSlices(store, case_id),
        batch=config.train.batch_size,
        device=fabric.device,
    ).numpy()
    margin = margin_slices(config.model.region.margin_mm, info.voxel_mm[0])
    curves = {}
    for k, name in enumerate(store.class_names):
        places = list(info.positive_slices.get(name, ()))
        if places and name in info.annotated:
            labelled = np.zeros(info.slices, dtype=bool)
            labelled[places] = True
            curves[name] = LabelledCurve(presence[:, k], labelled, margin)
    return curves
