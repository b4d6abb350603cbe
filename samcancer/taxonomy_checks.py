"""Where tables of a taxonomy may contradict themselves: rules of classes, names of anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from samcancer.taxonomy import ClassSpec


def check_rules(classes: Mapping[str, ClassSpec]) -> None:
    """Refuse rules of post-processing that could not be followed.

    Raises:
        ValueError: Naming the class and the rule.
    """
    lefts = [spec.left_counterpart for spec in classes.values()]
    for spec in classes.values():
        reach_mm, left = spec.postprocess.inside_organ_mm, spec.left_counterpart
        if reach_mm is not None and (
            spec.kind != "lesion" or spec.organ is None or not 0 <= reach_mm < math.inf
        ):
            raise ValueError(
                f"class {spec.name!r} has inside_organ_mm {reach_mm!r}; a lesion with an organ"
                " may have a length in mm"
            )
        if left is not None and (
            spec.kind != classes[left].kind or spec.name in lefts or lefts.count(left) > 1
        ):
            raise ValueError(
                f"class {spec.name!r} has left_counterpart {left!r}; a pair is of one kind and"
                " shares no class with another pair"
            )


def require_unique(what: str, entries: Sequence[tuple[str, Set[str]]]) -> None:
    """Refuse a name that two entries share.

    Args:
        what: Kind of entry, for the message.
        entries: Each entry's own name and all names it goes by, in the form they are compared in.

    Raises:
        ValueError: Naming both entries.
    """
    owner: dict[str, str] = {}
    for name, keys in entries:
        for key in keys:
            if owner.setdefault(key, name) != name:
                raise ValueError(f"{what} name {key!r} belongs to both {owner[key]!r} and {name!r}")
