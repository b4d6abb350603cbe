"""What source code does with files, read off its syntax tree: writing, reading pixels, weights."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SAFE_SOURCES = ("atomic_path", "BytesIO", "StringIO", "TemporaryDirectory")
"""What yields or makes a target that is not a final path."""

WRITING_METHODS = {
    "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "tofile", "to_csv",
    "savez", "savez_compressed", "savetxt", "WriteImage", "save_file", "save_as", "dump",
    "copy", "copy2", "copyfile", "copytree", "move", "rename", "renames",
    "memmap", "safe_dump",
}  # fmt: skip
"""Methods and functions that write, move or copy a file, by their last name."""

NOT_FILES = {"copy": ("copy", "shutil"), "dump": ("json", "yaml", "pickle"), "move": ("shutil",),
             "copytree": ("shutil",)}  # fmt: skip
"""Names that other things have, too: only these modules' are about files."""

MODULES = ("np", "os", "shutil", "torch", "json", "yaml", "h5py", "sitk", "io")
"""Receivers that are no file."""

PIXEL_READERS = {
    "ReadImage", "ImageFileReader", "ImageSeriesReader", "pixel_array", "igzip.open", "open_gzip",
    "nibabel.load", "nib.load", "Nifti1Image",
}  # fmt: skip

WEIGHT_READERS = {"torch.load", "load_file", "safe_open", "pickle.load", "Unpickler", "jit.load"}


class Found(NamedTuple):
    """One place in a source file."""

    function: str
    """Qualified name of the function it is in; empty at module level."""
    call: str
    line: int


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef

Call = tuple[Found, ast.Call, set[str]]
"""Where, what, and the names that stand for temporaries there."""


def writes(path: Path) -> list[Found]:
    """Return the calls that write to, or move something to, what may be a final path."""
    return [found for found, node, safe in _calls(path) if _is_write(node, safe)]


def pixel_reads(path: Path) -> list[Found]:
    """Return the calls that read voxels, and DICOM files whole."""
    return [
        found
        for found, node, _ in _calls(path)
        if _named(node, PIXEL_READERS) or (_last(node) == "dcmread" and not _is_header_only(node))
    ]


def weight_reads(path: Path) -> list[Found]:
    """Return the calls that read tensors from a file."""
    return [found for found, node, _ in _calls(path) if _named(node, WEIGHT_READERS)]


@functools.cache
def _calls(path: Path) -> tuple[Call, ...]:
    return tuple(_within(ast.parse(path.read_text(encoding="utf-8")), "", set()))


def _within(node: ast.AST, function: str, safe: set[str]) -> Iterator[Call]:
    """Yield calls with the names that stand for temporaries where they are made."""
    for child in ast.iter_child_nodes(node):
        inner, known = function, safe
        if isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            inner = f"{function}.{child.name}".lstrip(".")
            known = safe | _temporaries(child) if isinstance(child, FUNCTIONS) else safe
        if isinstance(child, ast.Call):
            yield Found(function, ast.unparse(child.func), child.lineno), child, safe
        yield from _within(child, inner, known)


def _temporaries(function: Function) -> set[str]:
    """Return the names that a function binds to temporaries and to memory."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.With):
            for item in node.items:
                if _makes_temporary(item.context_expr) and isinstance(item.optional_vars, ast.Name):
                    names.add(item.optional_vars.id)
        if isinstance(node, ast.Assign) and _makes_temporary(node.value):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _makes_temporary(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and _last(node) in SAFE_SOURCES


def _is_write(node: ast.Call, safe: set[str]) -> bool:
    name, target = _last(node), _target(node)
    if target in safe:
        return False
    owner = ast.unparse(node.func).rpartition(".")[0]
    if name == "open" and owner != "os":
        mode = _mode(node, 1 if owner in ("", "igzip", "gzip", "io") else 0)
        return any(letter in mode for letter in "wax+")
    if name == "open":
        return "os.O_RDONLY" not in ast.unparse(node)
    if name == "File" and owner == "h5py":
        return _mode(node, 1) != "r"
    if name == "save":
        return True
    if name == "replace":  # Path.replace takes one argument, str.replace two, os.replace two paths
        return owner == "os" or (len(node.args) == 1 and not node.keywords)
    if name in NOT_FILES:
        return owner in NOT_FILES[name] and not (name == "dump" and len(node.args) < 2)
    if name == "touch":  # Path.touch takes its mode by name
        return not node.args
    if name == "safe_dump":
        return len(node.args) > 1
    if name == "memmap":
        return "'r'" not in ast.unparse(node)
    return name in WRITING_METHODS


def _target(node: ast.Call) -> str:
    """Return the name of what is written: the receiver's, or a path among the arguments."""
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        first = node.func.value.id
        if first not in MODULES and _last(node) not in ("save", "save_as"):
            return first
    for argument in (*node.args[1:2], *node.args[:1]):
        for part in ast.walk(argument):
            if isinstance(part, ast.Name) and part.id not in ("str", "values", "self"):
                return part.id
    return ""


def _mode(node: ast.Call, place: int) -> str:
    for keyword in node.keywords:
        if keyword.arg == "mode" and isinstance(keyword.value, ast.Constant):
            return str(keyword.value.value)
    if len(node.args) > place:
        mode = node.args[place]
        return str(mode.value) if isinstance(mode, ast.Constant) else ast.unparse(mode)
    return "r"


def _is_header_only(node: ast.Call) -> bool:
    names = {keyword.arg for keyword in node.keywords}
    return bool(names & {"stop_before_pixels", "specific_tags"})


def _named(node: ast.Call, names: set[str]) -> bool:
    text = ast.unparse(node.func)
    return any(text == name or text.endswith(f".{name}") for name in names)


def _last(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]
