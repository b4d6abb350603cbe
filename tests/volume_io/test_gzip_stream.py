"""Gzip by ISA-L against the standard library's, which is slower and the reference here."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from samcancer.volume_io.gzip_stream import BLOCK_BYTES, DAMAGED, open_gzip, unpack, write_gzip

REFERENCE_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)

HEADER_BYTES = 10
TRAILER_BYTES = 8
"""CRC-32 and length."""

NOISE_BYTES = 1_300_001
"""More than the reader buffers (512 KiB), so that members and damage fall across its buffers."""

FLIPS = 120


def content_of(kind: str) -> bytes:
    random = np.random.default_rng(5)
    if kind == "noise":
        return random.bytes(NOISE_BYTES)
    if kind == "text":
        return b"the quick brown fox " * 40
    if kind == "scan":
        return random.normal(0, 30, 4000).astype("<i2").tobytes()
    return {"empty": b"", "byte": b"x", "zeros": bytes(70_000)}[kind]


CONTENTS = ["empty", "byte", "text", "scan", "zeros", "noise"]


def with_every_header_field(content: bytes) -> bytes:
    """A member with the optional fields of RFC 1952: extra, name, comment, header checksum."""
    flags = 2 | 4 | 8 | 16
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\1\2\3\4\0\3" + b"\5\0extra" + b"name\0comment\0"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    trailer = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
    return header + packer.compress(content) + packer.flush() + trailer


def named(content: bytes) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile("scan.nii", "wb", 6, packed) as stream:
        stream.write(content)
    return packed.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "stored": lambda content: gzip.compress(content, 0),
    "fast": lambda content: gzip.compress(content, 1),
    "small": lambda content: gzip.compress(content, 9),
    "named": named,
    "every field": with_every_header_field,
}


def read_all(
    opener: Callable[[Path], BinaryIO], path: Path, damaged: tuple[type[Exception], ...]
) -> bytes | None:
    """The content, or None where reading refuses it as damaged; other errors fail the test."""
    try:
        with opener(path) as stream:
            return stream.read()
    except damaged:
        return None


def ours(path: Path, packed: bytes) -> bytes | None:
    path.write_bytes(packed)
    return read_all(open_gzip, path, DAMAGED)


def reference(path: Path, packed: bytes) -> bytes | None:
    path.write_bytes(packed)
    return read_all(lambda p: gzip.open(p, "rb"), path, REFERENCE_DAMAGED)


def flipped(packed: bytes, bit: int) -> bytes:
    damaged = bytearray(packed)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("kind", CONTENTS)
def test_what_any_gzip_writer_packed_is_read(kind: str, packer: str, tmp_path: Path) -> None:
    content = content_of(kind)
    assert ours(tmp_path / "s.gz", PACKERS[packer](content)) == content


@pytest.mark.parametrize("kind", ["text", "scan"])
@pytest.mark.parametrize("packer", PACKERS)
def test_a_flipped_bit_is_refused_or_harmless(packer: str, kind: str, tmp_path: Path) -> None:
    content, path = content_of(kind), tmp_path / "s.gz"
    packed = PACKERS[packer](content)
    bits = np.random.default_rng(1).permutation(8 * len(packed))[:FLIPS]
    assert {ours(path, flipped(packed, int(bit))) for bit in bits} <= {content, None}


@pytest.mark.slow
@pytest.mark.parametrize("packer", PACKERS)
def test_every_flipped_bit_is_refused_or_harmless(packer: str, tmp_path: Path) -> None:
    content, path = content_of("text"), tmp_path / "s.gz"
    packed = PACKERS[packer](content)
    found = {ours(path, flipped(packed, bit)) for bit in range(8 * len(packed))}
    assert found <= {content, None}


@pytest.mark.parametrize("kind", ["empty", "scan", "noise"])
def test_every_bit_of_checksum_and_length_is_compared(kind: str, tmp_path: Path) -> None:
    packed = gzip.compress(content_of(kind))
    for bit in range(8 * (len(packed) - TRAILER_BYTES), 8 * len(packed)):
        assert ours(tmp_path / "s.gz", flipped(packed, bit)) is None


@pytest.mark.parametrize("kind", ["scan", "noise"])
def test_flips_behind_the_header_end_as_in_the_reference(kind: str, tmp_path: Path) -> None:
    packed, path = gzip.compress(content_of(kind)), tmp_path / "s.gz"
    random = np.random.default_rng(2)
    for bit in random.integers(8 * HEADER_BYTES, 8 * len(packed), 40):
        damaged = flipped(packed, int(bit))
        assert ours(path, damaged) == reference(path, damaged)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_stream_cut_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    packed, path = gzip.compress(content_of(kind)), tmp_path / "s.gz"
    ends = np.random.default_rng(3).integers(1, len(packed), 30)
    for end in {*ends.tolist(), 1, HEADER_BYTES, len(packed) - TRAILER_BYTES, len(packed) - 1}:
        assert ours(path, packed[:end]) is None, end


@pytest.mark.parametrize("seed", range(40))
def test_members_padding_and_tails_end_as_in_the_reference(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    packed = b""
    for _ in range(random.integers(1, 5)):
        member = PACKERS[random.choice(list(PACKERS))](content_of(random.choice(CONTENTS)))
        packed += member + bytes(random.choice([0, 0, 0, 1, 7, 600_000]))
    tails = [b"", b"", b"tail", b"\x1f", b"\x1f\x8b", gzip.compress(b"abc")[:-3]]
    packed += tails[random.integers(len(tails))]
    path = tmp_path / "s.gz"
    assert ours(path, packed) == reference(path, packed)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 1])
def test_what_is_written_is_one_member_that_the_reference_reads(size: int, tmp_path: Path) -> None:
    parts = [b"header", np.random.default_rng(4).integers(0, 4, size, np.uint8), b""]
    write_gzip(tmp_path / "s.gz", parts)
    content = b"".join(bytes(part) for part in parts)
    packed = (tmp_path / "s.gz").read_bytes()
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
    assert stream.decompress(packed) == content
    assert (stream.eof, stream.unused_data) == (True, b"")
    assert ours(tmp_path / "s.gz", packed) == content


def test_written_files_hold_no_name_and_no_time(tmp_path: Path) -> None:
    write_gzip(tmp_path / "secret.nii.gz", [b"voxels"])
    packed = (tmp_path / "secret.nii.gz").read_bytes()
    flags_and_time = packed[3:8]
    assert flags_and_time == bytes(5)
    assert b"secret" not in packed


def test_arrays_of_any_kind_are_written_as_their_bytes(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<i2").reshape(2, 3, 4)
    write_gzip(tmp_path / "s.gz", [values])
    assert gzip.decompress((tmp_path / "s.gz").read_bytes()) == values.tobytes()


def test_reading_and_writing_hold_a_few_blocks_in_memory(tmp_path: Path) -> None:
    size = 64 * BLOCK_BYTES
    content = np.zeros(size, np.uint8)
    block = memoryview(bytearray(BLOCK_BYTES))
    tracemalloc.start()
    try:
        write_gzip(tmp_path / "s.gz", [content])
        with open_gzip(tmp_path / "s.gz") as stream:
            filled = sum(iter(lambda: stream.readinto(block), 0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert filled == size
    assert peak < 4 * BLOCK_BYTES


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress], ids=["zlib", "gzip"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_stream_in_memory_is_unpacked_as_far_as_asked(
    kind: str, pack: Callable[[bytes], bytes]
) -> None:
    content = content_of(kind)
    packed = memoryview(pack(content))
    assert unpack(packed, len(content) + 1) == content
    if len(content) > 1:
        assert unpack(packed, len(content) // 2) == content[: len(content) // 2]


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress], ids=["zlib", "gzip"])
@pytest.mark.parametrize("kind", CONTENTS)
def test_a_damaged_or_cut_stream_in_memory_is_refused(
    kind: str, pack: Callable[[bytes], bytes]
) -> None:
    content = content_of(kind)
    packed = pack(content)
    checksum = len(packed) - (TRAILER_BYTES if pack is gzip.compress else 4)
    for bit in range(8 * checksum, 8 * len(packed)):
        with pytest.raises(DAMAGED):
            unpack(memoryview(flipped(packed, bit)), len(content) + 1)
    for end in {2, len(packed) // 2, len(packed) - 1}:
        with pytest.raises(DAMAGED):
            unpack(memoryview(packed[:end]), len(content) + 1)
