"""How long ``samcancer evaluate`` takes on 40 label maps of 512 x 512 x 100 voxels.

Synthetic label maps: 13 organs with waving outlines and lesions by FLARE 2023's numbers; the
predictions have other waves, lie up to a few millimetres away, miss a lesion and invent one. The
command runs as a user starts it, files and start included. The plain computation is what the
challenge's script does (every class on whole volumes, surface_distance's own distance transforms),
here on the first cases after reading; the command's scores must equal it. Example:
``python benchmarks/evaluation_speed.py --cases 40 --workers 2``
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import surface_distance
from numpy.typing import NDArray
from results_page import RESULTS, markdown_table, publish, run_description

from samcancer.errors import InputError
from samcancer.evaluation.cases import evaluate_cases, plan
from samcancer.evaluation.labels import Annotations, flare23_labels
from samcancer.evaluation.protocols import (
    FLARE23_LABELLED_SLICES_ONLY,
    FLARE23_TOLERANCES_MM,
    FLARE_MIN_DICE,
    flare_rounded,
)
from samcancer.files import read_json
from samcancer.geometry import Geometry
from samcancer.volume_io import read_labels, write_labels

EVALUATE = Path(__file__).parent.parent / "scripts" / "evaluate.py"

SPACING_MM = (0.78, 0.78, 3.0)
"""In (x, y, z) order."""

_WAVE = 0.06
"""Height of the waves of an outline, as a share of the radius."""

_SHIFT_MM = 3.0
"""Largest displacement of a predicted organ along an axis."""


class Ellipsoid(NamedTuple):
    """A part of the body."""

    name: str
    centre_mm: tuple[float, float, float]
    """From the middle of the volume, (slice, row, column)."""
    radii_mm: tuple[float, float, float]


ORGANS = (
    Ellipsoid("liver", (20, -10, -70), (75, 75, 85)),
    Ellipsoid("stomach", (25, -30, 60), (45, 35, 45)),
    Ellipsoid("spleen", (30, 50, 100), (50, 35, 28)),
    Ellipsoid("kidney_right", (-40, 55, -60), (55, 28, 28)),
    Ellipsoid("kidney_left", (-35, 55, 62), (55, 28, 28)),
    Ellipsoid("pancreas", (-10, 0, 25), (15, 13, 70)),
    Ellipsoid("aorta", (0, 45, 10), (140, 11, 11)),
    Ellipsoid("inferior_vena_cava", (0, 42, -18), (140, 11, 13)),
    Ellipsoid("adrenal_gland_right", (20, 48, -38), (15, 4, 11)),
    Ellipsoid("adrenal_gland_left", (20, 48, 40), (15, 4, 11)),
    Ellipsoid("gallbladder", (-20, -40, -50), (24, 15, 15)),
    Ellipsoid("esophagus", (90, 30, 18), (55, 9, 9)),
    Ellipsoid("duodenum", (-35, 5, -25), (30, 14, 24)),
)
"""Drawn in this order, later ones over earlier ones."""

LESIONS = (
    Ellipsoid("lesion", (40, -25, -90), (16, 14, 14)),
    Ellipsoid("lesion", (0, 5, -110), (6, 5, 5)),
    Ellipsoid("lesion", (-8, -2, 50), (9, 8, 9)),
    Ellipsoid("lesion", (-55, 60, -70), (12, 11, 11)),
)
"""The reference holds all but the last, the prediction all but the second."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write docs/evaluation_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--side", type=int, default=512, help="rows and columns")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain-cases", type=int, default=2, help="scored plainly as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="samcancer-evaluation-") as folder:
            figures = {
                **run_description("evaluation_speed.py", argv),
                **measure(args, Path(folder)),
            }
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    publish(args.docs, "evaluation_speed", figures, to_markdown(figures))
    return 0


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return every figure.

    Raises:
        InputError: When the command fails or its scores are not those of the plain computation.
    """
    load_before = os.getloadavg()[0]
    make_cases(folder, args)
    seconds = {
        "flare23": _command_seconds(folder, args, "flare23", folder / "flare23"),
        "flare24": _command_seconds(
            folder, args, "flare24", folder / "flare24", "--merge-lesions", "--labels", _labels()
        ),
    }
    compared = [_compare_case(folder, number) for number in range(args.plain_cases)]
    return {
        "cases": args.cases,
        "workers": args.workers,
        "shape": [args.slices, args.side, args.side],
        "megabytes_packed": _megabytes(folder),
        "load_average_before": load_before,
        "seconds": seconds,
        "summary": read_json(folder / "flare23" / "summary.json")["flare23"],
        "plain": compared,
    }


def make_cases(folder: Path, args: argparse.Namespace) -> None:
    """Write ``reference`` and ``prediction`` below a folder."""
    x, y, z = SPACING_MM
    shape = (args.slices, args.side, args.side)
    geometry = Geometry(shape[::-1], (x, y, z), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    for number in range(args.cases):
        generator = np.random.default_rng([args.seed, number])
        reference, prediction = draw_pair(shape, generator)
        for side, values in (("reference", reference), ("prediction", prediction)):
            write_labels(folder / side / f"{case_name(number)}.nii.gz", values, geometry)


def case_name(number: int) -> str:
    """Return the id of a case."""
    return f"case_{number:03d}"


def draw_pair(
    shape: tuple[int, int, int], generator: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a reference and a prediction, (Z, Y, X) of FLARE 2023's label values."""
    values = {name: value for name, (value,) in flare23_labels().items()}
    reference, prediction = np.zeros((2, *shape), np.uint8)
    for part in (*ORGANS, *LESIONS):
        scale = generator.uniform(0.9, 1.1)
        phases = generator.uniform(0, 2 * math.pi, (2, 3))
        shift_mm = generator.uniform(-_SHIFT_MM, _SHIFT_MM, 3)
        if part != LESIONS[-1]:
            _draw(reference, part, values[part.name], scale, phases[0], np.zeros(3))
        if part != LESIONS[1]:
            _draw(prediction, part, values[part.name], scale, phases[1], shift_mm)
    return reference, prediction


def _draw(
    volume: NDArray[np.uint8],
    part: Ellipsoid,
    value: int,
    scale: float,
    phases: NDArray[np.float64],
    shift_mm: NDArray[np.float64],
) -> None:
    spacing_mm = np.array(SPACING_MM[::-1])
    radii = scale * np.array(part.radii_mm) / spacing_mm
    centre = (np.array(part.centre_mm) + shift_mm) / spacing_mm + np.array(volume.shape) / 2
    reach = radii * (1 + _WAVE)
    start = np.clip(np.floor(centre - reach).astype(int), 0, volume.shape)
    stop = np.clip(np.ceil(centre + reach).astype(int) + 1, 0, volume.shape)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    z, y, x = ((axis - c) / r for axis, c, r in zip(axes, centre, radii, strict=True))
    waves = np.sin(7 * z + phases[0]) + np.sin(8 * y + phases[1]) + np.sin(9 * x + phases[2])
    inside = np.sqrt(z**2 + y**2 + x**2) < 1 + _WAVE * waves / 3
    volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))][inside] = value


def _command_seconds(
    folder: Path, args: argparse.Namespace, protocol: str, output: Path, *options: str
) -> dict[str, float]:
    words = ["--reference", folder / "reference", "--prediction", folder / "prediction"]
    words += ["--output", output, "--protocol", protocol, "--workers", args.workers, "--quiet"]
    command = [sys.executable, str(EVALUATE), *map(str, words), *options]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        raise InputError(f"samcancer evaluate --protocol {protocol} failed")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall_s, "cpu": cpu_s}


def _labels() -> str:
    """Return FLARE 2023's classes as ``--labels`` takes them."""
    return ",".join(f"{name}={value}" for name, (value,) in flare23_labels().items())


def _compare_case(folder: Path, number: int) -> dict[str, float]:
    """Score one case both ways in this process; CPU seconds, so that other programs do not count.

    Raises:
        InputError: When the scores differ in the fourth decimal.
    """
    paths = [folder / side / f"{case_name(number)}.nii.gz" for side in ("reference", "prediction")]
    started = time.process_time()
    reference, prediction = (read_labels(path) for path in paths)
    reading_s = time.process_time() - started
    started = time.process_time()
    plain = plain_scores(reference.values, prediction.values)
    plain_s = time.process_time() - started
    tasks, _ = plan(
        folder / "reference",
        folder / "prediction",
        labels=flare23_labels(),
        annotations=Annotations(),
        protocol="flare23",
    )
    started = time.process_time()
    evaluated = evaluate_cases([task for task in tasks if task.case_id == case_name(number)])
    ours_s = time.process_time() - started
    for result in evaluated.results:
        found = (result.score.dice, result.score.nsd)
        expected = tuple(map(flare_rounded, plain[result.class_name]))
        if found != expected:
            raise InputError(f"{result.class_name} scores {found}, plainly {expected}")
    return {"reading_s": reading_s, "plain_s": plain_s, "ours_with_reading_s": ours_s}


def plain_scores(
    reference: NDArray[np.integer], prediction: NDArray[np.integer]
) -> dict[str, tuple[float, float]]:
    """Return class -> Dice and NSD by surface_distance's own functions, class by class."""
    scores = {}
    for name, (value,) in flare23_labels().items():
        actual, predicted = reference == value, prediction == value
        if name in FLARE23_LABELLED_SLICES_ONLY:
            labelled = np.flatnonzero(actual.any(axis=(1, 2)))
            kept = slice(labelled[0], labelled[-1])
            actual, predicted = actual[kept], predicted[kept]
        dice = float(surface_distance.compute_dice_coefficient(actual, predicted))
        nsd = 0.0
        if dice >= FLARE_MIN_DICE:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # old names of SciPy
                distances = surface_distance.compute_surface_distances(
                    actual, predicted, SPACING_MM[::-1]
                )
            nsd = surface_distance.compute_surface_dice_at_tolerance(
                distances, FLARE23_TOLERANCES_MM[name]
            )
        scores[name] = (dice, float(nsd))
    return scores


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.glob("*/*.nii.gz")) / 1e6


def to_markdown(figures: dict[str, Any]) -> str:
    """Return the table and a sentence on the plain computation."""
    cases = figures["cases"]
    rows = [
        [name, f"{s['wall']:.1f}", f"{s['cpu']:.1f}", f"{s['cpu'] / cases:.2f}"]
        for name, s in figures["seconds"].items()
    ]
    slices, rows_, columns = figures["shape"]
    head = (
        f"`{figures['command']}` on {figures['machine']}; {cases} pairs of {columns} x {rows_} x "
        f"{slices} voxels, {figures['megabytes_packed']:.0f} MB packed, {figures['workers']} "
        f"workers; load average before the start {figures['load_average_before']:.1f}."
    )
    table = markdown_table(["`samcancer evaluate --protocol`", "s", "CPU s", "CPU s a case"], rows)
    if not figures["plain"]:
        return f"{head}\n\n{table}"
    plain_s = sum(case["plain_s"] for case in figures["plain"])
    ours_s = sum(case["ours_with_reading_s"] - case["reading_s"] for case in figures["plain"])
    tail = (
        f"CPU time of the 14 classes of {len(figures['plain'])} cases, reading left out: "
        f"surface_distance's own functions on whole volumes {plain_s:.1f} s, here {ours_s:.1f} s, "
        f"a ratio of {plain_s / ours_s:.1f}; the scores agree to 4 decimals."
    )
    return f"{head}\n\n{table}\n\n{tail}"


if __name__ == "__main__":
    sys.exit(main())
