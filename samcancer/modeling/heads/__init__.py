"""The heads of the volume networks, by name: how classes are asked for and told apart.

    features of a backbone -> head -> mask logits (B, K, D, H, W)

A new kind of prompt is a file beside this one and a line in :data:`HEADS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from samcancer.errors import InputError
from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.heads.learned import learned_head
from samcancer.modeling.heads.onehot import onehot_head
from samcancer.modeling.heads.plain import plain_head
from samcancer.modeling.heads.shape import HeadShape
from samcancer.modeling.heads.text import text_head


class HeadSpec(NamedTuple):
    """A kind of head."""

    build: Callable[[HeadShape, TextVectors | None], nn.Module]
    """Gets the classes' text vectors where it needs them."""
    needs_text: bool = False
    """Whether ``model.text_embeddings`` has to be set."""


HEADS = {
    "text": HeadSpec(text_head, needs_text=True),
    "onehot": HeadSpec(onehot_head),
    "learned": HeadSpec(learned_head),
    "plain": HeadSpec(plain_head),
}


def head_spec(name: str) -> HeadSpec:
    """Return a kind of head.

    Raises:
        InputError: When the name is unknown.
    """
    if name not in HEADS:
        raise InputError(f"unknown head {name!r}", mend=f"choose from {', '.join(HEADS)}")
    return HEADS[name]
