"""The slices of a scan that are worth segmenting, as a slice classifier tells ([TS] section 2).

One continuous range: from the first to the last slice in which any class reaches its threshold, a
margin at both ends, and every slice that a person prompted. Where the classifier vouches for
nothing the whole scan is segmented:

- A class is asked for that it was not trained for, or not calibrated for on held-out cases.
- No slice of the scan is positive. That is what a healthy scan looks like, but also one that is
  unlike those of the training; seconds are worth less than a lesion, and the presence thresholds of
  the segmentation keep healthy scans clean.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.inference.budget import DEFAULT_BATCH
from samcancer.inference.slices import ResizedSlices, grid_of
from samcancer.inference.volume import EngineOptions
from samcancer.modeling.manual_prompts import SlicePrompt
from samcancer.modeling.region_net import margin_slices, predict_presence, slices_around
from samcancer.modeling.slice_prediction import Member
from samcancer.training.checkpoint import load_checkpoint

_log = logging.getLogger(__name__)

RUN_NAME = "region"
"""Run folder, beside the segmentation runs, of the slice classifier."""

AUTO = "auto"
"""Asks for the run of that name."""

_TRAIN = "train one: train-final --name region --config configs/region.yaml --no-pseudo"


@dataclass(frozen=True)
class Region:
    """Slices of a scan, counted from the feet, from 0."""

    kept: range
    slices: int
    """Of the whole scan."""
    whole_because: str | None = None
    """Why all slices are kept; None where the classifier chose."""

    def to_dict(self) -> dict[str, Any]:
        """Return the region for the report."""
        return {
            "first_slice": self.kept.start,
            "last_slice": self.kept.stop - 1,
            "left_out": self.slices - len(self.kept),
            "whole_because": self.whole_because,
        }


@dataclass(frozen=True)
class RegionModel:
    """A slice classifier, asked for some classes."""

    member: Member
    outputs: tuple[int, ...]
    """Of the network, one for each class asked for that it knows."""
    thresholds: Tensor
    """(K,) of these classes."""
    unknown: tuple[str, ...]
    """Classes asked for that it does not know."""
    image_size: int
    margin_mm: float
    sha256: str

    def region_of(
        self,
        volume_hu: NDArray[np.int16],
        geometry: Geometry,
        *,
        options: EngineOptions,
        prompts: Iterable[SlicePrompt] = (),
    ) -> Region:
        """Return the slices of a scan that are worth segmenting.

        Args:
            volume_hu: (Z, rows, columns) in canonical orientation.
            geometry: Its grid.
            options: Device and batch are taken from here.
            prompts: Their slices are kept whatever the classifier says.
        """
        count = len(volume_hu)
        if self.unknown:
            return Region(range(count), count, f"classes not known: {', '.join(self.unknown)}")
        device = torch.device(options.device)
        presence = predict_presence(
            self.member,
            ResizedSlices(
                volume_hu,
                grid_of(geometry, self.image_size),
                on_device=options.device if device.type == "cuda" else None,
            ),
            batch=options.batch or DEFAULT_BATCH[device.type],
            device=device,
        )
        positive = (presence[:, list(self.outputs)] >= self.thresholds).any(dim=1).numpy()
        kept = slices_around(positive, margin=margin_slices(self.margin_mm, geometry.spacing_mm[2]))
        if not kept:
            return Region(range(count), count, "no slice is positive")
        places = [kept.start, kept.stop - 1, *(prompt.z for prompt in prompts)]
        return Region(range(min(places), max(places) + 1), count)


def load_region(path: Path, *, device: str, class_names: Sequence[str]) -> RegionModel:
    """Load a slice classifier, and warn where it cannot tell what it is asked for.

    Args:
        path: Run folder, or a weight file.
        device: Where the network goes.
        class_names: Classes that are to be segmented.

    Raises:
        InputError: When it is missing, damaged, no slice classifier or was never validated.
    """
    loaded = load_checkpoint(path, device=device)
    system = loaded.config.model.system
    if system != "region":
        raise InputError(f"is no slice classifier (model.system {system})", path=path, mend=_TRAIN)
    if not loaded.meta["metrics"]:
        raise InputError(
            "was never validated, so nothing says from when on it loses a lesion",
            path=path,
            mend="train it with train.validate_every and with held-out patients",
        )
    thresholds = loaded.presence_thresholds
    known = [name for name in class_names if name in thresholds]
    unknown = tuple(name for name in class_names if name not in thresholds)
    if unknown:
        _log.warning(
            "%s cannot tell where %s may be (no held-out case of its training holds it): "
            "segmenting whole scans",
            path,
            ", ".join(unknown),
        )
    return RegionModel(
        member=Member(loaded.model, loaded.config.data.inference_window_hu),
        outputs=tuple(loaded.class_names.index(name) for name in known),
        thresholds=torch.tensor([thresholds[name] for name in known]),
        unknown=unknown,
        image_size=loaded.config.model.image_size,
        margin_mm=loaded.config.model.region.margin_mm,
        sha256=loaded.sha256,
    )


def region_run(given: str, models: Sequence[Path]) -> Path:
    """Return the run that ``--region`` means.

    Args:
        given: Path of a run, or ``auto`` for the run ``region`` beside the models.
        models: Each a run folder, a folder of runs, or a weight file.

    Raises:
        InputError: When there is none beside the models, or several.
    """
    if given != AUTO:
        return Path(given)
    beside = list(dict.fromkeys(_folder_of_runs(path) / RUN_NAME for path in models))
    found = [path for path in beside if path.is_dir()]
    if not found:
        raise InputError(
            "there is no slice classifier for --region auto", path=beside[0], mend=_TRAIN
        )
    if len(found) > 1:
        raise InputError(
            f"--region auto finds several slice classifiers: {', '.join(map(str, found))}",
            mend="name one of them with --region",
        )
    return found[0]


def _folder_of_runs(model: Path) -> Path:
    path = model.resolve()
    if path.is_dir():
        return path.parent if (path / "best.json").exists() else path
    return path.parent.parent
