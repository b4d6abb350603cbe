from __future__ import annotations

import pickle

import numpy as np
import pytest

from samcancer.config import AugmentationConfig
from samcancer.data.augmentation import Augmentation, LabelledChunk

ALL_KNOWN = 0b111


def chunk(*, size: int = 32, targets: int = 2, bit: int = 1) -> LabelledChunk:
    """An asymmetric bright block that is labelled, in a grey image."""
    image = np.full((targets + 4, size, size), 0.4, dtype=np.float32)
    labels = np.zeros((targets, size, size), dtype=np.uint32)
    image[:, 6:12, 18:27] = 0.9
    labels[:, 6:12, 18:27] = bit
    known = np.full_like(labels, ALL_KNOWN | bit)
    return LabelledChunk(image, labels, known)


def only(**limits: float) -> Augmentation:
    off = {"contrast": 0.0, "gamma": 0.0, "rotation_degrees": 0.0, "scaling": 0.0}
    return Augmentation(AugmentationConfig(probability=1.0, **{**off, **limits}))


def equal(a: LabelledChunk, b: LabelledChunk) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_equal_seeds_give_equal_chunks_whatever_was_made_before() -> None:
    first, second = Augmentation(AugmentationConfig()), Augmentation(AugmentationConfig())
    for seed in range(5):
        second(chunk(), seed)
    for seed in range(20, 30):
        assert equal(first(chunk(), seed), second(chunk(), seed))


def test_a_copy_sent_to_a_worker_makes_the_same_chunks() -> None:
    original = Augmentation(AugmentationConfig())
    before = original(chunk(), 7)
    copy = pickle.loads(pickle.dumps(original))
    assert equal(copy(chunk(), 7), before)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    augment = Augmentation(AugmentationConfig())
    np.random.seed(1)  # noqa: NPY002 -- the global state is what is tested
    first = augment(chunk(), 3)
    np.random.seed(2)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert equal(augment(chunk(), 3), first)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_probability_zero_changes_nothing() -> None:
    augment = Augmentation(AugmentationConfig(probability=0))
    assert equal(augment(chunk(), 1), chunk())


@pytest.mark.parametrize("limits", [{"contrast": 0.3}, {"gamma": 0.3}])
def test_intensity_changes_leave_labels_alone_and_stay_in_range(limits: dict[str, float]) -> None:
    changed = only(**limits)(chunk(), 4)
    assert not np.array_equal(changed.image, chunk().image)
    assert np.array_equal(changed.label_bits, chunk().label_bits)
    assert changed.image.min() >= 0
    assert changed.image.max() <= 1


@pytest.mark.parametrize("limits", [{"rotation_degrees": 20.0}, {"scaling": 0.3}])
@pytest.mark.parametrize("seed", range(5))
def test_labels_move_with_the_image(limits: dict[str, float], seed: int) -> None:
    changed = only(**limits)(chunk(size=64), seed)
    bright = changed.image[2] > 0.65
    labelled = changed.label_bits[0] == 1
    assert not np.array_equal(labelled, chunk(size=64).label_bits[0] == 1)
    # the two may differ along the edge of the block, by interpolation
    assert (bright & labelled).sum() / (bright | labelled).sum() > 0.75


def test_all_slices_of_a_chunk_move_alike() -> None:
    changed = only(rotation_degrees=20.0, scaling=0.2)(chunk(), 3)
    assert all(np.array_equal(changed.image[0], image) for image in changed.image)
    assert np.array_equal(changed.label_bits[0], changed.label_bits[1])


def test_every_bit_of_32_classes_survives_a_warp() -> None:
    bits = 1 << 31 | 1 << 17 | 1 << 9 | 1
    changed = only(rotation_degrees=20.0)(chunk(bit=bits), 2)
    assert set(np.unique(changed.label_bits)) == {0, bits}


def test_the_border_that_moves_in_is_known_only_for_classes_known_everywhere() -> None:
    source = chunk()
    source.known_bits[:] = 0b101  # class 1 unknown
    source.known_bits[:, :, 16:] |= 0b010  # but known in the right half, as pseudo labels may be
    changed = only(scaling=0.5)(source, 3)
    assert changed.image[0, 0, 0] == 0  # zoomed out: this corner was outside
    assert changed.known_bits[0, 0, 0] == 0b101
    assert changed.known_bits[0, 16, 20] == 0b111


def test_a_class_unknown_everywhere_stays_unknown_everywhere() -> None:
    source = chunk()
    source.known_bits[:] = 0b001
    for seed in range(20):
        changed = Augmentation(AugmentationConfig(probability=1, flip=True))(source, seed)
        assert np.all(changed.known_bits == 0b001)


def test_changes_are_drawn_apart() -> None:
    augment = only(contrast=0.2, rotation_degrees=20.0)
    augment = Augmentation(AugmentationConfig(probability=0.5, gamma=0, scaling=0))
    kinds = set()
    for seed in range(40):
        changed = augment(chunk(), seed)
        moved = not np.array_equal(changed.label_bits, chunk().label_bits)
        brighter = changed.image[0, 16, 16] != chunk().image[0, 16, 16]
        kinds.add((moved, bool(brighter)))
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}
