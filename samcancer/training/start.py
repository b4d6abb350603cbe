"""Start a run from the weights of another one, with more classes or the same.

Everything that does not belong to a class is taken over as it is. Of what has a row a class, the
rows of known classes go to their new places; the rows of added classes begin as in a new network,
or at 0 where the layer says so ([TS]: a trained head is widened by zero-initialised channels), so
that the known classes' logits stay what they were. A run may not start from a model that was
trained on patients it holds out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from samcancer.errors import InputError
from samcancer.training.checkpoint import read_checkpoint


def start_from(
    model: nn.Module, path: Path, *, class_names: Sequence[str], held_out: Collection[str]
) -> str:
    """Copy the weights of another run into a network; return the SHA-256 of its tensor file.

    Args:
        model: With fresh weights, for ``class_names``.
        path: Run folder or ``.safetensors`` file.
        class_names: In the order of the network's outputs.
        held_out: Patients that the other run must not have seen.

    Raises:
        InputError: When the checkpoint is damaged, is of another architecture, knows a class that
            the new run does not, or was trained on a held-out patient.
    """
    tensors, meta = read_checkpoint(path)
    leaked = sorted(set(meta["training_patients"]) & set(held_out))
    if leaked:
        raise InputError(
            f"was trained on patients that this run holds out: {', '.join(leaked[:3])}",
            path=path,
            mend="start from the run of the same fold, or from one on other data",
        )
    before = tuple(meta["class_names"])
    lost = sorted(set(before) - set(class_names))
    if lost:
        raise InputError(
            f"knows the class {lost[0]!r}, which this store does not have",
            path=path,
            mend="start from a run whose classes are among the store's",
        )
    state = model.state_dict()
    by_class = _class_tensors(model)
    missing = sorted(name for name in tensors if name not in state)
    if missing:
        raise InputError(
            f"is of another architecture (it has {missing[0]})",
            path=path,
            mend="use the same model section of the configuration",
        )
    places = [tuple(class_names).index(name) for name in before]
    with torch.no_grad():
        for name, saved in tensors.items():
            target = state[name]
            if name in by_class:
                saved = _spread(saved, target, places, zero=by_class[name])
            if saved.shape != target.shape:
                raise InputError(
                    f"has {name} of shape {tuple(saved.shape)}, {tuple(target.shape)} is needed",
                    path=path,
                    mend="use the same model section of the configuration; a one-hot head cannot "
                    "be given more classes",
                )
            target.copy_(saved)
    return str(meta["safetensors_sha256"])


def _class_tensors(model: nn.Module) -> dict[str, bool]:
    """Return the names of all tensors with a row a class -> whether an added row starts at 0."""
    found: dict[str, bool] = {}
    for prefix, module in model.named_modules():
        declared: Mapping[str, bool] = getattr(module, "class_tensors", {})
        found |= {f"{prefix}.{name}" if prefix else name: zero for name, zero in declared.items()}
    return found


def _spread(saved: Tensor, fresh: Tensor, places: Sequence[int], *, zero: bool) -> Tensor:
    """Return the rows of known classes in their places, and fresh ones or zeros elsewhere."""
    if len(saved) != len(places) or saved.shape[1:] != fresh.shape[1:]:
        return saved  # of another architecture; the caller compares the shapes
    rows = torch.zeros_like(fresh) if zero else fresh.clone()
    rows[list(places)] = saved.to(rows)
    return rows
