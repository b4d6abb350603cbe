from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reliability_figures import Tally

PEAK_GIB = 1.6
"""Most memory over the loaded model that a scan of 512 x 512 x 1000 int16 may take."""

SCRIPT = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from inference_fakes import make_ensemble
from samcancer.inference.batch import find_scans, segment_scans
from samcancer.inference.options import InferenceOptions
import SimpleITK  # loaded before the baseline is taken
import dataclasses

torch.set_num_threads(1)
ensemble = dataclasses.replace(make_ensemble(), image_size=256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = segment_scans(
    find_scans([Path(sys.argv[1])]),
    Path(sys.argv[2]),
    ensemble=ensemble,
    options=InferenceOptions(),
)
assert not result.failures, result.failures
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

WRITE = """
import sys
import numpy as np
import SimpleITK as sitk

slices = int(sys.argv[2])
volume = np.full((slices, 512, 512), -1000, dtype=np.int16)
volume[:, 100:400, 80:420] = 40
volume[slices // 3 : slices // 2, 150:200, 200:260] = 500
image = sitk.GetImageFromArray(volume)
image.SetSpacing((0.7, 0.7, 1.0))
sitk.WriteImage(image, sys.argv[1])
"""


def peak_gib(slices: int, folder: Path, *, suffix: str = ".nii.gz") -> float:
    scan = folder / f"long_{slices}{suffix}"
    subprocess.run([sys.executable, "-c", WRITE, str(scan), str(slices)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(scan), str(folder / "out")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env={"PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parent}"},
    )
    scan.unlink()
    return int(done.stdout.split()[-1]) / (1 << 20)


@pytest.mark.slow
@pytest.mark.figure("memory", "1000 slices")
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_long_scan_takes_bounded_memory(suffix: str, measurement: Tally, tmp_path: Path) -> None:
    peak = peak_gib(1000, tmp_path, suffix=suffix)
    measurement.measured = f"{suffix}: {peak:.2f} GiB, at most {PEAK_GIB} GiB"
    assert peak <= PEAK_GIB


@pytest.mark.slow
@pytest.mark.figure("memory", "250 to 2000 slices")
def test_memory_grows_with_the_scan_alone(measurement: Tally, tmp_path: Path) -> None:
    # A voxel costs its int16 input, one uint8 label and what reading and checking takes at once.
    lengths = (250, 500, 1000, 2000)
    peaks = [peak_gib(slices, tmp_path) for slices in lengths]
    pairs = zip(lengths, peaks, strict=True)
    measurement.measured = ", ".join(f"{slices}: {peak:.2f} GiB" for slices, peak in pairs)
    for before, after, slices in zip(peaks, peaks[1:], lengths, strict=False):
        assert after - before <= PEAK_GIB * slices / 1000
