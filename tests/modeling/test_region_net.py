from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from samcancer.config import ModelConfig, RegionConfig, TrainConfig
from samcancer.errors import InputError
from samcancer.modeling.build import build_system
from samcancer.modeling.region_net import (
    RegionNet,
    margin_slices,
    predict_presence,
    slices_around,
)
from samcancer.modeling.slice_prediction import Member
from samcancer.training.losses import Targets, loss_of

CLASSES = ("liver_lesion", "kidney_lesion", "lung_lesion")
BACKBONE = "test_resnet"
WINDOW_HU = (-160.0, 240.0)
B, T, S, K = 2, 3, 32, len(CLASSES)


@pytest.fixture
def net() -> RegionNet:
    torch.manual_seed(0)
    return RegionNet(CLASSES, backbone=BACKBONE).eval()


def test_every_target_slice_has_a_logit_for_each_class(net: RegionNet) -> None:
    assert net(torch.rand(B, T + 4, S, S)).presence_logits.shape == (B, T, K)


@torch.no_grad()
def test_a_chunk_says_of_its_slices_what_their_own_stacks_say(net: RegionNet) -> None:
    chunk = torch.rand(1, T + 4, S, S)
    stacks = chunk.unfold(1, 5, 1).permute(0, 1, 4, 2, 3)[0]  # (T, 5, S, S)
    whole = net(chunk).presence_logits[0]
    torch.testing.assert_close(whole, net(stacks).presence_logits[:, 0])


@torch.no_grad()
def test_a_slice_sees_its_two_neighbours_and_nothing_further(net: RegionNet) -> None:
    stack = torch.rand(1, 5, S, S)
    before = net(stack).presence_logits
    for place, seen in enumerate((False, True, True, True, False)):
        changed = stack.clone()
        changed[0, place] = 1 - changed[0, place]
        assert bool((net(changed).presence_logits != before).any()) is seen, place


def test_a_class_that_nobody_annotated_is_taught_nothing(net: RegionNet) -> None:
    output = net.train()(torch.rand(B, T + 4, S, S))
    output.presence_logits.retain_grad()
    shape = (B, T, K)
    known = torch.tensor([1.0, 0.0, 1.0]).expand(shape)
    nothing = torch.zeros(*shape, S, S)
    loss_of(
        output, Targets(nothing, nothing, torch.zeros(shape), known), TrainConfig()
    ).total.backward()
    of_class = output.presence_logits.grad.abs().sum(dim=(0, 1))
    assert of_class[1] == 0
    assert (of_class[[0, 2]] > 0).all()


def test_a_network_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="timm has no network 'resnet1'"):
        RegionNet(CLASSES, backbone="resnet1")


def test_without_timm_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"needs timm.*samcancer\[systems\]"):
        RegionNet(CLASSES, backbone=BACKBONE)


def test_the_configured_system_is_built() -> None:
    config = ModelConfig(system="region", region=RegionConfig(backbone=BACKBONE))
    assert isinstance(build_system(config, CLASSES), RegionNet)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_probabilities_of_a_case_do_not_depend_on_the_chunks(
    batch: int, net: RegionNet
) -> None:
    slices_hu = np.random.default_rng(0).integers(-200, 300, (7 + 4, S, S)).astype(np.int16)
    found = predict_presence(Member(net.train(), WINDOW_HU), slices_hu, batch=batch, device="cpu")
    assert net.training
    with torch.no_grad():
        grey = ((torch.from_numpy(slices_hu).float() + 160) / 400).clip(0, 1)
        expected = torch.sigmoid(net.eval()(grey[None]).presence_logits[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("positive", "margin", "expected"),
    [
        ([], 2, range(0)),
        ([4], 0, range(4, 5)),
        ([4], 2, range(2, 7)),
        ([3, 7], 1, range(2, 9)),  # a gap belongs to it
        ([0, 9], 3, range(10)),
        ([1], 5, range(7)),
        ([8], 5, range(3, 10)),
        (list(range(10)), 0, range(10)),
    ],
)
def test_the_range_is_continuous_padded_and_inside_the_scan(
    positive: list[int], margin: int, expected: range
) -> None:
    flags = np.zeros(10, dtype=bool)
    flags[positive] = True
    assert slices_around(flags, margin=margin) == expected


@pytest.mark.parametrize(
    ("margin_mm", "slice_mm", "expected"), [(15, 5, 3), (15, 4, 4), (15, 20, 1), (0, 5, 0)]
)
def test_a_margin_is_never_less_than_asked_for(
    margin_mm: float, slice_mm: float, expected: int
) -> None:
    assert margin_slices(margin_mm, slice_mm) == expected
