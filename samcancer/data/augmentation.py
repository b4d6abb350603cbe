"""Random changes of a training stack: contrast, gamma, rotation, scaling, mirroring.

As in [SC] section 3, with albumentations on the multi-channel stack, slices as channels, so that
all slices of a stack and their labels change alike. Every random number comes from the sample's own
seed: the result does not depend on which worker makes it or on what was made before.

The intensity is in [0, 1] (windowed). Bit fields are moved with nearest-neighbour interpolation as
bytes, which keeps every bit whole.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer.config import AugmentationConfig


class LabelledChunk(NamedTuple):
    """A chunk of slices and what is known about its target slices."""

    image: NDArray[np.float32]
    """(T + 4, S, S) in [0, 1]."""
    label_bits: NDArray[np.uint32]
    """(T, S, S) bit k: the voxel belongs to class k."""
    known_bits: NDArray[np.uint32]
    """(T, S, S) bit k: whether it does is known."""


class Augmentation:
    """Changes chunks at random within the limits of the configuration."""

    def __init__(self, config: AugmentationConfig) -> None:
        """Remember the limits; albumentations is imported when the first chunk comes."""
        self.config = config
        self._transforms: _Transforms | None = None

    @property
    def acts(self) -> bool:
        """Whether it can change a chunk at all."""
        return self.config.probability > 0

    def __call__(self, chunk: LabelledChunk, seed: int) -> LabelledChunk:
        """Return the chunk changed as ``seed`` says.

        What moves in from outside the image is air (0), and is known to be background for a class
        only where the class is known in the whole chunk.
        """
        if self._transforms is None:
            self._transforms = _build_transforms(self.config)
        rng = np.random.default_rng(seed)
        everywhere_known = np.bitwise_and.reduce(chunk.known_bits, axis=None)
        image = np.ascontiguousarray(chunk.image.transpose(1, 2, 0))
        mask = _bits_to_bytes(np.stack([chunk.label_bits, chunk.known_bits ^ everywhere_known]))
        for transform in self._transforms.drawn(rng, self.config.probability):
            # Compose would give every transform the same seed, hence correlated draws
            transform.set_random_seed(int(rng.integers(1 << 32)))
            changed = transform(image=image, mask=mask)
            image, mask = changed["image"], changed["mask"]
        label_bits, partly_known = _bytes_to_bits(mask, targets=len(chunk.label_bits))
        return LabelledChunk(
            np.ascontiguousarray(image.clip(0, 1).transpose(2, 0, 1), dtype=np.float32),
            label_bits,
            partly_known ^ everywhere_known,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the transforms behind; each worker builds its own."""
        return {"config": self.config, "_transforms": None}


@dataclass(frozen=True)
class _Transforms:
    """The albumentations transforms, each certain to act when called."""

    contrast: Any
    gamma: Any
    rotation: Any
    scaling: Any
    rotation_and_scaling: Any
    """Both in one warp, so that the image is interpolated once."""
    flip: Any | None

    def drawn(self, rng: np.random.Generator, probability: float) -> list[Any]:
        """Return the transforms of one sample; each kind of change is drawn apart."""
        contrast, gamma, rotate, scale, flip = rng.random(5) < probability
        chosen = [self.contrast] if contrast else []
        chosen += [self.gamma] if gamma else []
        if rotate and scale:
            chosen.append(self.rotation_and_scaling)
        elif rotate or scale:
            chosen.append(self.rotation if rotate else self.scaling)
        if flip and self.flip is not None:
            chosen.append(self.flip)
        return chosen


def _build_transforms(config: AugmentationConfig) -> _Transforms:
    # albumentations looks for updates on the network at import unless told not to
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    def affine(rotation_degrees: float, scaling: float) -> Any:
        return albumentations.Affine(
            rotate=(-rotation_degrees, rotation_degrees),
            scale=(1 - scaling, 1 + scaling),
            keep_ratio=True,
            interpolation=cv2.INTER_LINEAR,
            mask_interpolation=cv2.INTER_NEAREST,
            fill=0,
            fill_mask=0,
            p=1,
        )

    cv2.setNumThreads(0)  # a loader worker has one core
    return _Transforms(
        contrast=albumentations.RandomBrightnessContrast(
            brightness_limit=config.contrast, contrast_limit=config.contrast, p=1
        ),
        gamma=albumentations.RandomGamma(
            gamma_limit=(100 * (1 - config.gamma), 100 * (1 + config.gamma)), p=1
        ),
        rotation=affine(config.rotation_degrees, 0),
        scaling=affine(0, config.scaling),
        rotation_and_scaling=affine(config.rotation_degrees, config.scaling),
        flip=albumentations.HorizontalFlip(p=1) if config.flip else None,
    )


def _bits_to_bytes(bits: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """(2, T, S, S) bit fields -> (S, S, 2 T n) bytes, with the n low bytes that hold any bit."""
    used_bytes = max(-(-int(np.bitwise_or.reduce(bits, axis=None)).bit_length() // 8), 1)
    as_bytes = bits.astype("<u4")[..., None].view(np.uint8)[..., :used_bytes]
    rows, columns = bits.shape[2:]
    return np.ascontiguousarray(as_bytes.transpose(2, 3, 0, 1, 4).reshape(rows, columns, -1))


def _bytes_to_bits(
    mask: NDArray[np.uint8], *, targets: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Inverse of :func:`_bits_to_bytes`: two (T, S, S) bit fields."""
    rows, columns = mask.shape[:2]
    as_bytes = mask.reshape(rows, columns, 2, targets, -1).transpose(2, 3, 0, 1, 4)
    padded = np.zeros((*as_bytes.shape[:-1], 4), dtype=np.uint8)
    padded[..., : as_bytes.shape[-1]] = as_bytes
    bits = padded.view("<u4")[..., 0].astype(np.uint32)
    return bits[0], bits[1]
