"""What the runs of a folder share: written once, by whichever run comes first, then compared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import yaml

from samcancer.config import Config, config_to_dict, load_config
from samcancer.errors import InputError
from samcancer.files import folder_lock, remove_stale_temporaries, write_text_atomic

_START_PATIENCE_S = 10.0
"""Most time to wait for another run that writes what all of them share."""

_NOT_COMPARED = {("data", "workers")}
"""Fields that may differ between the runs of a folder: they change speed only."""


@contextlib.contextmanager
def shared_folder(folder: Path) -> Iterator[None]:
    """Take turns with other runs that start, and remove what a killed one left unfinished.

    Raises:
        InputError: When another process holds the folder for long.
    """
    with folder_lock(folder, purpose="starting a run", patience_s=_START_PATIENCE_S):
        remove_stale_temporaries(folder)
        yield


def keep_config(path: Path, config: Config) -> None:
    """Write the configuration, or compare it with the one that is there.

    Raises:
        InputError: When the two differ.
    """
    if not path.exists():
        with shared_folder(path.parent):
            if not path.exists():
                text = yaml.safe_dump(config_to_dict(config), sort_keys=False)
                write_text_atomic(path, text)
    require_same_config(path, config)


def require_same_config(path: Path, config: Config) -> None:
    """Refuse another configuration than the one that was kept.

    Raises:
        InputError: Naming the first field that differs.
    """
    before, now = config_to_dict(load_config(path)), config_to_dict(config)
    difference = _first_difference(before, now)
    if difference is not None:
        raise InputError(
            f"these runs were started with another configuration ({difference})",
            path=path,
            mend="leave out the options that changed it, or choose another --output",
        )


def _first_difference(before: object, now: object, where: tuple[str, ...] = ()) -> str | None:
    if where in _NOT_COMPARED or before == now:
        return None
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"{'.'.join(where)} is {before} there and {now} here"
    for key in sorted(before.keys() | now.keys()):
        difference = _first_difference(before.get(key), now.get(key), (*where, key))
        if difference is not None:
            return difference
    return None
