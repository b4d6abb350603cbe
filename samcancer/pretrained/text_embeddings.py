"""Text embeddings of class prompts: one unit vector a class, built once and kept in a file.

Training and inference read the file and need neither open_clip nor a text tower's weights.
The file is safetensors: a float32 tensor ``vectors`` of shape (K, D), and JSON in the header with
the format, the tower, the SHA-256 of its weights, the template, class names, prompts, and a SHA-256
over all of it. It is one string of JSON, since safetensors does not order several, so that equal
embeddings are equal bytes. No torch here.
Source: [UM] names each class by CLIP's embedding of a sentence about it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from samcancer.errors import InputError
from samcancer.files import atomic_path
from samcancer.pretrained.registry import load_registry

FORMAT_VERSION = 1

OWN_PROMPT = "own"
"""Stands for a template where each class has its own prompt."""

LOCAL_DIR = "local-dir:"
"""Start of the name of a tower that lies in a folder, as in open_clip."""

_VECTORS = "vectors"
_HEADER = "text_embeddings"
_MEND = "build it again with `samcancer build-text-embeddings`"
_SHA256_DIGITS = 64

_UNIT_TOLERANCE = 1e-4
"""Largest difference between the length of a vector and 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TextEmbeddings:
    """Embeddings of K class prompts, and everything that they depend on."""

    tower: str
    """Name of the registry, of open_clip, or ``local-dir:NAME@`` and a hash of its settings."""
    weights_sha256: str
    template: str
    """Name of the prompt template, or ``own``."""
    class_names: tuple[str, ...]
    prompts: tuple[str, ...]
    """The text of each class."""
    vectors: NDArray[np.float32]
    """(K, D), each of length 1."""

    def __post_init__(self) -> None:
        """Refuse what no tower gives: wrong shapes, duplicate names, vectors not of length 1."""
        texts = (self.tower, self.weights_sha256, self.template, *self.class_names, *self.prompts)
        if not all(isinstance(text, str) and text for text in texts):
            raise ValueError("tower, weights, template, class names and prompts must be texts")
        if len(self.weights_sha256) != _SHA256_DIGITS:
            raise ValueError(f"weights_sha256 must have 64 digits, got {self.weights_sha256!r}")
        twice = [name for name, count in Counter(self.class_names).items() if count > 1]
        if twice:
            raise ValueError(f"class {twice[0]!r} is there twice")
        count = len(self.class_names)
        if count == 0 or len(self.prompts) != count:
            raise ValueError(f"{len(self.prompts)} prompts for {count} classes")
        shape = self.vectors.shape
        if len(shape) != 2 or shape[0] != count or shape[1] == 0:
            raise ValueError(f"vectors have shape {shape}, not ({count}, D)")
        if self.vectors.dtype != np.float32:
            raise ValueError(f"vectors are {self.vectors.dtype}, not float32")
        lengths = np.linalg.norm(self.vectors.astype(np.float64), axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1.0) <= _UNIT_TOLERANCE))
        if wrong.size:
            name = self.class_names[wrong[0]]
            raise ValueError(f"the vector of {name!r} has length {lengths[wrong[0]]:g}, not 1")

    @property
    def key(self) -> dict[str, Any]:
        """Everything that decides the vectors."""
        return {
            "tower": self.tower,
            "weights_sha256": self.weights_sha256,
            "template": self.template,
            "class_names": self.class_names,
            "prompts": self.prompts,
        }

    @property
    def source(self) -> dict[str, Any]:
        """What must be equal for vectors to be of one kind; what a checkpoint records of them."""
        return {
            "tower": self.tower,
            "weights_sha256": self.weights_sha256,
            "template": self.template,
            "dim": self.vectors.shape[1],
        }

    @property
    def sha256(self) -> str:
        """SHA-256 over the key and the vectors; what the report of a case records of them."""
        digest = hashlib.sha256(_text({"format": FORMAT_VERSION, **self.key}).encode())
        digest.update(self.vectors.astype("<f4").tobytes())
        return digest.hexdigest()

    def select(self, class_names: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of some classes, in their order, (len(class_names), D).

        Raises:
            InputError: When a class is not there; names the command that builds what is wanted.
        """
        missing = [name for name in class_names if name not in self.class_names]
        if missing:
            raise InputError(
                f"the text embeddings of {self.tower} lack {', '.join(missing)}",
                mend=f"run {self._build_command(class_names)}",
            )
        selected: NDArray[np.float32] = self.vectors[
            [self.class_names.index(name) for name in class_names]
        ]
        return selected

    def closest_pair(self) -> tuple[str, str, float] | None:
        """Return the two classes with the most similar vectors and their cosine; None for K = 1."""
        if len(self.class_names) == 1:
            return None
        cosines = self.vectors @ self.vectors.T
        np.fill_diagonal(cosines, -np.inf)
        one, other = np.unravel_index(np.argmax(cosines), cosines.shape)
        return self.class_names[one], self.class_names[other], float(cosines[one, other])

    def _build_command(self, class_names: Sequence[str]) -> str:
        tower = [self.tower]
        if self.tower.startswith(LOCAL_DIR):
            tower = [f"{LOCAL_DIR}FOLDER"]
        elif self.tower not in load_registry():
            tower += ["--weights", "FILE"]
        template = [] if self.template == OWN_PROMPT else ["--template", self.template]
        verb = ["samcancer", "build-text-embeddings", "--tower", *tower, *template]
        return shlex.join([*verb, "--classes", *class_names])


def write_text_embeddings(path: Path, embeddings: TextEmbeddings) -> None:
    """Write embeddings atomically; what was written is read back and compared.

    Raises:
        InputError: When the folder cannot be written, or the disk is full.
    """
    sha256 = embeddings.sha256
    header = _text({"format": FORMAT_VERSION, **embeddings.key, "sha256": sha256})
    vectors = np.ascontiguousarray(embeddings.vectors)
    with atomic_path(
        path,
        expected_bytes=vectors.nbytes + len(header),
        verify=lambda written: _require_equal(written, sha256),
    ) as temporary:
        temporary.write_bytes(safetensors_bytes({_VECTORS: vectors}, metadata={_HEADER: header}))


def read_text_embeddings(path: Path) -> TextEmbeddings:
    """Read and check embeddings.

    Raises:
        InputError: When the file is missing, damaged, of another format, or holds anything else.
    """
    header, vectors = _read(path)
    if header.get("format") != FORMAT_VERSION:
        raise InputError(
            f"text embeddings of format {header.get('format')!r}, this version reads"
            f" {FORMAT_VERSION}",
            path=path,
            mend=_MEND,
        )
    try:
        embeddings = TextEmbeddings(
            tower=header["tower"],
            weights_sha256=header["weights_sha256"],
            template=header["template"],
            class_names=tuple(header["class_names"]),
            prompts=tuple(header["prompts"]),
            vectors=vectors,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"malformed text embeddings ({error})", path=path, mend=_MEND) from None
    if embeddings.sha256 != header.get("sha256"):
        raise InputError("damaged (its SHA-256 differs)", path=path, mend=f"copy it, or {_MEND}")
    return embeddings


def _read(path: Path) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Return the header and the vectors, neither checked."""
    try:
        with safe_open(path, framework="numpy") as stream:
            header = json.loads((stream.metadata() or {})[_HEADER])
            vectors = stream.get_tensor(_VECTORS)
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend=_MEND) from None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"not a readable file of text embeddings ({reason})", path=path, mend=_MEND
        ) from None
    if not isinstance(header, dict):
        raise InputError("not a file of text embeddings", path=path, mend=_MEND)
    return header, vectors


def _require_equal(path: Path, sha256: str) -> None:
    if read_text_embeddings(path).sha256 != sha256:
        raise InputError("was not written as intended", path=path, mend="check the disk")


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True)
