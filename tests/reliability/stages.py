"""The commands whose reliability is tried, on small inputs, and what each must leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from kill_storm import Command, files_below
from raw_data import add_case
from real_store import SIZE

from samcancer.training.epoch_log import LOG_NAME, read_log
from samcancer.training.resume import RESUME_NAME, read_resume

TIMES = {"seconds", "stacks_per_s", "data_wait_share", "elapsed_s", "validation_seconds"}
"""Of a line of the training log; all else in it must be equal."""

QUICK = [
    *("--set", f"model.image_size={SIZE}", "--set", "model.cnn_width=4", "--set", "folds=2"),
    *("--set", "train.samples_per_epoch=4", "--set", "train.batch_size=2"),
    *("--set", "pseudo_labels.min_teacher_dice=0", "--workers", "0", "--accelerator", "cpu"),
]
"""Options of a training that takes seconds."""


def preparation(folder: Path, *, cases: int) -> Command:
    """Prepare a raw data set made below ``folder``; every other pair of trials with two workers."""
    raw = folder / "Phantom_Liver"
    for number in range(cases):
        hu = np.random.default_rng(number).integers(-1000, 1000, (16, 96, 96)).astype(np.int16)
        add_case(raw, f"case{number}", hu=hu, values=(hu > 900).astype(np.uint8))

    def words(output: Path, trial: int) -> list[str]:
        workers = str(1 + trial // 2 % 2)
        return ["--input", str(raw), "--output", str(output), "--size", "64", "--workers", workers]

    return Command(
        verb="prepare-slices",
        words=words,
        content=lambda output: files_below(output, "summary.json"),  # it holds times
    )


def training(store: Path, *, epochs: int, fold: int = 0) -> Command:
    """Train a fold, or go on with it once there is a state to go on from."""

    def words(runs: Path, _trial: int) -> list[str]:
        begun = (runs / f"fold_{fold}" / RESUME_NAME).exists()
        return [
            *("--data", str(store), "--output", str(runs), "--fold", str(fold), *QUICK),
            *("--epochs", str(epochs), *(["--resume"] if begun else [])),
        ]

    return Command(verb="train-fold", words=words, content=lambda runs: _trained(runs, fold))


def pseudo_labelling(store: Path, trained: Path) -> Command:
    """Label with the folds of a copy of the folder ``trained``."""
    return Command(
        verb="pseudo-label",
        words=lambda runs, _: ["--data", str(store), "--runs", str(runs), "--device", "cpu"],
        content=lambda runs: files_below(runs / "pseudo_labels"),
        template=trained,
    )


def segmentation(scans: Path, run: Path) -> Command:
    """Segment a folder of scans; every other pair of trials with two workers."""

    def words(output: Path, trial: int) -> list[str]:
        return [
            *("--input", str(scans), "--output", str(output), "--model", str(run)),
            *("--per-class", "--device", "cpu", "--skip-finished", "--threads", "1"),
            *("--workers", str(1 + trial // 2 % 2)),
        ]

    return Command(verb="infer-volume", words=words, content=_segmented)


def _trained(runs: Path, fold: int) -> dict[str, Any]:
    """Return all that training leaves, without times and TensorBoard's files of events."""
    folder = runs / f"fold_{fold}"
    content: dict[str, Any] = {
        name: data
        for name, data in files_below(runs, LOG_NAME, RESUME_NAME).items()
        if "tensorboard" not in name
    }
    content["log"] = [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in read_log(folder)
    ]
    state = read_resume(folder)
    content["finished"] = state["position"]["finished"]
    content["state"] = {name: tensor.numpy().tobytes() for name, tensor in state["model"].items()}
    return content


def _segmented(output: Path) -> dict[str, Any]:
    """Return masks and tables by their bytes, and reports without their times."""
    content: dict[str, Any] = files_below(output)
    for name in [name for name in content if name.endswith(".json")]:
        content[name] = json.loads(content[name])
        content[name].pop("seconds", None)
    return content
