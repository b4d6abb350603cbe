"""Read an official SAM checkpoint file; nothing in it is executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from samcancer.errors import InputError

_MEND = "fetch the official checkpoint again and compare its SHA-256"


def load_sam_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a ``.pth`` file, for :func:`samcancer.modeling.build_model`.

    Raises:
        InputError: When the file is missing, damaged, or anything but a dict of tensors.
    """
    if not path.is_file():
        raise InputError("no such checkpoint file", path=path, mend="see checkpoints/README.md")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"not a readable checkpoint ({reason})", path=path, mend=_MEND) from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"holds no state dict but {type(content).__name__}", path=path, mend=_MEND)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"entry {key!r} is not a tensor", path=path, mend=_MEND)
    return content
