from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_long_scan_takes_bounded_memory(suffix: str, tmp_path: Path) -> None:
    assert peak_gib(1000, tmp_path, suffix=suffix) <= PEAK_GIB


@pytest.mark.slow
def test_memory_grows_with_the_scan_alone(tmp_path: Path) -> None:
    # A voxel costs its int16 input, one uint8 label and what reading and checking takes at once.
    short, long = peak_gib(250, tmp_path), peak_gib(500, tmp_path)
    assert long - short <= PEAK_GIB / 4
