"""Synthetic scans: tissue values, sizes and sides as in people, and lesions where they belong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from data_prep.phantoms.canvas import Tissue
from data_prep.phantoms.dice import Dice
from data_prep.phantoms.lesions import HOME_TISSUES, VOLUME_RANGE_ML, LesionKind
from data_prep.phantoms.patient import (
    DEFAULT_IN_PLANE_PIXELS,
    PIXEL_RANGE_MM,
    Coverage,
    Phase,
    draw_patient,
    draw_protocol,
)
from data_prep.phantoms.phantom import Phantom, make_phantom

PIXELS = 192
LESIONS = {
    LesionKind.LIVER: 3,
    LesionKind.KIDNEY: 1,
    LesionKind.LUNG: 2,
    LesionKind.SOFT_TISSUE: 1,
}


def scan(seed: int, coverage: Coverage, lesions: dict[LesionKind, int]) -> Phantom:
    dice = Dice(seed)
    return make_phantom(
        dice.child("patient"), dice.child("scan"), coverage=coverage, lesions=lesions, pixels=PIXELS
    )


@pytest.fixture(scope="module")
def healthy() -> list[Phantom]:
    return [scan(seed, Coverage.BOTH, {}) for seed in range(4)]


@pytest.fixture(scope="module")
def diseased() -> list[Phantom]:
    return [scan(seed, coverage, LESIONS) for seed, coverage in enumerate((*Coverage, *Coverage))]


def inner(phantom: Phantom, tissue: Tissue) -> npt.NDArray[np.bool_]:
    """Voxels of a tissue away from its border in plane and along z."""
    mask: npt.NDArray[np.bool_] = ndimage.binary_erosion(
        phantom.tissue == tissue, np.ones((3, 3, 3), bool)
    )
    return mask


def voxel_ml(phantom: Phantom) -> float:
    frame = phantom.protocol.frame
    return frame.pixel_mm**2 * frame.slice_mm / 1000.0


@pytest.mark.parametrize(
    ("tissue", "low_hu", "high_hu"),
    [
        (Tissue.LUNG, -920, -760),
        (Tissue.FAT, -125, -75),
        (Tissue.MUSCLE, 30, 75),
        (Tissue.LIVER, 25, 125),
        (Tissue.SPLEEN, 40, 135),
        (Tissue.KIDNEY, 20, 200),
        (Tissue.BONE, 100, 700),
        (Tissue.AIRWAY, -1024, -900),
    ],
)
def test_tissues_have_the_hounsfield_units_of_textbooks(
    healthy: list[Phantom], tissue: Tissue, low_hu: int, high_hu: int
) -> None:
    for phantom in healthy:
        mask = inner(phantom, tissue)
        if mask.sum() > 50:
            assert low_hu < np.median(phantom.hu[mask]) < high_hu


def test_contrast_brightens_the_aorta_and_the_kidneys(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        median = float(np.median(phantom.hu[inner(phantom, Tissue.KIDNEY)]))
        assert (median > 80) == (phantom.enhancement.phase is not Phase.PLAIN)


@pytest.mark.parametrize(
    ("tissue", "low_ml", "high_ml"),
    [(Tissue.LIVER, 800, 2400), (Tissue.LUNG, 1500, 7000), (Tissue.HEART, 250, 900)],
)
def test_organs_have_the_size_of_organs(
    healthy: list[Phantom], tissue: Tissue, low_ml: int, high_ml: int
) -> None:
    for phantom in healthy:
        assert low_ml < (phantom.tissue == tissue).sum() * voxel_ml(phantom) < high_ml


def test_liver_lies_right_of_the_spleen_and_the_spine_behind_the_heart(
    healthy: list[Phantom],
) -> None:
    def centre(phantom: Phantom, tissue: Tissue) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = np.argwhere(phantom.tissue == tissue).mean(axis=0)
        return found

    for phantom in healthy:
        assert centre(phantom, Tissue.LIVER)[2] < centre(phantom, Tissue.SPLEEN)[2]
        assert centre(phantom, Tissue.HEART)[1] < centre(phantom, Tissue.BONE)[1]
        assert centre(phantom, Tissue.LUNG)[0] > centre(phantom, Tissue.LIVER)[0]


def test_noise_is_stronger_inside_the_body_than_in_air(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        inside = inner(phantom, Tissue.LIVER)
        outside = inner(phantom, Tissue.AIR)
        outside &= np.abs(np.arange(PIXELS) - PIXELS / 2) < PIXELS / 8
        outside[:, : PIXELS // 20] = outside[:, PIXELS // 2 :] = False
        assert phantom.hu[inside].std() > 1.2 * phantom.hu[outside].std() > 0


def test_noise_is_correlated_between_neighbours(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        mask = inner(phantom, Tissue.LIVER)
        mask &= np.roll(mask, 1, axis=2)
        here, beside = phantom.hu[mask], np.roll(phantom.hu, 1, axis=2)[mask]
        assert 0.15 < np.corrcoef(here, beside)[0, 1] < 0.95


def test_outside_the_reconstructed_circle_is_the_lowest_value(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        assert (phantom.hu[:, 0, 0] == -1024).all()
        assert phantom.hu.min() == -1024


def test_spacing_keeps_to_its_range_at_the_default_size() -> None:
    for seed in range(200):
        dice = Dice(seed)
        coverage = tuple(Coverage)[seed % 3]
        patient = draw_patient(dice)
        frame = draw_protocol(dice, patient, coverage, pixels=DEFAULT_IN_PLANE_PIXELS).frame
        assert PIXEL_RANGE_MM[0] <= frame.pixel_mm <= PIXEL_RANGE_MM[1]
        assert 1.0 <= frame.slice_mm <= 5.0
        assert 26 <= frame.slices <= 64


def test_the_field_of_view_does_not_depend_on_the_number_of_pixels() -> None:
    dice = Dice(9)
    patient = draw_patient(dice.child("p"))
    small, large = (
        draw_protocol(dice.child("s"), patient, Coverage.CHEST, pixels=pixels).frame
        for pixels in (128, 512)
    )
    assert small.pixel_mm * 128 == pytest.approx(large.pixel_mm * 512, rel=1e-3)
    assert (small.slices, small.slice_mm) == (large.slices, large.slice_mm)


def test_every_organ_in_the_scan_gets_its_lesions(diseased: list[Phantom]) -> None:
    for phantom in diseased:
        kinds = {lesion.kind for lesion in phantom.lesions}
        assert LesionKind.SOFT_TISSUE in kinds
        if phantom.protocol.coverage is Coverage.CHEST:
            assert LesionKind.LUNG in kinds
        else:
            assert {LesionKind.LIVER, LesionKind.KIDNEY} <= kinds


def test_lesions_lie_inside_their_organ(diseased: list[Phantom]) -> None:
    for phantom in diseased:
        for kind in LesionKind:
            under = phantom.tissue[phantom.labels == kind.value_in_labels]
            assert set(under.tolist()) <= {int(t) for t in HOME_TISSUES[kind]}


def test_labelled_volumes_match_the_drawn_ones(diseased: list[Phantom]) -> None:
    for phantom in diseased:
        for lesion in phantom.lesions:
            assert VOLUME_RANGE_ML[0] <= lesion.drawn_ml <= VOLUME_RANGE_ML[1]
            rounding_ml = 6 * voxel_ml(phantom)
            slack_ml = 0.25 * lesion.drawn_ml + rounding_ml
            assert abs(lesion.labelled_ml - lesion.drawn_ml) < slack_ml


def test_the_labels_hold_what_the_lesions_say(diseased: list[Phantom]) -> None:
    for phantom in diseased:
        for kind in LesionKind:
            said = sum(lesion.labelled_ml for lesion in phantom.lesions if lesion.kind is kind)
            count = int((phantom.labels == kind.value_in_labels).sum())
            assert count * voxel_ml(phantom) == pytest.approx(said, abs=1e-3 * len(LESIONS))


def test_a_lesion_shows_against_what_it_replaced(diseased: list[Phantom]) -> None:
    for phantom in diseased:
        for lesion in phantom.lesions:
            if lesion.kind is LesionKind.LUNG:
                assert lesion.contrast_hu > 300
            if lesion.kind is LesionKind.LIVER:
                assert 5 < abs(lesion.contrast_hu) < 90


def test_a_healthy_patient_has_no_label(healthy: list[Phantom]) -> None:
    for phantom in healthy:
        assert phantom.lesions == ()
        assert not phantom.labels.any()
