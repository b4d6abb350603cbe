from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from inference_fakes import WINDOW_HU, Output, WriteScan, bright_box, make_ensemble
from torch import Tensor, nn

from samcancer.commands import run_verb
from samcancer.config import Config, ModelConfig, RegionConfig
from samcancer.errors import InputError
from samcancer.geometry import Geometry
from samcancer.inference.finished import finished_report
from samcancer.inference.models import load_ensemble
from samcancer.inference.options import InferenceOptions
from samcancer.inference.prompts import CasePrompts, parse_point
from samcancer.inference.region import AUTO, RegionModel, load_region, region_run
from samcancer.inference.scan import segment_scan
from samcancer.inference.slices import ResizedSlices, grid_of
from samcancer.inference.volume import EngineOptions
from samcancer.modeling.manual_prompts import SlicePrompt
from samcancer.modeling.outputs import PresenceOutput
from samcancer.modeling.slice_prediction import Member
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.network import build_network

CLASSES = ("liver_lesion", "kidney_lesion")
SPACING_MM = (0.6, 0.8, 5.0)
OPTIONS = InferenceOptions()


class Brightness(nn.Module):
    """Class k is certain in a slice with a pixel above a threshold in HU, impossible elsewhere."""

    def __init__(self, thresholds_hu: tuple[float, ...]) -> None:
        super().__init__()
        low, high = WINDOW_HU
        self.levels = torch.tensor([(t - low) / (high - low) for t in thresholds_hu])

    def forward(self, chunk: Tensor) -> PresenceOutput:
        peaks = chunk[:, 2:-2].amax(dim=(-1, -2))[..., None]
        return PresenceOutput(torch.where(peaks > self.levels, 10.0, -10.0))


class MeanOfFive(nn.Module):
    """The one class is where the mean of the five slices lies above 600 HU."""

    slice_context = 2
    class_names = ("bright",)

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
        mean = chunk.unfold(1, 5, 1).mean(dim=-1)[:, :, None]
        return Output(20 * (mean - 0.8), torch.full(mean.shape[:3], 10.0))


def classifier(
    *thresholds_hu: float, margin_mm: float = 0.0, unknown: tuple[str, ...] = ()
) -> RegionModel:
    return RegionModel(
        member=Member(Brightness(thresholds_hu), WINDOW_HU),
        outputs=tuple(range(len(thresholds_hu))),
        thresholds=torch.full((len(thresholds_hu),), 0.5),
        unknown=unknown,
        image_size=32,
        margin_mm=margin_mm,
        sha256="1" * 64,
    )


def scan_with(bright: dict[int, int], slice_count: int = 12) -> np.ndarray:
    """A body at 40 HU with a bright block of the given HU in some slices."""
    volume = np.full((slice_count, 30, 40), -1000, dtype=np.int16)
    volume[:, 3:28, 2:37] = 40
    for z, level_hu in bright.items():
        volume[z, 6:18, 8:24] = level_hu
    return volume


def kept(model: RegionModel, volume: np.ndarray, prompted: tuple[int, ...] = ()) -> range:
    z, y, x = volume.shape
    geometry = Geometry((x, y, z), SPACING_MM, (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    prompts = [SlicePrompt(z, 0) for z in prompted]
    region = model.region_of(volume, geometry, options=EngineOptions(), prompts=prompts)
    assert region.slices == z
    return region.kept


@pytest.mark.parametrize("place", [0, 5, 11])
def test_one_positive_slice_is_kept_with_its_margin(place: int) -> None:
    model = classifier(200, margin_mm=12.0)
    assert math.ceil(12.0 / SPACING_MM[2]) == 3
    expected = range(max(place - 3, 0), min(place + 4, 12))
    assert kept(model, scan_with({place: 400})) == expected


def test_a_gap_between_positive_slices_is_kept() -> None:
    assert kept(classifier(200), scan_with({2: 400, 9: 400})) == range(2, 10)


def test_the_range_covers_every_class() -> None:
    volume = scan_with({3: 300, 4: 300, 8: 600})
    assert kept(classifier(500), volume) == range(8, 9)
    assert kept(classifier(500, 200), volume) == range(3, 9)


def test_prompted_slices_are_always_kept() -> None:
    volume = scan_with({5: 400})
    assert kept(classifier(200), volume, prompted=(1,)) == range(1, 6)
    assert kept(classifier(200), volume, prompted=(5, 10)) == range(5, 11)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (classifier(200, unknown=("lung_lesion",)), "classes not known: lung_lesion"),
        (classifier(900), "no slice is positive"),
    ],
)
def test_where_the_classifier_vouches_for_nothing_everything_is_kept(
    model: RegionModel, reason: str
) -> None:
    volume = scan_with({5: 400})
    geometry = Geometry((40, 30, 12), SPACING_MM, (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    region = model.region_of(volume, geometry, options=EngineOptions())
    assert (region.kept, region.whole_because) == (range(12), reason)


@pytest.mark.parametrize("span", [range(0, 3), range(4, 9), range(11, 12), range(12)])
def test_kept_slices_are_padded_by_their_neighbours_in_the_scan(span: range) -> None:
    rng = np.random.default_rng(0)
    volume = rng.integers(-1000, 900, (12, 30, 40)).astype(np.int16)
    geometry = Geometry((40, 30, 12), SPACING_MM, (0, 0, 0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    grid = grid_of(geometry, 32)
    part, whole = ResizedSlices(volume, grid, kept=span), ResizedSlices(volume, grid)[:]
    assert part.shape == (len(span) + 4, 32, 32)
    assert torch.equal(part[:], whole[span.start : span.stop + 4])


def ensemble_of(net: nn.Module, region: RegionModel | None):  # type: ignore[no-untyped-def]
    return replace(make_ensemble(), members=(Member(net, WINDOW_HU),), region=region)


def masks(scan: Path, tmp_path: Path, region: RegionModel | None, **options: object) -> np.ndarray:
    out = tmp_path / f"out_{region is not None}"
    segment_scan(
        scan,
        out,
        case_id="case",
        ensemble=ensemble_of(MeanOfFive(), region),
        options=replace(OPTIONS, **options),  # type: ignore[arg-type]
    )
    return sitk.GetArrayFromImage(sitk.ReadImage(str(out / "case.nii.gz")))


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_kept_slices_have_the_mask_of_the_whole_scan_and_others_none(
    batch: int, write_scan: WriteScan, tmp_path: Path
) -> None:
    # slice 4 is bright but not in the mean with its darker neighbours, which are not kept
    bright = {**dict.fromkeys(range(4, 8), 850), **dict.fromkeys(range(9, 12), 790)}
    scan = write_scan("a.nii.gz", scan_with(bright))
    engine = EngineOptions(batch=batch)
    whole = masks(scan, tmp_path, None, engine=engine)
    found = masks(scan, tmp_path, classifier(800), engine=engine)
    assert np.flatnonzero(whole.any(axis=(1, 2))).tolist() == list(range(5, 12))
    np.testing.assert_array_equal(found[4:8], whole[4:8])
    assert not found[:4].any()
    assert not found[8:].any()


def test_a_scan_stored_from_head_to_feet_loses_the_same_slices(
    write_scan: WriteScan, tmp_path: Path
) -> None:
    volume = scan_with({1: 900, 2: 900})
    downwards = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    scan = write_scan("a.nii.gz", volume[::-1], direction=downwards)
    found = masks(scan, tmp_path, classifier(200))
    report = json.loads((tmp_path / "out_True" / "case.json").read_text())
    assert set(np.flatnonzero(found.any(axis=(1, 2)))) <= {9, 10}
    assert report["region"]["first_slice"] == 1


class TestReport:
    @pytest.fixture
    def scan(self, write_scan: WriteScan) -> Path:
        return write_scan("a.nii.gz", bright_box())

    def segment(
        self, scan: Path, output: Path, region: RegionModel | None
    ) -> tuple[dict[str, object], list[int]]:
        told: list[int] = []
        report = segment_scan(
            scan,
            output,
            case_id="case",
            ensemble=replace(make_ensemble(), region=region),
            options=OPTIONS,
            on_slices=told.append,
        )
        return report, told

    def test_it_says_what_was_left_out_by_which_model(self, scan: Path, tmp_path: Path) -> None:
        report, told = self.segment(scan, tmp_path / "out", classifier(200))
        assert report["region"] == {
            "first_slice": 2,
            "last_slice": 4,
            "left_out": 3,
            "whole_because": None,
        }
        assert report["model"]["region_sha256"] == "1" * 64  # type: ignore[index]
        assert set(report["seconds"]) == {"read", "region", "predict", "postprocess", "write"}  # type: ignore[call-overload]
        assert sum(told) == 6

    def test_it_is_silent_where_no_region_was_asked(self, scan: Path, tmp_path: Path) -> None:
        report, _ = self.segment(scan, tmp_path / "out", None)
        assert report["region"] is None
        assert report["model"]["region_sha256"] is None  # type: ignore[index]

    def test_a_case_is_finished_for_its_own_region_model_only(
        self, scan: Path, tmp_path: Path
    ) -> None:
        own = classifier(200)
        self.segment(scan, tmp_path / "out", own)

        def finished(region: RegionModel | None) -> bool:
            ensemble = replace(make_ensemble(), region=region)
            output = tmp_path / "out"
            found = finished_report(
                scan, output, case_id="case", ensemble=ensemble, options=OPTIONS
            )
            return found is not None

        assert finished(own)
        assert not finished(None)
        assert not finished(replace(own, sha256="2" * 64))

    def test_a_prompt_outside_of_the_range_is_heeded(self, scan: Path, tmp_path: Path) -> None:
        # slice 0 of the scan lies at z = 203 mm, pixel (20, 15) at (-19, 29.5) mm
        point = parse_point("bright=-19,29.5,203")
        report = segment_scan(
            scan,
            tmp_path / "out",
            case_id="case",
            ensemble=ensemble_of(Promptable(), classifier(200)),
            options=OPTIONS,
            prompts=CasePrompts((point,)),
        )
        assert report["region"]["first_slice"] == 0
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz")))
        assert np.flatnonzero(mask.any(axis=(1, 2))).tolist() == [0]


class Promptable(nn.Module):
    """Outlines the whole of the slices it is given a point in, and nothing else."""

    slice_context = 2
    class_names = ("bright",)

    def forward(self, chunk: Tensor, presence: Tensor | None = None, manual=None) -> Output:  # type: ignore[no-untyped-def]
        shape = (1, chunk.shape[1] - 4, 1)
        given = torch.zeros(shape, dtype=torch.bool) if manual is None else manual.given()
        logits = torch.where(given, 10.0, -10.0)
        return Output(logits[..., None, None].expand(*shape, *chunk.shape[-2:]), logits)


def save_region(
    folder: Path,
    *,
    thresholds: dict[str, float] | None = None,
    validated: bool = True,
    system: str = "region",
) -> Path:
    """Write an untrained network as a finished run."""
    model = ModelConfig(
        system=system,  # type: ignore[arg-type]
        image_size=32,
        cnn_width=4,
        region=RegionConfig(backbone="test_resnet"),
    )
    meta = CheckpointMeta(
        config=Config(model=model),
        class_names=CLASSES,
        presence_thresholds=dict.fromkeys(CLASSES, 0.25) if thresholds is None else thresholds,
        metrics={"region_score": 0.5} if validated else {},
    )
    folder.mkdir(parents=True)
    save_checkpoint(folder / "best", build_network(model, CLASSES), meta)
    return folder


def test_a_trained_classifier_is_asked_for_the_classes_in_their_order(tmp_path: Path) -> None:
    run = save_region(tmp_path / "region", thresholds={"liver_lesion": 0.1, "kidney_lesion": 0.2})
    model = load_region(run, device="cpu", class_names=("kidney_lesion", "liver_lesion"))
    assert model.outputs == (1, 0)
    torch.testing.assert_close(model.thresholds, torch.tensor([0.2, 0.1]))
    assert (model.unknown, model.margin_mm, model.image_size) == ((), 15.0, 32)


def test_a_class_without_a_threshold_is_warned_of_and_not_known(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = save_region(tmp_path / "region", thresholds={"liver_lesion": 0.1})
    with caplog.at_level(logging.WARNING):
        model = load_region(run, device="cpu", class_names=(*CLASSES, "lung_lesion"))
    assert model.unknown == ("kidney_lesion", "lung_lesion")
    assert "kidney_lesion, lung_lesion" in caplog.text
    assert "whole scans" in caplog.text


def test_a_classifier_that_was_never_validated_is_refused(tmp_path: Path) -> None:
    run = save_region(tmp_path / "region", validated=False)
    with pytest.raises(InputError, match=r"was never validated.*train\.validate_every"):
        load_region(run, device="cpu", class_names=CLASSES)


def test_either_kind_of_run_is_refused_in_the_place_of_the_other(tmp_path: Path) -> None:
    region = save_region(tmp_path / "region")
    final = save_region(tmp_path / "final", system="samcancer")
    with pytest.raises(InputError, match="is a slice classifier; use it with --region"):
        load_ensemble([region], device="cpu")
    with pytest.raises(InputError, match=r"is no slice classifier \(model.system samcancer\)"):
        load_region(final, device="cpu", class_names=CLASSES)


@pytest.mark.parametrize("model", [".", "final", "fold_1", "final/best.safetensors"])
def test_auto_is_the_run_beside_the_model(model: str, tmp_path: Path) -> None:
    for name in ("final", "fold_1", "region"):
        (tmp_path / name).mkdir()
        for file in ("best.json", "best.safetensors"):
            (tmp_path / name / file).touch()
    assert region_run(AUTO, [tmp_path / model]) == tmp_path / "region"
    assert region_run(AUTO, [tmp_path / "final", tmp_path / model]) == tmp_path / "region"


def test_a_named_run_is_taken_as_it_is(tmp_path: Path) -> None:
    assert region_run("elsewhere/region", [tmp_path]) == Path("elsewhere/region")


def test_auto_without_a_run_beside_the_model_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no slice classifier.*train-final --name region"):
        region_run(AUTO, [tmp_path / "final"])


def test_auto_between_two_classifiers_is_refused(tmp_path: Path) -> None:
    for runs in ("a", "b"):
        (tmp_path / runs / "region").mkdir(parents=True)
    with pytest.raises(InputError, match="finds several slice classifiers"):
        region_run(AUTO, [tmp_path / "a", tmp_path / "b"])


def test_the_command_takes_the_run_beside_the_model(
    write_scan: WriteScan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan("scan.nii.gz", bright_box())
    save_region(tmp_path / "runs" / "final", system="samcancer")
    words = ["--input", str(scan), "--output", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--model", str(tmp_path / "runs"), "--region", "auto", "--quiet"]
    assert run_verb("infer-volume", words) == 2
    assert "there is no slice classifier for --region auto" in capsys.readouterr().err
    save_region(tmp_path / "runs" / "region", thresholds=dict.fromkeys(CLASSES, 1.0))
    assert run_verb("infer-volume", words) == 0
    report = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert report["region"]["whole_because"] == "no slice is positive"
