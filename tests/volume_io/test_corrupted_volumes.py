"""Flipped bits and cut files: only ever an InputError, and a damaged .nii.gz is never accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import damaged_copies
from volume_fakes import phantom_hu, save_by_itk

from samcancer.errors import InputError
from samcancer.volume_io import CtVolume, read_ct

TRIALS = 50

KINDS = ("nii.gz", "nii", "mha", "nrrd")

HEADER_BYTES = 400
"""Half of the flips fall in here, where the headers are."""

GZIP_HEADER_BYTES = 10
"""Flags, time, level and system of gzip: a flip there may leave the content as it was."""

HU = phantom_hu((5, 23, 31))


def read_or_refuse(path: Path) -> CtVolume | None:
    """The scan, or None after a proper one-line refusal; any other error fails the test."""
    try:
        return read_ct(path)
    except InputError as error:
        message = str(error)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return None


def refused_or_unharmed(path: Path, sound: CtVolume) -> bool:
    """A flip in an unused bit (gzip's time or padding) may leave all voxels and the grid alone."""
    scan = read_or_refuse(path)
    return scan is None or (np.array_equal(scan.hu, sound.hu) and scan.geometry == sound.geometry)


@pytest.mark.figure("corruption", "{kind}, flipped bit")
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_gives_a_refusal_or_a_whole_scan(kind, tally, tmp_path):
    path = save_by_itk(tmp_path / f"s.{kind}", HU)
    sound = read_ct(path)
    checksummed = path.name.endswith(".nii.gz")  # the others leave their headers unprotected
    with damaged_copies(path) as copies:
        for seed in tally.trials():
            copies.flip_a_bit(seed, first_bytes=HEADER_BYTES if seed % 2 else None)
            if checksummed:
                assert refused_or_unharmed(path, sound)
            else:
                scan = read_or_refuse(path)
                assert scan is None or scan.hu.shape == scan.geometry.shape


@pytest.mark.figure("corruption", "{kind}, cut")
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_is_refused(kind, tally, tmp_path):
    path = save_by_itk(tmp_path / f"s.{kind}", HU)
    with damaged_copies(path) as copies:
        for seed in tally.trials():
            copies.cut(seed)
            assert read_or_refuse(path) is None


@pytest.mark.parametrize("place", range(GZIP_HEADER_BYTES))
def test_every_bit_of_the_gzip_header_leaves_the_voxels_or_is_refused(place, tmp_path):
    path = tmp_path / "s.nii.gz"
    content = save_by_itk(path, HU).read_bytes()
    sound = read_ct(path)
    for bit in range(8):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(bytes(damaged))
        assert refused_or_unharmed(path, sound)


@pytest.mark.parametrize("name", ["s.mha", "s.nrrd"])
def test_a_flip_in_packed_voxels_is_refused_or_harmless(name, tmp_path):
    path = tmp_path / name
    content = save_by_itk(path, HU).read_bytes()
    sound = read_ct(path)
    for seed in range(TRIALS):
        random = np.random.default_rng(seed)
        damaged = bytearray(content)
        damaged[int(random.integers(len(content) // 2, len(content)))] ^= 1 << random.integers(8)
        path.write_bytes(bytes(damaged))
        assert refused_or_unharmed(path, sound)
