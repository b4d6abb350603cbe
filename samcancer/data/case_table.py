"""The cases of a store by name: lines of the index, read when a case is asked for.

A store of 100,000 cases takes some 100 MB this way and opens in a second. What was read is kept for
so many cases as most stores have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from samcancer.data.store_index import (
    INDEX_NAME,
    CaseInfo,
    IndexLine,
    index_lines,
    parse_line,
    whole_index,
)
from samcancer.errors import InputError

_KEPT_CASES = 10_000
"""Cases kept as they were read, about 4 kB each."""


class CaseTable(Mapping[str, CaseInfo]):
    """The cases of some stores, sorted by name; picklable."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Read the index of each store; a later line of a case replaces an earlier one.

        Raises:
            InputError: Naming the first bad line, a case that two stores hold, or a store whose
                parts are not merged.
        """
        found: dict[str, tuple[Path, IndexLine]] = {}
        for folder in folders:
            for line in index_lines(whole_index(folder)):
                other = found.get(line.case_id, (folder,))[0]
                if other != folder:
                    raise InputError(
                        f"holds case {line.case_id!r}, which {other} holds too",
                        path=folder,
                        mend="leave one of them out, or rename the case",
                    )
                found[line.case_id] = (folder, line)
        self._lines = {name: found[name] for name in sorted(found)}
        self._read: dict[str, CaseInfo] = {}

    def __getitem__(self, case_id: str) -> CaseInfo:
        """Return what the index says of a case.

        Raises:
            KeyError: When there is no such case.
            InputError: When its line is no case's, or names a file that is no store's.
        """
        info = self._read.get(case_id)
        if info is None:
            folder, line = self._lines[case_id]
            info = parse_line(folder / INDEX_NAME, line)
            if len(self._read) < _KEPT_CASES:
                self._read[case_id] = info
        return info

    def __contains__(self, case_id: object) -> bool:
        """Return whether there is such a case; nothing is read."""
        return case_id in self._lines

    def __iter__(self) -> Iterator[str]:
        """Yield the names, sorted."""
        return iter(self._lines)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self._lines)

    def texts(self) -> Iterator[bytes]:
        """Yield what the index says of each case, as it is written there."""
        return (line.text for _, line in self._lines.values())

    def folder_of(self, case_id: str) -> Path:
        """Return the store that holds a case; nothing is read."""
        return self._lines[case_id][0]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be read again."""
        return {**self.__dict__, "_read": {}}
