"""One case from its raw files to the case store: read, check, turn, resize, write.

Arrays are (slice, row, column). Counts and volumes are of the source's own voxels, taken before
anything is resized.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.dicom_labels import read_dicom_label, series_of_label
from data_prep.sources import SourceCase
from samcancer.data.case_store import CaseInfo, case_file_bytes, verify_case_file, write_case
from samcancer.data.slice_runs import SliceRuns
from samcancer.data.store_index import content_sha256
from samcancer.errors import InputError, refusal_of
from samcancer.files import sha256_of
from samcancer.geometry import canonicalise, require_same_grid
from samcancer.inplane import in_plane_grid, resize_mask, resize_slices
from samcancer.taxonomy import DatasetSpec, Taxonomy
from samcancer.volume_io import CtVolume, LabelVolume, ReadOptions, read_ct, read_labels
from samcancer.volume_io.formats import DICOM_SUFFIXES, is_dicom_file

_log = logging.getLogger(__name__)

_LISTED_VALUES = 8
"""Unknown label values quoted in a message."""

_EVERY_NEIGHBOUR = np.ones((3, 3, 3), np.bool_)
"""26-connectivity, the one lesions are counted with."""


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """All that a worker needs."""

    source: SourceCase
    store: Path
    class_names: tuple[str, ...]
    size: int
    options: ReadOptions
    taxonomy: Taxonomy
    """Gives the names by which structures in DICOM are known."""
    known: CaseInfo | None
    """The index's entry; None for a new case."""
    verify: bool
    """Prepare a finished case once more in memory and compare the bytes."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What became of one case."""

    case_id: str
    info: CaseInfo | None
    """None when it was refused."""
    kept: bool = False
    """Whether it had been finished before."""
    error: InputError | None = None
    lost: bool = False
    """Whether its finished file is gone or damaged and could not be made again."""
    warnings: tuple[str, ...] = ()
    input_bytes: int = 0
    """Size of the raw files read."""
    voxels: int = 0
    seconds: float = 0.0
    """Wall time in the worker."""
    cpu_seconds: float = 0.0


def convert_case(job: CaseJob) -> CaseResult:
    """Prepare one case, or keep it when it is finished; an error is part of the result."""
    started, cpu_started = time.perf_counter(), time.process_time()
    case_id = job.source.case_id
    damage = None if job.known is None else _damage(job.store, job.known)
    try:
        warnings: tuple[str, ...] = ()
        if job.known is not None:
            if damage is None:
                _require_same_source(job, job.known)
                if job.verify:
                    _require_same_bytes(job, job.known)
                return CaseResult(case_id=case_id, info=job.known, kept=True)
            warnings = (f"{damage.fact}: prepared again",)
        content = _prepare(job)
        known_file = "" if job.known is None else job.known.file  # a case keeps its place
        info = write_case(
            job.store,
            dataclasses.replace(content.info, file=known_file),
            job.class_names,
            slices_hu=content.slices_hu,
            label_bits=content.label_bits,
        )
    except InputError as error:
        return CaseResult(case_id=case_id, info=None, error=error, lost=damage is not None)
    except Exception as error:  # one broken case must not end the other cases
        _log.debug("case %s", case_id, exc_info=True)
        failure = refusal_of(error, job.source.image)
        return CaseResult(case_id=case_id, info=None, error=failure, lost=damage is not None)
    return CaseResult(
        case_id=case_id,
        info=info,
        warnings=warnings + content.warnings,
        input_bytes=_size_of(job.source.image) + _size_of(job.source.label),
        voxels=content.voxels,
        seconds=time.perf_counter() - started,
        cpu_seconds=time.process_time() - cpu_started,
    )


@dataclass(frozen=True, kw_only=True)
class _Content:
    info: CaseInfo
    slices_hu: NDArray[np.int16]
    label_bits: NDArray[np.uint32]
    warnings: tuple[str, ...]
    voxels: int


def _prepare(job: CaseJob) -> _Content:
    source = job.source
    image = read_ct(source.image, job.options, series=_series(job))
    hu, canonical, _ = canonicalise(image.hu, image.geometry)
    hu = np.ascontiguousarray(hu)
    grid = in_plane_grid(canonical, job.size)
    slices_hu = resize_slices(hu, grid)
    label = None if source.label is None else _read_label(source.label, image, job)
    annotated = tuple(name for name in job.class_names if name in source.annotates)
    label_bits = np.zeros(slices_hu.shape, np.uint32)
    voxels: dict[str, int] = {}
    lesions: dict[str, int] = {}
    if label is not None:
        for name in annotated:
            mask = canonicalise(label.mask(name), image.geometry)[0]
            voxels[name], lesions[name] = int(mask.sum()), _count_components(mask)
            if voxels[name]:
                bit = np.uint32(1 << job.class_names.index(name))
                label_bits |= resize_mask(mask, grid).astype(np.uint32) * bit
    info = CaseInfo(
        case_id=source.case_id,
        patient_id=source.patient_id,
        dataset=source.dataset.name,
        source_sha256=image.source_sha256,
        label_sha256=None if source.label is None else sha256_of(source.label),
        content_sha256=content_sha256(hu),
        slices=len(slices_hu),
        size=job.size,
        annotated=annotated,
        geometry=image.geometry,
        voxels=voxels,
        volume_ml={n: round(v * canonical.voxel_volume_ml, 6) for n, v in voxels.items()},
        lesions=lesions,
        positive_slices=_positive_slices(label_bits, annotated, job.class_names),
    )
    return _Content(
        info=info,
        slices_hu=slices_hu,
        label_bits=label_bits,
        warnings=image.warnings + (label.warnings if label is not None else ()),
        voxels=hu.size,
    )


def require_known_values(
    label: LabelVolume, dataset: DatasetSpec, annotates: tuple[str, ...]
) -> dict[int, int]:
    """Return how often each label value but 0 occurs.

    Raises:
        InputError: Listing values that the data set's table lacks, or whose classes the case is
            said not to annotate.
    """
    # Slice by slice, because bincount copies what it counts to 64 bits.
    counts = np.zeros(int(label.values.max(initial=0)) + 1, np.int64)
    for image in label.values:
        counts += np.bincount(image.ravel(), minlength=len(counts))
    found = {int(v): int(counts[v]) for v in np.flatnonzero(counts) if v != 0}
    unknown = {v: n for v, n in found.items() if v not in dataset.labels}
    if unknown:
        raise InputError(
            f"label values that {dataset.name} does not have: {_quote(unknown)}",
            path=label.path,
            mend="name the right data set with --dataset, or add the values to a --taxonomy file",
        )
    stray = {v: n for v, n in found.items() if dataset.labels[v]}
    stray = {v: n for v, n in stray.items() if not set(dataset.labels[v]) & set(annotates)}
    if stray:
        raise InputError(
            f"label values of classes that the case does not annotate: {_quote(stray)}",
            path=label.path,
            mend="correct the column annotates",
        )
    return found


def class_mask(
    values: NDArray[Any], counts: Mapping[int, int], dataset: DatasetSpec, class_name: str
) -> NDArray[np.bool_]:
    """Return where a label map says ``class_name``, whatever values it has there."""
    mask = np.zeros(values.shape, np.bool_)
    for value in counts:
        if class_name in dataset.labels[value]:
            mask |= values == value
    return mask


class _Label(Protocol):
    """A label file, whatever its form."""

    @property
    def warnings(self) -> tuple[str, ...]: ...

    def mask(self, class_name: str) -> NDArray[np.bool_]:
        """Return where a class is, (Z, Y, X) on the image's grid as stored."""
        ...


@dataclass(frozen=True)
class _LabelMap:
    """A label map whose values the data set gives a meaning."""

    values: NDArray[Any]
    counts: Mapping[int, int]
    dataset: DatasetSpec
    warnings: tuple[str, ...] = ()

    def mask(self, class_name: str) -> NDArray[np.bool_]:
        return class_mask(self.values, self.counts, self.dataset, class_name)


def _read_label(path: Path, image: CtVolume, job: CaseJob) -> _Label:
    source = job.source
    if is_dicom_file(path) or (path.suffix.lower() in DICOM_SUFFIXES and not path.exists()):
        return read_dicom_label(
            path,
            image,
            dataset=source.dataset,
            annotates=source.annotates,
            taxonomy=job.taxonomy,
            threshold=job.options.seg_threshold,
        )
    label = read_labels(path, job.options)
    require_same_grid(image.geometry, label.geometry, image_path=image.path, label_path=path)
    counts = require_known_values(label, source.dataset, source.annotates)
    return _LabelMap(label.values, counts, source.dataset)


def _quote(counts: Mapping[int, int]) -> str:
    listed = [f"{v} ({n} voxels)" for v, n in list(counts.items())[:_LISTED_VALUES]]
    more = len(counts) - len(listed)
    return ", ".join(listed) + (f" and {more} more" if more else "")


def _count_components(mask: NDArray[np.bool_]) -> int:
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return 0
    return int(ndimage.label(mask[boxes[0]], structure=_EVERY_NEIGHBOUR)[1])


def _positive_slices(
    label_bits: NDArray[np.uint32], annotated: tuple[str, ...], class_names: tuple[str, ...]
) -> dict[str, SliceRuns]:
    shown = np.bitwise_or.reduce(label_bits, axis=(1, 2))
    return {
        name: SliceRuns.of(np.flatnonzero(shown >> class_names.index(name) & 1).tolist())
        for name in annotated
    }


def _damage(store: Path, known: CaseInfo) -> InputError | None:
    try:
        verify_case_file(store, known)
    except InputError as error:
        return error
    return None


def _require_same_source(job: CaseJob, known: CaseInfo) -> None:
    """Refuse to keep a finished case whose raw files or meaning are not what they were."""
    source = job.source
    differing = []
    if source.image.exists() and _image_sha256(job) != known.source_sha256:
        differing.append("the image")
    label_sha256 = None if source.label is None else sha256_of(source.label)
    if label_sha256 != known.label_sha256:
        differing.append("the label")
    if source.patient_id != known.patient_id:
        differing.append("the patient")
    if source.dataset.name != known.dataset:
        differing.append("the data set")
    if tuple(n for n in job.class_names if n in source.annotates) != known.annotated:
        differing.append("what is annotated")
    if differing:
        raise InputError(
            f"{' and '.join(differing)} changed since case {known.case_id!r} was prepared",
            path=source.image,
            mend=f"delete {known.file} in the store to prepare it again",
        )


def _series(job: CaseJob) -> str | None:
    """Return the series of a DICOM folder that is asked for, or that the label was drawn on."""
    image, label = job.source.image, job.source.label
    if job.options.series is not None or label is None or not image.is_dir():
        return job.options.series
    return series_of_label(label, image)


def _image_sha256(job: CaseJob) -> str:
    if job.source.image.is_file():
        return sha256_of(job.source.image)
    from samcancer.volume_io.dicom import series_sha256

    return series_sha256(job.source.image, series=_series(job))


def _require_same_bytes(job: CaseJob, known: CaseInfo) -> None:
    content = _prepare(job)
    again = case_file_bytes(
        content.info, job.class_names, slices_hu=content.slices_hu, label_bits=content.label_bits
    )
    if hashlib.sha256(again).hexdigest() != known.file_sha256:
        raise InputError(
            "preparing it again gives another file",
            path=job.store / known.file,
            mend="delete it to prepare it again",
        )


def _size_of(path: Path | None) -> int:
    if path is None:
        return 0
    if path.is_dir():
        return sum(p.stat().st_size for p in path.iterdir() if p.is_file())
    return path.stat().st_size
