"""A folder of encoder features that were computed once, to be read in place of computing them.

FOLDER/CASE_LOWER_UPPER.safetensors   one case in one window, see samcancer.data.feature_file

Features are exact for slices as they are in the store: augmentation would change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from samcancer.config import FeatureDtype, WindowHu
from samcancer.data.feature_file import FILL_MEND, FeatureFile, FeatureKey, FeatureReader
from samcancer.data.slice_reader import ReaderPool
from samcancer.data.store_index import CaseInfo
from samcancer.errors import InputError


@dataclass(frozen=True, kw_only=True)
class FeatureSource:
    """What decides features besides the slices: the encoder, and how its features are kept."""

    encoder: str
    encoder_sha256: str
    image_size: int
    padded_windows: bool
    dtype: FeatureDtype
    shapes: tuple[tuple[int, ...], ...]
    """Of one slice's features, in the order of :data:`feature_file.FEATURE_NAMES`."""


class FeatureCache:
    """The read side of a folder: cheap to make, picklable, opens files where they are read."""

    def __init__(self, folder: Path, cases: Mapping[str, CaseInfo], source: FeatureSource) -> None:
        """Bind the parts; nothing is opened.

        Args:
            folder: Where the files are.
            cases: Of the store.
            source: What computed the features.
        """
        self.folder = folder
        self._cases = cases
        self._source = source
        self._pool = ReaderPool(self._open)

    def file(self, case_id: str, window_hu: WindowHu) -> FeatureFile:
        """Return the file of a case in a window, there or not."""
        info, source = self._cases[case_id], self._source
        key = FeatureKey(
            case_sha256=info.file_sha256,
            window_hu=window_hu,
            image_size=source.image_size,
            encoder=source.encoder,
            encoder_sha256=source.encoder_sha256,
            padded_windows=source.padded_windows,
            dtype=source.dtype,
        )
        lower, upper = window_hu
        path = self.folder / f"{case_id}_{lower:g}_{upper:g}.safetensors"
        return FeatureFile(path, key, slices=info.slices, shapes=source.shapes)

    def read(self, case_id: str, window_hu: WindowHu, start: int, stop: int) -> list[NDArray[Any]]:
        """Return the five features (n, ...) of slices start..stop.

        Raises:
            InputError: When the file is missing, damaged, or holds other features.
        """
        return self._pool.reader((case_id, window_hu)).read(start, stop)

    def require_complete(self, case_ids: Iterable[str], windows_hu: Iterable[WindowHu]) -> None:
        """Refuse a folder that lacks features of some case, or holds others, before it is used.

        Raises:
            InputError: Naming how many are missing, or the first file that cannot be used.
        """
        windows = tuple(windows_hu)
        files = [self.file(case_id, window) for case_id in case_ids for window in windows]
        missing = [file for file in files if not file.path.exists()]
        if missing:
            raise InputError(
                f"lacks the features of {len(missing)} of {len(files)} cases and windows, such as "
                f"{missing[0].path.name}",
                path=self.folder,
                mend=FILL_MEND,
            )
        for file in files:
            FeatureReader(file).close()

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        self._pool.close()

    def _open(self, key: tuple[str, WindowHu]) -> FeatureReader:
        return FeatureReader(self.file(*key))
