"""Training samples from a case store: a chunk of slices, its labels, and what is known about them.

A sample of T target slices is a chunk of T + 4 padded slices (slice z of a case is padded slice
z + 2), windowed to [0, 1] with one of the configured windows. Labels are bit fields, bit k for
class k, as in the store; :func:`unpack_bits` spreads them on the device. A target past the end of
a case repeats the last slice and is wholly unknown.

Nothing random comes from global state: the window and the augmentation follow from the sample's
seed, so a sample is the same whichever worker makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from samcancer.config import SLICE_CONTEXT, AugmentationConfig, DataConfig, UnknownLabels
from samcancer.data.augmentation import Augmentation, LabelledChunk
from samcancer.data.case_store import CaseStore
from samcancer.data.feature_cache import FeatureCache
from samcancer.data.ledger import Ledger
from samcancer.data.sampling import SampleKey
from samcancer.windowing import window


class _PlainSample(TypedDict):
    """What every item has."""

    image: Tensor
    """(T + 4, S, S) float32 in [0, 1]."""
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


class Sample(_PlainSample, total=False):
    """One item; a batch has one more leading axis B everywhere."""

    features: Sequence[Tensor]
    """Only with a feature cache: tokens of four stages (T, h, w, D) and embedding (T, h, w, E)."""


class _Chunk(NamedTuple):
    """What is read for a sample."""

    labelled: LabelledChunk
    features: list[NDArray[Any]] | None


class StackDataset(Dataset[Sample]):
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
        features: FeatureCache | None = None,
    ) -> None:
        """Bind the parts.

        Args:
            store: Where slices come from.
            ledger: Where labels come from, pseudo labels merged in or not.
            case_ids: Cases that keys may name.
            data: Windows and T.
            augmentation: None leaves the samples as they are, with the first window.
            unknown_labels: ``background`` takes every unknown voxel for background.
            features: Of the encoder, added to each sample; None leaves the encoder to compute them.

        Raises:
            ValueError: When augmentation would change slices whose features are cached.
        """
        if features is not None and augmentation is not None and augmentation.probability > 0:
            raise ValueError(f"cached features allow no augmentation, got {augmentation!r}")
        self._features = features
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
        chunk, features = self._read(key, rng)
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
        )
        if features is not None:
            sample["features"] = [torch.from_numpy(values) for values in features]
        return sample

    def close(self) -> None:
        """Close this process's files of features; reading opens them again."""
        if self._features is not None:
            self._features.close()

    def _read(self, key: SampleKey, rng: np.random.Generator) -> _Chunk:
        count = self._data.slices_per_sample
        slices = self._store.cases[key.case_id].slices
        stop = min(key.start + count, slices)
        hu = self._store.slices_hu(key.case_id, key.start, stop + 2 * SLICE_CONTEXT)
        label_bits, known_bits = self._ledger.merged_bits(key.case_id, key.start, stop)
        known_bits = known_bits | self._all_classes
        missing = key.start + count - stop
        windows = self._data.train_windows_hu
        chosen = windows[0 if self._augment is None else int(rng.integers(len(windows)))]
        features = None
        if self._features is not None:
            found = self._features.read(key.case_id, chosen, key.start, stop)
            features = [_repeat_last(values, missing) for values in found]
        labelled = LabelledChunk(
            window(_repeat_last(hu, missing).astype(np.float32), chosen),
            _repeat_last(label_bits & known_bits, missing),
            np.concatenate([known_bits, np.zeros_like(known_bits[:1]).repeat(missing, axis=0)]),
        )
        return _Chunk(labelled, features)


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
