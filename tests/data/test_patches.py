"""Patches of a resampled volume: where they lie, what they hold, what is unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from small_store import CLASS_NAMES, SIZE, SLICES, case_arrays, case_info, write_store

from samcancer.config import DataConfig, UniversalConfig
from samcancer.data.case_store import CaseStore
from samcancer.data.ledger import Ledger
from samcancer.data.patches import PatchDataset
from samcancer.data.sampling import SampleKey
from samcancer.resampling import volume_grid
from samcancer.windowing import window

WINDOW_HU = (-1000.0, 1000.0)


def dataset(
    folder: Path,
    *,
    patch_size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    annotated: tuple[str, ...] = CLASS_NAMES,
) -> tuple[PatchDataset, CaseStore]:
    store = CaseStore(write_store(folder / "store", [case_info("case", annotated=annotated)]))
    made = PatchDataset(
        store,
        Ledger(store, None),
        patches=UniversalConfig(patch_size=patch_size, spacing_mm=spacing_mm),
        case_ids=["case"],
        data=DataConfig(train_windows_hu=(WINDOW_HU,)),
        augmentation=None,
    )
    return made, store


def own_spacing(store: CaseStore) -> tuple[float, float, float]:
    return store.cases["case"].voxel_mm


def places(block: NDArray[np.uint32], volume: NDArray[np.uint32]) -> list[tuple[int, ...]]:
    """Return where a block occurs in a volume."""
    views = np.lib.stride_tricks.sliding_window_view(volume, block.shape)
    return [tuple(p) for p in np.argwhere((views == block).all(axis=(3, 4, 5)))]


@pytest.mark.parametrize("seed", range(5))
def test_at_the_stores_own_spacing_a_patch_is_a_block_of_the_store(
    tmp_path: Path, seed: int
) -> None:
    spacing = case_info("case").voxel_mm
    patches, _ = dataset(tmp_path, patch_size=(4 * 2, 8, 8), spacing_mm=spacing)
    hu, bits = case_arrays(0)
    sample = patches[SampleKey("case", seed % SLICES, seed)]
    inside = sample["known_bits"].numpy().any(axis=(1, 2))
    assert int(inside.sum()) == SLICES  # the patch of 8 slices is one longer than the case
    labels = sample["label_bits"].numpy().view(np.uint32)[inside]
    (_, row, column), *others = places(labels, bits)
    assert not others
    expected = window(hu.astype(np.float32), WINDOW_HU)[:, row : row + 8, column : column + 8]
    np.testing.assert_allclose(sample["image"].numpy()[inside], expected, atol=1e-6)


def test_outside_the_volume_is_air_and_nothing_is_known(tmp_path: Path) -> None:
    patches, store = dataset(tmp_path, patch_size=(16, 32, 32), spacing_mm=(3.0, 1.3, 1.3))
    sample = patches[SampleKey("case", 3, 0)]
    size = volume_grid(
        (SLICES, SIZE, SIZE), voxel_mm=own_spacing(store), target_mm=(3.0, 1.3, 1.3)
    ).shape
    assert sample["image"].shape == (16, 32, 32)
    known = sample["known_bits"].numpy() != 0
    assert int(known.sum()) == int(np.prod(size))
    assert not sample["image"].numpy()[~known].any()
    assert not sample["label_bits"].numpy()[~known].any()


def test_a_patch_holds_a_labelled_voxel_of_its_slice(tmp_path: Path) -> None:
    """One voxel labelled in 7 slices of 16 x 16: every patch drawn for its slice has it."""
    store = CaseStore(write_store(tmp_path / "store", [case_info("case")]))
    bits = np.zeros((SLICES, SIZE, SIZE), np.uint32)
    bits[4, 13, 2] = 0b100

    class OneVoxel:
        def merged_bits(self, _case: str, start: int, stop: int) -> tuple[object, object]:
            return bits[start:stop], np.full_like(bits[start:stop], 0b111)

    patches = PatchDataset(
        store,
        OneVoxel(),  # type: ignore[arg-type]
        patches=UniversalConfig(patch_size=(8, 8, 8), spacing_mm=case_info("case").voxel_mm),
        case_ids=["case"],
        data=DataConfig(),
        augmentation=None,
    )
    for seed in range(20):
        assert int((patches[SampleKey("case", 4, seed)]["label_bits"] == 0b100).sum()) == 1


def test_an_unannotated_class_stays_unknown(tmp_path: Path) -> None:
    patches, _ = dataset(
        tmp_path, patch_size=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0), annotated=CLASS_NAMES[:1]
    )
    known = patches[SampleKey("case", 3, 1)]["known_bits"].numpy()
    assert set(np.unique(known)) <= {0, 1}
    assert known.any()


def test_equal_keys_give_equal_patches(tmp_path: Path) -> None:
    patches, _ = dataset(tmp_path, patch_size=(8, 8, 8), spacing_mm=(2.0, 1.0, 1.0))
    first, again = (patches[SampleKey("case", 2, 5)] for _ in range(2))
    other = patches[SampleKey("case", 2, 6)]
    assert (first["image"] == again["image"]).all()
    assert (first["image"] != other["image"]).any()
