"""Segment one scan: from its file to a label map on its own grid, and a report beside it.

``<case>.<suffix>`` holds uint8 labels (0 background, k + 1 class k of the model) with the input's
size, spacing, origin and direction. ``<case>.lesions.csv`` lists the lesions. ``<case>.json``, the
report, lists them too; it is written last and vouches for the other files by their sha256, and a
case without it is not finished. Reports hold case ids, never names or paths.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samcancer import __version__
from samcancer.errors import InputError
from samcancer.files import (
    require_writable_folder,
    sha256_of,
    write_json_atomic,
)
from samcancer.geometry import Geometry, canonicalise
from samcancer.inference.dicom_results import read_source, write_dicom_results
from samcancer.inference.extras import hashes_of, output_bytes, scratch_arrays, write_extras
from samcancer.inference.finished import (
    REPORT_VERSION,
    mask_path,
    report_path,
    request_sha256,
    table_path,
)
from samcancer.inference.lesion_table import MeasuredLesion, measure_lesions, write_lesions
from samcancer.inference.merging import merge_lesions, written_labels
from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.postprocess import ClassResult, PredictedMaps, postprocess_maps
from samcancer.inference.prompts import NO_PROMPTS, CasePrompts, slice_prompts
from samcancer.inference.region import Region
from samcancer.inference.slices import grid_of
from samcancer.inference.volume import LabelMaps, predict_volume
from samcancer.volume_io import CtVolume, read_ct, write_labels

if TYPE_CHECKING:
    from samcancer.volume_io.dicom_source import DicomSource

_log = logging.getLogger(__name__)


class OpenScan(NamedTuple):
    """A scan that has been read."""

    ct: CtVolume
    seconds: float
    """Time that reading took."""
    dicom: DicomSource | None = None
    """What results in DICOM refer to; None where none are to be written."""


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
    dicom: DicomSource | None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Label maps in the scan's own orientation, not written yet."""

    case: _Case
    labels: NDArray[np.uint8]
    organs: NDArray[np.uint8] | None
    probabilities: Sequence[NDArray[np.float16]]
    presence: NDArray[np.float32]
    results: tuple[ClassResult, ...]
    lesions: tuple[MeasuredLesion, ...]
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
    ct, dicom = read_source(read_ct(scan, options.read), options.dicom)
    return OpenScan(ct, time.perf_counter() - started, dicom)


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
    mask = mask_path(output, case_id, scan)
    if mask.exists() and mask.samefile(scan):
        raise InputError("the mask would overwrite the scan", path=scan, mend="change --output")
    require_writable_folder(output, needed_bytes=output_bytes(ct.geometry, ensemble, options))
    _log.info("%s: %d slices of %d x %d", case_id, *ct.geometry.shape)
    case = _Case(
        case_id=case_id,
        mask=mask,
        reference=None if scan.is_dir() else scan,
        geometry=ct.geometry,
        sha256=ct.source_sha256,
        warnings=tuple(ct.warnings),
        seconds={"read": opened.seconds},
        dicom=opened.dicom and opened.dicom.for_case(case_id),
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
        files = write_extras(prediction, ensemble, options)
        if options.merge_lesions:
            merge_lesions(prediction.labels, ensemble.classes)
        write_labels(case.mask, prediction.labels, case.geometry, reference=case.reference)
        table = table_path(case.mask.parent, case.case_id)
        write_lesions(table, prediction.lesions)
    labels = written_labels(ensemble.classes, merged=options.merge_lesions)
    prompt_count = len(prompts.given) + (prompts.mask is not None)
    files += write_dicom_results(prediction, ensemble, options, prompts=prompt_count)
    seconds = {**case.seconds, "write": time.perf_counter() - started}
    report = {
        "format_version": REPORT_VERSION,
        "case": case.case_id,
        "labels": {"background": 0, **labels},
        "classes": _class_reports(prediction, ensemble, labels),
        "lesions": [asdict(lesion) for lesion in prediction.lesions],
        "mask": {"file": case.mask.name, "sha256": sha256_of(case.mask)},
        "lesion_table": {"file": table.name, "sha256": sha256_of(table)},
        "files": hashes_of(files, case.mask.parent),
        "input": {"sha256": case.sha256, "geometry": case.geometry.to_dict()},
        "model": ensemble.to_report(),
        "region": prediction.region and prediction.region.to_dict(),
        "prompts": prompt_count,
        "request": request_sha256(ensemble, options, prompts),
        "software": f"samcancer {__version__}",
        "warnings": list(case.warnings),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    write_json_atomic(report_path(case.mask.parent, case.case_id), report)
    return report


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
        mask_thresholds=ensemble.mask_thresholds,
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
    lesions = measure_lesions(
        maps.lesions,
        volume_hu=volume_hu,
        geometry=canonical_geometry,
        classes=ensemble.classes,
        written=written_labels(ensemble.classes, merged=options.merge_lesions),
        certainty=maps.certainty,
        presence=presence,
        scan_sha256=ct.source_sha256,
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
        lesions=lesions,
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
