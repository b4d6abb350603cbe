from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from samcancer.report.scan.companding import to_levels
from samcancer.report.scan.frames import pack_masks, pack_slices


def noise_hu(slices: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).normal(40, 60, (slices, side, side)).astype(np.int16)


def decoded(picture: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("L"))


def test_with_room_enough_slices_are_nearly_as_they_were() -> None:
    hu = noise_hu(3, 64)
    frames = pack_slices(hu, budget_bytes=10**7)
    assert (frames.quality, frames.reduction, len(frames.pictures)) == (95, 1, 3)
    for picture, plane in zip(frames.pictures, hu, strict=True):
        apart = decoded(picture).astype(int) - to_levels(plane)
        assert np.abs(apart).mean() < 2


@pytest.mark.parametrize("budget_bytes", [100_000, 40_000])
def test_the_quality_falls_until_the_slices_fit(budget_bytes: int) -> None:
    frames = pack_slices(noise_hu(8, 128), budget_bytes=budget_bytes)
    assert frames.quality < 95
    assert sum(map(len, frames.pictures)) <= budget_bytes


def test_only_then_are_slices_halved_in_plane() -> None:
    """At quality 30 the eight noisy slices take about 130 kB; a quarter of the pixels fit."""
    frames = pack_slices(noise_hu(8, 256), budget_bytes=60_000)
    assert frames.reduction == 2
    assert decoded(frames.pictures[0]).shape == (128, 128)
    assert sum(map(len, frames.pictures)) <= 60_000


def test_slices_are_never_halved_below_128_pixels() -> None:
    frames = pack_slices(noise_hu(8, 128), budget_bytes=100)
    assert (frames.quality, frames.reduction) == (30, 1)


def test_masks_come_back_exactly_and_empty_slices_take_nothing() -> None:
    labels = np.zeros((4, 9, 7), dtype=np.uint8)
    labels[1, 2:5, 3:6] = 1
    labels[3, 8, 6] = 255
    packed = pack_masks(labels)
    assert sorted(packed) == [1, 3]
    for z, picture in packed.items():
        assert np.array_equal(decoded(picture), labels[z])
