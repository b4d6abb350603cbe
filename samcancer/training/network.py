"""The network of a configuration, with its published weights and text if it has any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.modeling.build import build_system, needs_text
from samcancer.modeling.class_table import TextVectors
from samcancer.pretrained import find_checkpoint
from samcancer.pretrained.text_embeddings import TextEmbeddings, read_text_embeddings
from samcancer.training.encoder_weights import load_sam_state


def build_network(
    config: ModelConfig,
    class_names: Sequence[str],
    *,
    seed: int = 0,
    text: TextVectors | None = None,
) -> nn.Module:
    """Build the network; equal seeds give equal random weights.

    Args:
        config: Of the network; its ``encoder_checkpoint`` is read here.
        class_names: In the order of the outputs.
        seed: Of the random weights; the global random state is left as it was.
        text: Of the classes; None reads the configuration's ``text_embeddings``.

    Raises:
        InputError: When the encoder is unknown, or its checkpoint or the text embeddings cannot be
            used.
    """
    named = config.encoder_checkpoint
    state = None if named is None else load_sam_state(find_checkpoint(named))
    if text is None and needs_text(config):
        text = _configured_text(config, class_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_system(config, class_names, encoder_state=state, text=text)


def _configured_text(config: ModelConfig, class_names: Sequence[str]) -> TextVectors:
    if config.text_embeddings is None:
        raise InputError(
            "model.text_embeddings is not set, but classes are to be told apart by their text",
            mend="set it to a file of samcancer build-text-embeddings, or choose another "
            "model.class_prompt or model.universal.head",
        )
    return text_vectors(read_text_embeddings(Path(config.text_embeddings)), class_names)


def text_vectors(embeddings: TextEmbeddings, class_names: Sequence[str]) -> TextVectors:
    """Return the vectors of some classes, and the mean over all of the file's.

    Raises:
        InputError: When the file lacks a class.
    """
    chosen = torch.from_numpy(embeddings.select(class_names))
    return TextVectors(chosen, torch.from_numpy(embeddings.vectors.mean(axis=0)))


def blank_text(classes: int, dim: int) -> TextVectors:
    """Return vectors to load a checkpoint's over."""
    return TextVectors(torch.zeros(classes, dim), torch.zeros(dim))
