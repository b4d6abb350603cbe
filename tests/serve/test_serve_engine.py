"""Real files through the real steps, with a network that is known in advance."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from ct_series import SPACING_MM, write_ct_series
from torch import Tensor, nn

from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import segment_scan
from samcancer.modeling.slice_prediction import Member
from samcancer.serve.engine import ScanEngine
from samcancer.serve.jobs import CancelledError, Stage
from samcancer.serve.settings import ServeSettings
from samcancer.taxonomy import ClassSpec

WINDOW_HU = (-1000.0, 1000.0)

LESION_HU = 400


class Output(NamedTuple):
    mask_logits: Tensor
    presence_logits: Tensor


class ThresholdNet(nn.Module):
    """Its one class is where the centre slice lies above 200 HU."""

    slice_context = 2
    class_names = ("bright",)

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
        logits = 20 * (chunk[:, 2:-2, None] - 0.6)
        return Output(logits, logits.amax(dim=(-1, -2)))


class Told:
    """Keeps what the engine tells; cancels at a stage if asked to."""

    def __init__(self, cancel_at: Stage | None = None) -> None:
        self.stages: list[Stage] = []
        self.expected = 0
        self.done = 0
        self._cancel_at = cancel_at

    def stage(self, stage: Stage) -> None:
        if stage is self._cancel_at:
            raise CancelledError
        if self.stages[-1:] != [stage]:
            self.stages.append(stage)

    def expect_slices(self, count: int) -> None:
        self.expected = count

    def add_slices(self, count: int) -> None:
        self.done += count


def phantom_hu() -> np.ndarray:
    """A body in air with a bright lesion off its centre; (slice, row, column), asymmetric."""
    hu = np.full((6, 30, 40), -1000, dtype=np.int16)
    hu[:, 3:28, 2:37] = 40
    hu[2:5, 6:18, 8:24] = LESION_HU
    return hu


def save_volume(path: Path, hu: np.ndarray) -> Path:
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing(SPACING_MM)
    sitk.WriteImage(image, str(path))
    return path


def uploaded_series(folder: Path, hu: np.ndarray) -> list[Path]:
    """A series whose files are named as the page names uploads, in no order of slices."""
    return sorted(write_ct_series(folder, hu, file_name="file-{:05d}").iterdir())


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return Ensemble(
        members=(Member(ThresholdNet(), WINDOW_HU),),
        classes=(ClassSpec(name="bright", title="bright", kind="lesion"),),
        thresholds=torch.full((1,), 0.5),
        image_size=32,
        sha256=("0" * 64,),
    )


@pytest.fixture
def make_engine(ensemble: Ensemble) -> Callable[..., ScanEngine]:
    def make(**settings: int) -> ScanEngine:
        return ScanEngine(ensemble, InferenceOptions(), ServeSettings(**settings))  # type: ignore[arg-type]

    return make


@pytest.fixture
def engine(make_engine: Callable[..., ScanEngine]) -> ScanEngine:
    return make_engine()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Where uploads lie and where results go."""
    upload, output = tmp_path / "job" / "upload", tmp_path / "job" / "result"
    upload.mkdir(parents=True)
    output.mkdir()
    return upload, output


def mask_of(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_a_volume_gives_the_mask_that_infer_volume_writes(
    suffix: str,
    engine: ScanEngine,
    ensemble: Ensemble,
    folders: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    upload, output = folders
    scan = save_volume(upload / f"file-00000{suffix}", phantom_hu())
    told = Told()
    results = engine([scan], output, told)
    expected = segment_scan(
        scan, tmp_path / "cli", case_id="scan", ensemble=ensemble, options=InferenceOptions()
    )
    name = expected["mask"]["file"]
    assert (output / name).read_bytes() == (tmp_path / "cli" / name).read_bytes()
    assert mask_of(output / name).sum() > 0
    assert {n: r.kind for n, r in results.items()} == {
        name: "mask",
        "scan.json": "report",
        "scan.lesions.csv": "lesions",
        "scan.html": "page",
    }
    assert told.stages == [Stage.READING, Stage.SEGMENTING, Stage.WRITING, Stage.DRAWING]
    assert (told.expected, told.done) == (6, 6)


def test_the_files_of_a_series_give_the_same_mask_as_the_volume(
    engine: ScanEngine, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    upload, output = folders
    uploads = uploaded_series(upload, phantom_hu())
    (upload / "file-00099").write_text("not an image")
    engine([*uploads, upload / "file-00099"], output, Told())
    volume = save_volume(tmp_path / "file-00000.nii.gz", phantom_hu())
    (tmp_path / "other").mkdir()
    engine([volume], tmp_path / "other", Told())
    found = mask_of(output / "scan.nii.gz")
    assert np.array_equal(found, mask_of(tmp_path / "other" / "scan.nii.gz"))


def test_a_series_gives_results_in_dicom_and_none_holds_what_names_the_patient(
    engine: ScanEngine, folders: tuple[Path, Path]
) -> None:
    upload, output = folders
    results = engine(uploaded_series(upload, phantom_hu()), output, Told())
    assert {name for name, r in results.items() if r.kind == "dicom"} == {
        "scan.seg.dcm",
        "scan.sr.dcm",
    }
    for result in results.values():
        assert b"CANARY" not in result.path.read_bytes()


def test_a_zip_of_a_series_or_of_a_volume_is_unpacked_and_removed(
    engine: ScanEngine, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    upload, output = folders
    masks = []
    for number, paths in enumerate(
        [
            uploaded_series(tmp_path / "series", phantom_hu()),
            [save_volume(tmp_path / "volume.nii.gz", phantom_hu())],
        ]
    ):
        archive = upload / f"file-{number:05d}.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for path in paths:
                packed.write(path, f"patient/{path.name}")
        engine([archive], output, Told())
        assert not archive.exists()
        masks.append(mask_of(output / "scan.nii.gz"))
        shutil.rmtree(upload / "unpacked")
    assert np.array_equal(*masks)
    assert masks[0].sum() > 0


def test_slices_are_counted_as_the_network_sees_them_whatever_the_orientation(
    engine: ScanEngine, folders: tuple[Path, Path]
) -> None:
    upload, output = folders
    # Stored with rows along the patient's axis: 30 rows become 30 slices.
    image = sitk.GetImageFromArray(phantom_hu())
    image.SetDirection((1, 0, 0, 0, 0, -1, 0, 1, 0))
    sitk.WriteImage(image, str(upload / "file-00000.nii.gz"))
    told = Told()
    engine([upload / "file-00000.nii.gz"], output, told)
    assert told.expected == told.done == 30


def test_a_scan_of_too_many_voxels_is_refused_before_it_is_read(
    make_engine: Callable[..., ScanEngine],
    folders: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upload, output = folders
    scan = save_volume(upload / "file-00000.nii.gz", phantom_hu())
    monkeypatch.setattr("samcancer.serve.engine.open_scan", None)
    with pytest.raises(ValueError, match="has 0 million voxels, and 0 million are the most"):
        make_engine(max_voxels=6 * 30 * 40 - 1)([scan], output, Told())


@pytest.mark.parametrize("stage", list(Stage))
def test_the_work_ends_at_any_stage(
    stage: Stage, engine: ScanEngine, folders: tuple[Path, Path]
) -> None:
    upload, output = folders
    scan = save_volume(upload / "file-00000.nii.gz", phantom_hu())
    with pytest.raises(CancelledError):
        engine([scan], output, Told(cancel_at=stage))
    assert [p.name for p in output.iterdir() if p.name.startswith(".tmp")] == []


@pytest.mark.parametrize("content", [b"", b"text", b"\x1f\x8b damaged", b"PK\x03\x04"])
def test_a_damaged_file_is_one_line_that_names_it_by_its_number(
    content: bytes, engine: ScanEngine, folders: tuple[Path, Path]
) -> None:
    upload, output = folders
    scan = upload / "file-00000.nii.gz"
    scan.write_bytes(content)
    with pytest.raises(ValueError, match=r"file-00000\.nii\.gz: ") as caught:
        engine([scan], output, Told())
    assert "\n" not in str(caught.value)
    assert list(output.iterdir()) == []


def test_the_report_names_neither_folder_nor_file_of_the_upload(
    engine: ScanEngine, folders: tuple[Path, Path]
) -> None:
    upload, output = folders
    engine([save_volume(upload / "file-00000.nii.gz", phantom_hu())], output, Told())
    text = (output / "scan.json").read_text()
    assert json.loads(text)["case"] == "scan"
    assert str(upload.parent) not in text + (output / "scan.html").read_text()
