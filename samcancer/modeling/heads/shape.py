"""What a head is built for."""

from __future__ import annotations

from typing import NamedTuple


class HeadShape(NamedTuple):
    """Sizes that backbone and data decide."""

    classes: int
    """K."""
    deep_channels: int
    """Of the backbone's deep features."""
    channels: int
    """Of its decoded features."""
