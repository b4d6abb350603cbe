"""The compared U-Net: shapes, what it sees, and its size."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("monai", reason="the baseline needs the extra 'systems'")

from benchmarks.baseline_unet import PARAMETER_TOLERANCE, BaselineUNet, channels_for


def small_net() -> BaselineUNet:
    torch.manual_seed(0)
    return BaselineUNet(("a", "b"), (4, 8, 16, 32, 64)).eval()


def test_it_has_the_shapes_of_our_network() -> None:
    output = small_net()(torch.rand(2, 3 + 4, 32, 48)[..., :32])
    assert output.mask_logits.shape == (2, 3, 2, 32, 32)
    assert output.presence_logits.shape == (2, 3, 2)


def test_it_sees_the_target_slice_only() -> None:
    net, chunk = small_net(), torch.rand(1, 6, 32, 32)
    changed = chunk.clone()
    changed[:, [0, 1, 4, 5]] = torch.rand(1, 4, 32, 32)
    torch.testing.assert_close(net(chunk).mask_logits, net(changed).mask_logits)


def test_slices_of_a_chunk_are_segmented_apart_from_each_other() -> None:
    net, chunk = small_net(), torch.rand(1, 7, 32, 32)
    whole = net(chunk).mask_logits
    single = torch.cat([net(chunk[:, z : z + 5]).mask_logits for z in range(3)], dim=1)
    torch.testing.assert_close(whole, single)


def test_gating_at_one_half_keeps_every_mask() -> None:
    """Presence is at least 0.5 exactly where some pixel is."""
    output = small_net()(torch.rand(2, 6, 32, 32))
    present = output.presence_logits > 0
    assert torch.equal(present, (output.mask_logits > 0).flatten(start_dim=3).any(dim=-1))


@pytest.mark.parametrize("parameters", [100_000, 1_234_567, 3_021_773, 20_000_000])
def test_its_width_is_chosen_to_match_a_number_of_parameters(parameters: int) -> None:
    with torch.device("meta"):
        net = BaselineUNet(("a",), channels_for(parameters, class_count=1))
    found = sum(p.numel() for p in net.parameters())
    assert abs(found - parameters) <= PARAMETER_TOLERANCE * parameters


def test_a_number_that_no_width_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match="the closest U-Net to 10 parameters has"):
        channels_for(10, class_count=1)
