"""How fast .gz files are written and read, by this package and by the standard library.

The data is a synthetic scan with noise and a label map, both from a seed, in files that stay in the
system's cache. MB are 10^6 unpacked bytes; each figure is the best of several runs on one core.
Example: ``python benchmarks/gzip_speed.py --slices 100``
"""

from __future__ import annotations

import argparse
import gzip
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import isal
import numpy as np
from numpy.typing import NDArray
from results_page import RESULTS, fill_section, markdown_table, processor_name

from samcancer.files import write_json_atomic
from samcancer.volume_io.gzip_stream import BLOCK_BYTES, open_gzip, write_gzip

_RUNS = 3
_SIDE = 512
_TYPICAL_LEVEL = 6
"""Of the file that is read: what gzip and most programs write."""

_GZIP_FRAME = zlib.MAX_WBITS | 16

_ZLIB_BLOCK_BYTES = 1 << 17
"""Packed bytes given to zlib at a time."""

Writer = Callable[[Path, NDArray[Any]], None]

Reader = Callable[[Path, int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables and fill the section of docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--docs", type=Path, default=RESULTS.parent)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="samcancer-gzip-") as folder:
        figures = measure(args.slices, Path(folder))
    markdown = to_markdown(figures)
    print(markdown)
    write_json_atomic(args.docs / "gzip.json", figures)
    fill_section(args.docs / RESULTS.name, "gzip", markdown)
    return 0


def measure(slices: int, folder: Path) -> dict[str, Any]:
    """Return MB/s and sizes of every way to write and to read."""
    data = {"scan": scan(slices), "label map": label_map(slices)}
    return {
        "command": f"python benchmarks/gzip_speed.py --slices {slices}",
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "versions": f"isal {isal.__version__}, zlib {zlib.ZLIB_RUNTIME_VERSION}",
        "write": {
            name: {kind: _written(write, values, folder) for kind, values in data.items()}
            for name, write in WRITERS.items()
        },
        "read": {
            name: {kind: _read(read, values, folder) for kind, values in data.items()}
            for name, read in READERS.items()
        },
    }


def best_seconds(run: Callable[..., None], *arguments: object) -> float:
    """Return the time of the fastest of several runs."""
    seconds = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        run(*arguments)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def scan(slices: int) -> NDArray[np.int16]:
    """A body with lungs and a spine in air, under noise that neighbours share; (Z, Y, X) HU."""
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    hu = np.full((_SIDE, _SIDE), -1000.0)
    hu[(x / 0.85) ** 2 + (y / 0.65) ** 2 < 1] = -80
    hu[(x / 0.75) ** 2 + (y / 0.55) ** 2 < 1] = 50
    hu[((abs(x) - 0.35) / 0.25) ** 2 + (y / 0.32) ** 2 < 1] = -850
    hu[x**2 + (y - 0.4) ** 2 < 0.01] = 600
    noise_hu = np.where(hu > -1000, 15, 5)
    random = np.random.default_rng(0)
    volume = np.empty((slices, _SIDE, _SIDE), np.int16)
    for z in range(slices):
        noise = random.standard_normal((_SIDE, _SIDE))
        noise = (noise + np.roll(noise, 1, axis=0) + np.roll(noise, 1, axis=1)) / np.sqrt(3)
        volume[z] = np.clip(np.rint(hu + noise_hu * noise), -1024, 3071)
    return volume


def label_map(slices: int) -> NDArray[np.uint8]:
    """Three lesions whose outlines wave and grow from slice to slice, (Z, Y, X)."""
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    labels = np.zeros((slices, _SIDE, _SIDE), np.uint8)
    for z in range(slices):
        for label in (1, 2, 3):
            distance = (x - 0.3 * label + 0.6) ** 2 + (y - 0.1 * label) ** 2
            wave = 0.004 * np.sin(20 * x + z / 5)
            labels[z][distance + wave < 0.02 + 0.03 * np.sin(z / 9 + label)] = label
    return labels


def to_markdown(figures: dict[str, Any]) -> str:
    """Return a table for writing and one for reading."""
    kinds = list(figures["write"]["this package"])
    written = [
        [name, *(f"{found[k]['mb_per_s']:.0f}, {found[k]['megabytes']:.2f}" for k in kinds)]
        for name, found in figures["write"].items()
    ]
    read = [
        [name, *(f"{found[k]['mb_per_s']:.0f}" for k in kinds)]
        for name, found in figures["read"].items()
    ]
    head = f"`{figures['command']}` on {figures['machine']}; {figures['versions']}."
    writing = markdown_table(["writing", *(f"{k} (MB/s, MB)" for k in kinds)], written)
    reading = markdown_table(["reading", *(f"{k} (MB/s)" for k in kinds)], read)
    return f"{head}\n\n{writing}\n\n{reading}"


def _written(write: Writer, values: NDArray[Any], folder: Path) -> dict[str, float]:
    path = folder / "written.gz"
    speed = values.nbytes / 1e6 / best_seconds(write, path, values)
    return {"mb_per_s": speed, "megabytes": path.stat().st_size / 1e6}


def _read(read: Reader, values: NDArray[Any], folder: Path) -> dict[str, float]:
    path = folder / "typical.gz"
    _write_by_gzip(path, values, level=_TYPICAL_LEVEL)
    return {"mb_per_s": values.nbytes / 1e6 / best_seconds(read, path, values.nbytes)}


def _write_by_us(path: Path, values: NDArray[Any]) -> None:
    write_gzip(path, [values])


def _write_by_gzip(path: Path, values: NDArray[Any], *, level: int) -> None:
    with gzip.open(path, "wb", level) as packed:
        packed.write(values.data)


def _read_by_us(path: Path, size: int) -> None:
    with open_gzip(path) as stream:
        _read_blocks(stream, size)


def _read_by_gzip(path: Path, size: int) -> None:
    with gzip.open(path, "rb") as stream:
        _read_blocks(stream, size)


def _read_by_zlib(path: Path, size: int) -> None:
    values, filled = memoryview(bytearray(size)), 0
    stream = zlib.decompressobj(_GZIP_FRAME)
    with path.open("rb") as packed:
        while block := packed.read(_ZLIB_BLOCK_BYTES):
            content = stream.decompress(block)
            values[filled : filled + len(content)] = content
            filled += len(content)


def _read_blocks(stream: Any, size: int) -> None:
    values, filled = memoryview(bytearray(size)), 0
    while count := stream.readinto(values[filled : filled + BLOCK_BYTES]):
        filled += count


WRITERS: dict[str, Writer] = {
    "this package": _write_by_us,
    "gzip.open, level 1": partial(_write_by_gzip, level=1),
    "gzip.open, level 4": partial(_write_by_gzip, level=4),
    "gzip.open, level 6": partial(_write_by_gzip, level=6),
}

READERS: dict[str, Reader] = {
    "this package": _read_by_us,
    "zlib": _read_by_zlib,
    "gzip.open": _read_by_gzip,
}


if __name__ == "__main__":
    sys.exit(main())
