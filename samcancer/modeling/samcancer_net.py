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
The parts up to the class prompts are a look at the slices: they tell which classes are there. The
CNN's last two up stages and the mask decoder draw the outlines, at inference only where a class is
present.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from samcancer.config import SLICE_CONTEXT
from samcancer.modeling.class_prompts import ClassAnswers, ClassPrompts
from samcancer.modeling.class_table import ClassRows, ClassTable
from samcancer.modeling.cnn_branch import CnnBranch
from samcancer.modeling.encoder_features import EncoderFeatures, GivenFeatures, WithoutGradient
from samcancer.modeling.encoders import Encoder, EncoderPass
from samcancer.modeling.exchange import Exchange
from samcancer.modeling.layers import ABSENT_LOGIT
from samcancer.modeling.manual_prompts import ManualPrompts
from samcancer.modeling.mask_decoder import PromptedMaskDecoder
from samcancer.modeling.outputs import NetOutput

PROMPT_STAGES = 2
"""Up stages whose features the class prompts pool, beside the image embedding."""


_WORKING_MAPS = 7.5
"""Full-resolution feature maps of the CNN that fit into the memory of a target slice; a test
compares."""

_HELD_MAPS = 2.0


class Look(NamedTuple):
    """What is known of N = T * B slices before an outline is drawn."""

    slices: int
    """T."""
    rows: ClassRows
    image: Tensor
    """Image embedding (N, E, h, w)."""
    decoded: Tensor
    """Features of the last up stage that has run."""
    skips: tuple[Tensor, ...]
    """For the up stages that have not, from coarse to fine."""
    answers: ClassAnswers
    manual: ManualPrompts | None
    """Slice by slice, (N, K, ...)."""

    @property
    def presence_logits(self) -> Tensor:
        """(B, T, K)."""
        return self.by_chunk(self.answers.presence_logits)

    def by_chunk(self, x: Tensor) -> Tensor:
        """(N, ...) -> (B, T, ...)."""
        return x.reshape(self.slices, -1, *x.shape[1:]).transpose(0, 1)


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
        neighbours: bool = True,
    ) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.class_names = tuple(class_names)
        self.image_size = image_size
        self.encoder: Any = encoder
        self.cnn = cnn
        self.exchanges = nn.ModuleList(exchanges)
        self.classes = classes
        self.prompts = prompts
        self.decoder = decoder

    @property
    def slice_bytes(self) -> int:
        """Working memory at inference for one target slice of a chunk and one class, float32."""
        encoding: int = self.encoder.working_bytes(self.image_size) + self.look_bytes
        return max(round(_WORKING_MAPS * self._map_bytes), encoding)

    @property
    def look_bytes(self) -> int:
        """Of a target slice, what a :class:`Look` keeps for the outline."""
        return round(_HELD_MAPS * self._map_bytes)

    @property
    def _map_bytes(self) -> int:
        return 4 * self.image_size**2 * self.cnn.channels[0]

    @property
    def takes_encoder_features(self) -> bool:
        """Whether the encoder's features follow from the slice alone: frozen, nothing fed back."""
        fed_back = any(exchange.to_tokens is not None for exchange in self.exchanges)
        return not fed_back and not any(p.requires_grad for p in self.encoder.parameters())

    def ask(self, class_names: Sequence[str], vectors: Tensor) -> None:
        """Replace the classes by others, trained or not, given their text vectors (K', D)."""
        self.classes.ask(vectors)
        self.class_names = tuple(class_names)

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
        look = self.look(chunk, presence, manual, encoded)
        coarse = look.by_chunk(look.answers.coarse_logits)
        return NetOutput(self.outline(look), look.presence_logits, coarse)

    def look(
        self,
        chunk: Tensor,
        presence: Tensor | None = None,
        manual: ManualPrompts | None = None,
        encoded: EncoderFeatures | None = None,
    ) -> Look:
        """Run what has to be known before an outline is drawn; see :meth:`forward`."""
        self._check(chunk)
        slices = chunk.shape[1] - 2 * SLICE_CONTEXT
        chunk = chunk.transpose(0, 1)
        targets = chunk[SLICE_CONTEXT:-SLICE_CONTEXT].reshape(-1, 1, *chunk.shape[2:])
        if not self.neighbours:
            chunk = targets.transpose(0, 1).expand(2 * SLICE_CONTEXT + 1, -1, -1, -1)
        encoder = self._encoder_for(encoded)
        tokens = encoder.embed(targets)
        full, x = self.cnn.stem(chunk)
        skips = [full]
        for index, (down, exchange) in enumerate(zip(self.cnn.downs, self.exchanges, strict=True)):
            tokens, x = exchange(encoder.stage(index, tokens), down(x))
            skips.append(x)
        image = encoder.embedding(tokens)
        *shallow, deepest = skips
        shallow.reverse()
        features = [image, *self.cnn.decode(deepest, shallow[:PROMPT_STAGES])]
        positions = [self.decoder.positions((f.shape[2], f.shape[3])) for f in features]
        known = None if presence is None else presence.transpose(0, 1).flatten(0, 1)
        rows = self.classes()
        return Look(
            slices=slices,
            rows=rows,
            image=image,
            decoded=features[-1],
            skips=tuple(shallow[PROMPT_STAGES:]),
            answers=self.prompts(rows, features, positions, known),
            manual=None if manual is None else manual.by_slice(),
        )

    def outline(self, look: Look, wanted: Tensor | None = None) -> Tensor:
        """Draw the masks, (B, T, K, S, S) logits.

        Args:
            look: At the slices.
            wanted: (B, T, K) bool, the slices and classes whose mask is asked for; None asks for
                all. The others are empty, ``ABSENT_LOGIT``; slices before the first and behind the
                last wanted one take no time.
        """
        if wanted is None:
            return look.by_chunk(self._outline(look, slice(None), None))
        pairs = wanted.transpose(0, 1).flatten(0, 1)
        shape = (*pairs.shape, self.image_size, self.image_size)
        masks = torch.full(shape, ABSENT_LOGIT, device=look.image.device)
        places = pairs.any(dim=1).nonzero().flatten().tolist()
        if places:
            span = slice(places[0], places[-1] + 1)
            drawn = self._outline(look, span, pairs[span])
            masks[span] = drawn.float().masked_fill(~pairs[span, :, None, None], ABSENT_LOGIT)
        return look.by_chunk(masks)

    def _outline(self, look: Look, span: slice, wanted: Tensor | None) -> Tensor:
        """Draw the masks of a range of the N slices: (n, K, S, S)."""
        skips = [skip[span] for skip in look.skips]
        pixels = self.cnn.decode(look.decoded[span], skips, first=PROMPT_STAGES)[-1]
        manual = None if look.manual is None else look.manual.map(lambda x: x[span])
        masks: Tensor = self.decoder(
            look.rows,
            look.image[span],
            look.answers.prompts[span],
            pixels,
            manual,
            wanted=wanted,
        )
        return masks

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
