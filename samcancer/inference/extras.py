"""What is written beside the mask where it is asked for: a mask per class, and probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from samcancer.files import temporary_path_for
from samcancer.volume_io import write_labels, write_probabilities

if TYPE_CHECKING:
    from samcancer.inference.models import Ensemble
    from samcancer.inference.options import InferenceOptions
    from samcancer.inference.scan import Prediction

PER_CLASS_FOLDER = "per_class"
PROBABILITY_FOLDER = "probabilities"


def write_extras(prediction: Prediction, ensemble: Ensemble, options: InferenceOptions) -> None:
    """Write what the options ask for; the label maps stay as they are."""
    case_id, geometry = prediction.case.case_id, prediction.case.geometry
    output = prediction.case.mask.parent
    suffix = prediction.case.mask.name[len(case_id) :]
    if options.per_class:
        for k, spec in enumerate(ensemble.classes):
            values = prediction.labels
            if spec.kind == "organ" and prediction.organs is not None:
                values = prediction.organs
            mask = np.equal(values, k + 1).view(np.uint8)
            folder = output / PER_CLASS_FOLDER / case_id
            write_labels(folder / (spec.name + suffix), mask, geometry)
    for k, array in enumerate(prediction.probabilities):
        folder = output / PROBABILITY_FOLDER / case_id
        name = ensemble.classes[k].name + suffix
        write_probabilities(folder / name, array.astype(np.float32), geometry)


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
