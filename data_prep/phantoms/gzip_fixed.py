"""Gzip files whose bytes depend on the data alone, not on the zlib that happens to be installed.

zlib, zlib-ng and hardware deflate compress the same data to different bytes. This writer codes one
dynamic Huffman block (RFC 1951) whose only matches are runs of equal items, which suits noisy CT
(about as small as gzip -1) and labels (long runs), and is fast with plain integer arithmetic.
"""

from __future__ import annotations

import heapq
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_MATCH_BYTES = 258
"""Length of every match; its code needs no extra bits."""

_MATCH_SYMBOL = 285
_END_SYMBOL = 256
_MAX_CODE_BITS = 15
_CHUNK_ITEMS = 1 << 17
"""Items packed at a time, so that they stay in the processor's cache."""

_LENGTH_ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)

_HEADER = b"\x1f\x8b\x08\x00" + b"\x00" * 4 + b"\x00\xff"
"""Gzip header: deflate, no name, no time, unknown system."""

Integers = npt.NDArray[Any]


def gzip_bytes(head: bytes, items: npt.NDArray[Any]) -> bytes:
    """Compress ``head`` followed by an array of uint8 or little-endian int16.

    Args:
        head: Bytes in front, coded one by one.
        items: Contiguous array; runs of equal items become matches.
    """
    flat = np.ascontiguousarray(items).reshape(-1)
    if flat.dtype == np.uint8:
        units = flat.astype(np.uint16)
    elif flat.dtype == np.int16:
        units = flat.view(np.uint16)
    else:
        msg = f"items must be uint8 or int16, got {flat.dtype}"
        raise TypeError(msg)
    width = flat.dtype.itemsize
    kept, is_match = _runs(units, _MATCH_BYTES // width)
    front = np.frombuffer(head, np.uint8).astype(np.uint16)
    counts = _symbol_counts(front, kept, is_match, width)
    lengths = _code_lengths(counts)
    codes = _codes(lengths)
    writer = _BitPacker()
    writer.small(_block_header(lengths, distance_code=width - 1))
    byte_codes = (np.array(codes[:256], np.uint64), np.array(lengths[:256], np.int64))
    writer.many(byte_codes[0][front], byte_codes[1][front])
    table = _unit_table(byte_codes, width)
    for start in range(0, kept.size, _CHUNK_ITEMS):
        part = slice(start, start + _CHUNK_ITEMS)
        value, size = table[0][kept[part]], table[1][kept[part]]
        value[is_match[part]] = codes[_MATCH_SYMBOL]
        size[is_match[part]] = lengths[_MATCH_SYMBOL] + 1
        writer.many(value, size)
    writer.small([(codes[_END_SYMBOL], lengths[_END_SYMBOL])])
    raw = flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()
    checksum = zlib.crc32(raw, zlib.crc32(head))
    total = (len(head) + len(raw)) & 0xFFFFFFFF
    return _HEADER + writer.finish() + struct.pack("<II", checksum, total)


def _runs(units: Integers, match_units: int) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Replace stretches of ``match_units`` items equal to the one before by one match each."""
    starts = np.flatnonzero(np.concatenate(([True], units[1:] != units[:-1])))
    lengths = np.diff(np.concatenate((starts, [units.size])))
    long = lengths > match_units
    keep = np.ones(units.size, bool)
    is_match = np.zeros(units.size, bool)
    for start, length in zip(starts[long].tolist(), lengths[long].tolist(), strict=True):
        whole = (length - 1) // match_units
        keep[start + 1 : start + 1 + whole * match_units] = False
        marks = slice(start + 1, start + 1 + whole * match_units, match_units)
        keep[marks] = True
        is_match[marks] = True
    return units[keep], is_match[keep]


def _symbol_counts(
    front: Integers, kept: Integers, is_match: npt.NDArray[np.bool_], width: int
) -> list[int]:
    values = 256**width
    units = np.bincount(kept, minlength=values) - np.bincount(kept[is_match], minlength=values)
    by_byte = units.reshape(-1, 256)
    counts = np.bincount(front, minlength=256) + by_byte.sum(axis=0)
    if width == 2:
        counts = counts + by_byte.sum(axis=1)
    out = [*counts.tolist(), 1, *[0] * (_MATCH_SYMBOL - _END_SYMBOL)]
    out[_MATCH_SYMBOL] = max(1, int(is_match.sum()))
    return out


def _code_lengths(counts: Sequence[int]) -> list[int]:
    """Return Huffman code lengths of at most 15 bits; rare symbols are made commoner until so."""
    weights = list(counts)
    while True:
        lengths = _huffman(weights)
        if max(lengths) <= _MAX_CODE_BITS:
            return lengths
        weights = [(w + 1) // 2 if w else 0 for w in weights]


def _huffman(weights: Sequence[int]) -> list[int]:
    heap: list[tuple[int, int, tuple[int, ...]]] = [
        (weight, symbol, (symbol,)) for symbol, weight in enumerate(weights) if weight
    ]
    heapq.heapify(heap)
    lengths = [0] * len(weights)
    serial = len(weights)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        members = first[2] + second[2]
        for symbol in members:
            lengths[symbol] += 1
        heapq.heappush(heap, (first[0] + second[0], serial, members))
        serial += 1
    return lengths


def _codes(lengths: Sequence[int]) -> list[int]:
    """Return canonical codes (RFC 1951, 3.2.2), bits reversed as they enter the stream."""
    code, out = 0, [0] * len(lengths)
    for bits in range(1, _MAX_CODE_BITS + 1):
        for symbol, length in enumerate(lengths):
            if length == bits:
                out[symbol] = int(f"{code:0{bits}b}"[::-1], 2)
                code += 1
        code <<= 1
    return out


def _block_header(lengths: Sequence[int], *, distance_code: int) -> list[tuple[int, int]]:
    """Return (value, bits) of a final dynamic block's header; code lengths are sent as 4 bits."""
    distances = [0] * distance_code + [1]
    sent = [*lengths, *distances]
    fields = [(1, 1), (2, 2), (len(lengths) - 257, 5), (len(distances) - 1, 5)]
    fields.append((len(_LENGTH_ORDER) - 4, 4))
    fields += [(4 if symbol < 16 else 0, 3) for symbol in _LENGTH_ORDER]
    codes = _codes([4] * 16)
    return fields + [(codes[length], 4) for length in sent]


def _unit_table(byte_codes: tuple[Integers, Integers], width: int) -> tuple[Integers, Integers]:
    code, length = byte_codes
    if width == 1:
        return code, length
    value = code[None, :] | (code[:, None] << length[None, :].astype(np.uint64))
    return value.reshape(-1), (length[None, :] + length[:, None]).reshape(-1)


class _BitPacker:
    """Packs codes of at most 30 bits into 32-bit words, lowest bit first."""

    def __init__(self) -> None:
        self._done: list[bytes] = []
        self._rest = 0
        """Bits that do not fill a word yet."""
        self._rest_bits = 0

    def small(self, fields: Sequence[tuple[int, int]]) -> None:
        """Append a few (value, bits) pairs."""
        for value, bits in fields:
            self._rest |= value << self._rest_bits
            self._rest_bits += bits
        whole = self._rest_bits // 32
        self._done.append((self._rest & ((1 << 32 * whole) - 1)).to_bytes(4 * whole, "little"))
        self._rest >>= 32 * whole
        self._rest_bits -= 32 * whole

    def many(self, values: Integers, sizes: Integers) -> None:
        """Append an array of values (uint64) and of their numbers of bits (int64), none 0."""
        if values.size == 0:
            return
        ends = np.cumsum(sizes)
        ends += self._rest_bits
        start = ends - sizes
        word = start >> 5
        start &= 31
        shifted = values << start.view(np.uint64)
        first = np.flatnonzero(word[1:] != word[:-1])
        first += 1
        first = np.concatenate(([0], first))
        joined = np.add.reduceat(shifted, first)
        words = np.zeros(int(word[-1]) + 2, np.uint64)
        words[word[first]] = joined & np.uint64(0xFFFFFFFF)
        words[word[first] + 1] += joined >> np.uint64(32)
        words[0] += np.uint64(self._rest)
        bits = int(ends[-1])
        whole = bits // 32
        self._done.append(words[:whole].astype("<u4").tobytes())
        self._rest = int(words[whole])
        self._rest_bits = bits - 32 * whole

    def finish(self) -> bytes:
        """Return all bits as bytes, the last filled with zeros."""
        return b"".join(self._done) + self._rest.to_bytes(4, "little")[: (self._rest_bits + 7) // 8]
