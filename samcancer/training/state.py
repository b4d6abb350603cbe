"""Everything that a run is besides its data: taken apart for resume.pt, and put together again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from samcancer.config import config_to_dict
from samcancer.data.sampling import SlicePool
from samcancer.errors import InputError
from samcancer.training.checkpoint import CheckpointMeta, split_state

STATE_FORMAT = 1

_PROCESSES = "number of devices"
"""Part of a run's identity, by the name that it has in a state."""


@dataclass
class RunPosition:
    """Where a run is and what it has found so far."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the epoch after them."""
    step: int = 0
    """Optimisation steps done."""
    elapsed_s: float = 0.0
    best_score: float | None = None
    best_epoch: int | None = None
    presence_thresholds: dict[str, float] = field(default_factory=dict)
    """Of the latest validation."""
    finished: bool = False


def run_identity(meta: CheckpointMeta, pool: SlicePool, *, world_size: int) -> dict[str, str]:
    """Return what must be equal for a run to go on: part of the run -> its text or hash."""
    config = config_to_dict(meta.config)
    del config["data"]["workers"]  # changes speed only
    return {
        "configuration": json.dumps(config, sort_keys=True),
        "classes": ", ".join(meta.class_names),
        "case store": meta.store_fingerprint,
        "training patients": _sha256(json.dumps(meta.training_patients)),
        "labels": _labels_sha256(pool),
        "pseudo labels": str(meta.pseudo_labels_fingerprint),
        "text embeddings": str(meta.text),
        "start": str(meta.started_from),
        _PROCESSES: str(world_size),
    }


def _labels_sha256(pool: SlicePool) -> str:
    """Return the hash of one JSON list of all cases, made case by case: it may take gigabytes."""
    digest = hashlib.sha256(b"[")
    for i, case in enumerate(pool.cases):
        positive = sorted((name, list(found)) for name, found in case.positive_slices.items())
        text = json.dumps([case.case_id, case.slices, positive])
        digest.update(f"{', ' if i else ''}{text}".encode())
    digest.update(b"]")
    return digest.hexdigest()


def capture(
    position: RunPosition,
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: dict[str, Any],
    meter: dict[str, Any],
    random_states: list[dict[str, torch.Tensor]],
    identity: dict[str, str],
    omit_frozen: bool,
) -> dict[str, Any]:
    """Return the state of a run as tensors and plain values.

    Args:
        position: Counters.
        model: Its trained tensors are taken, frozen ones only when they cannot be had again.
        optimizer: Of the trained parameters.
        scaler: State of the gradient scaler; empty without one.
        meter: Sums of the epoch at hand.
        random_states: Of every process, from :func:`random_state`.
        identity: From :func:`run_identity`.
        omit_frozen: Whether a published file gives the frozen weights.
    """
    saved, _ = split_state(model, omit_frozen=omit_frozen)
    return {
        "format": STATE_FORMAT,
        "identity": identity,
        "position": dataclasses.asdict(position),
        "model": saved,
        "optimizer": optimizer.state_dict(),
        "scaler": scaler,
        "meter": meter,
        "random_states": random_states,
    }


def require_same_run(state: dict[str, Any], identity: dict[str, str], *, path: Path) -> None:
    """Refuse a state that was written by another run.

    Raises:
        InputError: Naming the first part that differs.
    """
    if state.get("format") != STATE_FORMAT:
        raise InputError(
            f"state format {state.get('format')!r}, this version reads {STATE_FORMAT}",
            path=path,
            mend="use the version of samcancer that wrote it",
        )
    for part, expected in identity.items():
        before = state["identity"].get(part)
        if part == _PROCESSES and before != expected:
            raise InputError(
                f"was written by {before} processes and {expected} were started",
                path=path,
                mend=f"go on with {before}, which the dropout and the order of sums follow from",
            )
        if before != expected:
            raise InputError(
                f"was written with another {part}",
                path=path,
                mend="resume with the same options and data, or train into another folder",
            )


def restore_model(model: nn.Module, saved: dict[str, torch.Tensor], *, omit_frozen: bool) -> None:
    """Put saved tensors back; every trained tensor must be there."""
    _, omitted = split_state(model, omit_frozen=omit_frozen)
    model.load_state_dict({**omitted, **saved}, strict=True)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Return torch's random state in this process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Go on with the random numbers of :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
