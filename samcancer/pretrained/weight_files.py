"""Read the tensors of a weight file: safetensors, a PyTorch pickle, or a TorchScript archive.

Nothing in a file is executed. safetensors holds no code, and a pickle is read with
``weights_only=True``. TorchScript archives are how OpenAI published CLIP; torch.jit.load compiles
their code and trusts the file, so here only their tensors are read, by an unpickler that knows
tensors and nothing else.
"""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from samcancer.errors import InputError

_MEND = "fetch the official checkpoint again and compare its SHA-256"

_LONGEST_REASON = 120

_UNREADABLE = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    NotImplementedError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)
"""What readers raise on damaged or foreign bytes."""

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
"""Names of storages in a TorchScript archive."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a weight file, on the CPU, in the types it was saved in.

    A state dict under the key ``state_dict`` is taken out of it, and the prefix ``module.`` of
    parallel training is removed, as open_clip does.

    Raises:
        InputError: When the file is missing, damaged, or anything but a dict of tensors.
    """
    if not path.is_file():
        raise InputError("no such checkpoint file", path=path, mend="see checkpoints/README.md")
    try:
        content = _read(path)
    except _UNREADABLE as error:
        raise unreadable(error, path=path) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    state = require_tensors(content, path=path)
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def read_pickle(path: Path) -> Any:
    """Return the content of a PyTorch file, of which nothing is executed.

    Raises:
        InputError: When it cannot be read so.
    """
    try:
        return _load_pickle(path)
    except _UNREADABLE as error:
        raise unreadable(error, path=path) from None


def require_tensors(content: Any, *, path: Path) -> dict[str, Tensor]:
    """Return the content, which must be a dict of name to tensor.

    Raises:
        InputError: When it is empty or anything else.
    """
    if not isinstance(content, dict) or not content:
        raise InputError(f"holds no state dict but {type(content).__name__}", path=path, mend=_MEND)
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"entry {key!r} is not a tensor", path=path, mend=_MEND)
    return content


def unreadable(error: Exception, *, path: Path) -> InputError:
    """Return the one line about a file that a reader gave up on."""
    reason = first_line(error)[:_LONGEST_REASON]
    return InputError(f"not a readable checkpoint ({reason})", path=path, mend=_MEND)


def first_line(error: Exception) -> str:
    """Return what an error says first, or else its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            roots = [n[: -len("constants.pkl")] for n in _top_members(archive, "constants.pkl")]
            if roots:
                return dict(_tensors(_TensorUnpickler(archive, roots[0]).load(), ""))
    return _load_pickle(path)


def _load_pickle(path: Path) -> Any:
    """Load with ``weights_only=True``; torch warns of pickles that it then refuses anyway."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
        return torch.load(path, map_location="cpu", weights_only=True)


def _top_members(archive: zipfile.ZipFile, name: str) -> list[str]:
    """Return the members of that name in the archive's one folder; torch tells by these, too."""
    return [m for m in archive.namelist() if m.split("/")[1:] == [name]]


class _Module:
    """Stands for any module of a TorchScript archive; its attributes are the module's."""


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles the module tree of a TorchScript archive: tensors, plain values and nothing else.

    Raises:
        pickle.UnpicklingError: When the pickle names anything else.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self._archive = archive
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name."""
        if module.split(".")[0] == "__torch__":
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not a tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a storage as a flat tensor; zipfile checks its CRC."""
        _, dtype, key, *_ = pid
        data = bytearray(self._archive.read(f"{self._root}data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild_tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Tensor:
    """Return a view of a storage; torch refuses one that reaches beyond it."""
    return storage.as_strided(size, stride, offset)


def _tensors(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a module tree under the names that its state dict has."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
