"""Scans of any orientation, size and name give masks on their own grid, or one line before work."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - its customary name
from catalogue import provokes
from harness import Command, good_scan, infer, names_in, require_one_line, require_whole
from inference_fakes import bright_box, make_ensemble
from volume_fakes import phantom_hu, save_by_itk

from samcancer import files


@pytest.fixture
def bright_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand a threshold in for the network, so that masks are known."""
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble", lambda *_, **__: make_ensemble()
    )


def read(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


@provokes("orientation", "axis-aligned", "left-handed")
@pytest.mark.usefixtures("bright_model")
def test_48_orientations_give_the_same_mask_turned_back(tmp_path: Path, command: Command) -> None:
    base = sitk.GetImageFromArray(bright_box())
    base.SetSpacing((0.6, 0.8, 5.0))
    (tmp_path / "in").mkdir()
    turned = {}
    for order, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        name = "".join(map(str, order)) + "".join("f" if f else "-" for f in flips)
        turned[name] = (order, flips)
        image = sitk.Flip(sitk.PermuteAxes(base, order), flips, False)
        sitk.WriteImage(image, str(tmp_path / "in" / f"{name}.mha"))
    assert infer(command, [tmp_path / "in"], tmp_path / "out", Path("run")).status == 0
    plain = sitk.GetArrayFromImage(read(tmp_path / "out" / "012---.mha"))
    assert 0 < plain.sum() < plain.size
    handed = set()
    for name, (order, flips) in turned.items():
        mask, scan = read(tmp_path / "out" / f"{name}.mha"), read(tmp_path / "in" / f"{name}.mha")
        assert np.allclose(mask.GetDirection(), scan.GetDirection())
        assert np.allclose(mask.GetOrigin(), scan.GetOrigin())
        back = sitk.PermuteAxes(sitk.Flip(mask, flips, False), np.argsort(order).tolist())
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), plain, err_msg=name)
        handed.add(np.sign(np.linalg.det(np.reshape(mask.GetDirection(), (3, 3)))))
    assert handed == {-1.0, 1.0}


@provokes("orientation", "oblique")
@pytest.mark.usefixtures("bright_model")
def test_an_oblique_scan_keeps_its_direction(tmp_path: Path, command: Command) -> None:
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5)
    direction = np.reshape(turn.GetMatrix(), (3, 3))
    scan = save_by_itk(tmp_path / "s.nii.gz", bright_box(), direction=direction)
    assert infer(command, [scan], tmp_path / "out", Path("run")).status == 0
    require_whole(tmp_path / "out", [scan])


@provokes("few slices", "1", "2", "3", "4")
@pytest.mark.usefixtures("bright_model")
def test_one_to_four_slices_give_as_many(tmp_path: Path, command: Command) -> None:
    scans = [good_scan(tmp_path / f"n{count}.nii.gz") for count in range(1, 5)]
    for count, scan in enumerate(scans, start=1):
        save_by_itk(scan, phantom_hu((count, 7, 9)))
    assert infer(command, scans, tmp_path / "out", Path("run")).status == 0
    require_whole(tmp_path / "out", scans)


@provokes("sizes", "1000 slices", "16 to 2048 pixels", "0.5 to 10 mm")
@pytest.mark.usefixtures("bright_model")
def test_large_and_small_scans_give_masks_of_their_size(tmp_path: Path, command: Command) -> None:
    sizes = {(1000, 16, 16): 0.5, (2, 2048, 2048): 5.0, (3, 63, 511): 10.0, (5, 768, 16): 1.0}
    scans = []
    for shape, slice_mm in sizes.items():
        path = tmp_path / f"{'x'.join(map(str, shape))}.nii.gz"
        scans.append(save_by_itk(path, phantom_hu(shape), spacing_mm=(0.7, 0.9, slice_mm)))
    assert infer(command, scans, tmp_path / "out", Path("run")).status == 0
    require_whole(tmp_path / "out", scans)


@provokes("sizes", "memory estimate")
def test_memory_is_estimated_first_and_a_budget_under_it_refused(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scan = good_scan(tmp_path / "s.nii.gz")
    out = tmp_path / "out"
    words = ["--input", scan, "--output", out, "--model", model, "--device", "cpu"]
    told = command("infer-volume", *words).lines
    assert any("slices a chunk, about" in line for line in told)
    outcome = command(
        "infer-volume", *words, "--output", tmp_path / "b", "--budget", "1KB", "--quiet"
    )
    assert outcome.status == 2
    fact = r"a budget of 0 MB is too small"
    require_one_line(outcome.lines, scan, fact=fact, mend="allow at least --budget")
    assert names_in(tmp_path / "b") == set()


@provokes("paths", "unicode and spaces")
def test_unicode_spaces_and_markup_in_names_work(
    tmp_path: Path, command: Command, model: Path
) -> None:
    folder = tmp_path / "ein Ordner 中 ü"
    scans = [good_scan(folder / f"{name}.nii.gz") for name in ("größe 1", "a[", "a[b]c", "%s {0}")]
    (folder / "a[.nii.gz").rename(folder / "a[red]b.nii.gz")
    scans[1] = folder / "a[red]b.nii.gz"
    words = ["--input", *scans, "--output", folder / "o u t", "--model", model, "--device", "cpu"]
    outcome = command("infer-volume", *words)  # not --quiet: names are shown by the progress bar
    assert outcome.status == 0, outcome.lines
    require_whole(folder / "o u t", scans)


@provokes("paths", "read-only output")
def test_a_read_only_output_is_refused_before_the_network_is_loaded(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = good_scan(tmp_path / "s.nii.gz")
    monkeypatch.setattr(files.os, "access", lambda *_: False)  # root may write everywhere
    outcome = infer(command, [scan], tmp_path / "out", Path("no such model"))
    assert outcome.status == 2
    require_one_line(
        outcome.lines, tmp_path / "out", fact="read-only", mend="choose another folder"
    )


@pytest.mark.parametrize("name", ["...nii.gz", "_0000.nii.gz", "a\nb.nii.gz", "a\x1b[2Jb.nii.gz"])
def test_a_name_that_no_result_can_have_is_refused(
    name: str, tmp_path: Path, command: Command, model: Path
) -> None:
    good_scan(tmp_path / "in" / "good.nii.gz").rename(tmp_path / "in" / name)
    outcome = infer(command, [tmp_path / "in"], tmp_path / "out", model)
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert outcome.lines[0].isprintable()
    assert outcome.lines[0].endswith(
        "cannot be a case id, which results are named after. Rename it."
    )


def test_a_folder_in_place_of_an_output_file_is_one_line(
    tmp_path: Path, command: Command, model: Path
) -> None:
    scan = good_scan(tmp_path / "s.nii.gz")
    (tmp_path / "out" / "s.nii.gz").mkdir(parents=True)
    outcome = infer(command, [scan], tmp_path / "out", model)
    assert outcome.status == 2
    assert len(outcome.lines) == 1
    assert "s.nii.gz: cannot be written (" in outcome.lines[0]
    assert not list((tmp_path / "out").glob(".tmp-*"))


@provokes("PHI", "folders")
def test_a_report_never_names_a_folder(tmp_path: Path, command: Command, model: Path) -> None:
    scan = good_scan(tmp_path / "CANARY^JANE" / "s.nii.gz")
    assert infer(command, [scan], tmp_path / "out", model).status == 0
    assert "CANARY" not in (tmp_path / "out" / "s.json").read_text()
    assert json.loads((tmp_path / "out" / "s.json").read_text())["case"] == "s"
