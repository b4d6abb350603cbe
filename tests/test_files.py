"""Files are whole or absent: under kill -9, errors, full disks, second writers and long names."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from samcancer import files
from samcancer.errors import InputError
from samcancer.files import (
    TEMPORARY_PREFIX,
    atomic_path,
    csv_text,
    folder_lock,
    read_csv,
    read_json,
    read_sealed_json,
    remove_stale_temporaries,
    require_writable_folder,
    sha256_of,
    text_of_csv,
    write_csv_atomic,
    write_json_atomic,
    write_sealed_json,
    write_text_atomic,
)

KILLS = 6
KILLS_SLOW = 60

WRITE_FOREVER = """
import sys
from pathlib import Path
from samcancer.files import atomic_path
path = Path(sys.argv[1])
print("ready", flush=True)
for turn in range(1_000_000):
    with atomic_path(path) as temporary:
        with temporary.open("wb") as stream:
            for _ in range(32):
                stream.write(bytes([turn % 251]) * 65536)
"""

HOLD = """
import sys, time
from pathlib import Path
from samcancer.files import folder_lock
with folder_lock(Path(sys.argv[1]), purpose="training"):
    print("held", flush=True)
    time.sleep(60)
"""


def start(program: str, path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def unfinished(folder: Path) -> list[Path]:
    return list(folder.glob(f"{TEMPORARY_PREFIX}*"))


def kill_a_writer_at_a_random_time(folder: Path, seed: int) -> None:
    path = folder / "result.bin"
    path.write_bytes(b"\xff" * 65536)
    process = start(WRITE_FOREVER, path)
    time.sleep(random.Random(seed).uniform(0, 0.08))
    kill(process)
    content = path.read_bytes()
    assert len(set(content)) == 1
    assert len(content) == (65536 if content[0] == 0xFF else 32 * 65536)


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path):
    for seed in range(KILLS):
        kill_a_writer_at_a_random_time(tmp_path, seed)
    remove_stale_temporaries(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.bin"]


@pytest.mark.slow
def test_sixty_killed_writers_leave_the_old_file_or_the_new_one(tmp_path):
    for seed in range(KILLS, KILLS + KILLS_SLOW):
        kill_a_writer_at_a_random_time(tmp_path, seed)


def test_an_error_while_writing_keeps_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert path.read_text() == "old"
    assert unfinished(tmp_path) == []


def test_a_file_that_fails_its_check_never_gets_its_name(tmp_path):
    def refuse(written: Path) -> None:
        raise OSError(f"{written.read_text()} is not as intended")

    path = tmp_path / "result.txt"
    with (
        pytest.raises(OSError, match="new is not as intended"),
        atomic_path(path, verify=refuse) as temporary,
    ):
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_lies_beside_its_file_and_keeps_its_suffixes(tmp_path):
    with atomic_path(tmp_path / "mask.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(TEMPORARY_PREFIX)
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"")


@pytest.mark.parametrize("name", ["ü 中 scan.json", "a" * 250 + ".json", "中" * 83 + ".json"])
def test_unicode_spaces_and_the_longest_names_are_written(name, tmp_path):
    path = tmp_path / "a folder é" / name
    write_json_atomic(path, {"größe": 1})
    assert read_json(path) == {"größe": 1}


def test_stale_temporaries_are_removed_and_nothing_else(tmp_path):
    (tmp_path / f"{TEMPORARY_PREFIX}0123-mask.nii.gz").write_bytes(b"half")
    (tmp_path / f"{TEMPORARY_PREFIX}folder").mkdir()
    write_text_atomic(tmp_path / "kept.txt", "whole")
    assert remove_stale_temporaries(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{TEMPORARY_PREFIX}folder", "kept.txt"]


def test_the_second_writer_is_told_the_pid_and_purpose_of_the_first(tmp_path):
    process = start(HOLD, tmp_path)
    try:
        message = rf"is being written by pid {process.pid} \(training\)\. Wait for it or stop it\."
        with pytest.raises(InputError, match=message), folder_lock(tmp_path, purpose="preparing"):
            pass
    finally:
        kill(process)


def test_a_killed_holder_gives_its_lock_back(tmp_path):
    kill(start(HOLD, tmp_path))
    with folder_lock(tmp_path, purpose="preparing"):
        assert (tmp_path / ".lock").read_text() == f"pid {os.getpid()} (preparing)"


def test_a_lock_can_be_taken_again_after_its_block(tmp_path):
    for purpose in ("one", "two"):
        with folder_lock(tmp_path, purpose=purpose):
            pass
    assert (tmp_path / ".lock").read_text() == ""


def test_a_disk_with_too_little_space_is_refused_before_writing(tmp_path, monkeypatch):
    usage = files.shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(InputError, match=r"needs 1000 bytes and the disk has 999 free\. Free some"),
        atomic_path(tmp_path / "new" / "mask.nii", expected_bytes=1000),
    ):
        pytest.fail("the block must not run")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/below: cannot create the folder .*Choose another"):
        require_writable_folder(tmp_path / "file" / "below")


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    # Root may write everywhere, so the answer of the system is replaced.
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r": the folder is read-only\. Choose another folder\."):
        require_writable_folder(tmp_path)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "content").write_bytes(content)
    assert sha256_of(tmp_path / "content") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(("content", "message"), [(b"{", "not valid JSON"), (b"\xff", "not valid")])
def test_a_file_that_is_no_json_is_refused(content, message, tmp_path):
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"index\.json: {message}"):
        read_json(tmp_path / "index.json")


def test_a_missing_json_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"index\.json: no such file"):
        read_json(tmp_path / "index.json")


def test_a_disk_that_becomes_full_is_one_line_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "index.json"
    path.write_text("old")

    def fill_the_disk():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"index\.json: the disk is full\. Free some space"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


FORMULAS = ["=1+1", "+case", "-case", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''-x"]
PLAIN = ["case_001", "", "'", "'case'", "a=b", "Größe", " =1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_a_spreadsheet_would_run_gets_an_apostrophe(text: str) -> None:
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert csv_text(text) == text


@pytest.mark.parametrize("text", [*FORMULAS, *PLAIN])
def test_text_comes_back_from_a_cell(text: str) -> None:
    assert text_of_csv(csv_text(text)) == text


def test_a_table_guards_texts_and_keeps_numbers(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv_atomic(path, ("case", "change"), [("-7", -0.5), ("a,b", 2)])
    assert path.read_text(encoding="utf-8") == 'case,change\n\'-7,-0.5\n"a,b",2\n'


def test_a_table_comes_back_with_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_csv_atomic(path, ("case", "note", "ml"), [("-7", 'a, "b"', 0.5), ("'=x", "", 2)])
    assert read_csv(path, required=("case", "ml")) == [
        {"case": "-7", "note": 'a, "b"', "ml": "0.5"},
        {"case": "'=x", "note": "", "ml": "2"},
    ]


def test_a_table_may_have_a_byte_order_mark_blanks_and_short_lines(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("case,patient\n a , 1 \nb\n", encoding="utf-8-sig")
    rows = read_csv(path, required=("case",))
    assert rows == [{"case": "a", "patient": "1"}, {"case": "b", "patient": ""}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"table.csv: no such file. Name a CSV table with the columns case,patient"),
        (b"", r"has the columns \[\]"),
        (b"case;patient\na;1\n", r"has the columns \['case;patient'\]"),
        (b"case,patient\n\xff\xfe,1\n", "not a CSV table in UTF-8"),
    ],
)
def test_what_is_no_such_table_is_refused(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_csv(path, required=("case", "patient"))


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_csv(tmp_path, required=("case",))


def test_a_sealed_file_of_another_kind_or_format_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    digest = write_sealed_json(path, {"format": 1, "parts": []})
    read = partial(read_sealed_json, path, kind="fusion", mend="fit it again")
    assert read(key="parts", version=1) == ({"format": 1, "parts": []}, digest)
    with pytest.raises(InputError, match=r"a\.json: not the JSON of a fusion\. Fit it again\."):
        read(key="classes", version=1)
    with pytest.raises(InputError, match="fusion format 1, this version reads 2"):
        read(key="parts", version=2)
    path.write_text(path.read_text().replace("[]", "[1]"))
    with pytest.raises(InputError, match="was changed since it was written"):
        read(key="parts", version=1)
