"""What a store's index costs: opening it, folds, sampling weights and an epoch, for scale.py.

Synthetic indexes without the files of the cases: nothing here opens them. A quarter of the cases
annotates 25 classes, as whole-body sets do, the others two; scans have 50 to 400 slices. Every size
runs in a process of its own, which imports little; a step's memory is what the process takes more
after it, modules not counted.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from results_page import markdown_table

from samcancer.data.case_store import CaseStore
from samcancer.data.slice_runs import SliceRuns
from samcancer.data.store_index import (
    INDEX_NAME,
    CaseInfo,
    StoreInfo,
    case_file_name,
    write_index,
    write_store_info,
)
from samcancer.geometry import Geometry

DATASETS = 17

CLASSES = tuple(f"structure_{k:02d}" for k in range(25))

MANY_CLASSES_EVERY = 4
"""One case of so many annotates all classes."""

SIZE = 256

FOLDS = 5

SLICES_PER_SAMPLE = 4

EPOCH_SAMPLES = 20_000
"""Of an epoch with ``train.samples_per_epoch``."""

_MEGABYTE = 10**6

_PAGE_BYTES = resource.getpagesize()


def measure_apart(count: int) -> dict[str, Any]:
    """Measure a store of ``count`` cases in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="samcancer-scale-") as folder:
        store = make_index(Path(folder), count)
        command = [sys.executable, __file__, str(store)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
    return found


def make_index(folder: Path, count: int) -> Path:
    """Write the description and index of a store of ``count`` cases; equal counts, equal bytes."""
    rng = np.random.default_rng(count)
    write_store_info(folder, StoreInfo(CLASSES, SIZE))
    write_index(folder, [_case(i, rng) for i in range(count)])
    return folder


def measure_index(folder: Path) -> dict[str, Any]:
    """Return the seconds and megabytes of each step on a store's index."""
    start_mb = _resident_mb()
    steps: dict[str, dict[str, float]] = {}

    def timed(name: str, step: Callable[[], Any]) -> Any:
        before, started, cpu = _resident_mb(), time.perf_counter(), time.process_time()
        result = step()
        steps[name] = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu,
            "megabytes": _resident_mb() - before,
        }
        return result

    store = timed("load", lambda: CaseStore(folder))
    process_mb = _peak_mb()
    from samcancer.data.folds import Folds, split_patients
    from samcancer.data.sampling import PoolCase, SlicePool
    from samcancer.data.selection import balanced_cases

    def folds() -> Folds:
        return Folds(FOLDS, split_patients(store.cases, count=FOLDS, seed=0), store)

    def weights() -> SlicePool:
        cases = (store.cases[case_id] for case_id in training)
        return SlicePool(
            tuple(PoolCase(c.case_id, c.dataset, c.slices, c.positive_slices) for c in cases),
            SLICES_PER_SAMPLE,
        )

    def epoch(samples: int | None) -> int:
        return len(pool.plan_epoch(0, 0, samples_per_epoch=samples, lesion_fraction=0.5))

    training = timed("folds", folds).training_cases(0)
    timed("fingerprint", store.fingerprint)
    timed("selection", lambda: balanced_cases(store.cases, most=120, seed=0))
    pool = timed("weights", weights)
    timed("epoch", lambda: epoch(EPOCH_SAMPLES))
    samples = timed("epoch_of_all", lambda: epoch(None))
    return {
        "cases": len(store.cases),
        "slices": pool.slice_count,
        "index_mb": (folder / INDEX_NAME).stat().st_size / _MEGABYTE,
        "process_mb_before": start_mb,
        "process_mb_at_load": process_mb,
        "samples_of_all": samples,
        "steps": steps,
    }


def index_markdown(figures: dict[str, Any]) -> str:
    """Return the tables."""
    sizes = figures["sizes"]
    columns = [f"{s['cases']:,} cases" for s in sizes]
    rows = [
        ["index, MB", *(f"{s['index_mb']:.1f}" for s in sizes)],
        ["process after opening, peak MB", *(f"{s['process_mb_at_load']:.0f}" for s in sizes)],
        ["of these Python and its modules", *(f"{s['process_mb_before']:.0f}" for s in sizes)],
    ]
    titles = {
        "load": "open the store",
        "folds": f"{FOLDS} folds by patient, checked",
        "fingerprint": "fingerprint",
        "selection": "120 cases of a class at most",
        "weights": "sampling weights of 4 folds",
        "epoch": f"an epoch of {EPOCH_SAMPLES:,} samples",
        "epoch_of_all": "an epoch of every slice",
    }
    for name, title in titles.items():
        found = [s["steps"][name] for s in sizes]
        rows.append([title, *(_step(f) for f in found)])
    samples = ", ".join(f"{s['samples_of_all']:,}" for s in sizes)
    return "\n\n".join(
        [
            f"`{figures['command']}` on {figures['machine']}; load average before the start "
            f"{figures['load_average_before']:.1f}.",
            markdown_table(["seconds (of the processor; + MB)", *columns], rows),
            f"An epoch of every slice has {samples} samples of {SLICES_PER_SAMPLE} slices.",
        ]
    )


def _step(found: dict[str, float]) -> str:
    added = f"; + {found['megabytes']:.0f} MB" if found["megabytes"] >= 1 else ""
    return f"{found['seconds']:.2f} ({found['cpu_seconds']:.2f}{added})"


def _case(number: int, rng: np.random.Generator) -> CaseInfo:
    slices = int(rng.integers(50, 401))
    dataset = f"Source_{number % DATASETS:02d}"
    case_id = f"{dataset}_case_{number:06d}"
    annotated = CLASSES if number % MANY_CLASSES_EVERY == 0 else _two_of(rng)
    positive = {name: _runs(slices, rng) for name in annotated}
    voxels = {name: 500 * len(runs) for name, runs in positive.items()}
    spacing_mm = (float(rng.uniform(0.5, 1.0)), 0.75, 2.5)
    origin_mm = (float(rng.uniform(-300, 0)), float(rng.uniform(-300, 0)), 0.0)
    return CaseInfo(
        case_id=case_id,
        patient_id=f"patient_{number * 9 // 10:06d}",
        dataset=dataset,
        file=case_file_name(case_id, dataset),
        file_sha256=rng.bytes(32).hex(),
        source_sha256=rng.bytes(32).hex(),
        label_sha256=rng.bytes(32).hex(),
        content_sha256=rng.bytes(32).hex(),
        slices=slices,
        size=SIZE,
        annotated=annotated,
        geometry=Geometry((512, 512, slices), spacing_mm, origin_mm, (1, 0, 0, 0, 1, 0, 0, 0, 1)),
        voxels=voxels,
        volume_ml={name: round(count * 0.0012, 6) for name, count in voxels.items()},
        lesions={name: len(runs.bounds) // 2 for name, runs in positive.items()},
        positive_slices=positive,
    )


def _two_of(rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(CLASSES[k] for k in sorted(rng.permutation(len(CLASSES))[:2]))


def _runs(slices: int, rng: np.random.Generator) -> SliceRuns:
    """Return up to three runs, none for one class in five."""
    ends = sorted(rng.permutation(slices)[: 2 * int(rng.choice([0, 1, 1, 2, 3]))].tolist())
    return SliceRuns(ends)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE_BYTES / _MEGABYTE


def _peak_mb() -> float:
    """Return the peak of this process alone; getrusage's may be that of the one it came from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024 / _MEGABYTE


if __name__ == "__main__":
    print(json.dumps(measure_index(Path(sys.argv[1]))))
