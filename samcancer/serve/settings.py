"""What one server allows: sizes, times, names and who may use it."""

from __future__ import annotations

import ipaddress
import re
import secrets
from dataclasses import dataclass

from samcancer.errors import InputError

DEFAULT_MAX_UPLOAD = "2GB"

DEFAULT_KEEP = "30min"

SHORTEST_TOKEN = 16
"""Characters; a shorter one could be guessed over a network."""

_TOKEN_BYTES = 24

_UNIT_S = {"s": 1, "min": 60, "h": 3600}

_DURATION = re.compile(rf"(\d+(?:\.\d+)?)\s*({'|'.join(_UNIT_S)})")

_PRINTABLE_TOKEN = re.compile(r"[A-Za-z0-9._~-]+")
"""Characters that stand for themselves in the query of an address (RFC 3986)."""


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """Limits of one server."""

    max_upload_bytes: int = 2_000_000_000
    """Of all files of one scan, packed or not."""
    keep_s: float = 1800.0
    """Seconds for which results stay after a scan is done."""
    waiting: int = 4
    """Scans that may be uploaded or wait while another one is segmented."""
    max_files: int = 5000
    """Of one scan; a DICOM series has one file a slice."""
    max_voxels: int = 2048 * 512 * 512
    """Of one scan. A packed file of a few megabytes can ask for a terabyte of memory."""
    idle_s: float = 30.0
    """Longest wait for the next bytes of a file that is being uploaded."""
    upload_s: float = 3600.0
    """Longest time from the first byte of a scan to the last."""
    token: str | None = None
    """Secret that a browser must show once; None asks for none."""
    host: str = "127.0.0.1"
    """Address that the server listens at."""
    names: tuple[str, ...] = ()
    """Names, besides localhost and addresses, by which browsers may call the server."""

    def __post_init__(self) -> None:
        """Refuse limits that allow nothing, and a network without a secret."""
        if self.max_upload_bytes < 1:
            raise InputError(f"--max-upload must be above 0, got {self.max_upload_bytes}")
        if not self.keep_s > 0:
            raise InputError(f"--keep must be above 0, got {self.keep_s:g} s")
        if self.token is None and not is_loopback(self.host):
            msg = f"a server at {self.host!r} needs a token"
            raise ValueError(msg)


def is_loopback(host: str) -> bool:
    """Tell whether an address or name can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_duration_s(text: str) -> float:
    """Return the seconds of "30min", "2h" or "45 s".

    Raises:
        InputError: When it is not a duration.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise InputError(f"{text!r} is not a duration", mend="write it like 30min, 2h or 45s")
    return float(match[1]) * _UNIT_S[match[2]]


def token_for(host: str, given: str | None) -> str | None:
    """Return the secret of a server at ``host``: the given one, or a new one where one is needed.

    Args:
        host: Address that the server listens at.
        given: What the user asked for; an empty text asks for a new one, None for none.

    Raises:
        InputError: When the given one is short, or could not stand in an address.
    """
    if given is None and is_loopback(host):
        return None
    if not given:
        return secrets.token_urlsafe(_TOKEN_BYTES)
    if len(given) < SHORTEST_TOKEN:
        raise InputError(
            f"--token has {len(given)} characters",
            mend=f"use at least {SHORTEST_TOKEN}, or leave the text out to have one made",
        )
    if not _PRINTABLE_TOKEN.fullmatch(given):
        raise InputError("--token may hold letters, digits and . _ ~ - only")
    return given
