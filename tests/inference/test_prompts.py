"""Prompts in millimetres against masks of the same voxels, in any orientation; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from inference_fakes import WriteScan, bright_box, infer, probabilities

from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.errors import InputError
from samcancer.files import read_json
from samcancer.geometry import Geometry, canonicalise
from samcancer.inference.prompts import (
    CasePrompts,
    PhysicalPrompt,
    parse_box,
    parse_point,
    read_prompt_table,
    slice_prompts,
)
from samcancer.inference.slices import grid_of
from samcancer.inplane import resize_mask
from samcancer.modeling import build_model
from samcancer.modeling.manual_prompts import BOX_FIRST, BOX_SECOND, NEGATIVE, POSITIVE, SlicePrompt
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint

TURNED = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CLASSES = ("liver_lesion", "kidney_lesion")
SIZE = 32


def geometry_of(direction: tuple[float, ...] = STRAIGHT) -> Geometry:
    return Geometry((40, 30, 12), (0.6, 0.8, 5.0), (-31.0, 17.5, 203.0), direction)


def sliced(prompts: CasePrompts, geometry: Geometry) -> list[SlicePrompt]:
    empty = np.zeros(geometry.shape, dtype=np.uint8)
    canonical = canonicalise(empty, geometry)[1]
    return slice_prompts(
        prompts,
        geometry=geometry,
        canonical=canonical,
        grid=grid_of(canonical, SIZE),
        class_names=CLASSES,
    )


def mm(geometry: Geometry, *index_xyz: float) -> tuple[float, float, float]:
    x, y, z = geometry.position_mm(np.array(index_xyz))
    return (float(x), float(y), float(z))


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_a_box_lies_around_the_same_voxels_as_their_mask(direction: tuple[float, ...]) -> None:
    geometry = geometry_of(direction)
    mask = np.zeros(geometry.shape, dtype=bool)
    mask[3:7, 8:20, 10:31] = True  # z, y, x
    box = PhysicalPrompt(
        "kidney_lesion", "box", mm(geometry, 9.5, 7.5, 2.6), mm(geometry, 30.5, 19.5, 6.4)
    )
    found = sliced(CasePrompts((box,)), geometry)
    turned, canonical, _ = canonicalise(mask, geometry)
    resized = resize_mask(turned, grid_of(canonical, SIZE))
    assert [p.z for p in found] == np.flatnonzero(resized.any(axis=(1, 2))).tolist()
    for prompt in found:
        assert (prompt.class_index, prompt.shows_class) == (1, True)
        (x0, y0, first), (x1, y1, second) = prompt.points
        assert (first, second) == (BOX_FIRST, BOX_SECOND)
        rows, columns = np.nonzero(resized[prompt.z])
        assert abs(x0 - (columns.min() - 0.5)) <= 1
        assert abs(x1 - (columns.max() + 0.5)) <= 1
        assert abs(y0 - (rows.min() - 0.5)) <= 1
        assert abs(y1 - (rows.max() + 0.5)) <= 1


@pytest.mark.parametrize("direction", [STRAIGHT, TURNED])
def test_a_point_lies_on_the_pixel_of_its_voxel(direction: tuple[float, ...]) -> None:
    geometry = geometry_of(direction)
    mask = np.zeros(geometry.shape, dtype=bool)
    mask[4, 11, 25] = True
    turned, canonical, _ = canonicalise(mask, geometry)
    resized = resize_mask(turned, grid_of(canonical, SIZE))
    for kind, expected in (("point", POSITIVE), ("negative", NEGATIVE)):
        place = mm(geometry, 25, 11, 4)
        prompt = PhysicalPrompt("liver_lesion", kind, place, place)  # type: ignore[arg-type]
        (found,) = sliced(CasePrompts((prompt,)), geometry)
        ((x, y, number),) = found.points
        assert resized[found.z, round(y), round(x)]
        assert number == expected
        assert found.shows_class == (kind == "point")


def test_a_recist_line_is_taken_for_the_diameter_of_a_ball() -> None:
    geometry = geometry_of()
    ends = mm(geometry, 10, 15, 5), mm(geometry, 30, 15, 5)  # 12 mm
    found = sliced(CasePrompts((PhysicalPrompt("liver_lesion", "recist", *ends),)), geometry)
    assert [p.z for p in found] == [4, 5, 6]
    assert [p.shows_class for p in found] == [False, True, False]
    pixel_mm = grid_of(geometry, SIZE).pixel_mm
    widths_mm = [(p.points[1][0] - p.points[0][0]) * pixel_mm for p in found]
    assert widths_mm == pytest.approx([2 * np.sqrt(36 - 25), 12.0, 2 * np.sqrt(36 - 25)])


def test_a_mask_becomes_masks_of_its_slices(write_scan: WriteScan) -> None:
    values = np.zeros((12, 30, 40), dtype=np.uint8)
    values[5, 8:20, 10:30] = 2
    path = write_scan("mask.nii.gz", values)
    (found,) = sliced(CasePrompts(mask=path), geometry_of())
    assert (found.z, found.class_index, found.points) == (5, 1, ())
    expected = resize_mask(values[5:6] == 2, grid_of(geometry_of(), SIZE))[0]
    assert found.mask is not None
    np.testing.assert_array_equal(found.mask, expected)


def test_a_mask_on_another_grid_or_of_other_labels_is_refused(write_scan: WriteScan) -> None:
    other = write_scan("other.nii.gz", np.zeros((12, 30, 41), dtype=np.uint8))
    with pytest.raises(InputError, match=r"other\.nii\.gz.*differs from the image's"):
        sliced(CasePrompts(mask=other), geometry_of())
    many = write_scan("many.nii.gz", np.full((12, 30, 40), 3, dtype=np.uint8))
    with pytest.raises(InputError, match="holds the label 3, the model has 2 classes"):
        sliced(CasePrompts(mask=many), geometry_of())


def test_a_position_outside_of_the_scan_is_refused_with_the_way_from_ras() -> None:
    prompt = parse_point("liver_lesion=31,-17.5,203")
    with pytest.raises(InputError, match=r"outside of the scan.*LPS.*RAS"):
        sliced(CasePrompts((prompt,)), geometry_of())


def test_boxes_and_points_are_read_from_the_command_line() -> None:
    box = parse_box("liver_lesion=-1,2,3.5,4,-5,6e1")
    assert (box.class_name, box.kind) == ("liver_lesion", "box")
    assert (box.first_mm, box.second_mm) == ((-1, 2, 3.5), (4, -5, 60))
    assert parse_point("a=1,2,3").kind == parse_point("a=1,2,3,1").kind == "point"
    assert parse_point("a=1,2,3,0").kind == "negative"


@pytest.mark.parametrize("text", ["", "a", "a=1,2", "=1,2,3", "a=1,2,x", "a=1,2,nan", "a=1,2,3,2"])
def test_points_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--point"):
        parse_point(text)


def test_a_table_holds_lines_boxes_and_points_of_many_cases(tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_text(
        "case,class,kind,x1,y1,z1,x2,y2,z2\n"
        "a,liver_lesion,,1,2,3,4,5,6\n"
        "b,kidney_lesion,box,1,2,3,4,5,6\n"
        "a,liver_lesion,point,7,8,9,,,\n"
    )
    table = read_prompt_table(path)
    assert [p.kind for p in table["a"]] == ["recist", "point"]
    assert table["b"][0].second_mm == (4, 5, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,class\n", "has no column 'x1'"),
        ("case,class,x1,y1,z1,x2,y2,z2\na,b,1,2,3,4,5,\n", "line 2: needs case, class and"),
        ("case,class,x1,y1,z1,x2,y2,z2,kind\na,b,1,2,3,4,5,6,line\n", "unknown kind 'line'"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lines.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompt_table(path)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run of a network that answers every prompt: random weights."""
    config = ModelConfig(image_size=SIZE, cnn_width=4)
    torch.manual_seed(0)
    folder = tmp_path / "run"
    folder.mkdir()
    meta = CheckpointMeta(
        config=Config(model=config, data=DataConfig()),
        class_names=CLASSES,
        presence_thresholds=dict.fromkeys(CLASSES, 0.9),
    )
    save_checkpoint(folder / "best", build_model(config, CLASSES), meta)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        ("--box", "liver_lesion=-25,20,208,-15,30,213"),
        ("--point", "liver_lesion=-25,20,208", "--point", "liver_lesion=-15,30,213,0"),
    ],
)
def test_a_prompt_changes_the_slices_it_names_only(
    write_scan: WriteScan, run_folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    scan = write_scan("scan.nii.gz", bright_box())
    assert infer(scan, tmp_path / "without", run_folder) == 0
    assert infer(scan, tmp_path / "with", run_folder, *options) == 0
    without, given = (
        probabilities(tmp_path / name, "liver_lesion") for name in ("without", "with")
    )
    changed = np.abs(without - given).max(axis=(1, 2)) > 1e-3
    assert changed.tolist() == [False, True, True, False, False, False]
    report = read_json(tmp_path / "with" / "scan.json")
    assert report["prompts"] == len(options) // 2
    assert report["classes"]["liver_lesion"]["presence_max"] == 1


def test_a_case_is_done_again_when_its_prompts_change(
    write_scan: WriteScan, run_folder: Path, tmp_path: Path
) -> None:
    scan, output = write_scan("scan.nii.gz", bright_box()), tmp_path / "out"
    table = tmp_path / "lines.csv"
    table.write_text(
        "case,class,x1,y1,z1,x2,y2,z2\nscan,liver_lesion,-25,25,213,-17,25,213\n"
        "another,liver_lesion,0,0,0,1,1,1\n"
    )
    assert infer(scan, output, run_folder, "--prompts", str(table)) == 0
    first = (output / "scan.json").stat().st_mtime_ns
    assert infer(scan, output, run_folder, "--prompts", str(table), "--skip-finished") == 0
    assert (output / "scan.json").stat().st_mtime_ns == first
    assert infer(scan, output, run_folder, "--skip-finished") == 0
    assert (output / "scan.json").stat().st_mtime_ns != first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--box", "spleen=-25,20,208,-15,30,213"), "which the model does not know"),
        (("--box", "liver_lesion=1,2"), "--box 'liver_lesion=1,2' is not understood"),
        (("--point", "liver_lesion=900,20,208"), "outside of the scan"),
        (("--prompts", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--mask-prompt", "nowhere.nii"), "nowhere.nii: no such file"),
        (("--mask-prompt", "nowhere.nii", "--skip-finished"), "nowhere.nii: no such file"),
    ],
)
def test_wrong_prompts_are_one_line_and_status_2(
    write_scan: WriteScan,
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
) -> None:
    scan = write_scan("scan.nii.gz", bright_box())
    assert infer(scan, tmp_path / "out", run_folder, *options) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_box_on_the_command_line_is_for_one_scan(
    write_scan: WriteScan, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_scan("in/a.nii.gz", bright_box()).parent
    write_scan("in/b.nii.gz", bright_box())
    assert infer(folder, tmp_path / "out", run_folder, "--point", "liver_lesion=0,0,0") == 2
    assert "are for one scan, --input holds 2" in capsys.readouterr().err
