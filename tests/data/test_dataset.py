from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from samcancer.config import AugmentationConfig, DataConfig
from samcancer.data.dataset import StackDataset, collate, unpack_bits
from samcancer.data.sampling import SampleKey

SLICES, SIZE = 5, 16
WINDOWS = ((-200.0, 300.0), (-1300.0, 300.0))


class ArrayCase:
    """One case in memory, as its own store and ledger: class 0 annotated, 1 pseudo, 2 unknown."""

    class_names = ("a", "b", "c")

    def __init__(self) -> None:
        self.cases = {"case": SimpleNamespace(slices=SLICES)}
        rng = np.random.default_rng(0)
        self.hu = rng.integers(-1000, 500, (SLICES + 4, SIZE, SIZE)).astype(np.int16)
        self.labels = np.zeros((SLICES, SIZE, SIZE), dtype=np.uint32)
        self.labels[1, 2:5, 8:14] = 0b001
        self.labels[2, 9, 3] = 0b010
        self.known = np.full_like(self.labels, 0b011)
        self.known[2, 10:12] ^= 0b010  # where the teacher was in doubt
        self.known[3, 10:12] ^= 0b010

    def slices_hu(self, case_id: str, start: int, stop: int) -> NDArray[np.int16]:
        return self.hu[start:stop]

    def merged_bits(
        self, case_id: str, start: int, stop: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        return self.labels[start:stop], self.known[start:stop]


def dataset(*, targets: int = 1, **options: Any) -> StackDataset:
    case = ArrayCase()
    return StackDataset(
        case,  # type: ignore[arg-type]
        case,  # type: ignore[arg-type]
        case_ids=["case"],
        data=DataConfig(train_windows_hu=WINDOWS, slices_per_sample=targets),
        **{"augmentation": None, **options},
    )


def key(start: int, seed: int = 0) -> SampleKey:
    return SampleKey("case", start, seed)


def test_a_sample_is_the_windowed_neighbourhood_of_its_target() -> None:
    sample = dataset()[key(3)]
    expected = np.clip((ArrayCase().hu[3:8] + 200.0) / 500.0, 0, 1)
    assert np.allclose(sample["image"].numpy(), expected)
    assert sample["image"].dtype == torch.float32
    assert np.array_equal(sample["label_bits"].numpy(), ArrayCase().labels[3:4])
    assert int(sample["z"]) == 3


def test_several_targets_share_one_chunk() -> None:
    sample = dataset(targets=3)[key(1)]
    assert sample["image"].shape == (7, SIZE, SIZE)
    assert np.array_equal(sample["label_bits"].numpy(), ArrayCase().labels[1:4])


def test_targets_past_the_end_are_wholly_unknown() -> None:
    sample = dataset(targets=3)[key(4)]
    assert sample["image"].shape == (7, SIZE, SIZE)
    assert torch.equal(sample["image"][4], sample["image"][6])
    assert torch.all(sample["known_bits"][0] == 0b011)
    assert torch.count_nonzero(sample["known_bits"][1:]) == 0
    assert sample["presence_known"].tolist() == [0b011, 0, 0]


def test_presence_is_known_where_a_voxel_is_labelled_or_every_voxel_is_known() -> None:
    sample = dataset(targets=5)[key(0)]
    # slice 2 shows class 1 beside doubtful voxels, slice 3 has doubtful voxels only
    assert sample["presence_known"].tolist() == [0b011, 0b011, 0b011, 0b001, 0b011]


def test_unknown_as_background_knows_every_class_everywhere() -> None:
    sample = dataset(targets=5, unknown_labels="background")[key(0)]
    assert torch.all(sample["known_bits"] == 0b111)
    assert sample["presence_known"].tolist() == [0b111] * 5
    assert np.array_equal(sample["label_bits"].numpy(), ArrayCase().labels)


def test_labels_of_voxels_that_are_not_known_are_dropped() -> None:
    case = ArrayCase()
    case.labels[0] = 0b100
    data = DataConfig(train_windows_hu=WINDOWS)
    made = StackDataset(case, case, case_ids=["case"], data=data, augmentation=None)  # type: ignore[arg-type]
    assert torch.count_nonzero(made[key(0)]["label_bits"]) == 0


def test_the_window_is_drawn_from_the_sample_seed() -> None:
    augmented = dataset(augmentation=AugmentationConfig(probability=0))
    images = [augmented[key(2, seed)]["image"].numpy() for seed in range(30)]
    hu = ArrayCase().hu[2:7]
    expected = [np.clip((hu - low) / (high - low), 0, 1) for low, high in WINDOWS]
    chosen = [int(np.allclose(image, expected[1])) for image in images]
    assert all(np.allclose(image, expected[i]) for image, i in zip(images, chosen, strict=True))
    assert 5 < sum(chosen) < 25


def test_equal_keys_give_equal_samples_in_any_order_and_process() -> None:
    first = dataset(targets=2, augmentation=AugmentationConfig(flip=True))
    keys = [key(start, seed) for seed, start in enumerate((0, 3, 1, 2))]
    forward = [first[k] for k in keys]
    copy: StackDataset = pickle.loads(pickle.dumps(first))
    backward = [copy[k] for k in reversed(keys)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)  # type: ignore[literal-required]


def test_a_batch_has_one_more_axis() -> None:
    made = dataset(targets=2)
    batch = collate([made[key(0)], made[key(2)]])
    assert batch["image"].shape == (2, 6, SIZE, SIZE)
    assert batch["z"].tolist() == [0, 2]


@pytest.mark.parametrize("trailing", [(), (4, 3)])
def test_unpacked_bits_have_the_class_axis_after_the_slices(trailing: tuple[int, ...]) -> None:
    bits = torch.full((2, 5, *trailing), 0b101, dtype=torch.int32)
    spread = unpack_bits(bits, 3)
    assert spread.shape == (2, 5, 3, *trailing)
    assert spread.dtype == torch.float32
    assert [float(spread[:, :, k].mean()) for k in range(3)] == [1, 0, 1]


class NumberedFeatures:
    """A cache in memory: each feature is the slice's number, plus a half in the second window."""

    def read(
        self, case_id: str, window_hu: tuple[float, float], start: int, stop: int
    ) -> list[NDArray[Any]]:
        number = np.arange(start, stop) + 0.5 * WINDOWS.index(window_hu)
        return [np.full((stop - start, 2, 2, 3), number[:, None, None, None]) for _ in range(5)]


def test_cached_features_are_those_of_the_target_slices_in_the_drawn_window() -> None:
    plain = AugmentationConfig(probability=0)
    made = dataset(targets=3, augmentation=plain, features=NumberedFeatures())
    hu = ArrayCase().hu[1:8]
    for seed in range(10):
        sample = made[key(1, seed)]
        drawn = int(np.allclose(sample["image"], np.clip((hu + 1300.0) / 1600.0, 0, 1)))
        for values in sample["features"]:
            assert values[:, 0, 0, 0].tolist() == [
                1 + 0.5 * drawn,
                2 + 0.5 * drawn,
                3 + 0.5 * drawn,
            ]


def test_cached_features_past_the_end_repeat_the_last_slice() -> None:
    sample = dataset(targets=3, features=NumberedFeatures())[key(4)]
    assert [values[:, 0, 0, 0].tolist() for values in sample["features"]] == [[4.0, 4.0, 4.0]] * 5
    batch = collate([sample, sample])
    assert [tuple(values.shape) for values in batch["features"]] == [(2, 3, 2, 2, 3)] * 5


def test_cached_features_of_augmented_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="cached features allow no augmentation"):
        dataset(augmentation=AugmentationConfig(), features=NumberedFeatures())
