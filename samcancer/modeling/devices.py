"""Where a process that only predicts runs its networks."""

from __future__ import annotations

import torch

from samcancer.errors import InputError


def chosen_device(name: str) -> str:
    """Return ``cpu`` or ``cuda`` for one process that only predicts; ``auto`` prefers a GPU.

    Raises:
        InputError: When there is no GPU and one is asked for.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: no usable GPU was found", mend="use --device cpu")
    return name
