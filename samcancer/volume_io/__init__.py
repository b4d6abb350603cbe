"""Reading and writing CT volumes and label maps, with every check that concerns the file."""

from samcancer.volume_io.formats import (
    VOLUME_SUFFIXES,
    case_id_of,
    find_volumes,
    strip_volume_suffix,
)
from samcancer.volume_io.reading import read_ct, read_labels
from samcancer.volume_io.volume import CtVolume, LabelVolume, ReadOptions
from samcancer.volume_io.writing import write_ct, write_labels, write_probabilities

__all__ = [
    "VOLUME_SUFFIXES",
    "CtVolume",
    "LabelVolume",
    "ReadOptions",
    "case_id_of",
    "find_volumes",
    "read_ct",
    "read_labels",
    "strip_volume_suffix",
    "write_ct",
    "write_labels",
    "write_probabilities",
]
