"""Segmenting a scan starts without the packages that only training and other formats need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from inference_fakes import WriteScan, bright_box
from test_infer_command import save_run

NEEDLESS = {
    "SimpleITK",
    "albumentations",
    "cv2",
    "h5py",
    "lightning",
    "matplotlib",
    "monai",
    "nibabel",
    "open_clip",
    "pandas",
    "pydicom",
    "segment_anything",
    "sklearn",
    "skimage",
    "surface_distance",
    "tensorboard",
    "timm",
    "torchvision",
    "transformers",
}
"""Slow to import and of no use for a NIfTI scan; DICOM, .mha and .nrrd need their readers."""

RUN = (
    "import json, sys\n"
    "from samcancer.commands import main\n"
    "status = main(sys.argv[1:])\n"
    "print(json.dumps(sorted(sys.modules)))\n"
    "sys.exit(status)"
)


def imported_by(*arguments: str) -> set[str]:
    """Run the console command in a fresh interpreter; the packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_segmenting_a_scan_imports_nothing_needless(write_scan: WriteScan, tmp_path: Path) -> None:
    scan, run = write_scan("scan.nii.gz", bright_box()), save_run(tmp_path / "run")
    words = ["--input", str(scan), "--output", str(tmp_path / "out"), "--model", str(run)]
    imported = imported_by("infer-volume", *words, "--device", "cpu")
    assert (tmp_path / "out" / "scan.nii.gz").is_file()
    assert "torch" in imported
    assert imported & NEEDLESS == set()
