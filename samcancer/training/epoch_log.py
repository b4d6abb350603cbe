"""What a run says about each epoch: one JSON line in ``log.jsonl`` and TensorBoard scalars."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from samcancer.files import append_line, write_text_atomic
from samcancer.training.losses import LossParts

LOG_NAME = "log.jsonl"
TENSORBOARD_NAME = "tensorboard"

_LOSS_NAMES = ("loss", "loss_dice", "loss_bce", "loss_presence")


class EpochMeter:
    """Sums of an epoch's losses; kept in the resume state, so that a stop does not show in them."""

    def __init__(self, class_count: int) -> None:
        """Start at zero."""
        self._losses = torch.zeros(len(_LOSS_NAMES), dtype=torch.float64)
        self._class_dice = torch.zeros(2, class_count, dtype=torch.float64)
        self.steps = 0
        self.samples = 0
        self.seconds = 0.0
        self.waiting_s = 0.0

    def add(self, parts: LossParts, *, samples: int) -> None:
        """Add one step."""
        losses = torch.stack([parts.total, parts.dice, parts.bce, parts.presence])
        self._losses += losses.double().cpu()
        self._class_dice += parts.class_dice.double().cpu()
        self.steps += 1
        self.samples += samples

    @property
    def loss(self) -> float:
        """Mean loss so far."""
        return float(self._losses[0]) / max(self.steps, 1)

    def class_dice(self, class_names: Sequence[str]) -> dict[str, float | None]:
        """Mean soft Dice over the training slices that show the class; None without any."""
        summed, counts = self._class_dice.tolist()
        return {
            name: summed[k] / counts[k] if counts[k] else None for k, name in enumerate(class_names)
        }

    def to_line(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the epoch's figures for the log."""
        means = (self._losses / max(self.steps, 1)).tolist()
        return {
            **dict(zip(_LOSS_NAMES, means, strict=True)),
            "train_dice": self.class_dice(class_names),
            "steps": self.steps,
            "stacks": self.samples,
            "seconds": self.seconds,
            "stacks_per_s": self.samples / self.seconds if self.seconds else None,
            "data_wait_share": self.waiting_s / self.seconds if self.seconds else None,
        }

    def state(self) -> dict[str, Any]:
        """Return everything for :meth:`load_state`."""
        return dict(vars(self))

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, value.clone() if isinstance(value, Tensor) else value)


class EpochLog:
    """Writes one line per epoch; lines of epochs that a resumed run repeats are dropped first."""

    def __init__(self, folder: Path, *, first_epoch: int) -> None:
        """Open the log of a run folder for epochs from ``first_epoch`` (counted from 1) on."""
        from torch.utils.tensorboard import SummaryWriter

        self._path = folder / LOG_NAME
        kept = [line for line in read_log(folder) if line["epoch"] < first_epoch]
        write_text_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        self._writer = SummaryWriter(str(folder / TENSORBOARD_NAME), purge_step=first_epoch)

    def write(self, line: dict[str, Any]) -> None:
        """Append an epoch; nested figures become TensorBoard scalars as ``outer/inner``."""
        append_line(self._path, json.dumps(line))
        for name, value in _scalars(line):
            self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Close the TensorBoard file."""
        self._writer.close()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Read a run's epochs; a last line cut short by a kill is left out."""
    path = folder / LOG_NAME
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _scalars(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found.append((f"{prefix}{name}", float(value)))
    return found
