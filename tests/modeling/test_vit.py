"""Our ViT against segment_anything's, and its windows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from samcancer.modeling.encoders import ENCODERS, ImageEncoder, VitShape
from samcancer.modeling.encoders.sam_weights import (
    SAM_PIXEL_MEAN,
    SAM_PIXEL_STD,
    fold_normalisation,
)
from samcancer.modeling.encoders.vit import join_windows, split_windows


def random_state(module: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(3)
    return {key: 0.2 * torch.randn_like(value) for key, value in module.state_dict().items()}


def reference_encoder(side: int, window: int) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=16 * side,
        embed_dim=24,
        depth=4,
        num_heads=3,
        out_chans=20,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=(1, 3),
        norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
    )


def our_encoder(side: int, window: int, *, padded: bool = False) -> ImageEncoder:
    shape = VitShape(dim=24, depth=4, heads=3, out_channels=20, window=window, global_blocks=(1, 3))
    return ImageEncoder(shape, 16 * side, padded_windows=padded)


def load_alike(theirs: nn.Module, ours: nn.Module) -> None:
    """Give both the same random weights, ours with the normalisation folded in."""
    state = random_state(theirs)
    theirs.load_state_dict(state)
    weight, bias = (state[f"patch_embed.proj.{part}"] for part in ("weight", "bias"))
    folded = dict(zip(("weight", "bias"), fold_normalisation(weight, bias), strict=True))
    ours.load_state_dict({**state, **{f"patch_embed.proj.{k}": v for k, v in folded.items()}})


def sam_input(grey: Tensor) -> Tensor:
    """(B, 1, S, S) in [0, 1] -> SAM's normalised (B, 3, S, S)."""
    mean, std = (
        torch.tensor(v, dtype=grey.dtype).view(3, 1, 1) for v in (SAM_PIXEL_MEAN, SAM_PIXEL_STD)
    )
    return (255 * grey - mean) / std


@pytest.mark.parametrize(("side", "window"), [(8, 4), (8, 3), (7, 3)])
def test_equals_segment_anything_with_and_without_padded_windows(side: int, window: int) -> None:
    theirs, ours = reference_encoder(side, window).double(), our_encoder(side, window).double()
    load_alike(theirs, ours)
    image = torch.rand(2, 1, 16 * side, 16 * side, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(sam_input(image)), rtol=1e-9, atol=1e-9)


def test_a_grid_under_two_windows_is_one_window_without_padding() -> None:
    theirs, ours = reference_encoder(5, 0).double(), our_encoder(5, 3).double()
    load_alike(theirs, ours)
    image = torch.rand(2, 1, 80, 80, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(sam_input(image)), rtol=1e-9, atol=1e-9)


def test_padded_windows_are_sams_own_on_a_small_grid() -> None:
    theirs, ours = reference_encoder(5, 3).double(), our_encoder(5, 3, padded=True).double()
    load_alike(theirs, ours)
    image = torch.rand(2, 1, 80, 80, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(sam_input(image)), rtol=1e-9, atol=1e-9)


def test_a_grey_patch_convolution_equals_sams_on_three_equal_channels() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 3, 16, 16), torch.randn(7)
    grey = torch.rand(2, 1, 32, 32)
    expected = F.conv2d(sam_input(grey.double()), weight.double(), bias.double(), stride=16)
    folded_weight, folded_bias = fold_normalisation(weight, bias)
    ours = F.conv2d(grey, folded_weight, folded_bias, stride=16)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)


def test_at_256_pixels_every_block_of_sam_is_one_window_of_16() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder(ENCODERS["sam_vit_b"].vit, 256)
    assert [block.window for block in encoder.blocks] == [16] * 12


def test_at_1024_pixels_sam_has_its_own_windows() -> None:
    with torch.device("meta"):
        encoder = ImageEncoder(ENCODERS["sam_vit_b"].vit, 1024)
    assert [block.window for block in encoder.blocks] == [14, 14, 64] * 4


@pytest.mark.parametrize("size", [(6, 9), (7, 4), (3, 3)])
def test_joining_windows_undoes_splitting(size: tuple[int, int]) -> None:
    tokens = torch.randn(2, *size, 5)
    assert torch.equal(join_windows(split_windows(tokens, 3), size), tokens)


def test_shapes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="heads must divide dim"):
        VitShape(dim=10, depth=4, heads=3, out_channels=8)
