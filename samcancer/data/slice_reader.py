"""Reading HDF5 files slice by slice: checked at opening, opened in the process that reads.

Files are never used across a fork, and a damaged one is an InputError that names it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError

_CHUNK_CACHE_BYTES = 1 << 20
"""HDF5's cache of unpacked slices, per data set."""

_OPEN_FILES = 32
"""Files that one pool keeps open."""


class SliceReader:
    """An open file with some data sets of known shape (slices, ...)."""

    def __init__(
        self, path: Path, shapes: Mapping[str, tuple[int, ...]], *, mend: str | None = None
    ) -> None:
        """Open the file.

        Args:
            path: The HDF5 file.
            shapes: Data sets to read -> shape each must have.
            mend: Advice for messages about a missing or damaged file.

        Raises:
            InputError: When the file is missing, damaged, or holds something else.
        """
        self.path, self._mend = path, mend
        if not path.is_file():
            raise InputError("no such file", path=path, mend=mend)
        try:
            self._file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
            self._datasets = {name: _own_dataset(self._file, name) for name in shapes}
            found = {name: data.shape for name, data in self._datasets.items()}
        except (OSError, KeyError, RuntimeError, ValueError, AttributeError) as error:
            raise self._damaged(error) from None
        if found != dict(shapes):
            raise self._damaged(f"holds {found} instead of {dict(shapes)}")

    def read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Return slices start..stop of a data set.

        Raises:
            InputError: When a checksum or the compressed data are wrong.
            ValueError: When the range leaves the data set.
        """
        data = self._datasets[name]
        if not 0 <= start <= stop <= len(data):
            raise ValueError(f"{name} {start}..{stop} are not within 0..{len(data)} ({self.path})")
        try:
            return np.asarray(data[start:stop])
        except (OSError, RuntimeError, ValueError) as error:
            raise self._damaged(error) from None

    def attribute(self, name: str) -> Any:
        """Return an attribute of the file.

        Raises:
            InputError: When there is none or it is damaged.
        """
        try:
            return self._file.attrs[name]
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise self._damaged(error) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> SliceReader:
        """Return the reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _damaged(self, error: object) -> InputError:
        return InputError(f"the file is damaged ({error})", path=self.path, mend=self._mend)


def _own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a data set whose values lie in this very file.

    HDF5 follows links to other files, and virtual or external storage, without a word: a store
    from elsewhere could make any file of this machine a part of a case.

    Raises:
        ValueError: When they lie elsewhere.
    """
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} is a link")
    data = file[name]
    if data.is_virtual or data.external:
        raise ValueError(f"{name} takes its values from another file")
    if data.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {data.dtype} instead of whole numbers")
    return data


class Reader(Protocol):
    """An open file."""

    def close(self) -> None:
        """Close it."""


_Key = TypeVar("_Key", bound=Hashable)
_Reader = TypeVar("_Reader", bound=Reader)


class ReaderPool(Generic[_Key, _Reader]):
    """The most recently used readers of this process, by case; picklable, empty after a fork."""

    def __init__(self, open_reader: Callable[[_Key], _Reader]) -> None:
        """Remember how a case's reader is opened."""
        self._open_reader = open_reader
        self._readers: OrderedDict[_Key, _Reader] = OrderedDict()
        self._inherited: list[object] = []
        self._pid = os.getpid()

    def reader(self, key: _Key) -> _Reader:
        """Return the reader of a case, opened if need be."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        if key not in self._readers:
            self._readers[key] = self._open_reader(key)
            if len(self._readers) > _OPEN_FILES:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(key)
        return self._readers[key]

    def close(self) -> None:
        """Close this process's files; reading opens them again."""
        if self._pid != os.getpid():
            self._leave_to_parent()
        while self._readers:
            self._readers.popitem()[1].close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files out."""
        return {**self.__dict__, "_readers": OrderedDict(), "_inherited": []}

    def _leave_to_parent(self) -> None:
        """Neither use nor close the files of the process this one was forked from."""
        self._inherited.append(self._readers)
        self._readers, self._pid = OrderedDict(), os.getpid()
