"""Writing the five phantom data sets: nnU-Net v2 raw layout, restartable, one process or many.

The output folder holds ``phantoms.json`` (how it was made) and ``manifest.jsonl`` (one line per
finished case with the SHA-256 of its files). A line is written after the files are in place, so a
run that was killed goes on where it stopped, with the same bytes as an unbroken one.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.phantoms.cases import (
    PHANTOM_SETS,
    PhantomSet,
    case_name,
    make_case,
    patient_name,
)
from data_prep.phantoms.patient import DEFAULT_IN_PLANE_PIXELS
from samcancer.errors import InputError
from samcancer.files import (
    TEMPORARY_PREFIX,
    append_line,
    atomic_path,
    folder_lock,
    read_json,
    remove_stale_temporaries,
    sha256_of,
    write_json_atomic,
    write_text_atomic,
)

GENERATOR_VERSION = 1
"""Raised whenever the same seed gives other bytes than before."""

RECIPE_FILE = "phantoms.json"
MANIFEST_FILE = "manifest.jsonl"
FILE_ENDING = ".nii.gz"
PIXEL_MULTIPLE = 4
PIXEL_LIMITS = (64, 1024)

_README = """Synthetic CT, made by `samcancer make-phantoms`. Nobody was scanned: every patient,
organ and lesion here was drawn from a random seed. Not for training or testing of anything that is
used on people without real data besides. You may use these files for any purpose (CC0 1.0).
"""


@dataclass(frozen=True)
class Recipe:
    """What decides the bytes of every case."""

    seed: int = 0
    pixels: int = DEFAULT_IN_PLANE_PIXELS
    generator_version: int = GENERATOR_VERSION

    def __post_init__(self) -> None:
        """Refuse values that no scan can be made with.

        Raises:
            InputError: When the seed is negative or the pixels are out of range.
        """
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more, got {self.seed}")
        low, high = PIXEL_LIMITS
        if not low <= self.pixels <= high or self.pixels % PIXEL_MULTIPLE:
            raise InputError(
                f"--in-plane must be a multiple of {PIXEL_MULTIPLE} from {low} to {high}, "
                f"got {self.pixels}"
            )


@dataclass(frozen=True)
class _Job:
    """One case to make, for a worker process."""

    out: Path
    set_number: int
    number: int
    recipe: Recipe


Progress = Callable[[int, int], None]
"""Called with (cases finished, cases in all)."""


def write_phantoms(
    out: Path, *, cases: int, recipe: Recipe, workers: int = 1, progress: Progress | None = None
) -> int:
    """Write the five data sets; return how many cases were made now.

    Args:
        out: Folder for the data sets; new, empty, or left by an earlier run of the same recipe.
        cases: Cases per data set; more than an earlier run's adds to it.
        recipe: Seed and size.
        workers: Processes; the result does not depend on it.
        progress: Told after every case.

    Raises:
        InputError: When an argument is out of range, the folder holds something else, is being
            written by another process or was made with another recipe, or a worker died.
    """
    if cases < 1:
        raise InputError(f"--cases must be 1 or more, got {cases}")
    if workers < 1:
        raise InputError(f"--workers must be 1 or more, got {workers}")
    _require_ours(out)
    with folder_lock(out, purpose="samcancer make-phantoms"):
        _check_recipe(out, recipe)
        done = _finished_cases(out, cases)
        _prepare_folders(out)
        jobs = [
            _Job(out, set_number, number, recipe)
            for set_number, phantom_set in enumerate(PHANTOM_SETS)
            for number in range(cases)
            if case_name(phantom_set, number) not in done
        ]
        total = cases * len(PHANTOM_SETS)
        if progress is not None:
            progress(len(done), total)
        for line in _made(jobs, workers=workers):
            done[str(line["case"])] = line
            append_line(out / MANIFEST_FILE, _as_line(line).removesuffix("\n"))
            if progress is not None:
                progress(len(done), total)
        _write_summaries(out, done, cases)
    return len(jobs)


def _require_ours(out: Path) -> None:
    """Refuse a folder with contents that no earlier run of this command left."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError("is a file, not a folder", path=out, mend="choose another folder")
    ours = (".lock", TEMPORARY_PREFIX)
    foreign = sorted(p.name for p in out.iterdir() if not p.name.startswith(ours))
    if foreign and not (out / RECIPE_FILE).is_file():
        raise InputError(
            f"holds something else ({foreign[0]!r})", path=out, mend="choose an empty folder"
        )


def _check_recipe(out: Path, recipe: Recipe) -> None:
    path = out / RECIPE_FILE
    wanted = asdict(recipe)
    if not path.is_file():
        write_json_atomic(path, wanted)
        return
    found = read_json(path)
    if found != wanted:
        raise InputError(
            f"was made with {json.dumps(found)}, now asked for {json.dumps(wanted)}",
            path=out,
            mend="choose another folder or the same options",
        )


def _finished_cases(out: Path, cases: int) -> dict[str, dict[str, Any]]:
    """Return the manifest's lines whose files are whole, by case."""
    path = out / MANIFEST_FILE
    wanted = {case_name(s, n) for s in PHANTOM_SETS for n in range(cases)}
    found: dict[str, dict[str, Any]] = {}
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except json.JSONDecodeError:
            continue
        found[line["case"]] = line
    extra = sorted(set(found) - wanted)
    if extra:
        raise InputError(
            f"already holds more cases than {cases} per data set (such as {extra[0]})",
            path=out,
            mend="ask for at least as many cases or choose another folder",
        )
    kept = {name: line for name, line in found.items() if _whole(out, line)}
    write_text_atomic(path, "".join(_as_line(line) for line in kept.values()))
    return kept


def _whole(out: Path, line: dict[str, Any]) -> bool:
    for part in ("image", "label"):
        path = out / line[part]
        if not path.is_file() or sha256_of(path) != line[f"{part}_sha256"]:
            return False
    return True


def _as_line(line: dict[str, Any]) -> str:
    return json.dumps(line, sort_keys=True) + "\n"


def _folders(phantom_set: PhantomSet) -> tuple[str, str]:
    part = "Ts" if phantom_set.test else "Tr"
    return f"{phantom_set.folder}/images{part}", f"{phantom_set.folder}/labels{part}"


def _prepare_folders(out: Path) -> None:
    remove_stale_temporaries(out)
    for phantom_set in PHANTOM_SETS:
        for folder in _folders(phantom_set):
            (out / folder).mkdir(parents=True, exist_ok=True)
            remove_stale_temporaries(out / folder)
        remove_stale_temporaries(out / phantom_set.folder)


def _made(jobs: list[_Job], *, workers: int) -> Iterator[dict[str, Any]]:
    """Make the cases, yielding each one's manifest line when its files are in place."""
    if workers == 1 or len(jobs) <= 1:
        yield from map(_make_and_write, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures: list[Future[dict[str, Any]]] = [pool.submit(_make_and_write, j) for j in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise InputError(
                "a worker process died, most likely for lack of memory",
                mend="use fewer --workers and run the same command again",
            ) from None
        finally:
            for future in futures:
                future.cancel()


def _make_and_write(job: _Job) -> dict[str, Any]:
    phantom_set = PHANTOM_SETS[job.set_number]
    name = case_name(phantom_set, job.number)
    files = make_case(phantom_set, job.number, seed=job.recipe.seed, pixels=job.recipe.pixels)
    images, labels = _folders(phantom_set)
    image, label = f"{images}/{name}_0000{FILE_ENDING}", f"{labels}/{name}{FILE_ENDING}"
    for relative, data in ((image, files.image), (label, files.label)):
        with atomic_path(job.out / relative, expected_bytes=len(data)) as temporary:
            temporary.write_bytes(data)
    phantom = files.phantom
    frame = phantom.protocol.frame
    return {
        "case": name,
        "patient": patient_name(phantom_set, job.number),
        "dataset": phantom_set.folder,
        "image": image,
        "image_sha256": hashlib.sha256(files.image).hexdigest(),
        "label": label,
        "label_sha256": hashlib.sha256(files.label).hexdigest(),
        "orientation": files.orientation,
        "coverage": phantom.protocol.coverage.name.lower(),
        "phase": phantom.enhancement.phase.value,
        "slices": frame.slices,
        "spacing_xyz_mm": [frame.pixel_mm, frame.pixel_mm, frame.slice_mm],
        "noise_hu": phantom.protocol.noise_hu,
        "lesions": [
            {
                "kind": lesion.kind.value,
                "annotated": lesion.kind in phantom_set.annotates,
                "drawn_ml": lesion.drawn_ml,
                "labelled_ml": lesion.labelled_ml,
                "contrast_hu": lesion.contrast_hu,
            }
            for lesion in phantom.lesions
        ],
    }


def _write_summaries(out: Path, lines: dict[str, dict[str, Any]], cases: int) -> None:
    """Write each set's dataset.json, patients.csv and README, and the manifest in order."""
    names = [case_name(s, n) for s in PHANTOM_SETS for n in range(cases)]
    write_text_atomic(out / MANIFEST_FILE, "".join(_as_line(lines[name]) for name in names))
    for phantom_set in PHANTOM_SETS:
        folder = out / phantom_set.folder
        write_json_atomic(folder / "dataset.json", _dataset_json(phantom_set, cases))
        write_text_atomic(folder / "patients.csv", _patients_csv(phantom_set, cases))
        write_text_atomic(folder / "README.txt", _README)


def _dataset_json(phantom_set: PhantomSet, cases: int) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": phantom_set.folder.split("_", 1)[1],
        "description": f"Synthetic CT patients; {phantom_set.title}",
        "licence": "CC0 1.0; synthetic, no patient was scanned",
        "channel_names": {"0": "CT"},
        "labels": phantom_set.labels,
        "numTraining": 0 if phantom_set.test else cases,
        "file_ending": FILE_ENDING,
    }
    if phantom_set.test:
        names = [case_name(phantom_set, number) for number in range(cases)]
        content["numTest"] = cases
        content["test"] = [
            {"image": f"./imagesTs/{n}_0000{FILE_ENDING}", "label": f"./labelsTs/{n}{FILE_ENDING}"}
            for n in names
        ]
    return content


def _patients_csv(phantom_set: PhantomSet, cases: int) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("case", "patient"))
    for number in range(cases):
        writer.writerow((case_name(phantom_set, number), patient_name(phantom_set, number)))
    return stream.getvalue()
