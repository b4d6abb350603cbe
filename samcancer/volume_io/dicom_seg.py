"""Write a label map as a DICOM Segmentation (PS3.3 A.51): one binary segment per class.

Segments are numbered from 1 in the order of the classes that have voxels; slices without a voxel
of a class have no frame of it. Frames carry the position and orientation of the images that they
lie on, and name them, so oblique and flipped series need no special care. What was written is read
back frame by frame and laid on the grid again before the file gets its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from samcancer import __version__
from samcancer.volume_io.dicom_codes import (
    LONG_STRING,
    PRIVATE_SCHEME,
    Algorithm,
    SegmentedClass,
    category_code,
    class_code,
    colour_of,
)
from samcancer.volume_io.dicom_objects import (
    MANUFACTURER,
    PENDING_INSTANCE,
    PENDING_SERIES,
    finish,
    uid_of,
    write_object,
)
from samcancer.volume_io.dicom_source import UNICODE, DicomSource

SERIES_NUMBER = 9001
"""Of the segmentations of a study; high, so that it follows the images in a viewer's list."""


def write_dicom_seg(
    path: Path,
    labels: NDArray[np.uint8],
    source: DicomSource,
    *,
    classes: Sequence[SegmentedClass],
    algorithm: Algorithm,
) -> Dataset | None:
    """Write a Segmentation atomically and return it; None, and no file, without any voxel.

    Args:
        path: Of the file.
        labels: (slice, row, column) on the grid of the series.
        source: The series.
        classes: Every class that may be in ``labels``; those without a voxel get no segment.
        algorithm: What made the labels.

    Raises:
        InputError: When the file cannot be written, or reads back otherwise.
    """
    present = classes_with_voxels(labels, classes)
    if not present:
        return None
    numbers = np.zeros(256, dtype=np.uint8)
    numbers[[item.label for item in present]] = np.arange(1, len(present) + 1)
    content = hd.seg.Segmentation(
        source_images=list(source.headers),
        pixel_array=numbers[labels],
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(number, item, source, algorithm)
            for number, item in enumerate(present, start=1)
        ],
        series_instance_uid=PENDING_SERIES,
        series_number=SERIES_NUMBER,
        sop_instance_uid=PENDING_INSTANCE,
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=__version__,
        device_serial_number=algorithm.serial_number,
        content_label="SEGMENTATION",
        content_description="Classes found by SAMCancer",
        series_description="SAMCancer segmentation",
        specific_character_set=UNICODE,
        coding_schemes=coding_schemes(),
    )
    finish(content, source.patient)

    def verify(written: Path) -> None:
        _require_same(written, numbers[labels], source)

    write_object(path, content, verify=verify)
    return content


def classes_with_voxels(
    labels: NDArray[np.uint8], classes: Sequence[SegmentedClass]
) -> list[SegmentedClass]:
    """Return the classes that have a voxel, in order: segment k + 1 is item k."""
    counts = voxel_counts(labels)
    return [item for item in classes if counts[item.label] > 0]


def voxel_counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the voxels of each of the 256 labels."""
    counts = np.zeros(256, dtype=np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=256)
    return counts


def segment_uid(source: DicomSource, spec_name: str) -> str:
    """Return the tracking UID of a class in a series."""
    return uid_of("segment", source.series_uid, spec_name)


def algorithm_sequence(algorithm: Algorithm) -> hd.AlgorithmIdentificationSequence:
    """Return the identification of the algorithm (PS3.3 10.16)."""
    return hd.AlgorithmIdentificationSequence(
        name=MANUFACTURER,
        family=codes.cid7162.ArtificialIntelligence,
        version=__version__,
        source=MANUFACTURER,
        parameters=algorithm.all_parameters(),
    )


def _description(
    number: int, item: SegmentedClass, source: DicomSource, algorithm: Algorithm
) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=item.spec.title[:LONG_STRING],
        segmented_property_category=category_code(item.spec),
        segmented_property_type=class_code(item.spec),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm_sequence(algorithm),
        tracking_uid=segment_uid(source, item.spec.name),
        tracking_id=item.spec.name,
        anatomic_regions=None if item.site is None else [class_code(item.site)],
        display_color=colour_of(item.label),
    )


def _require_same(written: Path, expected: NDArray[np.uint8], source: DicomSource) -> None:
    """Raise ValueError unless every frame lies on its image and all together hold ``expected``."""
    content = pydicom.dcmread(written)
    packed = np.frombuffer(content.PixelData, np.uint8)
    slices = {header.SOPInstanceUID: z for z, header in enumerate(source.headers)}
    shared = content.SharedFunctionalGroupsSequence[0]
    found = np.zeros_like(expected)
    for index, group in enumerate(content.PerFrameFunctionalGroupsSequence):
        image = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        header, z = source.headers[slices[image]], slices[image]
        places = [
            (group.PlanePositionSequence[0], header, "ImagePositionPatient"),
            (shared.PlaneOrientationSequence[0], header, "ImageOrientationPatient"),
            (shared.PixelMeasuresSequence[0], header, "PixelSpacing"),
        ]
        if any(ours[name].value != theirs[name].value for ours, theirs, name in places):
            raise ValueError(f"frame {index + 1} lies elsewhere than its image")
        named = group if "SegmentIdentificationSequence" in group else shared
        number = named.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[z][_frame_bits(packed, index, expected.shape[1:])] = number
    if not np.array_equal(found, expected):
        raise ValueError("reading back gave other voxels")


def _frame_bits(packed: NDArray[np.uint8], index: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Unpack one frame: frames follow one another bit by bit, also within a byte (PS3.5 8.1.1)."""
    size = math.prod(shape)
    first = index * size
    bits = np.unpackbits(packed[first // 8 : -(-(first + size) // 8)], bitorder="little")
    return bits[first % 8 :][:size].reshape(shape).astype(np.bool_)


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Return what says whose the private codes are."""
    return [
        CodingSchemeIdentificationItem(
            designator=PRIVATE_SCHEME,
            name="Classes of SAMCancer without a SNOMED CT code",
            version=__version__,
            responsible_organization=MANUFACTURER,
        )
    ]
