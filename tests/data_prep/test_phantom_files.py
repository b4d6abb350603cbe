"""The phantoms' files: gzip that any reader opens, and affines that are true to anatomy."""

from __future__ import annotations

import gzip
import struct

import nibabel
import numpy as np
import pytest

from data_prep.phantoms.dice import Dice
from data_prep.phantoms.gzip_fixed import gzip_bytes
from data_prep.phantoms.nifti_out import ALL_CODES, Orientation, draw_orientation, nifti_bytes

SPACING_XYZ_MM = (0.7, 0.8, 3.0)
ORIGIN_LPS_MM = (-10.0, 20.0, 30.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("run", [1, 2, 128, 129, 130, 131, 257, 258, 259, 260, 1000])
def test_runs_of_any_length_come_back(run: int, dtype: type) -> None:
    items = np.concatenate([np.zeros(run, dtype), np.array([3, 3, 7], dtype), np.ones(run, dtype)])
    assert gzip.decompress(gzip_bytes(b"head", items)) == b"head" + items.tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_noise_over_the_whole_range_comes_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    items = rng.integers(-32768, 32767, (7, 11, 13), dtype=np.int16)
    assert gzip.decompress(gzip_bytes(b"", items)) == items.tobytes()


def test_rare_bytes_do_not_break_the_limit_on_code_lengths() -> None:
    fibonacci = [1, 1]
    while len(fibonacci) < 24:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    items = np.repeat(np.arange(24, dtype=np.uint8), fibonacci)
    np.random.default_rng(0).shuffle(items)
    assert gzip.decompress(gzip_bytes(b"", items)) == items.tobytes()


def test_one_item_comes_back() -> None:
    assert gzip.decompress(gzip_bytes(b"", np.array([-5], np.int16))) == struct.pack("<h", -5)


def test_an_empty_label_volume_takes_little_room() -> None:
    empty = np.zeros((40, 200, 200), np.uint8)
    assert len(gzip_bytes(b"", empty)) < empty.size / 100


def test_other_item_types_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8 or int16, got float32"):
        gzip_bytes(b"", np.zeros(3, np.float32))


def test_there_are_48_orientations() -> None:
    assert len(set(ALL_CODES)) == 48


@pytest.mark.parametrize("code", ALL_CODES)
def test_the_affine_puts_every_voxel_where_it_is_in_the_patient(code: str) -> None:
    rng = np.random.default_rng(7)
    values = rng.permutation(4 * 5 * 6).reshape(4, 5, 6).astype(np.int16)
    data = nifti_bytes(
        values,
        Orientation(code),
        spacing_xyz_mm=SPACING_XYZ_MM,
        origin_lps_mm=ORIGIN_LPS_MM,
        description="test",
    )
    image = nibabel.Nifti1Image.from_bytes(gzip.decompress(data))
    assert "".join(nibabel.aff2axcodes(image.affine)) == code
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
    stored = np.asarray(image.dataobj)
    for index in np.argwhere(stored >= 0):
        ras = (image.affine @ [*index, 1.0])[:3]
        lps = ras * [-1.0, -1.0, 1.0]
        column, row, number = np.rint((lps - ORIGIN_LPS_MM) / SPACING_XYZ_MM).astype(int)
        assert stored[tuple(index)] == values[number, row, column]


def test_both_hands_and_common_orientations_are_drawn() -> None:
    drawn = [draw_orientation(Dice(0).child(str(n))).code for n in range(600)]
    assert drawn.count("LPS") > 60
    assert len(set(drawn)) > 30
