"""The SAMCancer network: the parts in the order of the figure in docs/model.md ([SC]).

    chunk (B, T+4, S, S) in [0, 1], presence (B, T, K), manual prompts (B, T, K, ...);
    N = T * B target slices, slice by slice
    encoder        -> tokens (N, S/16, S/16, D), image embedding (N, E, S/16, S/16); of TinyViT
                      finer tokens (N, S/2 .. S/4, .., D_i) and embedding (N, E, S/4, S/4)
    CNN branch     -> five skips, then up features, the last being pixels (N, w, S, S)
    exchange 1-4   after each encoder stage, with the down stage of the same number
    class table    -> one row a class
    class prompts  -> prompts (N, K, 4, E), presence logits (B, T, K), coarse (B, T, K, S/4, S/4)
    mask decoder   -> mask logits (B, T, K, S, S)

Only the CNN's first two steps look at neighbouring slices; all else runs once per target slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT
from samcancer.modeling.class_prompts import ClassPrompts
from samcancer.modeling.class_table import ClassTable
from samcancer.modeling.cnn_branch import CnnBranch
from samcancer.modeling.encoder_features import EncoderFeatures, GivenFeatures, WithoutGradient
from samcancer.modeling.encoders import Encoder, EncoderPass
from samcancer.modeling.exchange import Exchange
from samcancer.modeling.manual_prompts import ManualPrompts
from samcancer.modeling.mask_decoder import PromptedMaskDecoder

PROMPT_STAGES = 2
"""Up stages whose features the class prompts pool, beside the image embedding."""


class NetOutput(NamedTuple):
    """Logits of a chunk of T target slices and K classes."""

    mask_logits: Tensor
    """(B, T, K, S, S)."""
    presence_logits: Tensor
    """(B, T, K): whether the slice holds the class at all."""
    coarse_logits: Tensor | None = None
    """(B, T, K, S/4, S/4) masks from before the prompts, for training; None without such a head."""


class SamCancerNet(nn.Module):
    """Image encoder and CNN branch side by side, class prompts and mask decoder on top."""

    slice_context: int = SLICE_CONTEXT
    takes_manual_prompts: bool = True

    def __init__(
        self,
        class_names: Sequence[str],
        image_size: int,
        *,
        encoder: Encoder,
        cnn: CnnBranch,
        exchanges: Sequence[Exchange],
        classes: ClassTable,
        prompts: ClassPrompts,
        decoder: PromptedMaskDecoder,
    ) -> None:
        super().__init__()
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.encoder: Any = encoder
        self.cnn = cnn
        self.exchanges = nn.ModuleList(exchanges)
        self.classes = classes
        self.prompts = prompts
        self.decoder = decoder

    @property
    def takes_encoder_features(self) -> bool:
        """Whether the encoder's features follow from the slice alone: frozen, nothing fed back."""
        fed_back = any(exchange.to_tokens is not None for exchange in self.exchanges)
        return not fed_back and not any(p.requires_grad for p in self.encoder.parameters())

    def forward(
        self,
        chunk: Tensor,
        presence: Tensor | None = None,
        manual: ManualPrompts | None = None,
        encoded: EncoderFeatures | None = None,
    ) -> NetOutput:
        """Segment the T target slices of each chunk.

        Args:
            chunk: (B, T+4, S, S) windowed to [0, 1]; target t is chunk[:, t + 2].
            presence: True presence (B, T, K) in {0, 1} for training, NaN where unknown; None lets
                the network use its own prediction.
            manual: Points, boxes and masks that a person gave.
            encoded: Features of the target slices (B, T, ...), when they were computed before.
        """
        self._check(chunk)
        batch, slices = chunk.shape[0], chunk.shape[1] - 2 * SLICE_CONTEXT
        chunk = chunk.transpose(0, 1)
        targets = chunk[SLICE_CONTEXT:-SLICE_CONTEXT].reshape(-1, 1, *chunk.shape[2:])
        encoder = self._encoder_for(encoded)
        tokens = encoder.embed(targets)
        full, x = self.cnn.stem(chunk)
        skips = [full]
        for index, (down, exchange) in enumerate(zip(self.cnn.downs, self.exchanges, strict=True)):
            tokens, x = exchange(encoder.stage(index, tokens), down(x))
            skips.append(x)
        image = encoder.embedding(tokens)
        decoded = self.cnn.decode(skips)
        features = [image, *decoded[:PROMPT_STAGES]]
        positions = [self.decoder.positions((f.shape[2], f.shape[3])) for f in features]
        known = None if presence is None else presence.transpose(0, 1).flatten(0, 1)
        rows = self.classes()
        answers = self.prompts(rows, features, positions, known)
        given = None if manual is None else manual.by_slice()
        masks = self.decoder(rows, image, answers.prompts, decoded[-1], given)
        return NetOutput(
            *(
                x.unflatten(0, (slices, batch)).transpose(0, 1)
                for x in (masks, answers.presence_logits, answers.coarse_logits)
            )
        )

    def _encoder_for(self, encoded: EncoderFeatures | None) -> EncoderPass:
        """Return what encodes the slices: the encoder, or features that it has given before."""
        apart = self.takes_encoder_features
        if encoded is not None and not apart:
            msg = "features can be given only with a frozen encoder and the interaction ladder"
            raise ValueError(msg)
        if encoded is not None:
            return GivenFeatures(encoded)
        return WithoutGradient(self.encoder) if apart else self.encoder

    def _check(self, chunk: Tensor) -> None:
        size = self.image_size
        if (
            chunk.ndim != 4
            or chunk.shape[1] <= 2 * SLICE_CONTEXT
            or chunk.shape[2:] != (size, size)
        ):
            msg = (
                f"chunk must be (B, T + {2 * SLICE_CONTEXT}, {size}, {size}) with T >= 1, "
                f"got {tuple(chunk.shape)}"
            )
            raise ValueError(msg)
