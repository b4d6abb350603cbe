"""Read an official SAM checkpoint file; nothing in it is executed."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from samcancer.errors import InputError
from samcancer.pretrained.weight_files import read_pickle, require_tensors


def load_sam_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a ``.pth`` file, for :func:`samcancer.modeling.build_model`.

    Raises:
        InputError: When the file is missing, damaged, or anything but a dict of tensors.
    """
    if not path.is_file():
        raise InputError("no such checkpoint file", path=path, mend="see checkpoints/README.md")
    return require_tensors(read_pickle(path), path=path)
