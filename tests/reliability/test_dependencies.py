"""What we depend on may be used under Apache-2.0, by what each package says of itself."""

from __future__ import annotations

import configparser
import re
from importlib.metadata import distribution
from pathlib import Path

import pytest

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"

FITTING = re.compile(
    r"(Apache|MIT|BSD|0BSD|ISC|PSF|Python Software|Zlib|CC0|BSL-1\.0|MIT-CMU|HPND)", re.IGNORECASE
)
"""Licences that ask for no more than a notice."""

COPYLEFT = re.compile(r"(?<![a-z])(GPL|LGPL|AGPL|SSPL|Proprietary|Non-?Commercial)", re.IGNORECASE)


def dependencies() -> list[str]:
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    lines = setup["options"]["install_requires"].split("\n")
    return [re.split(r"[><=;\[ ]", line.strip())[0] for line in lines if line.strip()]


def licence_of(name: str) -> str:
    """Return what a package states: an SPDX expression, else its classifiers, else its text."""
    stated = distribution(name).metadata
    classifiers = [c for c in stated.get_all("Classifier") or [] if c.startswith("License ::")]
    text = (stated.get("License") or "").strip().split("\n")[0]
    return stated.get("License-Expression") or " ".join(classifiers) or text


@pytest.mark.parametrize("name", dependencies())
def test_each_dependency_has_a_licence_that_goes_with_ours(name: str) -> None:
    licence = licence_of(name)
    assert FITTING.search(licence), licence
    assert not COPYLEFT.search(licence), licence


def test_dependencies_have_lower_bounds_only() -> None:
    setup = configparser.ConfigParser()
    setup.read(SETUP)
    lines = [line for line in setup["options"]["install_requires"].split("\n") if line.strip()]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[\w-]+>=[\d.]+", line.strip())] == []
