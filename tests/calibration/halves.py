"""A network of known probabilities and stores of scans for which the best thresholds are known.

Class 0 looks at the left half of a slice, class 1 at the right one. A pixel's logit is
(HU - 100) / 10 and the presence of a class in a slice that of its brightest pixel, so that a block
of 110, 120, 130 or 150 HU has the probability 0.731, 0.881, 0.953 or 0.993 throughout, and so has
its presence. A voxel of the store is 2 x 2 x 4 mm: 0.016 ml.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from fused_systems import write_system
from real_store import CLASS_NAMES, SIZE, SPACING_MM
from torch import Tensor, nn

from samcancer.config import Config, ModelConfig
from samcancer.data.case_file import CASES_NAME, write_case
from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import CaseInfo, StoreInfo, write_index, write_store_info
from samcancer.geometry import Geometry
from samcancer.modeling import NetOutput
from samcancer.taxonomy import PACKAGED_TAXONOMY

LEFT, RIGHT = CLASS_NAMES
SLICES = 8
VOXEL_ML = 0.016
BODY_HU = 0
WINDOW_HU = Config().data.inference_window_hu


class Block(NamedTuple):
    """Slices, rows and columns of one grey value; of a class when a person labelled it."""

    z: range
    rows: range
    columns: range
    hu: int
    labelled: str | None = None


class HalvesNet(nn.Module):
    """See the file's docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.class_names = CLASS_NAMES
        self.register_buffer("slope", torch.tensor(0.1))

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> NetOutput:
        low, high = WINDOW_HU
        hu = chunk[:, 2:-2, None] * (high - low) + low
        logits = (self.slope * (hu - 100)).repeat(1, 1, 2, 1, 1)
        logits[:, :, 0, :, SIZE // 2 :] = -20.0
        logits[:, :, 1, :, : SIZE // 2] = -20.0
        return NetOutput(logits, logits.amax(dim=(-2, -1)))


def build(_config: ModelConfig, _class_names: tuple[str, ...]) -> nn.Module:
    return HalvesNet()


def square(z: int, column: int, hu: int, side: int, *, labelled: str | None = None) -> Block:
    """A block of one slice whose rows start at 4."""
    return Block(range(z, z + 1), range(4, 4 + side), range(column, column + side), hu, labelled)


def write_halves(store: CaseStore, runs: Path) -> Path:
    """Fold runs and a final run of the network."""
    return write_system(store, runs, HalvesNet())


def make_store(folder: Path, cases: dict[str, tuple[tuple[str, ...], list[Block]]]) -> CaseStore:
    """Write a store of cases: name -> classes annotated, blocks."""
    (folder / CASES_NAME).mkdir(parents=True)
    infos = [_write(folder, name, annotated, blocks) for name, (annotated, blocks) in cases.items()]
    write_index(folder, infos)
    write_store_info(folder, StoreInfo(CLASS_NAMES, SIZE))
    (folder / "taxonomy.yaml").write_bytes(PACKAGED_TAXONOMY.read_bytes())
    return CaseStore(folder)


def volume(blocks: list[Block]) -> tuple[np.ndarray, np.ndarray]:
    """Return HU and label bits (SLICES, SIZE, SIZE)."""
    hu = np.full((SLICES, SIZE, SIZE), BODY_HU, dtype=np.int16)
    bits = np.zeros(hu.shape, dtype=np.uint32)
    for block in blocks:
        box = np.ix_(block.z, block.rows, block.columns)
        hu[box] = block.hu
        if block.labelled is not None:
            bits[box] |= np.uint32(1 << CLASS_NAMES.index(block.labelled))
    return hu, bits


def write_scan(path: Path, blocks: list[Block]) -> Path:
    """Write a scan whose slices are the store's, pixel by pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(volume(blocks)[0])
    image.SetSpacing((2.0, 2.0, 4.0))
    sitk.WriteImage(image, str(path))
    return path


def _write(folder: Path, case_id: str, annotated: tuple[str, ...], blocks: list[Block]) -> CaseInfo:
    hu, bits = volume(blocks)
    geometry = Geometry((SIZE, SIZE, SLICES), SPACING_MM, (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    shown = {
        name: (bits >> np.uint32(k) & 1).astype(bool)
        for k, name in enumerate(CLASS_NAMES)
        if name in annotated
    }
    voxels = {name: int(mask.sum()) for name, mask in shown.items()}
    info = CaseInfo(
        case_id=case_id,
        patient_id=f"patient_{case_id}",
        dataset="Made",
        source_sha256=f"{case_id:>064}",
        label_sha256=None,
        content_sha256=f"{case_id:>064}",
        slices=SLICES,
        size=SIZE,
        annotated=annotated,
        geometry=geometry,
        voxels=voxels,
        volume_ml={name: count * VOXEL_ML for name, count in voxels.items()},
        lesions={name: int(count > 0) for name, count in voxels.items()},
        positive_slices={
            name: [int(z) for z in np.flatnonzero(mask.any(axis=(1, 2)))]
            for name, mask in shown.items()
        },
    )
    return write_case(folder, info, CLASS_NAMES, slices_hu=hu, label_bits=bits)
