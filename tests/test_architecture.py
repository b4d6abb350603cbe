"""The layout is the architecture: imports follow the data flow, and unsafe calls are absent."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LAYERS = [
    {
        *("errors", "files", "processes", "config", "taxonomy", "taxonomy_checks", "geometry"),
        *("windowing", "resampling", "inplane"),
    },
    {"cohort"},
    {"pretrained"},
    {"volume_io"},
    {"data"},
    {"modeling"},
    {"training"},
    {"inference"},
    {"evaluation"},
    {"calibration"},
    {"report"},
    {"serve"},
    {"commands"},
]
"""Parts of samcancer in the order in which data flows; a part imports its own layer or earlier."""

RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

DATA_PREP_MAY_USE = {*LAYERS[0], "cohort", "pretrained", "volume_io", "data"}

SOURCES = sorted([*(ROOT / "samcancer").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py")])

FORBIDDEN_SOURCE = ("weights_only=False", "pickle.load", "jit.load(", "extractall", "except:")
"""Calls that could execute a file's content, leave the target folder, or hide a failure."""


def imported_modules(path: Path) -> set[str]:
    """Return the dotted names of everything a source file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def parts_of_samcancer(path: Path) -> set[str]:
    """Return the parts of samcancer (first name below the package) that a file imports."""
    names = (name.split(".") for name in imported_modules(path))
    return {n[1] for n in names if n[0] == "samcancer" and len(n) > 1 and n[1] in RANK}


def test_every_module_of_samcancer_has_a_place_in_the_data_flow() -> None:
    parts = {
        p.relative_to(ROOT / "samcancer").parts[0].removesuffix(".py")
        for p in SOURCES
        if p.is_relative_to(ROOT / "samcancer")
    }
    assert parts - {"__init__", "__main__"} <= set(RANK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_import_points_back_up_the_data_flow(path: Path) -> None:
    package, part = path.relative_to(ROOT).parts[:2]
    used = parts_of_samcancer(path)
    if package == "data_prep":
        assert used <= DATA_PREP_MAY_USE
        assert "torch" not in {name.split(".")[0] for name in imported_modules(path)}
        return
    part = part.removesuffix(".py")
    if part in RANK:
        assert {name for name in used if RANK[name] > RANK[part]} == set()
    if part != "commands":
        assert "data_prep" not in {name.split(".")[0] for name in imported_modules(path)}


@pytest.mark.parametrize("part", ["evaluation", "report"])
def test_scoring_and_reporting_need_no_torch(part: str) -> None:
    for path in (ROOT / "samcancer" / part).rglob("*.py"):
        assert "torch" not in {name.split(".")[0] for name in imported_modules(path)}, path


def test_text_towers_are_needed_only_to_build_text_embeddings() -> None:
    """Training and inference read the file of embeddings; open_clip stays out of them."""
    modules = {p: imported_modules(p) for p in SOURCES}
    using_open_clip = [p.name for p in SOURCES if "open_clip" in modules[p]]
    using_towers = [p.name for p in SOURCES if "samcancer.pretrained.text_towers" in modules[p]]
    assert using_open_clip == ["text_towers.py"]
    assert using_towers == ["build_text_embeddings.py"]
    reader = modules[ROOT / "samcancer" / "pretrained" / "text_embeddings.py"]
    assert "torch" not in {name.split(".")[0] for name in reader}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_source_uses_a_call_that_trusts_its_input(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [call for call in FORBIDDEN_SOURCE if call in text] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_weights_are_never_loaded_in_part(path: Path) -> None:
    calls = [
        n
        for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(n, ast.Call) and ast.unparse(n.func).endswith("load_state_dict")
    ]
    assert [ast.unparse(c) for c in calls if "strict=False" in ast.unparse(c)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_opens_with_its_purpose_and_stays_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text))
    assert text.count("\n") <= 420
