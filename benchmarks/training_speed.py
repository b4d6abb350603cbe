"""Training stacks a second for exchange, ladder and ladder on cached features, on this machine.

Synthetic patients go through the loader and the step of training; only interaction, cache and
numbers of processes and threads differ. Each setting runs in a process of its own. Weights are
random: what a weight is does not change what it costs (those of SAM come from a file of the
official format, made here). Example: ``python benchmarks/training_speed.py --seconds 20``
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from encoders import SAM_NAMES, official_file
from results_page import RESULTS, fill_section, markdown_table

from samcancer.commands import run_verb
from samcancer.config import AugmentationConfig, Config, DataConfig, ModelConfig, TrainConfig
from samcancer.data.case_store import CaseStore
from samcancer.data.ledger import Ledger
from samcancer.data.sampling import PoolCase, SlicePool
from samcancer.errors import InputError
from samcancer.training.cached_features import fill, open_cache, plan_fill
from samcancer.training.checkpoint import CheckpointMeta
from samcancer.training.devices import start_fabric
from samcancer.training.job import TrainJob, make_loader, make_schedule
from samcancer.training.network import build_network
from samcancer.training.step import Stepper

ENCODERS = ("medsam_lite", "sam_vit_b")
MODES = ("exchange", "ladder", "ladder, cached")
TARGETS = (1, 4)
"""Target slices T of a sample; a step has as many stacks whatever T is."""

SPLITS = ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2))
"""Loader processes and threads of the training process."""

_SIZE = 128
_WIDTH = 16
_STACKS_PER_STEP = 8
_WARM_UP_STEPS = 2
_TRIES = 6
_PAUSE_S = 20.0
_QUIET_CORES = 0.1
"""Cores that other programs may use before a setting is measured again."""

_MANY = 1 << 20
"""Samples of an epoch that no measurement reaches the end of."""

_WINDOW_HU = (-200.0, 300.0)


@dataclass(frozen=True)
class Setting:
    """One measurement."""

    encoder: str
    mode: str
    targets: int = 1
    workers: int = 1
    threads: int = 2
    augmented: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every setting and fill the section of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each setting")
    parser.add_argument("--cases", type=int, default=1, help="synthetic patients per data set")
    parser.add_argument("--page", type=Path, default=RESULTS)
    parser.add_argument("--measure", metavar="SETTING", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure is not None:
        setting = Setting(**json.loads(args.measure))
        print(json.dumps(measure(setting, args.folder, seconds=args.seconds)))
        return 0
    with tempfile.TemporaryDirectory(prefix="samcancer-training-speed-") as name:
        folder = Path(name)
        make_store(folder, cases=args.cases)
        parts = [f"`python benchmarks/training_speed.py --seconds {args.seconds:g}`"]
        parts[0] += f" on {os.cpu_count()} cores, {_SIZE} px, width {_WIDTH}, "
        parts[0] += f"{_STACKS_PER_STEP} stacks a step."
        parts.append(splits_table(args, folder))
        parts += [modes_table(args, folder, encoder) for encoder in args.encoders]
    fill_section(args.page, "training-speed", "\n\n".join(parts))
    return 0


def make_store(folder: Path, *, cases: int) -> None:
    """Write synthetic patients and prepare them."""
    _run("make-phantoms", "--out", folder / "raw", "--cases", cases, "--seed", 7)
    raw = sorted((folder / "raw").glob("Dataset90[1-4]*"))
    words = [word for path in raw for word in ("--input", path)]
    _run("prepare-slices", *words, "--output", folder / "store", "--size", _SIZE)


def splits_table(args: argparse.Namespace, folder: Path) -> str:
    """Return stacks a second of the loader's processes and the network's threads."""
    encoder = args.encoders[0]
    kinds = [
        Setting(encoder, "exchange", targets=1, augmented=True),
        Setting(encoder, "ladder, cached", targets=1),
    ]
    fill_cache(args, folder, encoder)
    rows = []
    for workers, threads in SPLITS:
        row = [f"{workers} loader processes, {threads} threads"]
        for kind in kinds:
            setting = dataclasses.replace(kind, workers=workers, threads=threads)
            found = in_own_process(args, folder, setting)
            row += [f"{found['stacks_per_s']:.2f}", f"{found['waiting']:.1%}"]
            row += [f"{found['cores_busy']:.2f}"]
        rows.append(row)
    header = [f"`{encoder}`"]
    for kind in ("exchange, augmented", "ladder, cached"):
        header += [f"{kind}: stacks/s", "waiting for data", "cores busy"]
    return markdown_table(header, rows)


def modes_table(args: argparse.Namespace, folder: Path, encoder: str) -> str:
    """Return stacks a second of the interactions, without augmentation, and their ratios."""
    filled = fill_cache(args, folder, encoder)
    rows = []
    for targets in TARGETS:
        first: float | None = None
        for mode in MODES:
            found = in_own_process(args, folder, Setting(encoder, mode, targets=targets))
            rate = found["stacks_per_s"]
            first = first or rate
            rows.append([mode, str(targets), f"{rate:.2f}", f"{rate / first:.2f}"])
            rows[-1] += [f"{found['waiting']:.1%}", f"{found['cores_busy']:.2f}"]
    header = [f"`{encoder}`", "T", "stacks/s", "to exchange", "waiting for data", "cores busy"]
    note = (
        f"Filling the cache: {filled['slices_per_s']:.1f} slices a second, "
        f"{filled['mb_per_slice']:.1f} MB a slice."
    )
    return f"{markdown_table(header, rows)}\n\n{note}"


def fill_cache(args: argparse.Namespace, folder: Path, encoder: str) -> dict[str, float]:
    """Compute an encoder's features once; return what that took."""
    done = folder / f"{encoder}.json"
    if not done.exists():
        found = in_own_process(args, folder, Setting(encoder, "fill"))
        done.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(done.read_text(encoding="utf-8")))


def in_own_process(args: argparse.Namespace, folder: Path, setting: Setting) -> dict[str, float]:
    """Measure one setting, again while other programs are busy; return the least disturbed."""
    tries: list[dict[str, float]] = []
    while len(tries) < _TRIES and (not tries or tries[-1]["others_busy"] > _QUIET_CORES):
        time.sleep(_PAUSE_S if tries else 0)
        tries.append(_measured(args, folder, setting))
    best = min(tries, key=lambda found: found["others_busy"])
    print(setting, best, f"{len(tries)} tries", file=sys.stderr, flush=True)
    return best


def _measured(args: argparse.Namespace, folder: Path, setting: Setting) -> dict[str, float]:
    """Run this file for one setting, in a group of processes whose processor time is counted."""
    words = ["--measure", json.dumps(dataclasses.asdict(setting)), "--folder", str(folder)]
    done = subprocess.run(
        [sys.executable, __file__, *words, "--seconds", str(args.seconds)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # as the samcancer command has it
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(setting: Setting, folder: Path, *, seconds: float) -> dict[str, float]:
    """Train for some seconds, or fill the cache."""
    torch.set_num_threads(setting.threads)
    store = CaseStore(folder / "store")
    config = configuration(setting, folder)
    model = build_network(config.model, store.class_names)
    if setting.mode == "fill":
        plan = plan_fill(folder / f"{setting.encoder}-new", store, model, config)
        clock = Clock()
        fill(plan, model, device="cpu", show_progress=False)
        slices = sum(info.slices for info in store.cases.values())
        shutil.rmtree(folder / setting.encoder, ignore_errors=True)  # of a disturbed try
        (folder / f"{setting.encoder}-new").rename(folder / setting.encoder)
        figures = clock.figures()
        return {
            "slices_per_s": slices / figures["seconds"],
            "mb_per_slice": plan.needed_bytes / slices / 1e6,
            **figures,
        }
    features = open_cache(store, model, config, case_ids=list(store.cases))
    cases = tuple(
        PoolCase(
            c.case_id, c.dataset, c.slices, {k: tuple(v) for k, v in c.positive_slices.items()}
        )
        for c in store.cases.values()
    )
    meta = CheckpointMeta(config=config, class_names=store.class_names)
    pool = SlicePool(cases, setting.targets)
    job = TrainJob(store, Ledger(store, None), pool, (), meta, folder, features)
    return run_steps(model, job, seconds=seconds)


def configuration(setting: Setting, folder: Path) -> Config:
    """Return the configuration of a setting."""
    checkpoint = None
    if setting.encoder in SAM_NAMES:
        path = folder / f"{setting.encoder}.pth"
        checkpoint = str(path if path.exists() else official_file(setting.encoder, folder))
    return Config(
        model=ModelConfig(
            encoder=setting.encoder,
            encoder_checkpoint=checkpoint,
            interaction="exchange" if setting.mode == "exchange" else "ladder",
            image_size=_SIZE,
            cnn_width=_WIDTH,
        ),
        data=DataConfig(
            train_windows_hu=(_WINDOW_HU,),
            slices_per_sample=setting.targets,
            workers=setting.workers,
        ),
        augmentation=AugmentationConfig(probability=0.5 if setting.augmented else 0.0),
        train=TrainConfig(
            batch_size=_STACKS_PER_STEP // setting.targets,
            samples_per_epoch=_MANY,
            manual_prompts=0.0,
            feature_cache=str(folder / setting.encoder) if "cached" in setting.mode else None,
        ),
    )


def run_steps(model: Any, job: TrainJob, *, seconds: float) -> dict[str, float]:
    """Take steps for so long, after some that do not count."""
    config = job.meta.config.train
    fabric = start_fabric(accelerator="cpu", precision=config.precision)
    stepper = Stepper(model, config, class_count=len(job.meta.class_names), fabric=fabric)
    stepper.train_mode()
    loader = make_loader(job, make_schedule(job), device=fabric.device)
    steps, waited, clock = -_WARM_UP_STEPS, 0.0, Clock()
    for batch in loader.batches(0, position=0):
        stepper.compute(batch)
        stepper.apply(0.5)
        steps += 1
        if steps == 0:
            waited, clock = loader.waiting_s, Clock()
        elif steps > 0 and clock.seconds >= seconds:
            break
    figures = clock.figures()
    waiting = (loader.waiting_s - waited) / figures["seconds"]
    loader.close()
    rate = steps * _STACKS_PER_STEP / figures["seconds"]
    return {"stacks_per_s": rate, "waiting": waiting, **figures}


class Clock:
    """Time since it was made, of the wall and of the processor (Linux)."""

    def __init__(self) -> None:
        self._started, self._own_s, self._all_s = self._now()

    @property
    def seconds(self) -> float:
        """Seconds by the wall."""
        return time.perf_counter() - self._started

    def figures(self) -> dict[str, float]:
        """Return the seconds, and the cores that we and that others kept busy."""
        started, own_s, all_s = self._now()
        seconds, own_s, all_s = started - self._started, own_s - self._own_s, all_s - self._all_s
        return {
            "seconds": seconds,
            "cores_busy": own_s / seconds,
            "others_busy": max(all_s - own_s, 0.0) / seconds,
        }

    def _now(self) -> tuple[float, float, float]:
        return time.perf_counter(), group_processor_s(), all_processor_s()


def group_processor_s() -> float:
    """Return the processor seconds of all living processes of this one's group."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == os.getpgrp():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def all_processor_s() -> float:
    """Return the processor seconds of all programs but nice ones, which give way."""
    user, _nice, system = Path("/proc/stat").read_text(encoding="utf-8").split()[1:4]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _run(verb: str, *words: object) -> None:
    if run_verb(verb, [str(word) for word in (*words, "--quiet")]) != 0:
        raise InputError(f"samcancer {verb} failed")


if __name__ == "__main__":
    sys.exit(main())
