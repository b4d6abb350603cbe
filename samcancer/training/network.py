"""The SAMCancer network of a configuration, with its published encoder weights if it has any."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from samcancer.config import ModelConfig
from samcancer.modeling import build_model
from samcancer.pretrained import find_checkpoint
from samcancer.training.encoder_weights import load_sam_state


def build_network(config: ModelConfig, class_names: Sequence[str], *, seed: int = 0) -> nn.Module:
    """Build the network; equal seeds give equal random weights.

    Args:
        config: Of the network; its ``encoder_checkpoint`` is read here.
        class_names: In the order of the outputs.
        seed: Of the random weights; the global random state is left as it was.

    Raises:
        InputError: When the encoder is unknown or its checkpoint cannot be used.
    """
    named = config.encoder_checkpoint
    state = None if named is None else load_sam_state(find_checkpoint(named))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(config, class_names, encoder_state=state)
