"""Is the pretrained LiteMedSAM loaded rightly? Its own decoder, prompted with the reference's box.

Every slice that shows the tumour is prepared as LiteMedSAM does (soft-tissue window, grey values
stretched to [0, 1], longest side resized to 256 px, padded) and prompted with the bounding box of
the reference in that slice. Nothing is trained. The box itself, taken as a mask, is what the
network has to beat. Example: ``python benchmarks/box_prompts.py --data ../shared/data/sarcoma``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from results_page import RESULTS, fill_section, interval, markdown_table
from rich.progress import track
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.evaluation.statistics import bootstrap_mean
from samcancer.modeling import SamCancerNet, build_model
from samcancer.modeling.encoders import ENCODERS
from samcancer.pretrained import find_checkpoint
from samcancer.training.encoder_weights import load_sam_state
from samcancer.volume_io import read_ct, read_labels
from samcancer.windowing import window

CHECKPOINT = "medsam_lite"
SIZE = 256
WINDOW_HU = (-160.0, 240.0)
"""Soft tissue (width 400, level 40), as MedSAM prepares CT."""

DEFAULT_DATA = RESULTS.parent.parent.parent / "shared" / "data" / "sarcoma"


_MASK_CHANNELS = 16
"""Of SAM's prompt encoder."""


class LiteMedSam(NamedTuple):
    """Our encoder, and behind it segment_anything's own parts with the weights of ours."""

    encoder: nn.Module
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder


class Dice(NamedTuple):
    """Of one patient, over the slices that show the tumour."""

    network: float
    box: float


def main(argv: Sequence[str] | None = None) -> int:
    """Score the patients, print the table and fill docs/results.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="images/ and labels/")
    parser.add_argument("--patients", type=int, default=10, help="the first of the folder")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/results.md alone")
    args = parser.parse_args(argv)
    try:
        state = load_sam_state(find_checkpoint(CHECKPOINT))
        config = ModelConfig(encoder="medsam_lite", image_size=SIZE, cnn_width=4)
        model = with_original_decoder(build_model(config, ["any"], encoder_state=state).eval())
        labels = sorted((args.data / "labels").glob("*.nii.gz"))[: args.patients]
        if not labels:
            raise InputError("holds no labels/*.nii.gz", path=args.data, mend="give --data")
        scores = {
            path.name.removesuffix(".nii.gz"): score(model, args.data / "images" / path.name, path)
            for path in track(labels, description="patients", disable=not sys.stderr.isatty())
        }
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    markdown = to_markdown(scores)
    print(markdown)
    if not args.no_docs:
        fill_section(RESULTS, "box-prompts", markdown)
    return 0


def with_original_decoder(model: SamCancerNet) -> LiteMedSam:
    """Return the network as segment_anything builds it behind the encoder."""
    shape, dim = ENCODERS[CHECKPOINT].decoder, model.encoder.out_channels
    grid = SIZE // model.encoder.embedding_stride
    transformer = TwoWayTransformer(shape.depth, dim, shape.heads, shape.mlp_dim)
    prompt_encoder = PromptEncoder(dim, (grid, grid), (SIZE, SIZE), _MASK_CHANNELS)
    mask_decoder = MaskDecoder(
        transformer_dim=dim,
        transformer=transformer,
        num_multimask_outputs=shape.extra_mask_tokens,
    )
    prompt_encoder.load_state_dict(model.decoder.prompt_encoder.state_dict())
    mask_decoder.load_state_dict(model.decoder.mask_decoder.state_dict())
    return LiteMedSam(model.encoder, prompt_encoder.eval(), mask_decoder.eval())


def score(model: LiteMedSam, image_path: Path, label_path: Path) -> Dice:
    """Segment every slice of a patient that shows the tumour, prompted with its box."""
    image_hu, reference = read_ct(image_path).hu, read_labels(label_path).values > 0
    network = box = labelled = 0
    overlap = {"network": 0, "box": 0}
    for z in np.flatnonzero(reference.any(axis=(1, 2))):
        corners = bounding_box(reference[z])
        boxed = np.zeros_like(reference[z])
        boxed[corners.rows, corners.columns] = True
        mask = segment_slice(model, image_hu[z], corners)
        labelled += int(reference[z].sum())
        network += int(mask.sum())
        box += int(boxed.sum())
        overlap["network"] += int((mask & reference[z]).sum())
        overlap["box"] += int((boxed & reference[z]).sum())
    return Dice(
        2 * overlap["network"] / (network + labelled), 2 * overlap["box"] / (box + labelled)
    )


class Box(NamedTuple):
    """Rows and columns of a bounding box."""

    rows: slice
    columns: slice


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box around a mask that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return Box(slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))


def segment_slice(model: LiteMedSam, slice_hu: NDArray[np.int16], box: Box) -> NDArray[np.bool_]:
    """Return LiteMedSAM's mask of one slice for one box."""
    rows, columns = slice_hu.shape
    scale = SIZE / max(rows, columns)
    small = (round(rows * scale), round(columns * scale))
    grey = torch.from_numpy(window(slice_hu.astype(np.float32), WINDOW_HU))[None, None]
    grey = F.interpolate(grey, size=small, mode="bilinear", antialias=True)
    grey = (grey - grey.min()) / (grey.max() - grey.min()).clamp(min=1e-8)
    image = F.pad(grey, (0, SIZE - small[1], 0, SIZE - small[0]))
    corners = torch.tensor(
        [box.columns.start, box.rows.start, box.columns.stop, box.rows.stop], dtype=torch.float32
    )
    with torch.inference_mode():
        logits = box_logits(model, image, (corners * scale)[None, None])
    logits = F.interpolate(
        logits[..., : small[0], : small[1]], size=(rows, columns), mode="bilinear"
    )
    mask: NDArray[np.bool_] = (logits[0, 0] > 0).numpy()
    return mask


def box_logits(model: LiteMedSam, image: Tensor, box: Tensor) -> Tensor:
    """Image (1, 1, S, S), box (1, 1, 4) in its pixels -> mask logits (1, 1, S, S)."""
    sparse, dense = model.prompt_encoder(points=None, boxes=box[0], masks=None)
    logits: Tensor = model.mask_decoder(
        image_embeddings=model.encoder(image),
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )[0]
    return F.interpolate(logits, size=image.shape[-2:], mode="bilinear")


def to_markdown(scores: dict[str, Dice]) -> str:
    """Return the table of patients and its mean."""
    rows = [[name, f"{dice.network:.3f}", f"{dice.box:.3f}"] for name, dice in scores.items()]
    means = [
        interval(bootstrap_mean(values).to_dict()) for values in zip(*scores.values(), strict=True)
    ]
    header = ["patient", "LiteMedSAM, DSC", "the box itself, DSC"]
    table = markdown_table(header, [*rows, ["mean", *means]])
    command = f"python benchmarks/box_prompts.py --patients {len(scores)}"
    return f"`{command}`, over the slices that show the tumour.\n\n{table}"


if __name__ == "__main__":
    sys.exit(main())
