"""What the user asks of a run over scans."""

from __future__ import annotations

from dataclasses import dataclass, field

from samcancer.inference.dicom_results import DicomOptions
from samcancer.inference.volume import EngineOptions
from samcancer.volume_io import ReadOptions


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
    dicom: DicomOptions = field(default_factory=DicomOptions)
    """What is written in DICOM of a scan that is a DICOM series."""
