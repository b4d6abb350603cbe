"""DICOM Segmentation files made element by element with pydicom, never by samcancer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.pixels.utils import pack_bits
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from samcancer.geometry import Geometry

SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"
LABELMAP_CLASS = "1.2.840.10008.5.1.4.1.1.66.7"
FRAME_OF_REFERENCE = "1.2.826.0.1.3680043.8.498.9"

SHARES = 200
"""MaximumFractionalValue of fractional files."""


def code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def segment(number: int, label: str, snomed: str | None = None, region: str | None = None) -> Any:
    item = Dataset()
    item.SegmentNumber = number
    item.SegmentLabel = label
    item.SegmentAlgorithmType = "MANUAL"
    if snomed is not None:
        item.SegmentedPropertyTypeCodeSequence = [code(snomed, "as coded")]
    if region is not None:
        item.AnatomicRegionSequence = [code(region, "as coded")]
    return item


def frame(number: int | None, pixels: np.ndarray, first_mm: Sequence[float]) -> dict[str, Any]:
    """One frame: its segment, its (rows, columns) and the centre of its first pixel."""
    return {"segment": number, "pixels": pixels, "first_mm": first_mm}


def frames_of(masks: dict[int, np.ndarray], geometry: Geometry) -> list[dict[str, Any]]:
    """Frames of the slices of (Z, Y, X) masks that are not empty, segment after segment."""
    return [
        frame(number, mask[z], geometry.position_mm(np.array([0, 0, z])).tolist())
        for number, mask in masks.items()
        for z in range(len(mask))
        if mask[z].any()
    ]


def dataset_of(
    frames: list[dict[str, Any]],
    segments: list[Dataset],
    geometry: Geometry,
    *,
    kind: str = "BINARY",
    cosines: Sequence[float] | None = None,
    pixel_mm: Sequence[float] | None = None,
) -> Dataset:
    """The content of a file; cosines and pixel_mm are the geometry's unless given."""
    matrix = geometry.direction_matrix
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(pixel_mm or (geometry.spacing_mm[1], geometry.spacing_mm[0]))
    orientation.ImageOrientationPatient = [
        round(float(v), 12) for v in cosines or [*matrix[:, 0], *matrix[:, 1]]
    ]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    groups = []
    for item in frames:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = [round(float(v), 9) for v in item["first_mm"]]
        group.PlanePositionSequence = [position]
        if item["segment"] is not None:
            named = Dataset()
            named.ReferencedSegmentNumber = item["segment"]
            group.SegmentIdentificationSequence = [named]
        groups.append(group)
    pixels = np.stack([item["pixels"] for item in frames]).astype(np.uint8)
    bits = 1 if kind == "BINARY" else 8
    content = Dataset()
    content.SOPClassUID = LABELMAP_CLASS if kind == "LABELMAP" else SEG_CLASS
    content.SOPInstanceUID = generate_uid()
    content.Modality = "SEG"
    content.SegmentationType = kind
    if kind == "FRACTIONAL":
        content.SegmentationFractionalType = "PROBABILITY"
        content.MaximumFractionalValue = SHARES
    content.FrameOfReferenceUID = FRAME_OF_REFERENCE
    content.SegmentSequence = segments
    content.SharedFunctionalGroupsSequence = [shared]
    content.PerFrameFunctionalGroupsSequence = groups
    content.NumberOfFrames = len(frames)
    content.Rows, content.Columns = pixels.shape[1:]
    content.SamplesPerPixel = 1
    content.PhotometricInterpretation = "MONOCHROME2"
    content.BitsAllocated = content.BitsStored = bits
    content.HighBit = bits - 1
    content.PixelRepresentation = 0
    content.PixelData = pack_bits(pixels, pad=True) if bits == 1 else pixels.tobytes()
    if bits == 8 and pixels.size % 2:
        content.PixelData += b"\0"
    return content


def save_segmentation(path: Path, content: Dataset, syntax: str = ExplicitVRLittleEndian) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = content.SOPClassUID
    meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    content["PixelData"].VR = "OB"
    file = FileDataset(str(path), content, file_meta=meta, preamble=bytes(128))
    file.save_as(path, enforce_file_format=True)
    return path
