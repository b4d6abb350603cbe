"""Write a DICOM measurement report (PS3.16 TID 1500): what was found, and what was not.

One measurement group (TID 1411) per lesion: volume, long and short axis, mean and standard
deviation in HU, finding and finding site, and the segment of its class. A class with voxels and no
measured lesion, such as an organ, has one group with its volume. A class that was looked for and
not found has a group without a region (TID 1501) that says so. The observer is the software.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from samcancer import __version__
from samcancer.inference.lesion_table import MeasuredLesion
from samcancer.volume_io.dicom_codes import Algorithm, SegmentedClass, category_code, class_code
from samcancer.volume_io.dicom_objects import (
    MANUFACTURER,
    PENDING_INSTANCE,
    PENDING_SERIES,
    device_uid,
    finish,
    write_object,
)
from samcancer.volume_io.dicom_seg import coding_schemes, segment_uid, voxel_counts
from samcancer.volume_io.dicom_source import UNICODE, DicomSource

SERIES_NUMBER = 9002
"""Of the reports of a study."""

MILLILITRE = Code("ml", "UCUM", "milliliter")

_DECIMALS = 4
"""Of a measurement; a value of VR DS has 16 characters."""

_Group: TypeAlias = (
    hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations
    | hd.sr.MeasurementsAndQualitativeEvaluations
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a report tells."""

    labels: NDArray[np.uint8]
    """(slice, row, column): the mask as it is written."""
    classes: tuple[SegmentedClass, ...]
    """What the mask tells apart; the segmentation's classes."""
    looked_for: tuple[SegmentedClass, ...]
    """Every class that was looked for; several share a label where lesions were merged."""
    lesions: tuple[MeasuredLesion, ...]
    """With class names of ``looked_for``."""


def write_dicom_sr(
    path: Path,
    findings: Findings,
    source: DicomSource,
    *,
    segmentation: Dataset | None,
    algorithm: Algorithm,
) -> Dataset:
    """Write a measurement report atomically and return it.

    Args:
        path: Of the file.
        findings: What to report; nothing found is a report too.
        source: The series.
        segmentation: The Segmentation of the same labels; None when nothing was found.
        algorithm: What found it.

    Raises:
        InputError: When the file cannot be written, or reads back otherwise.
        ValueError: When something was found and no segmentation is given, or a lesion's class has
            no voxel.
    """
    groups = _groups(findings, source, segmentation, algorithm)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=_observer(algorithm)),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    evidence = [*source.headers, *([] if segmentation is None else [segmentation])]
    content = hd.sr.Comprehensive3DSR(
        evidence=evidence,
        content=report[0],
        series_instance_uid=PENDING_SERIES,
        series_number=SERIES_NUMBER,
        sop_instance_uid=PENDING_INSTANCE,
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description="SAMCancer measurements",
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=algorithm.serial_number,
        coding_schemes=coding_schemes(),
        specific_character_set=UNICODE,
    )
    finish(content, source.patient)

    def verify(written: Path) -> None:
        if tracking_uids(written) != sorted(str(group.tracking_uid) for group in groups):
            raise ValueError("measurement groups are missing")

    write_object(path, content, verify=verify)
    return content


def tracking_uids(path: Path) -> list[str]:
    """Return the tracking UIDs of a report's groups, sorted."""
    content: Any = hd.sr.srread(path).content
    groups = [
        *content.get_volumetric_roi_measurement_groups(),
        *content.get_image_measurement_groups(),
    ]
    return sorted(str(group.tracking_uid) for group in groups)


def _groups(
    findings: Findings,
    source: DicomSource,
    segmentation: Dataset | None,
    algorithm: Algorithm,
) -> list[_Group]:
    voxels = voxel_counts(findings.labels)
    present = [item for item in findings.classes if voxels[item.label] > 0]
    if present and segmentation is None:
        raise ValueError("a report of something that was found needs its segmentation")
    numbers = {item.label: number for number, item in enumerate(present, start=1)}
    classes = {item.spec.name: item for item in findings.looked_for}
    groups: list[_Group] = []
    for lesion in findings.lesions:
        if lesion.label not in numbers:
            raise ValueError(f"{lesion.lesion_id} is of a class without a voxel in the mask")
        groups.append(
            _region_group(
                classes[lesion.class_name],
                hd.sr.TrackingIdentifier(lesion.tracking_uid, lesion.lesion_id),
                _lesion_measurements(lesion),
                _segment(segmentation, numbers[lesion.label], source),
                algorithm,
            )
        )
    measured = {lesion.class_name for lesion in findings.lesions}
    shared = [label for label, count in Counter(c.label for c in classes.values()).items()
              if count > 1]  # fmt: skip
    for name, item in classes.items():
        tracking = hd.sr.TrackingIdentifier(segment_uid(source, name), name)
        if name in measured:
            continue
        if item.label in shared or item.label not in numbers:
            groups.append(_absent_group(item, tracking, algorithm))
        else:
            volume_ml = int(voxels[item.label]) * source.geometry.voxel_volume_ml
            groups.append(
                _region_group(
                    item,
                    tracking,
                    [_measurement(codes.SCT.Volume, volume_ml, MILLILITRE)],
                    _segment(segmentation, numbers[item.label], source),
                    algorithm,
                )
            )
    return groups


def _region_group(
    item: SegmentedClass,
    tracking: hd.sr.TrackingIdentifier,
    measurements: list[hd.sr.Measurement],
    segment: hd.sr.ReferencedSegment,
    algorithm: Algorithm,
) -> _Group:
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=segment,
        finding_type=class_code(item.spec),
        finding_category=category_code(item.spec),
        finding_sites=_sites(item),
        measurements=measurements,
        algorithm_id=_algorithm(algorithm),
    )


def _absent_group(
    item: SegmentedClass, tracking: hd.sr.TrackingIdentifier, algorithm: Algorithm
) -> _Group:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        finding_type=class_code(item.spec),
        finding_category=category_code(item.spec),
        finding_sites=_sites(item),
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(codes.DCM.PresenceOfProperty, codes.DCM.Absent)
        ],
        algorithm_id=_algorithm(algorithm),
    )


def _lesion_measurements(lesion: MeasuredLesion) -> list[hd.sr.Measurement]:
    hounsfield, attenuation = codes.UCUM.HounsfieldUnit, codes.DCM.AttenuationCoefficient
    return [
        _measurement(codes.SCT.Volume, lesion.volume_ml, MILLILITRE),
        _measurement(codes.SCT.LongAxis, lesion.long_axis_mm, codes.UCUM.Millimeter),
        _measurement(codes.SCT.ShortAxis, lesion.short_axis_mm, codes.UCUM.Millimeter),
        _measurement(attenuation, lesion.mean_hu, hounsfield, codes.SCT.Mean),
        _measurement(attenuation, lesion.sd_hu, hounsfield, codes.SCT.StandardDeviation),
    ]


def _measurement(
    name: Code, value: float, unit: Code, derivation: Code | None = None
) -> hd.sr.Measurement:
    return hd.sr.Measurement(
        name=name, value=round(value, _DECIMALS), unit=unit, derivation=derivation
    )


def _segment(
    segmentation: Dataset | None, number: int, source: DicomSource
) -> hd.sr.ReferencedSegment:
    """Refer to a class's segment: all lesions of a class share one."""
    if segmentation is None:
        raise ValueError("there is no segmentation to refer to")
    return hd.sr.ReferencedSegment(
        sop_class_uid=segmentation.SOPClassUID,
        sop_instance_uid=segmentation.SOPInstanceUID,
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(source.series_uid),
    )


def _sites(item: SegmentedClass) -> list[hd.sr.FindingSite] | None:
    return None if item.site is None else [hd.sr.FindingSite(class_code(item.site))]


def _algorithm(algorithm: Algorithm) -> hd.sr.AlgorithmIdentification:
    return hd.sr.AlgorithmIdentification(
        name=MANUFACTURER,
        version=__version__,
        parameters=[f"{name}={value}" for name, value in algorithm.all_parameters().items()],
    )


def _observer(algorithm: Algorithm) -> hd.sr.ObserverContext:
    return hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=f"{MANUFACTURER} {__version__}",
            serial_number=algorithm.serial_number,
        ),
    )
