"""Small case stores on disk, made with the package's own writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samcancer.data.case_file import CASES_NAME, write_case
from samcancer.data.case_store import CaseStore
from samcancer.data.store_index import CaseInfo, StoreInfo, write_index, write_store_info
from samcancer.geometry import Geometry
from samcancer.taxonomy import PACKAGED_TAXONOMY

CLASS_NAMES = ("liver_lesion", "kidney_lesion")
DATASETS = ("Phantom_Liver", "Phantom_Kidney")
SIZE = 32
SPACING_MM = (1.5, 2.0, 4.0)


def make_store(
    folder: Path,
    *,
    patients_per_class: int = 3,
    healthy: int = 2,
    slices: int = 5,
    size: int = SIZE,
) -> CaseStore:
    """Write cases that annotate one class each, a bright block, and healthy ones."""
    (folder / CASES_NAME).mkdir(parents=True)
    cases = []
    for k, name in enumerate(CLASS_NAMES):
        for number in range(patients_per_class):
            cases.append(
                _write(folder, f"{name}_{number}", (name,), k, slices, size, seed=10 * k + number)
            )
    for number in range(healthy):
        cases.append(_write(folder, f"healthy_{number}", CLASS_NAMES, None, slices, size, number))
    write_index(folder, cases)
    write_store_info(folder, StoreInfo(CLASS_NAMES, size))
    (folder / "taxonomy.yaml").write_bytes(PACKAGED_TAXONOMY.read_bytes())
    return CaseStore(folder)


def _write(
    folder: Path,
    case_id: str,
    annotated: tuple[str, ...],
    lesion: int | None,
    slices: int,
    size: int,
    seed: int,
) -> CaseInfo:
    rng = np.random.default_rng(seed)
    hu = rng.normal(40, 20, (slices, size, size))
    bits = np.zeros((slices, size, size), dtype=np.uint32)
    if lesion is not None:
        row, column = rng.integers(2, size // 2, 2)
        hu[1:3, row : row + 8, column : column + 5] += 150
        bits[1:3, row : row + 8, column : column + 5] = 1 << lesion
    geometry = Geometry((size, size, slices), SPACING_MM, (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    voxels = dict.fromkeys(annotated, 80 if lesion is not None else 0)
    info = CaseInfo(
        case_id=case_id,
        patient_id=f"patient_{case_id}",
        dataset="Phantom_Healthy" if lesion is None else DATASETS[lesion],
        source_sha256=f"{case_id:>064}",
        label_sha256=None,
        content_sha256=f"{case_id:>064}",
        slices=slices,
        size=size,
        annotated=annotated,
        geometry=geometry,
        voxels=voxels,
        volume_ml={name: count * 0.012 for name, count in voxels.items()},
        lesions={name: int(count > 0) for name, count in voxels.items()},
        positive_slices={name: [1, 2] if lesion is not None else [] for name in annotated},
    )
    return write_case(folder, info, CLASS_NAMES, slices_hu=hu.astype(np.int16), label_bits=bits)
