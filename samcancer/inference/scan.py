"""Segment one scan: from its file to a label map on its own grid, and a report beside it.

``<case>.<suffix>`` holds uint8 labels (0 background, k + 1 class k of the model) with the input's
size, spacing, origin and direction. ``<case>.json`` is written last and vouches for the mask by its
sha256; a case without a report is not finished. Reports hold case ids, never names or paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import (
    read_json,
    require_writable_folder,
    sha256_of,
    write_json_atomic,
)
from samcancer.geometry import Geometry, canonicalise
from samcancer.inference.extras import scratch_arrays, write_extras
from samcancer.inference.merging import merge_lesions, written_labels
from samcancer.inference.models import Ensemble
from samcancer.inference.postprocess import ClassResult, PredictedMaps, postprocess_maps
from samcancer.inference.prompts import NO_PROMPTS, CasePrompts, slice_prompts
from samcancer.inference.region import Region
from samcancer.inference.slices import grid_of
from samcancer.inference.volume import EngineOptions, LabelMaps, predict_volume
from samcancer.volume_io import CtVolume, ReadOptions, read_ct, write_labels
from samcancer.volume_io.formats import volume_suffix

_log = logging.getLogger(__name__)

REPORT_VERSION = 2
"""Form of the report; another number makes ``--skip-finished`` do the case again."""

_DEFAULT_SUFFIX = ".nii.gz"
"""Of the mask of a scan that is a DICOM folder."""


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """What is computed and written."""

    engine: EngineOptions = field(default_factory=EngineOptions)
    read: ReadOptions = field(default_factory=ReadOptions)
    per_class: bool = False
    """Also write one binary mask per class; an organ's includes the lesions inside it."""
    probabilities: bool = False
    """Also write each class's probabilities, before presence gating and post-processing."""
    merge_lesions: bool = False
    """Write one label, 1, for lesions of every class, and none for organs ([LV], FLARE24)."""
    postprocess: bool = True
    """Apply the rules of the taxonomy; without them the labels stay as the network gave them."""


class OpenScan(NamedTuple):
    """A scan that has been read."""

    ct: CtVolume
    seconds: float
    """Time that reading took."""


class _Case(NamedTuple):
    """What is reported about a scan after its voxels are let go."""

    case_id: str
    mask: Path
    reference: Path | None
    """File whose grid the mask takes over bit for bit; None where the scan is no single file."""
    geometry: Geometry
    sha256: str
    warnings: tuple[str, ...]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Label maps in the scan's own orientation, not written yet."""

    case: _Case
    labels: NDArray[np.uint8]
    organs: NDArray[np.uint8] | None
    probabilities: Sequence[NDArray[np.float16]]
    presence: NDArray[np.float32]
    results: tuple[ClassResult, ...]
    region: Region | None
    """The slices that were segmented; None where that was not asked."""
    scratch: contextlib.ExitStack
    """Removes the file behind the probabilities when it is closed."""


def segment_scan(
    scan: Path,
    output: Path,
    *,
    case_id: str,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: CasePrompts = NO_PROMPTS,
    on_slices: Callable[[int], None] = lambda _: None,
) -> dict[str, Any]:
    """Segment one scan, write the mask and then the report, and return the report.

    Args:
        scan: A volume file or a DICOM folder.
        output: Folder of the results.
        case_id: Name of the results.
        ensemble: The networks.
        options: What to compute and write.
        prompts: Points, boxes, lines and masks that a person gave.
        on_slices: Called with the number of slices done since the last call.

    Raises:
        InputError: When the scan or a prompt cannot be used, or the output folder cannot take the
            result.
    """
    prediction = predict_scan(
        open_scan(scan, options),
        scan,
        output,
        case_id=case_id,
        ensemble=ensemble,
        options=options,
        prompts=prompts,
        on_slices=on_slices,
    )
    return write_prediction(prediction, ensemble=ensemble, options=options, prompts=prompts)


def open_scan(scan: Path, options: InferenceOptions) -> OpenScan:
    """Read a scan: the first of the three steps of :func:`segment_scan`."""
    started = time.perf_counter()
    return OpenScan(read_ct(scan, options.read), time.perf_counter() - started)


def predict_scan(
    opened: OpenScan,
    scan: Path,
    output: Path,
    *,
    case_id: str,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: CasePrompts = NO_PROMPTS,
    on_slices: Callable[[int], None] = lambda _: None,
) -> Prediction:
    """Predict and post-process: the second step; see :func:`segment_scan`."""
    ct = opened.ct
    mask = output / (case_id + _mask_suffix(scan))
    if mask.exists() and mask.samefile(scan):
        raise InputError("the mask would overwrite the scan", path=scan, mend="change --output")
    require_writable_folder(output, needed_bytes=_output_bytes(ct.geometry, ensemble, options))
    _log.info("%s: %d slices of %d x %d", case_id, *ct.geometry.shape)
    case = _Case(
        case_id=case_id,
        mask=mask,
        reference=None if scan.is_dir() else scan,
        geometry=ct.geometry,
        sha256=ct.source_sha256,
        warnings=tuple(ct.warnings),
        seconds={"read": opened.seconds},
    )
    with contextlib.ExitStack() as stack:
        count = len(ensemble.classes) if options.probabilities else 0
        arrays = scratch_arrays(output / f"{case_id}.probabilities", count, ct.geometry.shape)
        probabilities = stack.enter_context(arrays)
        prediction = _predict(ct, case, ensemble, options, prompts, probabilities, on_slices)
        return replace(prediction, scratch=stack.pop_all())


def write_prediction(
    prediction: Prediction,
    *,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: CasePrompts = NO_PROMPTS,
) -> dict[str, Any]:
    """Write the mask and then the report, and return it: the last step; see :func:`segment_scan`.

    The prediction cannot be used afterwards.
    """
    started = time.perf_counter()
    case = prediction.case
    with prediction.scratch:
        write_extras(prediction, ensemble, options)
        if options.merge_lesions:
            merge_lesions(prediction.labels, ensemble.classes)
        write_labels(case.mask, prediction.labels, case.geometry, reference=case.reference)
    labels = written_labels(ensemble.classes, merged=options.merge_lesions)
    seconds = {**case.seconds, "write": time.perf_counter() - started}
    report = {
        "format_version": REPORT_VERSION,
        "case": case.case_id,
        "labels": {"background": 0, **labels},
        "classes": _class_reports(prediction, ensemble, labels),
        "mask": {"file": case.mask.name, "sha256": sha256_of(case.mask)},
        "input": {"sha256": case.sha256, "geometry": case.geometry.to_dict()},
        "model": _model_report(ensemble),
        "region": prediction.region and prediction.region.to_dict(),
        "prompts": len(prompts.given) + (prompts.mask is not None),
        "request": request_sha256(ensemble, options, prompts),
        "software": f"samcancer {__version__}",
        "warnings": list(case.warnings),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    write_json_atomic(_report_path(case.mask.parent, case.case_id), report)
    return report


def finished_report(
    scan: Path,
    output: Path,
    *,
    case_id: str,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: CasePrompts = NO_PROMPTS,
) -> dict[str, Any] | None:
    """Return the report of a finished case, or None when it has to be (re)done.

    Finished means: the report asks for the same models, options and prompts, the mask has the
    sha256 that the report states, and the scan is the one that was segmented.
    """
    path = _report_path(output, case_id)
    try:
        report = read_json(path)
    except InputError:
        return None
    try:
        mask = output / report["mask"]["file"]
        same = (
            report["format_version"] == REPORT_VERSION
            and report["request"] == request_sha256(ensemble, options, prompts)
            and mask.name == case_id + _mask_suffix(scan)
            and mask.is_file()
            and report["mask"]["sha256"] == sha256_of(mask)
            and report["input"]["sha256"] == _source_sha256(scan, options)
        )
    except (KeyError, TypeError, AttributeError):
        return None
    return dict(report) if same else None


def request_sha256(
    ensemble: Ensemble, options: InferenceOptions, prompts: CasePrompts = NO_PROMPTS
) -> str:
    """Return a hash of everything, apart from the scan, that decides the result."""
    content = {
        "software": __version__,
        "models": ensemble.sha256,
        "thresholds": ensemble.thresholds.tolist(),
        "precision": options.engine.precision,
        "flip": options.engine.flip,
        "overlap": options.engine.overlap,
        "per_class": options.per_class,
        "probabilities": options.probabilities,
        "merge_lesions": options.merge_lesions,
        "postprocess": options.postprocess,
        "read": repr(options.read),
        "classes": ensemble.class_names,
        "text": ensemble.text_sha256,
        "region": ensemble.region and ensemble.region.sha256,
        "prompts": prompts.sha256(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _source_sha256(scan: Path, options: InferenceOptions) -> str:
    if scan.is_file():
        return sha256_of(scan)
    from samcancer.volume_io.dicom import series_sha256

    return series_sha256(scan, series=options.read.series, files=options.read.files)


def _report_path(output: Path, case_id: str) -> Path:
    return output / f"{case_id}.json"


def _mask_suffix(scan: Path) -> str:
    return _DEFAULT_SUFFIX if scan.is_dir() else volume_suffix(scan) or _DEFAULT_SUFFIX


def _predict(
    ct: CtVolume,
    case: _Case,
    ensemble: Ensemble,
    options: InferenceOptions,
    prompts: CasePrompts,
    probabilities: list[NDArray[np.float16]],
    on_slices: Callable[[int], None],
) -> Prediction:
    """Views in canonical orientation write into the scan's own."""
    started = time.perf_counter()
    volume_hu, canonical_geometry, _ = canonicalise(ct.hu, ct.geometry)
    is_lesion = [spec.kind == "lesion" for spec in ensemble.classes]
    labels = np.zeros(ct.geometry.shape, dtype=np.uint8)
    organs = None if all(is_lesion) else np.zeros_like(labels)
    maps = LabelMaps(
        lesions=canonicalise(labels, ct.geometry)[0],
        organs=None if organs is None else canonicalise(organs, ct.geometry)[0],
        probabilities=[canonicalise(p, ct.geometry)[0] for p in probabilities],
    )
    grid = grid_of(canonical_geometry, ensemble.image_size)
    prompted = slice_prompts(
        prompts,
        geometry=ct.geometry,
        canonical=canonical_geometry,
        grid=grid,
        class_names=ensemble.class_names,
    )
    region = None
    if ensemble.region is not None:
        region = ensemble.region.region_of(
            volume_hu, canonical_geometry, options=options.engine, prompts=prompted
        )
    located = time.perf_counter()
    presence = predict_volume(
        ensemble.members,
        volume_hu,
        grid=grid,
        slice_mm=canonical_geometry.spacing_mm[2],
        is_lesion=is_lesion,
        thresholds=ensemble.thresholds,
        maps=maps,
        options=options.engine,
        prompts=prompted,
        other_sides=ensemble.other_sides() if options.engine.flip else None,
        kept=None if region is None else region.kept,
        on_slices=on_slices,
    )
    predicted = time.perf_counter()
    x_mm, y_mm, z_mm = canonical_geometry.spacing_mm
    results = postprocess_maps(
        PredictedMaps(
            lesions=maps.lesions,
            organs=maps.organs,
            volume_hu=volume_hu,
            spacing_mm=(z_mm, y_mm, x_mm),
        ),
        ensemble.classes,
        unions=ensemble.unions,
        enabled=options.postprocess,
    )
    if organs is not None:
        for lesion_plane, organ_plane in zip(labels, organs, strict=True):
            np.copyto(lesion_plane, organ_plane, where=lesion_plane == 0)
    seconds = {"predict": predicted - located, "postprocess": time.perf_counter() - predicted}
    if region is not None:
        seconds = {"region": located - started, **seconds}
    return Prediction(
        case=case._replace(seconds=case.seconds | seconds),
        labels=labels,
        organs=organs,
        probabilities=probabilities,
        presence=presence,
        results=results,
        region=region,
        scratch=contextlib.ExitStack(),
    )


def _class_reports(
    prediction: Prediction, ensemble: Ensemble, labels: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    reports = {}
    voxel_volume_ml = prediction.case.geometry.voxel_volume_ml
    for k, (spec, result) in enumerate(zip(ensemble.classes, prediction.results, strict=True)):
        reports[spec.name] = {
            "label": labels.get(spec.name),
            "kind": spec.kind,
            "volume_ml": round(result.voxels * voxel_volume_ml, 4),
            "components": result.components,
            "slices": len(result.slices),
            "presence_max": round(float(prediction.presence[:, k].max()), 4),
            **result.changes(),
        }
        result.log_changes(spec.name)
    return reports


def _model_report(ensemble: Ensemble) -> dict[str, Any]:
    thresholds = zip(ensemble.class_names, ensemble.thresholds.tolist(), strict=True)
    return {
        "sha256": list(ensemble.sha256),
        "text_sha256": ensemble.text_sha256,
        "region_sha256": ensemble.region and ensemble.region.sha256,
        "presence_thresholds": {name: round(value, 6) for name, value in thresholds},
    }


def _output_bytes(geometry: Geometry, ensemble: Ensemble, options: InferenceOptions) -> int:
    """Return the disk space that the results may need if they do not compress at all."""
    voxels = int(np.prod(geometry.shape))
    classes = len(ensemble.classes)
    per_voxel = 1 + classes * (int(options.per_class) + (2 + 4) * int(options.probabilities))
    return voxels * per_voxel
