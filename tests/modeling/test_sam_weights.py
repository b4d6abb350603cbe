"""Official SAM state dicts load strictly, with position tables resized."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.modeling import SamCancerNet, build_model
from samcancer.modeling.encoders.sam_weights import (
    fold_normalisation,
    resize_offset_table,
    resize_position_map,
)

State = dict[str, Tensor]

PATCHES = tuple(f"image_encoder.patch_embed.proj.{part}" for part in ("weight", "bias"))


def network(state: State, *, size: int = 128, encoder: str = "small_sam") -> SamCancerNet:
    config = ModelConfig(encoder=encoder, image_size=size, cnn_width=4)
    return build_model(config, ["a"], encoder_state=state)


def official_names(model: SamCancerNet) -> State:
    parts = {
        "image_encoder": model.encoder,
        "prompt_encoder": model.decoder.prompt_encoder,
        "mask_decoder": model.decoder.mask_decoder,
    }
    return {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}


def test_at_the_checkpoints_own_size_every_weight_is_taken_as_it_is(sam_state: State) -> None:
    loaded = official_names(network(sam_state))
    assert set(loaded) == set(sam_state)
    assert all(torch.equal(loaded[key], sam_state[key]) for key in set(sam_state) - set(PATCHES))
    folded = fold_normalisation(*(sam_state[key] for key in PATCHES))
    for key, expected in zip(PATCHES, folded, strict=True):
        assert torch.equal(loaded[key], expected)


def test_at_another_size_only_position_tables_change(sam_state: State) -> None:
    loaded = official_names(network(sam_state, size=64))
    changed = {k for k in sam_state if loaded[k].shape != sam_state[k].shape}
    relative = {f"image_encoder.blocks.{i}.attn.rel_pos_{a}" for i in range(4) for a in "hw"}
    assert changed == {"image_encoder.pos_embed", *relative, PATCHES[0]}
    untouched = set(sam_state) - changed - set(PATCHES)
    assert all(torch.equal(loaded[k], sam_state[k]) for k in untouched)


def test_a_resized_offset_table_keeps_its_centre_and_its_slope() -> None:
    offsets = torch.arange(-63.0, 64.0)
    table = torch.stack([offsets, 5 - 2 * offsets], dim=1)
    resized = resize_offset_table(table, 31)
    expected = torch.arange(-15.0, 16.0) * 127 / 31
    torch.testing.assert_close(resized, torch.stack([expected, 5 - 2 * expected], dim=1))


def test_a_resized_position_map_keeps_rows_apart_from_columns() -> None:
    rows = torch.linspace(0, 1, 64).view(1, 64, 1, 1).expand(1, 64, 64, 1)
    resized = resize_position_map(torch.cat([rows, rows.transpose(1, 2)], dim=-1), 16)
    torch.testing.assert_close(resized[..., 0], resized[..., 1].transpose(1, 2))
    assert (resized[0, 1:, :, 0] > resized[0, :-1, :, 0]).all()
    torch.testing.assert_close(resized.mean(), torch.tensor(0.5))


@pytest.mark.parametrize(
    ("key", "fact"),
    [
        ("image_encoder.blocks.2.attn.qkv.weight", "lacks image_encoder.blocks.2.attn.qkv.weight"),
        ("mask_decoder.iou_token.weight", "lacks mask_decoder.iou_token.weight"),
    ],
)
def test_a_missing_key_is_named(sam_state: State, key: str, fact: str) -> None:
    del sam_state[key]
    with pytest.raises(InputError, match=fact):
        network(sam_state)


def test_an_unknown_key_is_named(sam_state: State) -> None:
    sam_state["image_encoder.blocks.4.norm1.weight"] = torch.zeros(32)
    with pytest.raises(InputError, match=r"holds unknown image_encoder\.blocks\.4\.norm1\.weight"):
        network(sam_state)


@pytest.mark.parametrize(
    "key", ["image_encoder.pos_embed", "image_encoder.blocks.0.mlp.lin1.weight"]
)
def test_another_width_is_named_with_both_shapes(sam_state: State, key: str) -> None:
    sam_state[key] = sam_state[key][..., :-1]
    shape = str(tuple(sam_state[key].shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=f"{key} {shape} instead of"):
        network(sam_state)


def test_vit_tiny_takes_no_sam_weights(sam_state: State) -> None:
    with pytest.raises(InputError, match="'vit_tiny' takes no published weights"):
        network(sam_state, encoder="vit_tiny")
