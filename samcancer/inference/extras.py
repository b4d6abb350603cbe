"""What is written beside the mask where it is asked for: a mask per class, and probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samcancer.files import sha256_of, temporary_path_for
from samcancer.volume_io import write_labels, write_probabilities

if TYPE_CHECKING:
    from samcancer.geometry import Geometry
    from samcancer.inference.models import Ensemble
    from samcancer.inference.options import InferenceOptions
    from samcancer.inference.scan import Prediction

PER_CLASS_FOLDER = "per_class"
PROBABILITY_FOLDER = "probabilities"


def write_extras(
    prediction: Prediction, ensemble: Ensemble, options: InferenceOptions
) -> list[Path]:
    """Write what the options ask for and return the files; the label maps stay as they are."""
    written = []
    case_id, geometry = prediction.case.case_id, prediction.case.geometry
    output = prediction.case.mask.parent
    suffix = prediction.case.mask.name[len(case_id) :]
    if options.per_class:
        for k, spec in enumerate(ensemble.classes):
            values = prediction.labels
            if spec.kind == "organ" and prediction.organs is not None:
                values = prediction.organs
            mask = np.equal(values, k + 1).view(np.uint8)
            written.append(output / PER_CLASS_FOLDER / case_id / (spec.name + suffix))
            write_labels(written[-1], mask, geometry)
    for k, array in enumerate(prediction.probabilities):
        name = ensemble.classes[k].name + suffix
        written.append(output / PROBABILITY_FOLDER / case_id / name)
        write_probabilities(written[-1], array.astype(np.float32), geometry)
    return written


def hashes_of(files: Iterable[Path], output: Path) -> dict[str, str]:
    """Return the files' names in the output folder -> SHA-256."""
    return {path.relative_to(output).as_posix(): sha256_of(path) for path in files}


def are_whole(hashes: Mapping[str, str], output: Path) -> bool:
    """Return whether every file is there with the SHA-256 that :func:`hashes_of` found."""
    return all(
        (output / name).is_file() and sha256_of(output / name) == sha256
        for name, sha256 in hashes.items()
    )


def output_bytes(geometry: Geometry, ensemble: Ensemble, options: InferenceOptions) -> int:
    """Return the disk space that the results may need if they do not compress at all."""
    voxels = int(np.prod(geometry.shape))
    classes = len(ensemble.classes)
    per_voxel = 1 + classes * (int(options.per_class) + (2 + 4) * int(options.probabilities))
    return voxels * per_voxel


@contextlib.contextmanager
def scratch_arrays(
    path: Path, count: int, shape: tuple[int, ...]
) -> Iterator[list[NDArray[np.float16]]]:
    """Yield ``count`` arrays of zeros, on disk so that memory stays bounded, until the block ends.

    Args:
        path: The file is made beside it, under a temporary name.
        count: 0 makes no file.
        shape: Of each array.
    """
    if count == 0:
        yield []
        return
    temporary = temporary_path_for(path)
    try:
        yield list(np.memmap(temporary, dtype=np.float16, mode="w+", shape=(count, *shape)))
    finally:
        temporary.unlink(missing_ok=True)
