"""Training samples from a case store: slices, their labels, and what is known about them.

A sample is windowed to [0, 1] with one of the configured windows and changed at random. Labels are
bit fields, bit k for class k, as in the store; :func:`unpack_bits` spreads them on the device. What
is cut out of a case is up to the kinds of samples: here chunks of slices for networks that look at
five slices, in samcancer.data.patches blocks of a resampled volume.

Nothing random comes from global state: the window and the augmentation follow from the sample's
seed, so a sample is the same whichever worker makes it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from samcancer.config import (
    SLICE_CONTEXT,
    AugmentationConfig,
    DataConfig,
    UnknownLabels,
    WindowHu,
)
from samcancer.data.augmentation import Augmentation, LabelledChunk
from samcancer.data.case_store import CaseStore
from samcancer.data.feature_cache import FeatureCache
from samcancer.data.ledger import Ledger
from samcancer.data.sampling import SampleKey
from samcancer.windowing import window


class _PlainSample(TypedDict):
    """What every item has."""

    image: Tensor
    """(T + 4, S, S) float32 in [0, 1]; of a patch (T, h, w), as everything below."""
    label_bits: Tensor
    """(T, S, S) int32."""
    known_bits: Tensor
    """(T, S, S) int32: classes of which it is known whether the voxel belongs to them."""
    presence_known: Tensor
    """(T,) int32 bit field: classes of which it is known whether the slice shows them."""
    case_index: Tensor
    """() int64, into the data set's ``case_ids``."""
    z: Tensor
    """() int64, first target slice."""
    seed: Tensor
    """() int64, of everything that is drawn for the sample, here and in the step."""


class Sample(_PlainSample, total=False):
    """One item; a batch has one more leading axis B everywhere."""

    features: Sequence[Tensor]
    """Only with a feature cache: tokens of four stages (T, h, w, D) and embedding (T, h, w, E)."""


class Draw(NamedTuple):
    """What a sample's seed has decided so far, and the numbers to come."""

    window_hu: WindowHu
    rng: np.random.Generator


class RawSample(NamedTuple):
    """What is read for a sample, before it is windowed."""

    slices_hu: NDArray[Any]
    """(T + 4, S, S), or (T, h, w) of a patch."""
    label_bits: NDArray[np.uint32]
    """(T, S, S)."""
    known_bits: NDArray[np.uint32]
    """(T, S, S)."""
    features: list[NDArray[Any]] | None = None


class LabelledDataset(Dataset[Sample], ABC):
    """Maps a :class:`SampleKey` to a sample; files are opened in the process that reads them."""

    def __init__(
        self,
        store: CaseStore,
        ledger: Ledger,
        *,
        case_ids: Sequence[str],
        data: DataConfig,
        augmentation: AugmentationConfig | None,
        unknown_labels: UnknownLabels = "masked",
    ) -> None:
        """Bind the parts.

        Args:
            store: Where slices come from.
            ledger: Where labels come from, pseudo labels merged in or not.
            case_ids: Cases that keys may name.
            data: Windows, and T of chunks.
            augmentation: None leaves the samples as they are, with the first window.
            unknown_labels: ``background`` takes every unknown voxel for background.
        """
        self._store = store
        self._ledger = ledger
        self.case_ids = tuple(case_ids)
        self._case_index = {case_id: i for i, case_id in enumerate(self.case_ids)}
        self._data = data
        self._augment = None if augmentation is None else Augmentation(augmentation)
        self._all_classes = (
            np.uint32((1 << len(store.class_names)) - 1)
            if unknown_labels == "background"
            else np.uint32(0)
        )

    def __len__(self) -> int:
        """Return the number of slices."""
        return sum(self._store.cases[case_id].slices for case_id in self.case_ids)

    def __getitem__(self, key: SampleKey) -> Sample:
        """Return the sample of a key; equal keys give equal samples, bit for bit."""
        rng = np.random.default_rng(key.seed)
        windows = self._data.train_windows_hu
        chosen = windows[0 if self._augment is None else int(rng.integers(len(windows)))]
        raw = self._read(key, Draw(chosen, rng))
        chunk = LabelledChunk(
            window(raw.slices_hu.astype(np.float32), chosen), raw.label_bits, raw.known_bits
        )
        presence_known = _known_presence(chunk)
        if self._augment is not None:
            chunk = self._augment(chunk, int(rng.integers(1 << 62)))
        sample = Sample(
            image=torch.from_numpy(chunk.image),
            label_bits=torch.from_numpy(chunk.label_bits.view(np.int32)),
            known_bits=torch.from_numpy(chunk.known_bits.view(np.int32)),
            presence_known=torch.from_numpy(presence_known.view(np.int32)),
            case_index=torch.tensor(self._case_index[key.case_id]),
            z=torch.tensor(key.start),
            seed=torch.tensor(key.seed),
        )
        if raw.features is not None:
            sample["features"] = [torch.from_numpy(values) for values in raw.features]
        return sample

    def close(self) -> None:
        """Close what this process has opened; reading opens it again."""

    @abstractmethod
    def _read(self, key: SampleKey, draw: Draw) -> RawSample:
        """Cut a sample out of its case."""

    def _labels(
        self, case_id: str, start: int, stop: int
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Return the label bits of some slices, and the bits of the classes that are known."""
        label_bits, known_bits = self._ledger.merged_bits(case_id, start, stop)
        known_bits = known_bits | self._all_classes
        return label_bits & known_bits, known_bits


class StackDataset(LabelledDataset):
    """Chunks of T + 4 padded slices for T target slices; slice z of a case is padded slice z + 2.

    A target past the end of a case repeats the last slice and is wholly unknown.
    """

    def __init__(
        self,
        store: CaseStore,
        ledger: Ledger,
        *,
        features: FeatureCache | None = None,
        **parts: Any,
    ) -> None:
        """Bind the parts; see :class:`LabelledDataset`.

        Args:
            store: Where slices come from.
            ledger: Where labels come from.
            features: Of the encoder, added to each sample; None leaves the encoder to compute them.
            parts: Of :class:`LabelledDataset`.

        Raises:
            ValueError: When augmentation would change slices whose features are cached.
        """
        super().__init__(store, ledger, **parts)
        if features is not None and self._augment is not None and self._augment.acts:
            raise ValueError(f"cached features allow no augmentation, got {self._augment.config!r}")
        self._features = features

    def close(self) -> None:
        """Close this process's files of features; reading opens them again."""
        if self._features is not None:
            self._features.close()

    def _read(self, key: SampleKey, draw: Draw) -> RawSample:
        count = self._data.slices_per_sample
        stop = min(key.start + count, self._store.cases[key.case_id].slices)
        hu = self._store.slices_hu(key.case_id, key.start, stop + 2 * SLICE_CONTEXT)
        label_bits, known_bits = self._labels(key.case_id, key.start, stop)
        missing = key.start + count - stop
        features = None
        if self._features is not None:
            found = self._features.read(key.case_id, draw.window_hu, key.start, stop)
            features = [_repeat_last(values, missing) for values in found]
        return RawSample(
            _repeat_last(hu, missing),
            _repeat_last(label_bits, missing),
            np.concatenate([known_bits, np.zeros_like(known_bits[:1]).repeat(missing, axis=0)]),
            features,
        )


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack samples into a batch."""
    return cast(Sample, default_collate(list(samples)))


def unpack_bits(bits: Tensor, class_count: int) -> Tensor:
    """Spread a bit field over classes: (B, T, ...) int -> (B, T, K, ...) float32 of 0 and 1."""
    shifts = torch.arange(class_count, device=bits.device, dtype=bits.dtype)
    shifts = shifts.reshape(1, 1, -1, *([1] * (bits.ndim - 2)))
    return ((bits.unsqueeze(2) >> shifts) & 1).float()


def _known_presence(chunk: LabelledChunk) -> NDArray[np.uint32]:
    """(T,) classes with a labelled voxel, or known to have none anywhere in the slice."""
    present: NDArray[np.uint32] = np.bitwise_or.reduce(chunk.label_bits, axis=(1, 2))
    decided: NDArray[np.uint32] = np.bitwise_and.reduce(chunk.known_bits, axis=(1, 2))
    return present | decided


def _repeat_last(array: NDArray[Any], times: int) -> NDArray[Any]:
    return np.concatenate([array, array[-1:].repeat(times, axis=0)]) if times else array
