"""Our ViT against segment_anything's, and its windows."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from samcancer.modeling.encoders import ENCODERS, ImageEncoder, VitShape
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


def our_encoder(side: int, window: int) -> ImageEncoder:
    shape = VitShape(dim=24, depth=4, heads=3, out_channels=20, window=window, global_blocks=(1, 3))
    return ImageEncoder(shape, 16 * side)


@pytest.mark.parametrize(("side", "window"), [(8, 4), (8, 3), (7, 3)])
def test_equals_segment_anything_with_and_without_padded_windows(side: int, window: int) -> None:
    theirs, ours = reference_encoder(side, window).double(), our_encoder(side, window).double()
    state = random_state(theirs)
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    image = torch.randn(2, 3, 16 * side, 16 * side, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-10, atol=1e-10)


def test_a_grid_under_two_windows_is_one_window_without_padding() -> None:
    theirs, ours = reference_encoder(5, 0).double(), our_encoder(5, 3).double()
    state = random_state(theirs)
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    image = torch.randn(2, 3, 80, 80, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-10, atol=1e-10)


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
