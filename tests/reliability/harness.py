"""A good case, a faulty one and another good one through a real command, and what must hold then.

Every command is run by :func:`samcancer.commands.main` in this process, with its own logging to the
real stderr, so that what is counted are the lines that a user sees.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import SimpleITK as sitk  # noqa: N813 - its customary name
import torch
from raw_data import add_case, ct, label, write_nnunet
from volume_fakes import phantom_hu, save_by_itk

from samcancer.commands import EXIT_BAD_INPUT, EXIT_SOME_FAILED, main
from samcancer.config import Config, ModelConfig
from samcancer.data.case_store import CaseStore
from samcancer.files import LOCK_NAME, TEMPORARY_PREFIX
from samcancer.inference.nnunet_folder import DATASET_FILE, PLANS_FILE
from samcancer.modeling import build_model
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint

CLASSES = ("liver_lesion", "kidney_lesion")
SIZE = 32
STORE_SIZE = 16


@dataclass(frozen=True)
class Outcome:
    """What a shell sees of a command."""

    status: int
    out: str
    lines: list[str]
    """Of stderr."""


class Command(Protocol):
    """Runs a verb and takes what it printed."""

    def __call__(self, *words: object) -> Outcome: ...


def run_command(*words: object) -> Outcome:
    """Run a verb; what libraries print past Python is taken, too."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # those of the test run, so that the command adds its own
    try:
        with _taken(1) as out, _taken(2) as err:
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    status = main([str(word) for word in words])
                except SystemExit as end:
                    status = end.code if isinstance(end.code, int) else 1
            texts = [_text_of(stream) for stream in (out, err)]
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    return Outcome(status, texts[0], texts[1].splitlines())


@contextmanager
def _taken(descriptor: int) -> Iterator[TextIO]:
    """Send a standard stream into a file until the block ends."""
    saved = os.dup(descriptor)
    with tempfile.TemporaryFile("w+", encoding="utf-8", buffering=1) as stream:
        os.dup2(stream.fileno(), descriptor)
        try:
            yield stream
        finally:
            os.dup2(saved, descriptor)
            os.close(saved)


def _text_of(stream: TextIO) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()


def save_run(folder: Path, *, classes: Sequence[str] = CLASSES, seed: int = 0) -> Path:
    """Write an untrained network of 32 pixels as a finished run."""
    config = Config(model=ModelConfig(image_size=SIZE, cnn_width=4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_model(config.model, tuple(classes))
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder / "best", network, CheckpointMeta(config=config, class_names=classes))
    return folder


def good_scan(path: Path, seed: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_by_itk(path, phantom_hu(seed=seed))


def infer(command: Command, scans: Iterable[Path], out: Path, run: Path, *more: str) -> Outcome:
    """Segment scans on the CPU and say nothing but what is wrong."""
    words = ["--input", *scans, "--output", out, "--model", run, "--device", "cpu", "--quiet"]
    return command("infer-volume", *words, *more)


def infer_among_good(
    command: Command, faulty: Sequence[Path], folder: Path, model: Path
) -> Outcome:
    """Segment faulty scans behind, between and before good ones, whose results must be whole."""
    good = [good_scan(folder / "good" / f"{name}.nii.gz") for name in ("first", "middle", "last")]
    half = len(faulty) // 2
    scans = [good[0], *faulty[:half], good[1], *faulty[half:], good[2]]
    outcome = infer(command, scans, folder / "out", model)
    assert outcome.status == EXIT_SOME_FAILED
    require_whole(folder / "out", good)
    assert len(outcome.lines) == len(faulty), outcome.lines
    return outcome


def require_refused(
    command: Command, faulty: Path, model: Path, *, fact: str, mend: str
) -> list[str]:
    """Segment one faulty scan: status 2, one line, no file; return the line."""
    out = faulty.parent / "alone"
    outcome = infer(command, [faulty], out, model)
    assert outcome.status == EXIT_BAD_INPUT
    require_one_line(outcome.lines, faulty, fact=fact, mend=mend)
    assert names_in(out) == set()
    return outcome.lines


def require_one_line(lines: Sequence[str], file: Path | str, *, fact: str, mend: str) -> None:
    """Demand one line ``error: FILE: FACT. MEND.`` with the file's name in front."""
    assert len(lines) == 1, lines
    (line,) = lines
    path = Path(file)
    within = [p.name for p in path.iterdir()] if path.is_dir() else []
    named = [name for name in (str(file), path.name, *within) if line.startswith(f"error: {name}")]
    assert named, line
    said = line.removeprefix(f"error: {named[0]}")
    assert re.search(fact, line), line
    assert re.fullmatch(r".*: .+\. [A-Z`].+\.", said), f"no advice: {line}"
    assert mend.lower() in said.lower(), line


def require_whole(out: Path, scans: Sequence[Path]) -> None:
    """Demand finished results of these scans and nothing else."""
    expected = set()
    for scan in scans:
        case_id = scan.name.split(".", 1)[0]
        mask, table = out / scan.name, out / f"{case_id}.lesions.csv"
        report = json.loads((out / f"{case_id}.json").read_text())
        assert report["mask"] == {"file": mask.name, "sha256": sha256(mask)}
        assert report["lesion_table"]["sha256"] == sha256(table)
        assert report["input"]["sha256"] == sha256(scan)
        found, given = (sitk.ReadImage(str(path)) for path in (mask, scan))
        assert found.GetSize() == given.GetSize()
        assert np.allclose(found.GetOrigin(), given.GetOrigin(), atol=1e-4)
        assert np.allclose(found.GetSpacing(), given.GetSpacing(), atol=1e-5)
        assert np.allclose(found.GetDirection(), given.GetDirection(), atol=1e-5)
        expected |= {mask.name, table.name, f"{case_id}.json"}
    assert names_in(out) - {DATASET_FILE, PLANS_FILE} == expected


def names_in(folder: Path) -> set[str]:
    """Return every file below a folder by its relative name, but for the lock."""
    files = (p for p in folder.rglob("*") if not p.is_dir())
    return {str(p.relative_to(folder)) for p in files} - {LOCK_NAME}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file that does not hold times, by its relative name."""
    timed = {LOCK_NAME, "summary.json"}
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in timed
    }


def raw_cases(folder: Path, count: int = 3) -> Path:
    """Write labelled cases of a data set that the taxonomy knows."""
    return write_nnunet(folder / "Dataset901_Phantom_Liver", count)


def prepare(command: Command, raw: Path, store: Path, *more: object) -> Outcome:
    """Prepare a store in this process and print nothing but what is wrong."""
    words = ["--input", raw, "--output", store, "--size", STORE_SIZE, "--workers", 1, "--quiet"]
    return command("prepare-slices", *words, *more)


def require_case_refused(
    command: Command, raw: Path, file: str, *, fact: str, mend: str, options: tuple[str, ...] = ()
) -> None:
    """Prepare a data set whose ``case1`` is faulty; the messages name files without folders."""
    store = raw.parent / "store"
    outcome = prepare(command, raw, store, *options)
    assert outcome.status == EXIT_SOME_FAILED
    require_one_line(outcome.lines, file, fact=fact, mend=mend)
    require_store(store, ["case0", "case2"])
    (refused,) = [json.loads(line) for line in (store / "refused.jsonl").read_text().splitlines()]
    assert (refused["case_id"], refused["file"]) == ("case1", file)


def require_store(store: Path, cases: Sequence[str]) -> None:
    """Demand a store of exactly these cases, each as its index says, and no leavings."""
    opened = CaseStore(store)
    assert list(opened.cases) == list(cases)
    opened.verify()
    assert {p.stem for p in (store / "cases").iterdir()} == set(cases)
    assert not list(store.rglob(f"{TEMPORARY_PREFIX}*"))


__all__ = ["add_case", "ct", "label"]
