"""No row of the catalogue and no variant is without a test; the page says the same rows."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from catalogue import CATALOGUE, provokes

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"

VARIANTS = [(row, variant) for row, variants in CATALOGUE.items() for variant in variants]


def provoked() -> Iterator[tuple[str, str]]:
    """Yield every row and variant that a test function or one of its parameters provokes."""
    for path in HERE.glob("test_*.py"):
        module = importlib.import_module(path.stem)
        for name, function in vars(module).items():
            if name.startswith("test_") and callable(function):
                for mark in getattr(function, "pytestmark", ()):
                    yield from said_by(mark)


def said_by(mark: pytest.Mark) -> Iterator[tuple[str, str]]:
    if mark.name == "catalogue":
        row, *variants = mark.args
        yield from ((row, variant) for variant in variants)
    if mark.name == "parametrize":
        for value in mark.args[1]:
            for inner in getattr(value, "marks", ()):
                yield from said_by(inner.mark)


@pytest.fixture(scope="module")
def found() -> set[tuple[str, str]]:
    return set(provoked())


@pytest.mark.parametrize(("row", "variant"), VARIANTS)
def test_each_variant_of_each_row_is_provoked(
    row: str, variant: str, found: set[tuple[str, str]]
) -> None:
    assert (row, variant) in found


@pytest.mark.parametrize("row", CATALOGUE)
def test_the_page_has_each_row(row: str) -> None:
    assert f"\n| {row} |" in PAGE.read_text(encoding="utf-8")


def test_a_test_cannot_provoke_what_is_not_in_the_catalogue() -> None:
    with pytest.raises(KeyError, match="fire"):
        provokes("fire", "small")
    with pytest.raises(ValueError, match="'checkpoint' has the variants"):
        provokes("checkpoint", "late")
