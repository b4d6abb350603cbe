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
    """Measure one setting; its processes form a group, whose processor time is counted."""
    words = ["--measure", json.dumps(dataclasses.asdict(setting)), "--folder", str(folder)]
    done = subprocess.run(
        [sys.executable, __file__, *words, "--seconds", str(args.seconds)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        start_new_session=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # as the samcancer command has it
    )
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    print(setting, found, file=sys.stderr)
    return found


def measure(setting: Setting, folder: Path, *, seconds: float) -> dict[str, float]:
    """Train for some seconds, or fill the cache."""
    torch.set_num_threads(setting.threads)
    store = CaseStore(folder / "store")
    config = configuration(setting, folder)
    model = build_network(config.model, store.class_names)
    if setting.mode == "fill":
        started = time.perf_counter()
        plan = plan_fill(folder / setting.encoder, store, model, config)
        fill(plan, model, device="cpu", show_progress=False)
        slices = sum(info.slices for info in store.cases.values())
        return {
            "slices_per_s": slices / (time.perf_counter() - started),
            "mb_per_slice": plan.needed_bytes / slices / 1e6,
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
    steps, started, waited, used = -_WARM_UP_STEPS, 0.0, 0.0, 0.0
    for batch in loader.batches(0, position=0):
        stepper.compute(batch)
        stepper.apply(0.5)
        steps += 1
        if steps == 0:
            started, waited, used = time.perf_counter(), loader.waiting_s, group_processor_s()
        elif steps > 0 and time.perf_counter() - started >= seconds:
            break
    elapsed = time.perf_counter() - started
    busy = (group_processor_s() - used) / elapsed
    waiting = (loader.waiting_s - waited) / elapsed
    loader.close()
    return {
        "stacks_per_s": steps * _STACKS_PER_STEP / elapsed,
        "waiting": waiting,
        "cores_busy": busy,
    }


def group_processor_s() -> float:
    """Return the processor seconds of all living processes of this one's group (Linux)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == os.getpgrp():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _run(verb: str, *words: object) -> None:
    if run_verb(verb, [str(word) for word in (*words, "--quiet")]) != 0:
        raise InputError(f"samcancer {verb} failed")


if __name__ == "__main__":
    sys.exit(main())
