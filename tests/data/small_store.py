"""Small case stores, written through the same functions as real ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samcancer.data.case_store import (
    CaseInfo,
    StoreInfo,
    class_bits,
    write_case,
    write_index,
    write_store_info,
)
from samcancer.geometry import Geometry

CLASS_NAMES = ("liver_lesion", "kidney_lesion", "lung_lesion")
SIZE = 16
SLICES = 7

GEOMETRY = Geometry(
    (18, 20, SLICES), (0.9, 0.8, 3.0), (-10.0, 5.0, 100.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
)


def case_arrays(seed: int) -> tuple[NDArray[np.int16], NDArray[np.uint32]]:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 1000, (SLICES, SIZE, SIZE)).astype(np.int16)
    return hu, rng.integers(0, 8, hu.shape).astype(np.uint32)


def case_info(
    case_id: str,
    *,
    patient_id: str | None = None,
    dataset: str = "Set_A",
    annotated: tuple[str, ...] = CLASS_NAMES,
    content: str | None = None,
    source: str | None = None,
    present: bool = True,
) -> CaseInfo:
    return CaseInfo(
        case_id=case_id,
        patient_id=patient_id or f"patient of {case_id}",
        dataset=dataset,
        source_sha256=_digest(source or f"source {case_id}"),
        label_sha256=_digest(f"label {case_id}"),
        content_sha256=_digest(content or f"content {case_id}"),
        slices=SLICES,
        size=SIZE,
        annotated=annotated,
        geometry=GEOMETRY,
        voxels=dict.fromkeys(annotated, int(present)),
        volume_ml=dict.fromkeys(annotated, 0.00216),
        lesions=dict.fromkeys(annotated, 1),
        positive_slices={name: [1, 3] for name in annotated},
    )


def write_store(folder: Path, infos: list[CaseInfo]) -> Path:
    """Write a store whose case i holds ``case_arrays(i)``, masked to what it annotates."""
    folder.mkdir(parents=True, exist_ok=True)
    write_store_info(folder, StoreInfo(CLASS_NAMES, SIZE))
    done = []
    for seed, info in enumerate(infos):
        hu, bits = case_arrays(seed)
        bits &= np.uint32(class_bits(info.annotated, CLASS_NAMES))
        done.append(write_case(folder, info, CLASS_NAMES, slices_hu=hu, label_bits=bits))
    write_index(folder, done)
    return folder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
