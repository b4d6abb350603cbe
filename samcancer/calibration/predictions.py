"""Run networks over the scans of a calibration and keep what every candidate would do.

A patient of the store is segmented by the fold model that never saw the patient. Further healthy
scans, which no model has seen, are segmented by the model that the calibration is for. Either way
on the store's grid: slices resized in plane, volumes by the size of the resized voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from samcancer.calibration.grid import Grid
from samcancer.calibration.outcomes import ClassOfScan, Outcome, judge, levels_of_logits
from samcancer.calibration.strangers import HealthyScan
from samcancer.data.case_store import CaseStore
from samcancer.modeling.chunks import SliceSource
from samcancer.training.checkpoint import LoadedModel
from samcancer.training.validate import PaddedSlices, predict_padded

_MM3_PER_ML = 1000.0


def judge_case(
    model: LoadedModel,
    store: CaseStore,
    case_id: str,
    *,
    lesions: Mapping[str, int],
    grid: Grid,
    fold: int,
    device: torch.device,
) -> Iterator[Outcome]:
    """Yield an outcome for each lesion class that a person annotated in a stored case.

    Args:
        model: Never saw the patient.
        store: Holds the case.
        case_id: The case.
        lesions: Lesion class -> its place in the network's output.
        grid: The candidates.
        fold: That holds the patient out.
        device: Where the network is.
    """
    case = store.cases[case_id]
    known = {name: k for name, k in lesions.items() if name in case.annotated}
    levels, presence = _levels(
        model, PaddedSlices(store, case_id), case.voxel_mm, known, grid, device
    )
    bits = store.label_bits(case_id, 0, case.slices)
    for i, (name, k) in enumerate(known.items()):
        reference = (bits >> np.uint32(k) & np.uint32(1)).astype(bool)
        volume_ml = _volume_ml(case.voxel_mm)
        yield judge(
            ClassOfScan(case_id, name, fold, levels[i], presence[:, i], reference, volume_ml), grid
        )


def judge_healthy_scan(
    model: LoadedModel,
    stranger: HealthyScan,
    *,
    scan: str,
    lesions: Mapping[str, int],
    grid: Grid,
    fold: int,
    device: torch.device,
) -> Iterator[Outcome]:
    """Yield an outcome for each lesion class of a scan that holds none; see :func:`judge_case`.

    Args:
        model: Never saw the scan.
        stranger: Reads the scan.
        scan: What its outcomes are called.
        lesions: Lesion class -> its place in the network's output.
        grid: The candidates.
        fold: In which it is left out of the fit.
        device: Where the network is.
    """
    slices_hu, voxel_mm = stranger()
    levels, presence = _levels(model, slices_hu, voxel_mm, lesions, grid, device)
    for i, name in enumerate(lesions):
        volume_ml = _volume_ml(voxel_mm)
        yield judge(ClassOfScan(scan, name, fold, levels[i], presence[:, i], None, volume_ml), grid)


def _levels(
    model: LoadedModel,
    slices_hu: SliceSource,
    voxel_mm: tuple[float, float, float],
    lesions: Mapping[str, int],
    grid: Grid,
    device: torch.device,
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return the levels (Z, S, S) of each class, one byte a voxel, and presence (Z, classes)."""
    wanted = list(lesions.values())
    pieces, presence = [], []
    stream = predict_padded(
        model.model, slices_hu, voxel_mm=voxel_mm, config=model.config, device=device
    )
    for piece in stream:
        pieces.append(levels_of_logits(piece.logits[:, wanted], grid).cpu().numpy())
        presence.append(piece.presence[:, wanted].float().cpu().numpy())
    levels = [np.concatenate([piece[:, i] for piece in pieces]) for i in range(len(wanted))]
    return levels, np.concatenate(presence)


def _volume_ml(voxel_mm: tuple[float, float, float]) -> float:
    return float(np.prod(voxel_mm, dtype=np.float64)) / _MM3_PER_ML
