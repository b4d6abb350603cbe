"""Load an official SAM state dict: every key accounted for, every shape checked.

    image_encoder.*   -> the encoder, through its converter of names and tensors
    prompt_encoder.*  -> segment_anything's PromptEncoder
    mask_decoder.*    -> segment_anything's MaskDecoder

CT has one channel: SAM's normalisation and three equal channels are folded into the patch
convolution. SAM's tables are made for 64 x 64 tokens (1024 px) and windows of 14. ``pos_embed`` is
a map over the image and is resized as one (bicubic, antialiased); ``rel_pos`` tables run over
offsets and are resized linearly, as SAM itself does. Source: ``segment_anything.modeling`` 1.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samcancer.errors import InputError

ENCODER_PREFIX = "image_encoder."
PROMPT_ENCODER_PREFIX = "prompt_encoder."
MASK_DECODER_PREFIX = "mask_decoder."

SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
"""Mean of SAM's input channels, for values 0 to 255 (``segment_anything.build_sam``)."""

SAM_PIXEL_STD = (58.395, 57.12, 57.375)
"""Standard deviation of SAM's input channels."""

StateConverter = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""An encoder's official state dict -> names and tensors of ours."""

_PATCH_WEIGHT = "patch_embed.proj.weight"
_PATCH_BIAS = "patch_embed.proj.bias"

_MAX_NAMED = 4
"""Differing keys a message names before it counts the rest."""

_MEND = "give the official checkpoint of the encoder's size, or choose the encoder of its size"


def load_sam_weights(
    parts: Mapping[str, nn.Module], state: Mapping[str, Tensor], *, convert: StateConverter
) -> None:
    """Copy an official state dict into the modules.

    Args:
        parts: Prefix of the official keys -> module with the same names below it.
        state: The state dict; left unchanged.
        convert: Of the encoder's part of it.

    Raises:
        InputError: When a key is missing or unexpected, or a shape does not fit; nothing is
            copied then.
    """
    official = {
        key.removeprefix(ENCODER_PREFIX): tensor
        for key, tensor in state.items()
        if key.startswith(ENCODER_PREFIX)
    }
    others = {k: v for k, v in state.items() if not k.startswith(ENCODER_PREFIX)}
    state = {**others, **{ENCODER_PREFIX + k: v for k, v in convert(official).items()}}
    targets = {
        prefix + name: tensor
        for prefix, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    _refuse("lacks", sorted(set(targets) - set(state)))
    _refuse("holds unknown", sorted(set(state) - set(targets)))
    fitted = {key: _fit(key, state[key], tuple(target.shape)) for key, target in targets.items()}
    wrong = [key for key, target in targets.items() if fitted[key].shape != target.shape]
    _refuse(
        "has other shapes:",
        [f"{k} {tuple(state[k].shape)} instead of {tuple(targets[k].shape)}" for k in wrong],
    )
    for prefix, module in parts.items():
        module.load_state_dict(
            {k.removeprefix(prefix): v for k, v in fitted.items() if k.startswith(prefix)}
        )


def resize_position_map(table: Tensor, side: int) -> Tensor:
    """``pos_embed`` (1, h, w, D) -> (1, side, side, D)."""
    resized = F.interpolate(
        table.permute(0, 3, 1, 2), size=(side, side), mode="bicubic", antialias=True
    )
    return resized.permute(0, 2, 3, 1)


def resize_offset_table(table: Tensor, length: int) -> Tensor:
    """``rel_pos`` (2n - 1, d) -> (length, d)."""
    return F.interpolate(table.T[None], size=length, mode="linear")[0].T


def fold_normalisation(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Fold SAM's input normalisation and equal channels into a convolution, which stays the same.

    Args:
        weight: (D, 3, h, w), for channels ``(255 * x - mean) / std`` of one grey image x.
        bias: (D,).

    Returns:
        Weight (D, 1, h, w) and bias (D,) for x itself.
    """
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (SAM_PIXEL_MEAN, SAM_PIXEL_STD))
    exact = weight.double()
    grey = torch.einsum("dchw,c->dhw", exact, 255.0 / std)[:, None]
    shift = torch.einsum("dchw,c->d", exact, mean / std)
    return grey.to(weight.dtype), (bias.double() - shift).to(bias.dtype)


def fold_patches(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a SAM encoder's state with the patch convolution for grey images.

    It is left as it is where its shape is not SAM's, for strict loading to refuse.
    """
    weight, bias = state.get(_PATCH_WEIGHT), state.get(_PATCH_BIAS)
    if weight is None or bias is None or weight.ndim != 4 or weight.shape[1] != 3:
        return dict(state)
    folded = zip((_PATCH_WEIGHT, _PATCH_BIAS), fold_normalisation(weight, bias), strict=True)
    return {**state, **dict(folded)}


def _fit(key: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize position tables whose other dimensions fit; return all else as it is."""
    if not key.startswith(ENCODER_PREFIX) or tuple(tensor.shape) == shape:
        return tensor
    if key.endswith(".pos_embed") and tensor.ndim == 4 and tensor.shape[-1] == shape[-1]:
        return resize_position_map(tensor, shape[1])
    is_offsets = key.endswith((".rel_pos_h", ".rel_pos_w")) and tensor.ndim == 2
    if is_offsets and tensor.shape[-1] == shape[-1]:
        return resize_offset_table(tensor, shape[0])
    return tensor


def _refuse(what: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - _MAX_NAMED} more" if len(keys) > _MAX_NAMED else ""
        named = ", ".join(keys[:_MAX_NAMED])
        raise InputError(f"the SAM checkpoint {what} {named}{more}", mend=_MEND)
