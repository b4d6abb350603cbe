"""Heads of the volume networks against the obvious loop over classes and voxels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from samcancer.errors import InputError
from samcancer.modeling.backbones import Features
from samcancer.modeling.class_table import TextVectors
from samcancer.modeling.heads import HEADS, head_spec
from samcancer.modeling.heads.plain import PlainHead
from samcancer.modeling.heads.segmentor import SEGMENTOR_CHANNELS, Segmentor
from samcancer.modeling.heads.shape import HeadShape
from samcancer.modeling.layers import PRIOR_LOGIT

CLASSES = 5
DEEP, CHANNELS = 24, 12
PARAMETERS = 8 * 8 + 8 + 8 * 8 + 8 + 8 * 1 + 1
"""Of three 1x1x1 convolutions 8 -> 8 -> 8 -> 1 with biases ([UM] section 3.2)."""


def features(batch: int = 2) -> Features:
    generator = torch.Generator().manual_seed(1)
    return Features(
        torch.randn(batch, DEEP, 2, 3, 2, generator=generator),
        torch.randn(batch, CHANNELS, 4, 6, 5, generator=generator),
    )


def head(kind: str = "onehot") -> Any:
    torch.manual_seed(0)
    text = TextVectors(torch.randn(CLASSES, 32), torch.zeros(32)) if kind == "text" else None
    made = HEADS[kind].build(HeadShape(CLASSES, DEEP, CHANNELS), text)
    return made.requires_grad_(False).eval()


def class_by_class(made: Segmentor, seen: Features) -> Tensor:
    """Three convolutions for each scan and class, written out."""
    theta = made._controls(seen.deep)
    assert theta.shape[-1] == PARAMETERS
    reduced = made.reduce(seen.decoded)
    logits = torch.empty(len(reduced), CLASSES, *reduced.shape[2:])
    for b in range(len(reduced)):
        for k in range(CLASSES):
            x, rest, inputs = reduced[b : b + 1], theta[b, k], 8
            for index, outputs in enumerate(SEGMENTOR_CHANNELS):
                weight, bias, rest = rest.split(
                    [inputs * outputs, outputs, len(rest) - inputs * outputs - outputs]
                )
                x = F.conv3d(x, weight.view(outputs, inputs, 1, 1, 1), bias)
                x = x if index == 2 else F.relu(x)
                inputs = outputs
            logits[b, k] = x[0, 0]
    return logits


@pytest.mark.parametrize("kind", ["text", "onehot", "learned"])
def test_batched_products_equal_a_convolution_per_class(kind: str) -> None:
    made, seen = head(kind), features()
    torch.testing.assert_close(made(seen), class_by_class(made, seen), atol=1e-4, rtol=1e-4)


def test_features_are_not_repeated_for_each_class() -> None:
    """The first product reads (B, 8, V) once for all classes; nothing is (B * K, 8, V) before."""
    shapes = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.aten.baddbmm.default:
                shapes.append(tuple(args[2].shape))
            return func(*args, **(kwargs or {}))

    with Spy():
        head()(features(batch=1))
    assert shapes[0] == (1, 8, 4 * 6 * 5)


def test_the_global_feature_changes_the_segmentors() -> None:
    made, seen = head(), features(batch=1)
    other = seen._replace(deep=seen.deep.flip(1))
    assert not torch.allclose(made(seen), made(other))


def test_a_new_head_says_background() -> None:
    """Biases start at the prior; what text and scan add is small against it."""
    assert float(head()(features()).mean()) == pytest.approx(PRIOR_LOGIT, abs=1.5)


def test_text_vectors_are_needed_for_every_class() -> None:
    text = TextVectors(torch.randn(2, 32), torch.zeros(32))
    with pytest.raises(ValueError, match="needs 5 text vectors"):
        HEADS["text"].build(HeadShape(5, DEEP, CHANNELS), text)


def test_an_unknown_head_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown head 'clip'.*text, onehot, learned, plain"):
        head_spec("clip")


@pytest.mark.parametrize("classes", [1, 7, 8, 9, 32])
def test_the_plain_head_is_one_convolution(classes: int) -> None:
    made, seen = PlainHead(classes, channels=CHANNELS), features()
    expected = F.conv3d(seen.decoded, made.weight[:, :, None, None, None], made.bias)
    torch.testing.assert_close(made(seen), expected)
