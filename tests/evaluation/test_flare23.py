"""The rules of FLARE 2023's script, against a plain account of them on whole volumes."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import surface_distance
from evaluation_fakes import WriteLabels

from samcancer.errors import InputError
from samcancer.evaluation.cases import Evaluated, evaluate_cases, plan
from samcancer.evaluation.labels import Annotations, choose_labels, flare23_labels
from samcancer.evaluation.protocols import FLARE23_TOLERANCES_MM, class_rules, score_masks
from samcancer.evaluation.summary import flare23_summary, summarise

SHAPE = (22, 48, 52)

TOLERANCE_MM_BY_VALUE = (5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3, 2)
"""Of the label values 1 to 14, as the script lists them."""

NAMES = (
    "liver",
    "kidney_right",
    "spleen",
    "pancreas",
    "aorta",
    "inferior_vena_cava",
    "adrenal_gland_right",
    "adrenal_gland_left",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "kidney_left",
    "lesion",
)

AORTA, CAVA, ESOPHAGUS = 5, 6, 10


def plain_script(reference: Path, prediction: Path) -> dict[str, tuple[float, float]]:
    """The script's rules for one case: whole volumes in x, y, z order, DeepMind's functions."""
    image = sitk.ReadImage(str(reference))
    truth = sitk.GetArrayFromImage(image).T
    guess = sitk.GetArrayFromImage(sitk.ReadImage(str(prediction))).T
    scores = {}
    for value, (name, tolerance_mm) in enumerate(
        zip(NAMES, TOLERANCE_MM_BY_VALUE, strict=True), start=1
    ):
        a, b = truth == value, guess == value
        if not a.any() and not b.any():
            scores[name] = (1.0, 1.0)
            continue
        if not a.any() or not b.any():
            scores[name] = (0.0, 0.0)
            continue
        if value in (AORTA, CAVA, ESOPHAGUS):
            z = np.where(a)[2]
            a, b = a[:, :, z.min() : z.max()], b[:, :, z.min() : z.max()]
        dice = 2 * (a & b).sum() / (a.sum() + b.sum())
        nsd = np.float64(0)
        if dice >= 0.2:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # it uses old SciPy names
                distances = surface_distance.compute_surface_distances(a, b, image.GetSpacing())
            nsd = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)
        scores[name] = (float(round(dice, 4)), float(round(nsd, 4)))
    return scores


def ball(
    volume: np.ndarray, value: int, centre: tuple[float, ...], radii: tuple[float, ...]
) -> None:
    axes = np.ogrid[tuple(slice(0, n) for n in volume.shape)]
    inside = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1
    volume[inside] = value


def body(seed: int, *, jitter: float = 0.0) -> np.ndarray:
    """All 14 classes at places from a seed, each moved by up to ``jitter`` voxels."""
    places, moves = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    volume = np.zeros(SHAPE, dtype=np.uint8)
    for value in range(1, 15):
        centre = places.uniform((3, 8, 8), (19, 40, 44)) + moves.uniform(-jitter, jitter, 3)
        radii = places.uniform((2, 4, 4), (6, 11, 11))
        ball(volume, value, tuple(centre), tuple(radii))
    return volume


def without(volume: np.ndarray, *values: int) -> np.ndarray:
    return np.where(np.isin(volume, values), 0, volume)


def with_box(volume: np.ndarray, value: int, *box: slice) -> np.ndarray:
    changed = without(volume, value)
    changed[box] = value
    return changed


def tube(volume: np.ndarray, value: int, first: int, stop: int, *, shift: int = 0) -> np.ndarray:
    return with_box(volume, value, slice(first, stop), slice(20, 27), slice(22 + shift, 29 + shift))


def phantoms() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> reference and prediction."""
    truth, guess = body(3), body(3, jitter=1.5)
    empty = np.zeros(SHAPE, dtype=np.uint8)
    corner = (slice(0, 1), slice(0, 1), slice(51, 52))
    noise = np.random.default_rng(7).random(SHAPE) < 0.05
    return {
        "whole": (truth, guess),
        "another": (body(20), body(20, jitter=2.5)),
        "perfect": (truth, truth),
        "nothing": (empty, empty),
        "all_missed": (truth, empty),
        "all_invented": (empty, truth),
        "absent_in_both": (without(truth, 1, 9, 14), without(guess, 1, 9, 14)),
        "absent_in_one": (without(truth, 1, 5, 14), without(guess, 4, 10, 13)),
        # tubes are labelled in a part of their slices and predicted beyond it
        "cut_off_aorta": (tube(truth, AORTA, 6, 15), tube(guess, AORTA, 0, 22, shift=1)),
        "cut_off_cava": (tube(truth, CAVA, 0, 11), tube(guess, CAVA, 3, 22, shift=-2)),
        "cut_off_esophagus": (tube(truth, ESOPHAGUS, 10, 22), tube(guess, ESOPHAGUS, 0, 12)),
        "predicted_only_beyond": (tube(truth, AORTA, 4, 9), tube(guess, AORTA, 12, 20)),
        "predicted_only_in_the_last": (tube(truth, AORTA, 4, 9), tube(guess, AORTA, 8, 14)),
        "two_slices": (tube(truth, CAVA, 4, 6), tube(guess, CAVA, 3, 8)),
        "liver_is_not_cut": (tube(truth, 1, 6, 15), tube(guess, 1, 0, 22)),
        "one_voxel": (with_box(truth, 7, *corner), with_box(guess, 7, *corner)),
        "one_voxel_missed": (with_box(truth, 8, *corner), guess),
        "noisy": (truth, np.where(noise, 14, truth).astype(np.uint8)),
        "half_wrong": (truth, np.roll(truth, 5, axis=2)),
    }


def evaluate(folder: Path, **options: object) -> Evaluated:
    tasks, extra = plan(
        folder / "reference",
        folder / "prediction",
        **{
            "labels": flare23_labels(),
            "annotations": Annotations(),
            "protocol": "flare23",
            **options,
        },  # type: ignore[arg-type]
    )
    return evaluate_cases(tasks, extra=extra)


@pytest.mark.parametrize("spacing_mm", [(0.7, 0.9, 2.5), (1.0, 1.0, 1.0)])
def test_every_class_equals_the_plain_account_of_the_script(
    spacing_mm: tuple[float, float, float], write_labels: WriteLabels, tmp_path: Path
) -> None:
    pairs = phantoms()
    for name, (truth, guess) in pairs.items():
        write_labels(f"reference/{name}.nii.gz", truth, spacing_mm=spacing_mm)
        write_labels(f"prediction/{name}.nii.gz", guess, spacing_mm=spacing_mm)
    evaluated = evaluate(tmp_path)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for r in evaluated.results:
        found.setdefault(r.case_id, {})[r.class_name] = (r.score.dice, r.score.nsd)
    expected = {
        name: plain_script(
            tmp_path / "reference" / f"{name}.nii.gz", tmp_path / "prediction" / f"{name}.nii.gz"
        )
        for name in pairs
    }
    for name in pairs:
        assert found[name] == expected[name], name
    # Means of the script: rounded over cases, then over the 13 rounded organ means.
    overall = flare23_summary(evaluated.results)
    for place, metric in enumerate(("dice", "nsd")):
        means = {n: round(np.mean([expected[c][n][place] for c in pairs]), 4) for n in NAMES}
        assert {n: row[metric] for n, row in overall["classes"].items()} == means
        organs = round(np.mean([means[n] for n in NAMES if n != "lesion"]), 4)
        assert overall[f"organ_{metric}"] == organs
        assert overall[f"tumor_{metric}"] == means["lesion"]


@pytest.mark.parametrize("degrees", [0.4, 3.0, 11.0, 25.0])
def test_a_distance_of_exactly_the_tolerance_agrees_in_an_oblique_scan_too(
    degrees: float, tmp_path: Path
) -> None:
    # Two slices of 2.5 mm are the liver's 5 mm.
    truth = with_box(np.zeros(SHAPE, np.uint8), 1, slice(4, 12), slice(8, 40), slice(8, 40))
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.deg2rad([degrees, 2 * degrees, -degrees]))
    for side, values in {"reference": truth, "prediction": np.roll(truth, 2, axis=0)}.items():
        image = sitk.GetImageFromArray(values)
        image.SetSpacing((0.7, 0.9, 2.5))
        image.SetDirection(turn.GetMatrix())
        (tmp_path / side).mkdir()
        sitk.WriteImage(image, str(tmp_path / side / "a.nii.gz"))
    liver = evaluate(tmp_path).results[0]
    assert liver.score.nsd == 1.0
    paths = [tmp_path / side / "a.nii.gz" for side in ("reference", "prediction")]
    assert (liver.score.dice, liver.score.nsd) == plain_script(*paths)["liver"]


def test_the_phantoms_meet_every_rule(write_labels: WriteLabels, tmp_path: Path) -> None:
    """The equality above would say little if cut-off organs scored as whole ones do."""
    truth, guess = phantoms()["cut_off_aorta"]
    write_labels("reference/a.nii.gz", truth)
    write_labels("prediction/a.nii.gz", guess)
    (aorta,) = (r for r in evaluate(tmp_path).results if r.class_name == "aorta")
    # 7 x 7 tubes one voxel apart share 6 of 7 columns; slices 6 to 13 count of 6 to 14.
    assert aorta.score.dice == round(6 / 7, 4)
    assert aorta.counts.prediction == np.count_nonzero(guess == AORTA)
    last = phantoms()["predicted_only_in_the_last"]
    masks = [v == AORTA for v in last]
    score = score_masks(
        *masks, spacing_mm=(2.5, 1, 1), protocol="flare23", labelled_slices_only=True
    )
    assert (score.dice, score.nsd) == (0.0, 0.0)


def test_tolerances_belong_to_the_names_of_the_script() -> None:
    assert dict(zip(NAMES, TOLERANCE_MM_BY_VALUE, strict=True)) == FLARE23_TOLERANCES_MM
    assert flare23_labels() == {name: (value,) for value, name in enumerate(NAMES, start=1)}
    cut = {n for n in NAMES if class_rules("flare23", n).labelled_slices_only}
    assert cut == {NAMES[value - 1] for value in (AORTA, CAVA, ESOPHAGUS)}


def test_a_reference_on_a_single_slice_is_compared_on_that_slice() -> None:
    truth, guess = np.zeros((2, 6, 12, 12), dtype=bool)
    truth[3, 2:8, 2:8] = True
    guess[1:5, 2:8, 5:11] = True
    score = score_masks(
        truth, guess, spacing_mm=(5, 1, 1), protocol="flare23", labelled_slices_only=True
    )
    assert score.dice == 0.5  # squares of 6 that share 3 columns


def test_rounding_is_that_of_numpy_as_in_the_script() -> None:
    voxels = 20_000
    truth, guess = np.zeros((2, 1, 1, 2 * voxels - 1), dtype=bool)
    truth[..., :voxels] = True
    guess[..., voxels - 1 :] = True
    dice = 2 * 1 / (2 * voxels)
    # 5e-05 lies above the tie in binary; times 10^4 it is the tie, which NumPy rounds to even.
    assert (round(dice, 4), np.round(dice, 4)) == (0.0001, 0.0)
    assert score_masks(truth, guess, spacing_mm=(1, 1, 1), protocol="flare23").dice == 0.0


def test_classes_default_to_those_of_the_challenge(tmp_path: Path) -> None:
    assert choose_labels(None, tmp_path, protocol="flare23") == flare23_labels()


def test_a_class_of_another_challenge_is_refused(write_labels: WriteLabels, tmp_path: Path) -> None:
    write_labels("reference/a.nii.gz", body(3))
    write_labels("prediction/a.nii.gz", body(3))
    with pytest.raises(InputError, match=r"does not score the class 'prostate'.*--merge-lesions"):
        evaluate(tmp_path, labels={"liver": (1,), "prostate": (2,)})


def test_one_tolerance_for_all_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"a tolerance for each class, got 4 mm for all"):
        class_rules("flare23", "liver", tolerance_mm=4.0)


def test_a_missing_prediction_scores_zero_in_every_class(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", without(body(3), 14))
    write_labels("prediction/b.nii.gz", body(3))
    evaluated = evaluate(tmp_path)
    assert evaluated.missing == ("a",)
    assert {(r.score.dice, r.score.nsd) for r in evaluated.results} == {(0.0, 0.0)}
    assert flare23_summary(evaluated.results)["organ_dice"] == 0.0


def test_lesion_classes_of_a_model_are_joined_and_organs_stay_apart(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    truth = np.zeros(SHAPE, dtype=np.uint8)
    guess = np.zeros(SHAPE, dtype=np.uint8)
    ball(truth, 1, (10, 20, 20), (6, 9, 9))
    ball(truth, 14, (10, 20, 22), (3, 4, 4))
    ball(truth, 14, (10, 40, 44), (2, 4, 4))
    ball(guess, 3, (10, 20, 20), (6, 9, 9))
    ball(guess, 1, (10, 20, 22), (3, 4, 4))
    ball(guess, 2, (10, 40, 44), (2, 4, 4))
    write_labels("reference/a.nii.gz", truth)
    write_labels("prediction/a.nii.gz", guess)
    labels = {"background": 0, "liver_tumor": 1, "kidney_tumor": 2, "liver": 3}
    (tmp_path / "prediction" / "a.json").write_text(json.dumps({"labels": labels}))
    results = {r.class_name: r for r in evaluate(tmp_path, merge=True).results}
    assert (results["liver"].score.dice, results["lesion"].score.dice) == (1.0, 1.0)
    assert results["lesion"].unverified_voxels == 0
    assert results["spleen"].score.dice == 1.0  # absent in both


def test_what_a_case_does_not_annotate_is_in_no_mean(
    write_labels: WriteLabels, tmp_path: Path
) -> None:
    write_labels("reference/a.nii.gz", without(body(3), *range(2, 15)))
    write_labels("prediction/a.nii.gz", body(3))
    annotated = Annotations(of_all=frozenset({"liver"}))
    evaluated = evaluate(tmp_path, annotations=annotated)
    assert {r.class_name for r in evaluated.results if not math.isnan(r.score.dice)} == {"liver"}
    summary = summarise(evaluated, protocol="flare23")
    liver = next(r.score for r in evaluated.results if r.class_name == "liver")
    assert summary["flare23"]["organ_dice"] == liver.dice
    assert (summary["flare23"]["organs"], summary["flare23"]["tumor_dice"]) == (1, None)
    assert summary["classes"]["liver"]["tolerance_mm"] == 5.0
