"""Healthy scans that no model of the runs has seen: a folder of scans, or another case store.

Whoever names them vouches that they hold no lesion of any class. A scan that is in the training
store, by its file or by its voxels in whatever format, is refused: a model that has seen a scan in
training is cleaner on it than on a stranger's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from samcancer.data.case_store import CaseStore, is_store
from samcancer.data.store_index import content_sha256
from samcancer.errors import InputError
from samcancer.geometry import canonicalise
from samcancer.inference.batch import find_scans
from samcancer.inference.slices import ResizedSlices, grid_of
from samcancer.modeling.chunks import SliceSource
from samcancer.training.validate import PaddedSlices
from samcancer.volume_io import read_ct

Opened = tuple[SliceSource, tuple[float, float, float]]
"""Padded slices at the networks' size, and the distance of slices, rows and columns."""

HealthyScan = Callable[[], Opened]
"""Reads a scan that holds no lesion."""

_MEND = "leave it out of --healthy"


class Strangers:
    """Refuses scans that are in the store, or were named before."""

    def __init__(self, store: CaseStore) -> None:
        """Take what the models may have seen."""
        self._size = store.size
        self._seen: dict[str, str] = {}
        self._patients = {info.patient_id for info in store.cases.values()}
        for case_id, info in store.cases.items():
            owner = f"case {case_id} of the training store"
            self._seen |= dict.fromkeys((info.source_sha256, info.content_sha256), owner)

    def scans_of(self, folders: Iterable[Path]) -> list[HealthyScan]:
        """Return the scans of folders, or of case stores, sorted by folder and name.

        Raises:
            InputError: When there is none, or one cannot be a stranger.
        """
        return [
            scan
            for folder in folders
            for scan in (self._stored(folder) if is_store(folder) else self._raw(folder))
        ]

    def _raw(self, folder: Path) -> list[HealthyScan]:
        return [partial(self._read, path) for path in find_scans([folder]).values()]

    def _read(self, path: Path) -> Opened:
        ct = read_ct(path)
        canonical_hu, canonical, _ = canonicalise(ct.hu, ct.geometry)
        canonical_hu = np.ascontiguousarray(canonical_hu)
        self._require_new(path, path.name, ct.source_sha256, content_sha256(canonical_hu))
        grid = grid_of(canonical, self._size)
        voxel_mm = (canonical.spacing_mm[2], grid.pixel_mm, grid.pixel_mm)
        return ResizedSlices(canonical_hu, grid), voxel_mm

    def _stored(self, folder: Path) -> list[HealthyScan]:
        store = CaseStore(folder)
        if store.size != self._size:
            raise InputError(
                f"holds slices of {store.size} pixels, the training store of {self._size}",
                path=folder,
                mend="prepare it again with that size",
            )
        lesions = {n for n, spec in store.taxonomy().classes.items() if spec.kind == "lesion"}
        for case_id, info in store.cases.items():
            held = sorted(name for name in lesions if info.voxels.get(name))
            if held:
                raise InputError(
                    f"case {case_id} holds {', '.join(held)}",
                    path=folder,
                    mend="prepare a store of healthy scans alone",
                )
            if info.patient_id in self._patients:
                raise InputError(
                    f"case {case_id} is of the patient {info.patient_id}, whom the training store "
                    "holds too",
                    path=folder,
                    mend=_MEND,
                )
            self._require_new(folder, case_id, info.source_sha256, info.content_sha256)
        if not store.cases:
            raise InputError("holds no case", path=folder, mend="run prepare-slices first")
        return [partial(_open_stored, store, case_id) for case_id in store.cases]

    def _require_new(self, path: Path, name: str, *digests: str) -> None:
        for digest in digests:
            if digest in self._seen:
                raise InputError(
                    f"{name} is the same scan as {self._seen[digest]}", path=path, mend=_MEND
                )
        self._seen |= dict.fromkeys(digests, name)


def _open_stored(store: CaseStore, case_id: str) -> Opened:
    return PaddedSlices(store, case_id), store.cases[case_id].voxel_mm
