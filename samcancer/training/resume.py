"""The state that a stopped run goes on from: one file, whole or absent, that executes nothing.

``resume.pt`` is one line, the SHA-256 of the rest in ASCII, then what ``torch.save`` wrote. One
file instead of two cannot fall apart when the process is killed; it is read with
``weights_only=True`` after the hash has been checked.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from samcancer.errors import InputError
from samcancer.files import atomic_path

RESUME_NAME = "resume.pt"

_HASH_DIGITS = 64

_MEND = "delete the run folder and train anew"

_ZIP_MAGIC = b"PK"
"""Start of what ``torch.save`` writes; plain pickles are refused before anything parses them."""


def write_resume(folder: Path, state: dict[str, Any]) -> None:
    """Write the state into a run folder, in place of the one before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    with (
        atomic_path(folder / RESUME_NAME, expected_bytes=len(payload)) as temporary,
        temporary.open("wb") as stream,
    ):
        stream.write(hashlib.sha256(payload).hexdigest().encode() + b"\n")
        stream.write(payload)


def read_resume(folder: Path) -> dict[str, Any]:
    """Read the state of a run folder.

    Raises:
        InputError: When there is none, or it is damaged or holds anything but tensors and plain
            values.
    """
    path = folder / RESUME_NAME
    if not path.exists():
        raise InputError(
            "there is no state to resume from", path=path, mend="leave out --resume to start anew"
        )
    content = path.read_bytes()
    digest, payload = content[:_HASH_DIGITS], content[_HASH_DIGITS + 1 :]
    if digest != hashlib.sha256(payload).hexdigest().encode():
        raise InputError("damaged (SHA-256 differs)", path=path, mend=_MEND)
    if not payload.startswith(_ZIP_MAGIC):
        raise InputError("not a state of training (no torch archive)", path=path, mend=_MEND)
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"not a state of training ({first_line})", path=path, mend=_MEND) from None
    if not isinstance(state, dict):
        raise InputError("not a state of training", path=path, mend=_MEND)
    return state
