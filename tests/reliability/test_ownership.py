"""One home each for writing files, reading pixels and reading weights, told by the source itself.

Whatever writes goes through ``atomic_path`` of samcancer/files.py: its temporaries, and buffers in
memory, may be written by anyone. Every other call has a reason below. A new one needs either an
atomic write, or a line here that says why not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
from source_calls import Found, pixel_reads, weight_reads, writes

ROOT = Path(__file__).resolve().parents[2]

SOURCES = sorted([*(ROOT / "samcancer").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")])

WRITERS = {
    "samcancer/files.py": {
        "atomic_path": "the owner: gives a finished temporary its name",
        "_open_own_file": "the owner: locks and logs that grow, never through a link",
    },
    "samcancer/volume_io/gzip_stream.py": {"write_gzip": "called by write_nifti alone"},
    "samcancer/volume_io/nifti.py": {"write_nifti": "called by writing.py with a temporary"},
    "samcancer/volume_io/itk_formats.py": {"write_itk": "called by writing.py with a temporary"},
    "samcancer/volume_io/dicom_worker.py": {"serve": "the null device, in place of a stream"},
    "samcancer/data/case_file.py": {"new_memory_file": "an HDF5 file in memory, without a path"},
    "samcancer/inference/extras.py": {"scratch_arrays": "a scratch file that never gets a name"},
    "samcancer/training/checkpoint.py": {
        "save_checkpoint": "the tensors that wait take their place once the JSON vouches for them"
    },
    "samcancer/pretrained/fetching.py": {
        "_receive": "a download that goes on where it was cut off; verified before it is named",
        "_finish": "gives a verified download its name",
    },
    "samcancer/pretrained/wheels.py": {
        "download_wheel": "a wheel in a folder of its own that is removed again"
    },
    "samcancer/serve/archive.py": {"_unpack": "into the private folder of one upload, mode x"},
    "samcancer/serve/workspace.py": {"open_workspace": "its own private folder, made locked"},
    "data_prep/lung_patients.py": {
        "_unpack_patient": "into a temporary folder",
        "_new_folder": "a temporary folder takes its place as a whole",
    },
}
"""File -> function -> why it may write to a path that is not a temporary of atomic_path."""

PIXEL_READERS: dict[str, dict[str, str]] = {}
"""As above, for reading pixels outside of samcancer/volume_io."""

WEIGHT_READERS = {
    "samcancer/training/checkpoint.py": {"_read_tensors": "the owner of checkpoints"},
    "samcancer/training/resume.py": {"read_resume": "the owner of states of training"},
    "samcancer/pretrained/weight_files.py": {
        "_load_pickle": "the owner of published files",
        "_read": "the owner of published files",
    },
    "samcancer/pretrained/text_embeddings.py": {"_read": "the owner of its file"},
}


def strangers(
    found: Callable[[Path], list[Found]], allowed: dict[str, dict[str, str]], *, outside: str = "-"
) -> list[str]:
    """Return the places that neither lie in ``outside`` nor have a reason."""
    places = []
    for path in SOURCES:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(outside):
            continue
        for function, call, line in found(path):
            if function.rpartition(".")[2] not in allowed.get(name, {}):
                places.append(f"{name}:{line} {call} in {function or 'the module'}")
    return places


def unused(found: Callable[[Path], list[Found]], allowed: dict[str, dict[str, str]]) -> list[str]:
    """Return the reasons for what is not there any more."""
    return [
        f"{name} {function}"
        for name, functions in allowed.items()
        for function in functions
        if function not in {f.function.rpartition(".")[2] for f in found(ROOT / name)}
    ]


def test_nothing_else_opens_a_final_path_for_writing() -> None:
    assert strangers(writes, WRITERS) == []


def test_nothing_else_reads_pixels() -> None:
    assert strangers(pixel_reads, PIXEL_READERS, outside="samcancer/volume_io/") == []


def test_nothing_else_reads_weights() -> None:
    assert strangers(weight_reads, WEIGHT_READERS) == []


@pytest.mark.parametrize(
    ("found", "allowed"),
    [(writes, WRITERS), (pixel_reads, PIXEL_READERS), (weight_reads, WEIGHT_READERS)],
)
def test_every_exception_is_still_needed(
    found: Callable[[Path], list[Found]], allowed: dict[str, dict[str, str]]
) -> None:
    assert unused(found, allowed) == []


@pytest.mark.parametrize(
    ("writer", "callers"),
    [
        ("write_gzip", {"samcancer/volume_io/nifti.py"}),
        ("write_nifti", {"samcancer/volume_io/writing.py"}),
        ("write_itk", {"samcancer/volume_io/writing.py"}),
        ("_open_own_file", {"samcancer/files.py"}),
    ],
)
def test_writers_that_are_not_atomic_have_one_caller(writer: str, callers: set[str]) -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == writer
    }
    assert found == callers


WRITING = """
from pathlib import Path
def named(path, data, temporary):
    path.write_text("x")
    path.open("w")
    open(path, mode="ab")
    np.save(path, data)
    h5py.File(path, "w")
    h5py.File(path, mode="a")
    sitk.WriteImage(data, str(path))
    save_file(data, path)
    torch.save(data, path)
    picture.save(path)
    shutil.copyfile(data, path)
    os.replace(temporary, path)
    temporary.replace(path)
    os.rename(temporary, path)
    json.dump(data, path)
    np.memmap(path, mode="w+")
"""

HARMLESS = """
def through(path, data):
    with atomic_path(path) as temporary:
        temporary.write_text("x")
        with temporary.open("wb") as stream:
            stream.write(data)
        save_file(data, temporary)
        sheet.save(temporary, format="PNG")
        shutil.copyfile(path, temporary)
    buffer = io.BytesIO()
    torch.save(data, buffer)
    path.open("rb")
    open(path)
    h5py.File(path, "r")
    "a.b".replace(".", "_")
    dataclasses.replace(data, a=1)
    data.copy()
"""


def test_the_test_sees_every_way_of_writing(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(WRITING)
    lines = {found.line for found in writes(source)}
    assert lines == set(range(4, WRITING.count("\n") + 1))


def test_the_test_lets_temporaries_memory_and_reading_pass(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(HARMLESS)
    assert writes(source) == []


def test_the_test_sees_pixels_and_weights_being_read(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(
        "a = sitk.ReadImage(p)\nb = pydicom.dcmread(p)\nc = nib.load(p)\n"
        "d = pydicom.dcmread(p, stop_before_pixels=True)\n"
        "e = torch.load(p, weights_only=True)\nf = load_file(p)\n"
    )
    assert [found.line for found in pixel_reads(source)] == [1, 2, 3]
    assert [found.line for found in weight_reads(source)] == [5, 6]
