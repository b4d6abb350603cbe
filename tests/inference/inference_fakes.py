"""Networks and scans simple enough that the masks are known in advance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from torch import Tensor, nn

from samcancer.commands import run_verb
from samcancer.inference.models import Ensemble
from samcancer.modeling.slice_prediction import Member
from samcancer.taxonomy import ClassSpec, PostProcess

WriteScan = Callable[..., Path]

WINDOW_HU = (-1000.0, 1000.0)


class Output(NamedTuple):
    mask_logits: Tensor
    presence_logits: Tensor


class ThresholdNet(nn.Module):
    """Class k is where the centre slice lies above a threshold in HU; presence is its peak."""

    slice_context = 2

    def __init__(self, thresholds_hu: tuple[float, ...]) -> None:
        super().__init__()
        low, high = WINDOW_HU
        levels = [(threshold - low) / (high - low) for threshold in thresholds_hu]
        self.register_buffer("levels", torch.tensor(levels))
        self.class_names = tuple(f"class_{k}" for k in range(len(thresholds_hu)))

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
        centre = chunk[:, 2:-2, None]  # (B, T, 1, S, S)
        logits = 20 * (centre - self.levels[:, None, None])
        return Output(logits, logits.amax(dim=(-1, -2)))


def infer(scan: Path, output: Path, run: Path, *options: str) -> int:
    """Run the command on the CPU; probabilities are written too."""
    arguments = ["--input", str(scan), "--output", str(output), "--model", str(run), "--quiet"]
    return run_verb("infer-volume", [*arguments, "--device", "cpu", "--probabilities", *options])


def probabilities(output: Path, class_name: str) -> np.ndarray:
    """Read what :func:`infer` wrote of one class of ``scan.nii.gz``."""
    path = output / "probabilities" / "scan" / f"{class_name}.nii.gz"
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def bright_box(slice_count: int = 6, *, level_hu: int = 400) -> np.ndarray:
    """A body in air with a bright box off its centre and a brighter core; asymmetric."""
    volume = np.full((slice_count, 30, 40), -1000, dtype=np.int16)
    volume[:, 3:28, 2:37] = 40
    middle = slice(slice_count // 3, slice_count // 3 + 3)
    volume[middle, 6:18, 8:24] = level_hu
    volume[slice_count // 3 + 1, 9:13, 12:18] = 900
    return volume


def make_ensemble(
    *specs: ClassSpec, thresholds_hu: tuple[float, ...] = (200.0,), members: int = 1
) -> Ensemble:
    """An ensemble of networks that threshold the scan, at 32 pixels."""
    classes = specs or (ClassSpec(name="bright", title="bright", kind="lesion"),)
    return Ensemble(
        members=tuple(Member(ThresholdNet(thresholds_hu), WINDOW_HU) for _ in range(members)),
        classes=classes,
        thresholds=torch.full((len(classes),), 0.5),
        image_size=32,
        sha256=("0" * 64,) * members,
    )


def lesion_in_organ() -> Ensemble:
    """Class 1 is an organ above 200 HU, class 2 a lesion above 650 HU that lies inside it."""
    return make_ensemble(
        ClassSpec(
            name="organ", title="organ", kind="organ", postprocess=PostProcess(keep="largest")
        ),
        ClassSpec(name="tumour", title="tumour", kind="lesion", organ="organ"),
        thresholds_hu=(200.0, 650.0),
    )
