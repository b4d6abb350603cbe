"""MONAI's networks without their last layer: the same features, and clear refusals."""

from __future__ import annotations

import pytest
import torch
from live_memory import peak_bytes
from monai.networks.nets import BasicUNet, SegResNet, SwinUNETR
from torch import nn

from samcancer.config import ModelConfig, UniversalConfig
from samcancer.errors import InputError
from samcancer.modeling.backbones import BACKBONES, build_backbone
from samcancer.modeling.build import build_system, build_universal

WIDTHS = {"unet": 8, "segresnet": 8, "swin_unetr": 12}
PATCH = (32, 64, 32)


def whole(name: str, width: int) -> tuple[nn.Module, str]:
    """Return MONAI's whole network and the name of its last layer."""
    if name == "unet":
        channels = (width, width, 2 * width, 4 * width, 8 * width, width)
        return BasicUNet(in_channels=1, out_channels=3, features=channels), "final_conv"
    if name == "segresnet":
        net = SegResNet(init_filters=width, out_channels=3, blocks_down=(1, 2, 2, 4))
        return net, "conv_final"
    return SwinUNETR(in_channels=1, out_channels=3, feature_size=width), "out"


@pytest.mark.parametrize("name", BACKBONES)
def test_decoded_features_are_what_monai_reads_its_logits_off(name: str) -> None:
    backbone = build_backbone(name, WIDTHS[name]).eval()
    original, last = whole(name, WIDTHS[name])
    original.eval()
    shared = {k: v for k, v in backbone.state_dict().items() if not k.startswith(last)}
    missing, unexpected = original.load_state_dict(shared, strict=False)
    assert not unexpected
    assert all(key.startswith(last) for key in missing)
    x = torch.rand(1, 1, *PATCH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        seen = backbone(x)
        torch.testing.assert_close(original.get_submodule(last)(seen.decoded), original(x))
    assert seen.decoded.shape == (1, backbone.channels, *PATCH)
    assert seen.deep.shape == (1, backbone.deep_channels, *(n // backbone.stride for n in PATCH))


def test_an_unknown_backbone_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown backbone 'resnet'.*unet, segresnet, swin_unetr"):
        build_backbone("resnet", 8)


@pytest.mark.parametrize(("name", "width"), [("segresnet", 12), ("swin_unetr", 16)])
def test_a_width_that_does_not_divide_is_refused(name: str, width: int) -> None:
    with pytest.raises(InputError, match=rf"'{name}' cannot have width {width}.*universal.width"):
        build_backbone(name, width)


@pytest.mark.parametrize("patch", [(24, 32, 32), (16, 16, 16)])
def test_a_patch_that_does_not_fit_the_backbone_is_refused(patch: tuple[int, int, int]) -> None:
    config = UniversalConfig(backbone="unet", width=4, head="plain", patch_size=patch)
    with pytest.raises(InputError, match=r"does not fit unet.*multiples of 16"):
        build_universal(config, ["a"])


def test_a_volume_network_keeps_the_slice_axis_in_front() -> None:
    volume = UniversalConfig(backbone="unet", width=4, head="onehot", patch_size=(16, 32, 48))
    net = build_system(ModelConfig(system="universal", universal=volume), ["a", "b"])
    assert net(torch.rand(2, 16, 32, 48)).mask_logits.shape == (2, 16, 2, 32, 48)
    with pytest.raises(ValueError, match="multiples of 16"):
        net(torch.rand(1, 16, 30, 48))


@pytest.mark.parametrize("head", ["plain", "learned"])
@pytest.mark.parametrize("name", BACKBONES)
def test_the_memory_of_a_patch_is_foretold(name: str, head: str) -> None:
    """Counted over all live tensors; an estimate may be too high by half, hardly too low."""
    config = UniversalConfig(backbone=name, width=2 * WIDTHS[name], head=head, patch_size=PATCH)
    net = build_universal(config, [f"class{i}" for i in range(6)]).eval()
    with torch.inference_mode():
        counted = peak_bytes(lambda: net(torch.rand(1, *PATCH)))
    assert 0.95 * counted < net.patch_bytes < 1.5 * counted
