"""What the fields of a configuration are checked with."""

from __future__ import annotations


def require(condition: bool, name: str, value: object) -> None:
    """Raise a ValueError that quotes the value unless the condition holds."""
    if not condition:
        raise ValueError(f"{name} is out of range: {value!r}")
