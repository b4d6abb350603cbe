"""Files of encoder features: whole or absent, checked slice by slice, never another's."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from samcancer.data.feature_file import (
    FEATURE_NAMES,
    DamagedFeaturesError,
    FeatureFile,
    FeatureKey,
    FeatureReader,
)
from samcancer.errors import InputError
from samcancer.files import TEMPORARY_PREFIX

SLICES = 5
SHAPES = ((4, 4, 3), (2, 2, 5), (2, 2, 6), (2, 2, 6), (2, 3, 7))
KEY = FeatureKey(
    case_sha256="a" * 64,
    window_hu=(-200.0, 300.0),
    image_size=16,
    encoder="medsam_lite",
    encoder_sha256="b" * 64,
    padded_windows=False,
    dtype="float32",
)


def features(count: int = SLICES, seed: int = 0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(count, *shape)).astype(np.float32) for shape in SHAPES]


def blocks(values: list[NDArray[Any]], size: int = 2) -> Iterator[list[NDArray[Any]]]:
    for start in range(0, len(values[0]), size):
        yield [x[start : start + size] for x in values]


def file_in(folder: Path, **changes: Any) -> FeatureFile:
    key = dataclasses.replace(KEY, **changes)
    return FeatureFile(folder / "case_-200_300.safetensors", key, slices=SLICES, shapes=SHAPES)


def written(folder: Path, **changes: Any) -> FeatureFile:
    file = file_in(folder, **changes)
    file.write(blocks(features()))
    return file


def test_what_was_written_is_read_back_in_any_range(tmp_path: Path) -> None:
    reader = FeatureReader(written(tmp_path))
    for start, stop in ((0, SLICES), (1, 3), (4, 5), (2, 2)):
        for found, expected in zip(reader.read(start, stop), features(), strict=True):
            assert np.array_equal(found, expected[start:stop])
    with pytest.raises(ValueError, match=r"3\.\.6 are not within 0\.\.5"):
        reader.read(3, 6)
    reader.close()


def test_it_is_a_safetensors_file_of_the_predicted_size(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert file.path.stat().st_size == file.total_bytes
    content = load_file(file.path)
    assert set(content) == {*FEATURE_NAMES, "crc32"}
    assert np.array_equal(content["stage_1"], features()[1])
    assert content["crc32"].shape == (SLICES, 5)


def test_equal_features_give_equal_bytes_whatever_the_blocks(tmp_path: Path) -> None:
    first = written(tmp_path / "a").path.read_bytes()
    other = file_in(tmp_path / "b")
    other.write(blocks(features(), size=5))
    assert other.path.read_bytes() == first


def test_float16_halves_the_file_and_rounds(tmp_path: Path) -> None:
    whole, half = written(tmp_path / "a"), written(tmp_path / "b", dtype="float16")
    checksums = half.parts[-1]
    assert 2 * checksums.start == whole.parts[-1].start
    reader = FeatureReader(half)
    for found, expected in zip(reader.read(0, SLICES), features(), strict=True):
        assert np.array_equal(found, expected.astype(np.float16))
    reader.close()


@pytest.mark.parametrize(("dtype", "value"), [("float16", 7e4), ("float32", np.nan)])
def test_values_that_do_not_fit_are_refused_and_nothing_is_left(
    dtype: str, value: float, tmp_path: Path
) -> None:
    values = features()
    values[2][3, 0, 1, 4] = value
    with pytest.raises(InputError, match=rf"stage_2 of slice 3 does not fit {dtype}"):
        file_in(tmp_path, dtype=dtype).write(blocks(values))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [SLICES - 1, SLICES + 1])
def test_a_wrong_number_of_slices_leaves_nothing(count: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 5 slices, got \d|index"):
        file_in(tmp_path).write(blocks(features(count)))
    assert list(tmp_path.iterdir()) == []


def test_no_flipped_bit_is_read_as_features(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        position, bit = rng.randrange(len(whole)), 1 << rng.randrange(8)
        damaged = bytearray(whole)
        damaged[position] ^= bit
        file.path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|other features"):
            file.verify()


@pytest.mark.parametrize("kept", [0, 5, 100, 2000, -1])
def test_a_file_that_is_cut_short_is_damaged(kept: int, tmp_path: Path) -> None:
    file = written(tmp_path)
    file.path.write_bytes(file.path.read_bytes()[:kept])
    with pytest.raises(DamagedFeaturesError, match=r"damaged.*cache-features.*made anew"):
        FeatureReader(file)


@pytest.mark.parametrize(
    ("field", "value", "name"),
    [
        ("case_sha256", "c" * 64, "case sha256"),
        ("window_hu", (-1300.0, 300.0), "window hu"),
        ("image_size", 32, "image size"),
        ("encoder", "sam_vit_b", "encoder"),
        ("encoder_sha256", "c" * 64, "encoder sha256"),
        ("padded_windows", True, "padded windows"),
        ("dtype", "float16", "dtype"),
    ],
)
def test_features_of_another_key_are_refused_naming_what_differs(
    field: str, value: Any, name: str, tmp_path: Path
) -> None:
    written(tmp_path)
    with pytest.raises(InputError, match=rf"holds other features \({name} differ\)") as caught:
        FeatureReader(file_in(tmp_path, **{field: value}))
    assert not isinstance(caught.value, DamagedFeaturesError)


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file\. Run cache-features"):
        FeatureReader(file_in(tmp_path))


def test_two_writers_of_one_file_leave_it_whole(tmp_path: Path) -> None:
    writers = [threading.Thread(target=written, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    file_in(tmp_path).verify()
    assert list(tmp_path.glob(f"{TEMPORARY_PREFIX}*")) == []
