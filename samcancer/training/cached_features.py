"""The cache of what a frozen encoder says of every slice: when it is exact, filled, and opened.

Features follow from the windowed slice and the encoder alone under three conditions, which
:func:`require_cacheable` checks: the encoder's weights never change, nothing is fed back into it
(``ladder``), and training does not augment. Windows may still be drawn at random: each has its own
file. Features are computed in 32 bits, whatever the precision of the training.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from samcancer.config import SLICE_CONTEXT, Config, WindowHu
from samcancer.data.case_store import CaseStore
from samcancer.data.feature_cache import FeatureCache, FeatureSource
from samcancer.data.feature_file import DamagedFeaturesError, FeatureFile
from samcancer.errors import InputError
from samcancer.files import folder_lock, remove_stale_temporaries
from samcancer.modeling.encoder_features import encode
from samcancer.modeling.encoders import ENCODERS, EncoderPass
from samcancer.training.checkpoint import tensors_sha256
from samcancer.windowing import window

_log = logging.getLogger(__name__)

_SLICES_PER_BLOCK = 4
"""Slices that are encoded and written at a time."""


def require_cacheable(config: Config) -> None:
    """Refuse a configuration whose features change from step to step.

    Raises:
        InputError: Naming the field that makes them change.
    """
    model, augmentation = config.model, config.augmentation
    if model.interaction != "ladder":
        raise InputError(
            f"features cannot be cached with model.interaction {model.interaction}, which feeds "
            "the CNN's features back into the encoder",
            mend="set model.interaction=ladder, or train.feature_cache=null",
        )
    if model.encoder not in ENCODERS or not ENCODERS[model.encoder].frozen:
        frozen = ", ".join(name for name, spec in ENCODERS.items() if spec.frozen)
        raise InputError(
            f"features cannot be cached with model.encoder {model.encoder}, which is not frozen",
            mend=f"choose from {frozen}, or set train.feature_cache=null",
        )
    if augmentation.probability > 0:
        raise InputError(
            "features cannot be cached with augmentation.probability "
            f"{augmentation.probability:g}, which changes the slices that they are of",
            mend="set augmentation.probability=0, or train.feature_cache=null",
        )


def make_cache(folder: Path, store: CaseStore, model: nn.Module, config: Config) -> FeatureCache:
    """Return the cache of a network's encoder in a folder, whatever is in there.

    Raises:
        InputError: When features of this configuration or network cannot be cached.
    """
    require_cacheable(config)
    if not getattr(model, "takes_encoder_features", False):
        raise InputError(
            f"{type(model).__name__} takes no cached features", mend="set train.feature_cache=null"
        )
    encoder: Any = model.encoder
    size = config.model.image_size
    weight = next(encoder.parameters())
    blank = encode(encoder, torch.zeros(1, 1, size, size, device=weight.device))
    source = FeatureSource(
        encoder=config.model.encoder,
        encoder_sha256=str(tensors_sha256(_on_cpu(encoder))),
        image_size=size,
        padded_windows=config.model.padded_windows,
        dtype=config.train.feature_dtype,
        shapes=tuple(tuple(x.shape[1:]) for x in (*blank.stages, blank.embedding)),
    )
    return FeatureCache(folder, store.cases, source)


def open_cache(
    store: CaseStore, model: nn.Module, config: Config, *, case_ids: Sequence[str]
) -> FeatureCache | None:
    """Return the configured cache, complete for some cases; None when none is configured.

    Raises:
        InputError: When features cannot be cached, some are missing, or they are others.
    """
    if config.train.feature_cache is None:
        return None
    cache = make_cache(Path(config.train.feature_cache), store, model, config)
    cache.require_complete(case_ids, windows_of(config))
    return cache


def windows_of(config: Config) -> tuple[WindowHu, ...]:
    """Return the windows of training, each once."""
    return tuple(dict.fromkeys(config.data.train_windows_hu))


@dataclass(frozen=True)
class FillPlan:
    """What there is to compute, before anything is."""

    cache: FeatureCache
    store: CaseStore
    windows: tuple[WindowHu, ...]
    to_do: tuple[tuple[str, WindowHu], ...]
    """Cases and windows whose files are missing or damaged."""

    @property
    def needed_bytes(self) -> int:
        """Size of the files to write."""
        return sum(self.cache.file(*work).total_bytes for work in self.to_do)

    @property
    def free_bytes(self) -> int:
        """Room on the disk of the folder, which need not exist yet."""
        there = next(p for p in (self.cache.folder, *self.cache.folder.parents) if p.exists())
        return shutil.disk_usage(there).free

    def prediction(self) -> str:
        """Say in one sentence what filling the folder takes."""
        cases = len({case_id for case_id, _ in self.to_do})
        return (
            f"needs about {size_text(self.needed_bytes)} in {self.cache.folder} for "
            f"{cases} of {len(self.store.cases)} cases, {len(self.windows)} windows; "
            f"{size_text(self.free_bytes)} free"
        )


def plan_fill(folder: Path, store: CaseStore, model: nn.Module, config: Config) -> FillPlan:
    """Find what a folder lacks for all cases of a store; files that are there are read and kept.

    Raises:
        InputError: When features cannot be cached, a file holds others, or the disk lacks room.
    """
    cache = make_cache(folder, store, model, config)
    windows = windows_of(config)
    wanted = [(case_id, window_hu) for case_id in sorted(store.cases) for window_hu in windows]
    to_do = tuple(work for work in wanted if not _is_good(cache.file(*work)))
    plan = FillPlan(cache, store, windows, to_do)
    if plan.needed_bytes > plan.free_bytes:
        raise InputError(
            plan.prediction(),
            path=folder,
            mend="free some space, choose another disk, or halve it with train.feature_dtype "
            "float16",
        )
    return plan


def fill(plan: FillPlan, model: nn.Module, *, device: str, show_progress: bool = True) -> None:
    """Compute and write what the plan names, file by file; a second call goes on after a stop.

    Args:
        plan: From :func:`plan_fill` with the same network.
        model: Its encoder is moved to the device and used.
        device: torch's name.
        show_progress: Draw a progress bar over the slices.

    Raises:
        InputError: When a case or the folder cannot be used, or another process fills it.
    """
    encoder: Any = model.encoder
    encoder.to(device).eval()
    with folder_lock(plan.cache.folder, purpose="caching features"), _bar(show_progress) as bar:
        remove_stale_temporaries(plan.cache.folder)
        total = sum(plan.store.cases[case_id].slices for case_id, _ in plan.to_do)
        task = bar.add_task("slices", total=total)
        for case_id, window_hu in plan.to_do:
            plan.store.verify([case_id])
            blocks = _blocks(plan.store, encoder, case_id, window_hu, torch.device(device))
            plan.cache.file(case_id, window_hu).write(
                _counted(blocks, lambda count: bar.advance(task, count))
            )


def size_text(size_bytes: int) -> str:
    """Return a size in GB, or in MB under a tenth of one."""
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.1f} MB"


def _is_good(file: FeatureFile) -> bool:
    """Read a file whole; a damaged one counts as missing.

    Raises:
        InputError: When it holds other features.
    """
    if not file.path.exists():
        return False
    try:
        file.verify()
    except DamagedFeaturesError as error:
        _log.warning("%s", error)
        return False
    return True


def _blocks(
    store: CaseStore,
    encoder: EncoderPass,
    case_id: str,
    window_hu: WindowHu,
    device: torch.device,
) -> Iterator[list[NDArray[Any]]]:
    """Encode a case, some slices at a time."""
    slices = store.cases[case_id].slices
    for start in range(0, slices, _SLICES_PER_BLOCK):
        stop = min(start + _SLICES_PER_BLOCK, slices)
        hu = store.slices_hu(case_id, start + SLICE_CONTEXT, stop + SLICE_CONTEXT)
        images = window(torch.from_numpy(hu).float(), window_hu)[:, None].to(device)
        features = encode(encoder, images)
        yield [x.cpu().numpy() for x in (*features.stages, features.embedding)]


def _counted(blocks: Iterator[list[NDArray[Any]]], advance: Any) -> Iterator[list[NDArray[Any]]]:
    for block in blocks:
        yield block
        advance(len(block[0]))


def _bar(show: bool) -> Progress:
    return Progress(
        TextColumn("encoding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show,
        transient=True,
    )


def _on_cpu(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
