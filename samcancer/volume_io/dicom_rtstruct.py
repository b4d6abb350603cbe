"""Write a label map as a DICOM RT Structure Set (PS3.3 A.19): one region per class.

Contours run along the voxels' edges in every slice, so that rasterising them on the grid of the
series gives the same voxels. Where a class has a hole, all its contours are of type
CLOSEDPLANAR_XOR (PS3.3 C.8.8.6.3) and a hole is a contour inside another; else CLOSED_PLANAR.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage

from samcancer import __version__
from samcancer.geometry import Geometry
from samcancer.volume_io.dicom_codes import Algorithm, SegmentedClass, colour_of
from samcancer.volume_io.dicom_objects import (
    MANUFACTURER,
    PENDING_INSTANCE,
    PENDING_SERIES,
    file_meta_of,
    finish,
    write_object,
)
from samcancer.volume_io.dicom_seg import classes_with_voxels
from samcancer.volume_io.dicom_source import EMPTY_TAGS, UNICODE, DicomSource
from samcancer.volume_io.mask_outlines import mask_outlines

SERIES_NUMBER = 9003
"""Of the structure sets of a study."""

_INSET_VOXELS = 1e-3
"""How far outlines stay inside the images' outer edge, so that rounding cannot put them beyond."""

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""SOP class by which a structure set names a study: Detached Study Management, retired."""

_DECIMALS = 6
"""Of a coordinate in mm: far finer than the half voxel that rounding could cost."""


def write_dicom_rtstruct(
    path: Path,
    labels: NDArray[np.uint8],
    source: DicomSource,
    *,
    classes: Sequence[SegmentedClass],
    algorithm: Algorithm,
) -> Dataset | None:
    """Write a structure set atomically and return it; None, and no file, without any voxel.

    Args:
        path: Of the file.
        labels: (slice, row, column) on the grid of the series.
        source: The series.
        classes: Every class that may be in ``labels``; those without a voxel get no region.
        algorithm: What made the labels.

    Raises:
        InputError: When the file cannot be written, or reads back otherwise.
    """
    present = classes_with_voxels(labels, classes)
    if not present:
        return None
    content = _empty_structure_set(source, algorithm)
    for number, item in enumerate(present, start=1):
        content.StructureSetROISequence.append(_region(number, item, source))
        content.ROIContourSequence.append(_contours(number, item, labels, source))
        content.RTROIObservationsSequence.append(_observation(number, item))
    finish(content, source.patient)

    def verify(written: Path) -> None:
        found = [len(roi.ContourSequence) for roi in pydicom.dcmread(written).ROIContourSequence]
        if found != [len(roi.ContourSequence) for roi in content.ROIContourSequence]:
            raise ValueError("contours are missing")

    write_object(path, content, verify=verify)
    return content


def _empty_structure_set(source: DicomSource, algorithm: Algorithm) -> Dataset:
    content = Dataset()
    content.file_meta = file_meta_of(RTStructureSetStorage)
    content.SpecificCharacterSet = UNICODE
    content.SOPClassUID = RTStructureSetStorage
    content.SOPInstanceUID = PENDING_INSTANCE
    content.Modality = "RTSTRUCT"
    content.Manufacturer = content.ManufacturerModelName = MANUFACTURER
    content.SoftwareVersions = __version__
    content.DeviceSerialNumber = algorithm.serial_number
    content.SeriesDescription = "SAMCancer structures"
    content.OperatorsName = ""
    for name in EMPTY_TAGS:
        setattr(content, name, "")
    content.StudyInstanceUID = source.study_uid
    content.SeriesInstanceUID = PENDING_SERIES
    content.SeriesNumber = SERIES_NUMBER
    content.FrameOfReferenceUID = source.frame_uid
    content.PositionReferenceIndicator = ""
    content.StructureSetLabel = MANUFACTURER
    content.StructureSetDate = content.StructureSetTime = ""
    content.ApprovalStatus = "UNAPPROVED"
    content.ReferencedFrameOfReferenceSequence = [_referenced_images(source)]
    content.StructureSetROISequence = []
    content.ROIContourSequence = []
    content.RTROIObservationsSequence = []
    return content


def _referenced_images(source: DicomSource) -> Dataset:
    series = _dataset(
        SeriesInstanceUID=source.series_uid,
        ContourImageSequence=[_reference(header) for header in source.headers],
    )
    study = _dataset(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=source.study_uid,
        RTReferencedSeriesSequence=[series],
    )
    return _dataset(FrameOfReferenceUID=source.frame_uid, RTReferencedStudySequence=[study])


def _region(number: int, item: SegmentedClass, source: DicomSource) -> Dataset:
    return _dataset(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=source.frame_uid,
        ROIName=item.spec.name,
        ROIGenerationAlgorithm="AUTOMATIC",
    )


def _observation(number: int, item: SegmentedClass) -> Dataset:
    return _dataset(
        ObservationNumber=number,
        ReferencedROINumber=number,
        RTROIInterpretedType="ORGAN" if item.spec.kind == "organ" else "",
        ROIInterpreter="",
    )


def _contours(
    number: int, item: SegmentedClass, labels: NDArray[np.uint8], source: DicomSource
) -> Dataset:
    outlines = [(z, found) for z, plane in enumerate(labels) for found in _of(plane, item.label)]
    kind = "CLOSEDPLANAR_XOR" if any(found.is_hole for _, found in outlines) else "CLOSED_PLANAR"
    contours = []
    for z, found in outlines:
        points_mm = _positions_mm(found.points, z, source.geometry)
        contours.append(
            _dataset(
                ContourImageSequence=[_reference(source.headers[z])],
                ContourGeometricType=kind,
                NumberOfContourPoints=len(points_mm),
                ContourData=[f"{value:.{_DECIMALS}f}" for value in points_mm.ravel()],
            )
        )
    return _dataset(
        ROIDisplayColor=[round(v) for v in colour_of(item.label).to_rgb(clip=True)],
        ReferencedROINumber=number,
        ContourSequence=contours,
    )


def _of(plane: NDArray[np.uint8], label: int) -> list[Any]:
    mask = plane == label
    return mask_outlines(mask) if mask.any() else []


def _positions_mm(points: NDArray[np.float64], z: int, geometry: Geometry) -> NDArray[np.float64]:
    """Columns and rows of slice z to patient coordinates, no further out than the images reach."""
    columns, rows, _ = geometry.size_xyz
    outer = np.array([columns, rows]) - 0.5 - _INSET_VOXELS
    inside = np.clip(points, -0.5 + _INSET_VOXELS, outer)
    return geometry.position_mm(np.column_stack([inside, np.full(len(inside), z)]))


def _reference(header: Dataset) -> Dataset:
    return _dataset(
        ReferencedSOPClassUID=header.SOPClassUID, ReferencedSOPInstanceUID=header.SOPInstanceUID
    )


def _dataset(**elements: Any) -> Dataset:
    content = Dataset()
    for name, value in elements.items():
        setattr(content, name, value)
    return content
