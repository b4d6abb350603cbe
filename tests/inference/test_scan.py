from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
from inference_fakes import WriteScan, bright_box, lesion_in_organ, make_ensemble

from samcancer.errors import InputError
from samcancer.files import sha256_of
from samcancer.inference.finished import finished_report, request_sha256
from samcancer.inference.models import Ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.scan import segment_scan
from samcancer.inference.volume import EngineOptions
from samcancer.taxonomy import ClassSpec, PostProcess

OPTIONS = InferenceOptions()


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def segment(scan: Path, output: Path, **options: object) -> dict[str, object]:
    ensemble = options.pop("ensemble", None) or make_ensemble()
    return segment_scan(
        scan,
        output,
        case_id="case",
        ensemble=ensemble,  # type: ignore[arg-type]
        options=InferenceOptions(**options),  # type: ignore[arg-type]
    )


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_the_mask_has_the_grid_of_the_scan_and_lies_on_the_lesion(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    segment(scan, tmp_path / "out")
    image, mask = (sitk.ReadImage(str(p)) for p in (scan, tmp_path / "out" / "case.nii.gz"))
    assert mask.GetPixelID() == sitk.sitkUInt8
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, get)() == getattr(image, get)()
    assert dice(sitk.GetArrayFromImage(mask) > 0, bright_box() > 200) > 0.93


def oriented(
    axes: tuple[int, int, int],
    flips: tuple[bool, bool, bool],
    volume: np.ndarray | None = None,
    spacing_zyx: tuple[float, float, float] = (5.0, 0.8, 0.6),
) -> tuple[np.ndarray, dict[str, tuple[float, ...]]]:
    """The bright box stored with other axes: the array, and where ITK must be told it lies."""
    volume = bright_box() if volume is None else volume
    stored = volume.transpose(axes)
    stored = stored[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
    direction = np.zeros((3, 3))
    for stored_axis, (axis, flip) in enumerate(zip(axes, flips, strict=True)):
        direction[2 - axis, 2 - stored_axis] = -1.0 if flip else 1.0
    spacing_mm = tuple(spacing_zyx[axis] for axis in axes[::-1])
    return np.ascontiguousarray(stored), {
        "spacing_mm": spacing_mm,
        "direction": tuple(direction.ravel()),
    }


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_any_orientation_gives_the_same_voxels_reoriented(
    axes: tuple[int, int, int], write_scan: WriteScan, tmp_path: Path
) -> None:
    segment(write_scan("plain.nii.gz", bright_box()), tmp_path / "plain")
    expected = read(tmp_path / "plain" / "case.nii.gz")
    for flips in product([False, True], repeat=3):
        stored, geometry = oriented(axes, flips)
        segment(write_scan("other.mha", stored, **geometry), tmp_path / "other")
        index = tuple(slice(None, None, -1) if f else slice(None) for f in flips)
        np.testing.assert_array_equal(
            read(tmp_path / "other" / "case.mha"), expected.transpose(axes)[index]
        )


def two_kidneys() -> np.ndarray:
    """A body with two bright organs, a brighter core in the left one and a bright speck."""
    volume = np.full((6, 30, 40), -1000, dtype=np.int16)
    volume[:, 3:28, 2:37] = 40
    volume[1:4, 8:16, 6:12] = 400
    volume[2:5, 8:20, 26:33] = 400
    volume[3, 11:15, 28:31] = 900
    volume[5, 21:26, 8:13] = 900
    return volume


def kidneys_called_right() -> Ensemble:
    """Everything above 200 HU is called right kidney, and everything above 650 HU tumour."""
    largest = PostProcess(keep="largest")
    return make_ensemble(
        ClassSpec(
            name="right", title="", kind="organ", postprocess=largest, left_counterpart="left"
        ),
        ClassSpec(name="left", title="", kind="organ", postprocess=largest),
        ClassSpec(
            name="tumour",
            title="",
            kind="lesion",
            organ="left",
            postprocess=PostProcess(inside_organ_mm=10.0),
        ),
        thresholds_hu=(200.0, 3000.0, 650.0),
    )


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_sides_and_organs_are_the_patients_in_any_orientation(
    axes: tuple[int, int, int], write_scan: WriteScan, tmp_path: Path
) -> None:
    volume, spacing_zyx = two_kidneys(), (5.0, 8.0, 6.0)
    for flips in product([False, True], repeat=3):
        stored, geometry = oriented(axes, flips, volume, spacing_zyx)
        report = segment(
            write_scan("a.mha", stored, **geometry), tmp_path, ensemble=kidneys_called_right()
        )
        index = tuple(slice(None, None, -1) if f else slice(None) for f in flips)
        right, left, speck = np.zeros((3, *volume.shape), dtype=bool)
        right[1:4, 8:16, 6:12] = True
        left[:5] = (volume == 400)[:5] & ~right[:5]
        speck[5] = True
        mask = read(tmp_path / "case.mha")
        for label, expected in ((1, right), (2, left)):
            assert dice(mask == label, expected.transpose(axes)[index]) > 0.85
        assert not mask[speck.transpose(axes)[index]].any()
        classes = report["classes"]
        assert classes["right"]["moved"][0]["to"] == "left"  # type: ignore[index]
        assert classes["tumour"]["components"] == 1  # type: ignore[index]
        assert classes["tumour"]["removed"][0]["rule"] == "inside_organ_mm 10"  # type: ignore[index]


def test_without_post_processing_labels_are_raw(write_scan: WriteScan, tmp_path: Path) -> None:
    scan = write_scan("a.mha", two_kidneys(), spacing_mm=(6.0, 8.0, 5.0))
    report = segment(scan, tmp_path, ensemble=kidneys_called_right(), postprocess=False)
    assert set(np.unique(read(tmp_path / "case.mha"))) == {0, 1, 3}
    assert [c["components"] for c in report["classes"].values()] == [3, 0, 2]  # type: ignore[attr-defined]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_the_format_of_the_scan_is_kept(suffix: str, write_scan: WriteScan, tmp_path: Path) -> None:
    report = segment(write_scan(f"a{suffix}", bright_box()), tmp_path / "out")
    assert report["mask"]["file"] == f"case{suffix}"  # type: ignore[index]
    assert dice(read(tmp_path / "out" / f"case{suffix}") > 0, bright_box() > 200) > 0.93


@pytest.mark.figure("shapes")
@pytest.mark.parametrize("slice_count", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize(
    "in_plane", [16, 63, 511, *(pytest.param(n, marks=pytest.mark.slow) for n in (768, 1024, 2048))]
)
def test_few_slices_and_odd_sizes_give_masks_of_the_same_shape(
    slice_count: int, in_plane: int, write_scan: WriteScan, tmp_path: Path
) -> None:
    volume = np.full((slice_count, in_plane, in_plane + 5), -1000, dtype=np.int16)
    volume[:, in_plane // 4 : in_plane // 2, in_plane // 4 : in_plane // 2] = 500
    segment(write_scan("a.nii.gz", volume), tmp_path / "out")
    mask = read(tmp_path / "out" / "case.nii.gz")
    assert mask.shape == volume.shape
    assert mask.any(axis=(1, 2)).all()


def test_a_lesion_covers_its_organ_in_the_map_and_not_in_the_file_of_the_organ(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = segment(
        write_scan("a.nii.gz", bright_box()), out, ensemble=lesion_in_organ(), per_class=True
    )
    mask = read(out / "case.nii.gz")
    organ, tumour = (read(out / "per_class" / "case" / f"{n}.nii.gz") for n in ("organ", "tumour"))
    assert set(np.unique(mask)) == {0, 1, 2}
    np.testing.assert_array_equal(tumour > 0, mask == 2)
    np.testing.assert_array_equal(organ > 0, mask > 0)
    classes = report["classes"]
    voxel_ml = 0.6 * 0.8 * 5.0 / 1000
    assert classes["organ"]["volume_ml"] == pytest.approx(organ.sum() * voxel_ml, abs=1e-3)  # type: ignore[index]


def test_the_report_says_what_was_found_and_what_was_removed(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    volume = bright_box()
    volume[5, 24:26, 30:33] = 900  # a speck of 6 voxels, 0.0144 ml
    rule = PostProcess(min_volume_ml=0.05)
    ensemble = make_ensemble(
        ClassSpec(name="bright", title="bright", kind="lesion", postprocess=rule)
    )
    out = tmp_path / "out"
    segment(write_scan("a.nii.gz", volume), out, ensemble=ensemble)
    report = json.loads((out / "case.json").read_text())
    mask = read(out / "case.nii.gz")
    bright = report["classes"]["bright"]
    assert not mask[5].any()
    assert bright["label"] == 1
    assert bright["components"] == 1
    assert bright["slices"] == int(mask.any(axis=(1, 2)).sum()) == 3
    assert bright["volume_ml"] == pytest.approx(mask.sum() * 0.0024, abs=1e-3)
    assert bright["removed"][0]["rule"] == "min_volume_ml 0.05"
    assert bright["presence_max"] > 0.99
    assert report["mask"]["sha256"] == sha256_of(out / "case.nii.gz")
    assert report["model"]["sha256"] == ["0" * 64]
    assert set(report["seconds"]) == {"read", "predict", "postprocess", "write"}


@pytest.mark.figure("names", "paths")
def test_the_report_holds_no_path(write_scan: WriteScan, tmp_path: Path) -> None:
    scan = write_scan("CANARY_Jane_Doe/a.nii.gz", bright_box())
    segment(scan, tmp_path / "out")
    text = (tmp_path / "out" / "case.json").read_text()
    assert "CANARY" not in text
    assert str(tmp_path) not in text


def test_an_empty_prediction_is_an_empty_mask(write_scan: WriteScan, tmp_path: Path) -> None:
    volume = np.full((4, 20, 20), -500, dtype=np.int16)
    report = segment(write_scan("a.nii.gz", volume), tmp_path / "out")
    assert not read(tmp_path / "out" / "case.nii.gz").any()
    assert report["classes"]["bright"]["components"] == 0  # type: ignore[index]


def test_probabilities_are_written_on_the_grid_of_the_scan(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment(write_scan("a.nii.gz", bright_box()), out, probabilities=True)
    probability = read(out / "probabilities" / "case" / "bright.nii.gz")
    np.testing.assert_array_equal(probability > 0.5, read(out / "case.nii.gz") > 0)
    assert not list(out.glob(".tmp-*"))


def test_an_ensemble_of_equal_networks_gives_the_mask_of_one(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    segment(scan, tmp_path / "one")
    segment(scan, tmp_path / "three", ensemble=make_ensemble(members=3))
    segment(scan, tmp_path / "mirrored", engine=EngineOptions(flip=True))
    one = read(tmp_path / "one" / "case.nii.gz")
    for other in ("three", "mirrored"):
        np.testing.assert_array_equal(read(tmp_path / other / "case.nii.gz"), one)


def test_the_same_scan_twice_gives_the_same_bytes(write_scan: WriteScan, tmp_path: Path) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    for name in ("first", "second"):
        segment(scan, tmp_path / name)
    assert sha256_of(tmp_path / "first/case.nii.gz") == sha256_of(tmp_path / "second/case.nii.gz")


class TestFinished:
    @pytest.fixture
    def scan(self, write_scan: WriteScan, tmp_path: Path) -> Path:
        scan = write_scan("a.nii.gz", bright_box())
        segment(scan, tmp_path / "out")
        return scan

    def is_finished(self, scan: Path, output: Path, **changes: object) -> bool:
        arguments = {"ensemble": make_ensemble(), "options": OPTIONS, **changes}
        return finished_report(scan, output, case_id="case", **arguments) is not None  # type: ignore[arg-type]

    def test_an_untouched_result_is_finished(self, scan: Path, tmp_path: Path) -> None:
        assert self.is_finished(scan, tmp_path / "out")

    def test_a_changed_mask_is_not(self, scan: Path, tmp_path: Path) -> None:
        mask = tmp_path / "out" / "case.nii.gz"
        data = bytearray(mask.read_bytes())
        data[-1] ^= 1
        mask.write_bytes(data)
        assert not self.is_finished(scan, tmp_path / "out")

    def test_a_changed_scan_is_not(self, scan: Path, tmp_path: Path, write_scan: WriteScan) -> None:
        write_scan("a.nii.gz", bright_box(level_hu=500))
        assert not self.is_finished(scan, tmp_path / "out")

    def test_another_model_is_not(self, scan: Path, tmp_path: Path) -> None:
        assert not self.is_finished(scan, tmp_path / "out", ensemble=make_ensemble(members=2))

    def test_other_options_are_not(self, scan: Path, tmp_path: Path) -> None:
        for options in (
            InferenceOptions(engine=EngineOptions(flip=True)),
            InferenceOptions(postprocess=False),
        ):
            assert not self.is_finished(scan, tmp_path / "out", options=options)

    def test_another_chunk_length_is(self, scan: Path, tmp_path: Path) -> None:
        options = InferenceOptions(engine=EngineOptions(batch=2))
        assert self.is_finished(scan, tmp_path / "out", options=options)

    @pytest.mark.parametrize("text", ["", "{}", "[]", '{"format_version": 2, "mask": 3}'])
    def test_a_broken_report_is_not(self, text: str, scan: Path, tmp_path: Path) -> None:
        (tmp_path / "out" / "case.json").write_text(text)
        assert not self.is_finished(scan, tmp_path / "out")

    def test_a_mask_without_a_report_is_not(self, scan: Path, tmp_path: Path) -> None:
        (tmp_path / "out" / "case.json").unlink()
        assert not self.is_finished(scan, tmp_path / "out")


def test_a_full_disk_is_refused_before_computing(
    write_scan: WriteScan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    usage = type("Usage", (), {"free": 100})()
    monkeypatch.setattr("samcancer.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match="needs 7200 bytes and the disk has 100 free"):
        segment(scan, tmp_path / "out")
    assert not (tmp_path / "out" / "case.nii.gz").exists()


def test_a_mask_never_overwrites_its_scan(write_scan: WriteScan) -> None:
    scan = write_scan("case.nii.gz", bright_box())
    before = scan.read_bytes()
    with pytest.raises(InputError, match="the mask would overwrite the scan"):
        segment(scan, scan.parent)
    assert scan.read_bytes() == before


def test_one_presence_threshold_takes_the_place_of_the_calibrated_ones() -> None:
    ensemble = make_ensemble()
    assert ensemble.with_threshold(0.25).thresholds.tolist() == [0.25] * len(ensemble.classes)
    options = InferenceOptions()
    assert request_sha256(ensemble, options) != request_sha256(
        ensemble.with_threshold(0.25), options
    )


def test_merged_lesions_are_one_label_and_organs_none(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    scan = write_scan("a.nii.gz", bright_box())
    ensemble = lesion_in_organ()
    segment(scan, tmp_path / "apart", ensemble=ensemble)
    report = segment(scan, tmp_path / "merged", ensemble=ensemble, merge_lesions=True)
    apart, merged = (read(tmp_path / name / "case.nii.gz") for name in ("apart", "merged"))
    lesions = [k + 1 for k, spec in enumerate(ensemble.classes) if spec.kind == "lesion"]
    assert np.isin(apart, lesions).any()
    assert (apart > 0).sum() > np.isin(apart, lesions).sum()
    np.testing.assert_array_equal(merged, np.isin(apart, lesions).astype(np.uint8))
    assert report["labels"] == {"background": 0, "lesion": 1}
