"""Fusions: rules equal to the obvious, whatever the pieces that the parts' streams come in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import UniversalConfig
from samcancer.errors import InputError
from samcancer.modeling.fusion import ClassRule, FusedNet, combine_class
from samcancer.modeling.layers import ABSENT_LOGIT
from samcancer.modeling.manual_prompts import POSITIVE, SlicePrompt
from samcancer.modeling.outputs import NetOutput, VolumeOutput
from samcancer.modeling.predict import ensembles_at_once, predict_ensemble
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import Member, SlicePrediction, joined
from samcancer.modeling.universal_net import UniversalNet

CLASSES = ("a", "b", "c")
RULES = (ClassRule("mean", (0.25, 0.75)), ClassRule("both"), ClassRule("either"))
WINDOW_HU = (-200.0, 300.0)
LUNG_WINDOW_HU = (-1300.0, 300.0)
VOXEL_MM = (2.5, 1.2, 1.2)


class StackNet(nn.Module):
    """One z-valid convolution; presence apart from the masks."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv3d(1, len(CLASSES), (5, 3, 3), padding=(0, 1, 1))

    def forward(self, chunk: Tensor) -> NetOutput:
        logits = 5 * self.conv(chunk[:, None]).movedim(1, 2)
        return NetOutput(logits, logits.mean(dim=(-1, -2)))


class VolumeNet(UniversalNet):
    """One convolution over patches of 8 x 12 x 12."""

    def __init__(self) -> None:
        patches = UniversalConfig(patch_size=(8, 12, 12), spacing_mm=(2.0, 1.5, 1.5))
        super().__init__(CLASSES, patches, backbone=nn.Identity(), head=nn.Identity())
        torch.manual_seed(7)
        self.conv = nn.Conv3d(1, len(CLASSES), 3, padding=1)

    def forward(self, patch: Tensor) -> VolumeOutput:
        return VolumeOutput(5 * self.conv(patch.unsqueeze(1)).transpose(1, 2))


def stack_member(seed: int = 1, window_hu: tuple[float, float] = WINDOW_HU) -> Member:
    return Member(StackNet(seed).requires_grad_(False), window_hu)


def volume_member() -> Member:
    return Member(VolumeNet().requires_grad_(False), LUNG_WINDOW_HU)


def padded_slices(count: int, size: int = 20) -> NDArray[np.int16]:
    hu = np.random.default_rng(count).integers(-1000, 400, (count, size, size)).astype(np.int16)
    return np.pad(hu, [(2, 2), (0, 0), (0, 0)], "edge")


def whole(members: list[Member | FusedNet], count: int, **options: object) -> SlicePrediction:
    """Predict ``count`` slices and join the pieces."""
    options = {"voxel_mm": VOXEL_MM, "batch": 5, **options}
    pieces = list(predict_ensemble(members, padded_slices(count), PredictOptions(**options)))  # type: ignore[arg-type]
    assert [p.start for p in pieces] == [
        sum(len(p.logits) for p in pieces[:i]) for i in range(len(pieces))
    ]
    return joined(pieces)


def by_hand(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """What RULES make of two parts, (n, K, ...)."""
    mean = 0.25 * first[:, 0] + 0.75 * second[:, 0]
    both = np.minimum(first[:, 1], second[:, 1])
    either = np.maximum(first[:, 2], second[:, 2])
    return np.stack([mean, both, either], axis=1)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ClassRule("mean", (0.5, 0.25, 0.25)), 0.5 * 0.2 + 0.25 * 0.9 + 0.25 * 0.5),
        (ClassRule("mean", (0.0, 1.0, 0.0)), 0.9),
        (ClassRule("both"), 0.2),
        (ClassRule("either"), 0.9),
    ],
)
def test_a_rule_makes_one_probability_of_three(rule: ClassRule, expected: float) -> None:
    found = combine_class(torch.tensor([[0.2], [0.9], [0.5]]), rule)
    torch.testing.assert_close(found, torch.tensor([expected]))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (ClassRule("mean", (1.0, 0.0)), "sam alone"),
        (ClassRule("mean", (0.25, 0.75)), "0.25 sam + 0.75 unet"),
        (ClassRule("both"), "both"),
    ],
)
def test_a_rule_is_told_in_words(rule: ClassRule, text: str) -> None:
    assert rule.describe(["sam", "unet"]) == text


@pytest.mark.parametrize("weights", [(1.0,), (0.5, 0.6), (0.5, 0.25, 0.25)])
def test_weights_that_do_not_fit_the_parts_are_refused(weights: tuple[float, ...]) -> None:
    parts = [[stack_member()], [volume_member()]]
    with pytest.raises(ValueError, match=r"c: weights .* of 2 parts"):
        FusedNet(CLASSES, parts, [*RULES[:2], ClassRule("mean", weights)])


@pytest.mark.parametrize("count", [1, 8, 19])
@pytest.mark.parametrize("second", ["stacks", "volume"])
def test_a_fusion_is_its_rules_applied_to_what_the_parts_say_alone(count: int, second: str) -> None:
    parts = [
        [stack_member()],
        [stack_member(2, LUNG_WINDOW_HU) if second == "stacks" else volume_member()],
    ]
    fused = whole([FusedNet(CLASSES, parts, RULES)], count)
    alone = [whole([*part], count, batch=batch) for part, batch in zip(parts, (3, 4), strict=True)]
    masks = by_hand(*(torch.sigmoid(part.logits).numpy() for part in alone))
    presence = by_hand(*(part.presence.numpy() for part in alone))
    np.testing.assert_allclose(torch.sigmoid(fused.logits), masks, atol=1e-5)
    np.testing.assert_allclose(fused.presence, presence, atol=1e-5)


def test_thresholds_gate_what_was_combined() -> None:
    net = FusedNet(CLASSES, [[stack_member()], [volume_member()]], RULES)
    free = whole([net], 9)
    thresholds = free.presence.median(dim=0).values
    gated = whole([net], 9, thresholds=thresholds)
    absent = free.presence < thresholds
    assert absent.any()
    assert (gated.logits[absent] == ABSENT_LOGIT).all()
    torch.testing.assert_close(gated.logits[~absent], free.logits[~absent])


def test_a_fusion_and_a_network_are_averaged() -> None:
    net, member = FusedNet(CLASSES, [[stack_member()], [volume_member()]], RULES), stack_member(3)
    both = whole([net, member], 6)
    alone = [whole([one], 6) for one in (net, member)]
    mean = sum(torch.sigmoid(one.logits) for one in alone) / 2
    torch.testing.assert_close(torch.sigmoid(both.logits), mean, atol=1e-5, rtol=0)


def test_ensembles_at_once_are_all_streams_that_are_drawn_from() -> None:
    a, b, c, d = stack_member(1), stack_member(2), volume_member(), volume_member()
    net = FusedNet(CLASSES, [[a, b], [c]], RULES)
    assert ensembles_at_once([a, b]) == [[a, b]]
    assert ensembles_at_once([net]) == [(a, b), [c]]
    assert ensembles_at_once([d, net]) == [[d], (a, b), [c]]


def test_a_fusion_with_a_volume_network_takes_no_prompts() -> None:
    net = FusedNet(CLASSES, [[stack_member()], [volume_member()]], RULES)
    with pytest.raises(InputError, match="takes no prompts"):
        whole([net], 3, prompts=[SlicePrompt(0, 0, points=((1.0, 1.0, POSITIVE),))])


def test_agreement_of_systems_is_the_share_that_marks_a_voxel() -> None:
    members = [stack_member(1), volume_member()]
    alone = [whole([member], 9).logits > 0 for member in members]
    found = whole(members, 9).agreement
    assert found is not None
    torch.testing.assert_close(found, torch.stack(alone).float().mean(dim=0))
