from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from serve_fakes import files_in

from samcancer.errors import InputError
from samcancer.serve.archive import ArchiveLimits, unpack_scan
from samcancer.serve.jobs import CancelledError

LIMITS = ArchiveLimits(files=5, unpacked_bytes=100_000_000)

NOISE = np.random.default_rng(0).bytes(1000)
"""Bytes that do not pack."""


def pack(path: Path, entries: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_a_series_becomes_a_folder_with_names_of_our_own(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"CT/IM1": b"one", "CT/deep/IM2.dcm": b"two"})
    scan = unpack_scan(archive, tmp_path / "out", LIMITS)
    assert scan == tmp_path / "out"
    found = {path.name: path.read_bytes() for path in scan.iterdir()}
    assert found == {"entry-00000": b"one", "entry-00001": b"two"}


def test_a_single_volume_is_the_scan(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"my scan.NII.GZ": b"voxels", "__MACOSX/._my scan": b"x"})
    scan = unpack_scan(archive, tmp_path / "out", LIMITS)
    assert (scan.name, scan.read_bytes()) == ("entry-00000.nii.gz", b"voxels")


def test_a_volume_beside_other_files_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.nii": b"x", "b.nii": b"x"})
    with pytest.raises(ValueError, match="Give one scan at a time"):
        unpack_scan(archive, tmp_path / "out", LIMITS)


@pytest.mark.parametrize("name", ["../../evil", "/etc/cron.d/evil", "a/../../evil", "C:\\evil"])
def test_no_entry_lands_outside_of_the_folder(name: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    unpack_scan(pack(inside / "a.zip", {name: b"x"}), inside / "out", LIMITS)
    assert files_in(inside / "out") == ["entry-00000"]
    assert files_in(tmp_path) == ["a.zip", "entry-00000"]


def test_a_link_is_unpacked_as_the_text_that_it_holds(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    unpack_scan(tmp_path / "a.zip", tmp_path / "out", LIMITS)
    entry = tmp_path / "out" / "entry-00000"
    assert not entry.is_symlink()
    assert entry.read_text() == "/etc/passwd"


def test_what_unpacks_to_too_much_stops_at_the_limit(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a": NOISE * 3000}, method=zipfile.ZIP_STORED)
    with pytest.raises(ValueError, match="unpacks to more than 2 MB, the limit"):
        unpack_scan(archive, tmp_path / "out", ArchiveLimits(5, 2_000_000))
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 2_000_000


def test_a_bomb_stops_at_a_hundred_times_its_size(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a": bytes(90_000_000)})
    with pytest.raises(ValueError, match="unpacks to more than 100 times its size"):
        unpack_scan(archive, tmp_path / "out", LIMITS)
    unpacked = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert unpacked <= 18_000_000


def test_an_entry_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a": bytes(5_000_000)})
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<L", 10)
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="the archive is damaged"):
        unpack_scan(archive, tmp_path / "out", LIMITS)


def test_too_many_entries_are_refused_before_their_list_is_read(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {f"{i}": b"" for i in range(6)})
    with pytest.raises(ValueError, match="holds 6 files or more, and at most 5 are taken"):
        unpack_scan(archive, tmp_path / "out", LIMITS)
    assert not (tmp_path / "out").exists()


def test_a_count_that_is_told_too_low_is_found_out(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {f"{i}": b"" for i in range(6)})
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x05\x06")
    content[at + 8 : at + 12] = struct.pack("<2H", 1, 1)
    archive.write_bytes(content)
    with pytest.raises(ValueError, match="holds 6 files or more"):
        unpack_scan(archive, tmp_path / "out", LIMITS)


def test_a_list_much_longer_than_its_entries_is_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("a")
    entry.comment = b"x" * 60_000
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, b"x")
    with pytest.raises(ValueError, match="its list of files is unusual"):
        unpack_scan(tmp_path / "a.zip", tmp_path / "out", LIMITS)


def test_a_zip64_record_that_would_overrule_the_counts_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a": b"x"})
    content = archive.read_bytes()
    at = content.rindex(b"PK\x05\x06")
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    archive.write_bytes(content[:at] + locator + content[at:])
    with pytest.raises(ValueError, match="its list of files is unusual"):
        unpack_scan(archive, tmp_path / "out", LIMITS)


def test_other_methods_and_encryption_are_refused(tmp_path: Path) -> None:
    packed = pack(tmp_path / "a.zip", {"a": b"x"}, method=zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match="another method than deflate"):
        unpack_scan(packed, tmp_path / "out", LIMITS)
    plain = pack(tmp_path / "b.zip", {"a": b"x"})
    content = bytearray(plain.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    plain.write_bytes(content)
    with pytest.raises(ValueError, match="the archive is encrypted"):
        unpack_scan(plain, tmp_path / "more", LIMITS)


def test_an_archive_without_a_file_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"folder/": b"", ".DS_Store": b"x"})
    with pytest.raises(ValueError, match="the archive holds no file"):
        unpack_scan(archive, tmp_path / "out", LIMITS)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_an_archive_that_was_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.zip", {"a": NOISE, "b": NOISE}).read_bytes()
    (tmp_path / "a.zip").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="is not a zip archive, or is cut short"):
        unpack_scan(tmp_path / "a.zip", tmp_path / "out", LIMITS)


def test_a_damaged_byte_is_refused_or_harmless_but_never_a_traceback(tmp_path: Path) -> None:
    whole = pack(tmp_path / "a.zip", {"a": NOISE, "b.dcm": bytes(1000)}).read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for trial in range(300):
        flipped = bytearray(whole)
        flipped[generator.integers(len(flipped))] ^= 1 << generator.integers(8)
        path = tmp_path / "flipped.zip"
        path.write_bytes(flipped)
        try:
            unpack_scan(path, tmp_path / f"out{trial}", LIMITS)
        except InputError:
            refused += 1
    # Flips in names, times and attributes harm nothing.
    assert refused > 150


def test_unpacking_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise CancelledError

    archive = pack(tmp_path / "a.zip", {"a": NOISE})
    with pytest.raises(CancelledError):
        unpack_scan(archive, tmp_path / "out", LIMITS, on_block=stop)


def test_a_comment_that_looks_like_an_end_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", b"x")
        archive.comment = b"PK\x05\x06 and more"
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    with pytest.raises(ValueError, match="is not a zip archive, or is cut short"):
        unpack_scan(tmp_path / "a.zip", tmp_path / "out", LIMITS)
