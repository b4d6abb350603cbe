"""Results in DICOM of a scan that is a DICOM series: segmentation, measurement report, structures.

``<case>.seg.dcm``, ``<case>.sr.dcm`` and ``<case>.rtstruct.dcm`` join the study of the series and
say of the patient no more than the case id, unless the patient's data is to be kept. Where nothing
was found there is a report that says so, and neither segmentation nor structures: DICOM has no
segmentation without a segment.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from samcancer.errors import InputError
from samcancer.inference.merging import ANY_LESION
from samcancer.taxonomy import load_taxonomy
from samcancer.volume_io import CtVolume

if TYPE_CHECKING:
    from samcancer.inference.dicom_sr import Findings
    from samcancer.inference.models import Ensemble
    from samcancer.inference.options import InferenceOptions
    from samcancer.inference.scan import Prediction
    from samcancer.volume_io.dicom_codes import Algorithm, SegmentedClass
    from samcancer.volume_io.dicom_source import DicomSource

_log = logging.getLogger(__name__)

DicomKind = Literal["seg", "sr", "rtstruct"]

DICOM_KINDS: tuple[DicomKind, ...] = get_args(DicomKind)
"""Every kind of object that can be written; also the middle of its file's name."""


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """What is written of a DICOM series beside the mask."""

    kinds: tuple[DicomKind, ...] = ("seg", "sr")
    """Empty writes none."""
    required: bool = False
    """Refuse a series whose headers are not enough to refer to; else its report has a warning."""
    keep_patient: bool = False
    """Write the patient's name, id and dates into the DICOM objects, for a PACS to file them."""

    def __post_init__(self) -> None:
        """Refuse unknown kinds, and a report without what it refers to."""
        unknown = [kind for kind in self.kinds if kind not in DICOM_KINDS]
        if unknown:
            raise InputError(
                f"--dicom has no {unknown[0]!r}", mend=f"choose from {', '.join(DICOM_KINDS)}"
            )
        if "sr" in self.kinds and "seg" not in self.kinds:
            raise InputError(
                "a report (sr) refers to the segments of a segmentation (seg)",
                mend="give --dicom seg,sr",
            )


def read_source(ct: CtVolume, options: DicomOptions) -> tuple[CtVolume, DicomSource | None]:
    """Return what results refer to, if any are wanted, and the scan, with a warning if need be.

    Raises:
        InputError: When results are required and a header lacks what they must refer to.
    """
    if ct.file_format != "dicom" or not options.kinds:
        return ct, None
    from samcancer.volume_io.dicom_source import read_dicom_source

    try:
        source = read_dicom_source(
            ct.files, geometry=ct.geometry, keep_patient=options.keep_patient
        )
    except InputError as error:
        if options.required:
            raise
        told = f"no results in DICOM: a slice {error.fact}"
        _log.warning(told)
        return replace(ct, warnings=(*ct.warnings, told)), None
    return ct, source


def write_dicom_results(
    prediction: Prediction,
    ensemble: Ensemble,
    options: InferenceOptions,
    *,
    prompts: int,
) -> list[Path]:
    """Write what the options ask for and return the files.

    Args:
        prediction: Its labels are those of the written mask.
        ensemble: What predicted.
        options: What to write.
        prompts: How many prompts a person gave.
    """
    source = prediction.case.dicom
    if source is None:
        return []
    from samcancer.inference.dicom_sr import Findings
    from samcancer.volume_io.dicom_codes import Algorithm
    from samcancer.volume_io.quiet import quiet_dicom_libraries

    looked_for = classes_looked_for(ensemble, merged=options.merge_lesions)
    algorithm = Algorithm(
        model_sha256=ensemble.sha256, parameters=_parameters(ensemble, options, prompts)
    )
    paths = {kind: dicom_path(prediction.case.mask.parent, prediction.case.case_id, kind)
             for kind in DICOM_KINDS}  # fmt: skip
    for path in paths.values():
        path.unlink(missing_ok=True)  # of an earlier run that found something else
    findings = Findings(
        labels=prediction.labels,
        classes=_segmented(looked_for, merged=options.merge_lesions),
        looked_for=looked_for,
        lesions=prediction.lesions,
    )
    with quiet_dicom_libraries():
        _write(options.dicom.kinds, paths, findings, source, algorithm)
    return [path for path in paths.values() if path.exists()]


def _write(
    kinds: Collection[DicomKind],
    paths: Mapping[DicomKind, Path],
    findings: Findings,
    source: DicomSource,
    algorithm: Algorithm,
) -> None:
    from samcancer.inference.dicom_sr import write_dicom_sr
    from samcancer.volume_io.dicom_rtstruct import write_dicom_rtstruct
    from samcancer.volume_io.dicom_seg import write_dicom_seg

    labels, classes = findings.labels, findings.classes
    segmentation = None
    if "seg" in kinds:
        segmentation = write_dicom_seg(
            paths["seg"], labels, source, classes=classes, algorithm=algorithm
        )
    if "sr" in kinds:
        write_dicom_sr(
            paths["sr"], findings, source, segmentation=segmentation, algorithm=algorithm
        )
    if "rtstruct" in kinds:
        write_dicom_rtstruct(
            paths["rtstruct"], labels, source, classes=classes, algorithm=algorithm
        )


def _parameters(ensemble: Ensemble, options: InferenceOptions, prompts: int) -> dict[str, str]:
    """Return what decides the labels beside the weights; not what is written of them."""
    report = ensemble.to_report()
    thresholds = report["presence_thresholds"].items()
    told = {
        "text_sha256": report["text_sha256"],
        "region_sha256": report["region_sha256"],
        **{f"presence_threshold_{name}": value for name, value in thresholds},
        "precision": options.engine.precision,
        "mirrored_too": options.engine.flip,
        "overlap": options.engine.overlap,
        "postprocess": options.postprocess,
        "prompts": prompts,
    }
    return {name: str(value) for name, value in told.items() if value is not None}


def dicom_path(output: Path, case_id: str, kind: DicomKind) -> Path:
    """Return where a case's object of a kind is written."""
    return output / f"{case_id}.{kind}.dcm"


def classes_looked_for(ensemble: Ensemble, *, merged: bool) -> tuple[SegmentedClass, ...]:
    """Return the classes, each with its value in the written mask and where it lies."""
    from samcancer.volume_io.dicom_codes import SegmentedClass

    return tuple(
        SegmentedClass(
            spec=spec,
            label=1 if merged else k + 1,
            site=None if spec.organ is None else ensemble.organs.get(spec.organ),
        )
        for k, spec in enumerate(ensemble.classes)
        if spec.kind == "lesion" or not merged
    )


def _segmented(
    looked_for: tuple[SegmentedClass, ...], *, merged: bool
) -> tuple[SegmentedClass, ...]:
    """Return what the mask tells apart: the classes, or any lesion."""
    if not merged:
        return looked_for
    return (replace(looked_for[0], spec=load_taxonomy().classes[ANY_LESION], site=None),)
