"""Five patient folds on 40 soft-tissue sarcomas: networks against each other, on equal terms.

``--question sarcoma``: our network against a plain 2D U-Net of about as many trained parameters.
``--question systems``: our network against the volume network of the Universal Model.
``--question pretrained``: LiteMedSAM's image encoder, frozen, with its real weights and with random
ones, against our encoder trained from scratch.

All have the same folds, store, augmentation and wall-clock budget per fold; the held-out patients
select nothing (last epoch, presence threshold 0.5). Masks are made and scored on the scans' own
grid by the code behind ``samcancer infer-volume`` and ``samcancer evaluate``. A fold that is
finished is not trained again, so the benchmark can run in pieces: ``python benchmarks/sarcoma.py
--models ours --folds 0,1``. On a CPU two models run side by side, each with half of the cores to
itself, so that both meet the same load of the machine.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import logging
import multiprocessing
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from baseline_unet import BaselineUNet, channels_for
from results_page import RESULTS, fill_section
from sarcoma_results import summarise, write_results
from torch import nn

from samcancer.commands import run_verb
from samcancer.config import Config, ModelConfig, load_config
from samcancer.data.folds import load_or_create_folds
from samcancer.errors import InputError
from samcancer.inference.batch import segment_scans
from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.volume import EngineOptions
from samcancer.modeling import build_model, count_parameters
from samcancer.modeling.build import build_system
from samcancer.modeling.slice_prediction import Member, threshold_vector
from samcancer.training.checkpoint import ModelBuilder, load_checkpoint
from samcancer.training.run import RunOptions, fold_name, open_store, train_fold

log = logging.getLogger("sarcoma")

ROOT = Path(__file__).parent.parent
DEFAULT_DATA = ROOT.parent / "shared" / "data" / "sarcoma"
DATASET = "STS_Sarcoma"
CLASS_NAME = "soft_tissue_sarcoma"
QUESTIONS = {
    "sarcoma": ("ours", "unet"),
    "systems": ("ours", "universal"),
    "pretrained": ("medsam_lite", "medsam_lite_random", "ours"),
}
"""Section of the results page -> models; the first is compared with each other one."""

SECTIONS = {"systems": "sarcoma_systems"}
"""Question -> section of the results page and JSON, where it is not called so."""

MODELS = tuple(dict.fromkeys(name for names in QUESTIONS.values() for name in names))


_VOLUME_CONFIG = ROOT / "configs" / "sarcoma_universal.yaml"

_LARGE_ENCODER_BATCH = 4
"""Of the networks with LiteMedSAM's encoder, whose steps take over ten times as long on a CPU."""


@dataclass(frozen=True)
class Task:
    """One model on one fold."""

    model: str
    fold: int
    config: Config
    build: ModelBuilder | None
    output: Path
    device: str

    @property
    def runs(self) -> Path:
        """Folder of the model's runs."""
        return self.output / self.model

    @property
    def masks(self) -> Path:
        """Folder of the model's masks."""
        return self.output / "masks" / self.model


def main(argv: Sequence[str] | None = None) -> int:
    """Train and predict what is asked for and not finished, then score what is there."""
    args = _arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return run(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Do the work of :func:`main`; raises InputError on bad input."""
    config = load_config(args.config)
    train = dataclasses.replace(config.train, time_budget_s=args.seconds_per_fold)
    if args.device == "cuda":
        train = dataclasses.replace(train, precision="bf16-mixed")
    config = dataclasses.replace(config, train=train)
    scans, references = _find_data(args.data)
    store = _prepare(args, scans, references, size=config.model.image_size)
    models = args.models or QUESTIONS[args.question]
    if args.device == "cpu" and len(models) > 1:
        for i in range(0, len(models), 2):
            _work_side_by_side(models[i : i + 2], args, config, store, scans)
    else:
        _work(models, args, config, store, scans)
    summary = summarise(
        args.output / "masks", args.data / "labels", models=QUESTIONS[args.question]
    )
    summary |= {
        "command": shlex.join(["python", "benchmarks/sarcoma.py", *(argv_of(args))]),
        "seconds_per_fold": args.seconds_per_fold,
        "device": _device_text(args.device),
        "trained_parameters": {
            name: _parameters(_contender(name, config)) for name in QUESTIONS[args.question]
        },
        "config": args.config.name,
    }
    markdown = write_results(
        summary,
        scans,
        references,
        name=SECTIONS.get(args.question, args.question),
        masks=args.output / "masks",
        docs=args.docs,
    )
    print(markdown)
    if args.docs == RESULTS.parent and summary["complete"]:
        fill_section(RESULTS, SECTIONS.get(args.question, args.question), markdown)
    return 0


def _work(
    models: Sequence[str],
    args: argparse.Namespace,
    config: Config,
    store: Path,
    scans: dict[str, Path],
) -> None:
    """Train every fold of the models and segment its held-out patients."""
    contenders = {model: _contender(model, config) for model in models}
    for fold in args.folds:
        for model, contender in contenders.items():
            task = Task(model, fold, *contender, args.output, args.device)
            _train(task, store)
            _predict(task, store, scans)


def _work_side_by_side(
    models: Sequence[str],
    args: argparse.Namespace,
    config: Config,
    store: Path,
    scans: dict[str, Path],
) -> None:
    """Run each model in a process of its own on its own share of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // 2)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_work_on_cores,
            args=(cores[i * share : (i + 1) * share] or cores, model, args, config, store, scans),
        )
        for i, model in enumerate(models)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    failed = [m for m, p in zip(models, processes, strict=True) if p.exitcode != 0]
    if failed:
        raise InputError(f"{', '.join(failed)} did not finish; its own line above says why")


def _work_on_cores(
    cores: list[int],
    model: str,
    args: argparse.Namespace,
    config: Config,
    store: Path,
    scans: dict[str, Path],
) -> None:
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {model}: %(message)s")
    _work([model], args, config, store, scans)


def argv_of(args: argparse.Namespace) -> list[str]:
    """Return the options that decide the figures, as typed."""
    question = [] if args.question == "sarcoma" else ["--question", args.question]
    budget = ["--seconds-per-fold", f"{args.seconds_per_fold:g}"]
    return [*question, *budget, "--device", args.device]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="holds images/ and labels/")
    parser.add_argument("--output", type=Path, default=Path("sarcoma-runs"), metavar="DIR")
    parser.add_argument("--docs", type=Path, default=RESULTS.parent, help="JSON, table, pictures")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "sarcoma.yaml")
    parser.add_argument("--question", choices=tuple(QUESTIONS), default="sarcoma")
    parser.add_argument("--models", type=_models, help="default: all of the question's")
    parser.add_argument("--folds", type=_folds, default=range(5), metavar="0,1,...")
    parser.add_argument("--seconds-per-fold", type=float, default=600.0)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser.parse_args(argv)


def _models(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not set(names) <= set(MODELS):
        raise argparse.ArgumentTypeError(f"choose from {','.join(MODELS)}, got {text}")
    return names


def _folds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _find_data(data: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return case id -> scan and case id -> reference."""
    if not (data / "images").is_dir() or not (data / "labels").is_dir():
        raise InputError(
            "no folders images/ and labels/ here",
            path=data,
            mend="give the folder of the 40 sarcomas with --data DIR",
        )
    scans = {p.name.removesuffix(".nii.gz"): p for p in sorted(data.glob("images/*.nii.gz"))}
    references = {case_id: data / "labels" / path.name for case_id, path in scans.items()}
    missing = [path for path in references.values() if not path.exists()]
    if missing or not scans:
        raise InputError(
            "no such label map" if missing else "holds no scan", path=next(iter(missing), data)
        )
    return scans, references


def _prepare(
    args: argparse.Namespace, scans: dict[str, Path], references: dict[str, Path], *, size: int
) -> Path:
    """Write the case store through the command, which keeps what is there already."""
    table, store = args.output / "cases.csv", args.output / "store"
    args.output.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("case", "image", "label", "patient", "dataset"))
        for case_id, scan in scans.items():
            label = references[case_id].resolve()
            writer.writerow((case_id, scan.resolve(), label, case_id, DATASET))
    words = ["--input", str(table), "--output", str(store), "--size", str(size), "--workers", "2"]
    if run_verb("prepare-slices", words) != 0:
        raise InputError("the case store could not be prepared", path=store)
    return store


def _contender(name: str, config: Config) -> tuple[Config, ModelBuilder | None]:
    """Return the configuration of a model, and how it is built where it is not ours."""
    if name == "unet":
        return config, _unet_builder(config)
    if name == "ours":
        return config, None
    if name == "universal":
        other = load_config(_VOLUME_CONFIG)
        train = dataclasses.replace(
            other.train,
            time_budget_s=config.train.time_budget_s,
            precision=config.train.precision,
        )
        return dataclasses.replace(other, train=train), None
    checkpoint = "medsam_lite" if name == "medsam_lite" else None
    model = dataclasses.replace(config.model, encoder="medsam_lite", encoder_checkpoint=checkpoint)
    train = dataclasses.replace(config.train, batch_size=_LARGE_ENCODER_BATCH)
    return dataclasses.replace(config, model=model, train=train), None


def _unet_builder(config: Config) -> ModelBuilder:
    """Return a builder of the U-Net with as many trained parameters as our network has."""
    trained, _ = count_parameters(build_model(config.model, [CLASS_NAME]))
    channels = channels_for(trained, class_count=1)

    def build(_: ModelConfig, class_names: Sequence[str]) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            return BaselineUNet(class_names, channels)

    return build


def _parameters(contender: tuple[Config, ModelBuilder | None]) -> int:
    config, build = contender
    network = (build or build_system)(config.model, (CLASS_NAME,))
    return count_parameters(network)[0]


def _train(task: Task, store: Path) -> None:
    """Train one fold, going on where a stopped run was; a finished one returns at once."""
    folder = task.runs / fold_name(task.fold)
    log.info("%s, fold %d", task.model, task.fold)
    options = RunOptions(
        store=store,
        output=task.runs,
        config=task.config,
        resume=(folder / "resume.pt").exists(),
        accelerator=task.device,
        build=task.build,
    )
    result = train_fold(options, fold=task.fold)
    if result.outcome == "stopped":
        raise SystemExit(130)
    log.info("%s, fold %d: %d steps", task.model, task.fold, result.steps)


def _predict(task: Task, store: Path, scans: dict[str, Path]) -> None:
    """Segment the fold's held-out patients on their own grid."""
    loaded = load_checkpoint(task.runs / fold_name(task.fold), device=task.device, build=task.build)
    ensemble = Ensemble(
        members=(Member(loaded.model, loaded.config.data.inference_window_hu),),
        classes=tuple(loaded.taxonomy.classes[name] for name in loaded.class_names),
        thresholds=threshold_vector(loaded.presence_thresholds, loaded.class_names),
        image_size=loaded.config.model.image_size,
        sha256=(loaded.sha256,),
    )
    folds = load_or_create_folds(
        open_store(store, task.config),
        task.runs / "folds.json",
        count=task.config.folds,
        seed=task.config.train.seed,
    )
    held_out = {case_id: scans[case_id] for case_id in folds.held_out_cases(task.fold)}
    precision = "32-true" if task.device == "cpu" else "bf16-mixed"
    result = segment_scans(
        held_out,
        task.masks,
        ensemble=ensemble,
        options=InferenceOptions(engine=EngineOptions(device=task.device, precision=precision)),
        skip_finished=True,
    )
    if result.failures:
        raise InputError(next(iter(result.failures.values())))


def _device_text(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores, shared out between the models"


if __name__ == "__main__":
    sys.exit(main())
