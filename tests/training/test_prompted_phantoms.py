"""One checkpoint, automatic and interactive: a box on a phantom's lesion raises its Dice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from samcancer.commands import run_verb
from samcancer.config import Config, DataConfig, ModelConfig, TrainConfig
from samcancer.data.case_store import CaseStore
from samcancer.modeling.manual_prompts import BOX_FIRST, BOX_SECOND, SlicePrompt
from samcancer.modeling.predict import predict_slices
from samcancer.modeling.predict_options import PredictOptions
from samcancer.training.checkpoint import load_checkpoint
from samcancer.training.run import RunOptions, train_final
from samcancer.training.validate import PaddedSlices

SIZE, CASES = 96, 6


def boxes_of(reference: np.ndarray, k: int) -> list[SlicePrompt]:
    """A tight box around each lesion of each slice, as a person draws them."""
    found = []
    for z in np.flatnonzero(reference.any(axis=(1, 2))):
        for rows, columns in ndimage.find_objects(ndimage.label(reference[z])[0]):
            first = (columns.start - 0.5, rows.start - 0.5, BOX_FIRST)
            second = (columns.stop - 0.5, rows.stop - 0.5, BOX_SECOND)
            found.append(SlicePrompt(int(z), k, (first, second)))
    return found


@pytest.mark.slow
def test_a_box_on_a_phantom_lesion_raises_its_dice(tmp_path: Path) -> None:
    raw, stored = tmp_path / "raw", tmp_path / "store"
    assert run_verb("make-phantoms", ["--out", str(raw), "--cases", str(CASES), "--seed", "5"]) == 0
    words = ["--output", str(stored), "--size", str(SIZE), "--workers", "2"]
    for name in ("901_Phantom_Liver", "902_Phantom_Kidney", "903_Phantom_Lung"):
        words += ["--input", str(raw / f"Dataset{name}")]
    assert run_verb("prepare-slices", words) == 0
    config = Config(
        model=ModelConfig(image_size=SIZE, cnn_width=8),
        data=DataConfig(train_windows_hu=((-200.0, 300.0),), lesion_fraction=0.75, workers=0),
        train=TrainConfig(
            epochs=12,
            samples_per_epoch=400,
            batch_size=4,
            learning_rate=1e-3,
            validate_every=None,
            manual_prompts=0.5,
        ),
        folds=3,
    )
    runs = tmp_path / "runs"
    options = RunOptions(
        store=stored, output=runs, config=config, accelerator="cpu", show_progress=False
    )
    train_final(options, use_pseudo_labels=False)

    loaded, store = load_checkpoint(runs / "final"), CaseStore(stored)
    alone, boxed = [], []
    for case_id, info in store.cases.items():
        bits = store.label_bits(case_id, 0, info.slices)
        if info.patient_id not in loaded.meta["held_out_patients"] or not bits.any():
            continue
        k = int(np.log2(bits.max()))  # each data set annotates one class
        reference = bits > 0
        for prompts, scores in (([], alone), (boxes_of(reference, k), boxed)):
            chunks = predict_slices(
                loaded.model,
                PaddedSlices(store, case_id),
                window_hu=config.data.inference_window_hu,
                options=PredictOptions(
                    thresholds=torch.full((len(store.class_names),), 0.5), prompts=prompts
                ),
            )
            predicted = np.concatenate([(chunk.logits[:, k] > 0).numpy() for chunk in chunks])
            both = (predicted & reference).sum()
            scores.append(2 * both / (predicted.sum() + reference.sum()))
    print(f"Dice without boxes {np.round(alone, 3)}, with {np.round(boxed, 3)}")
    assert len(boxed) >= 5
    assert np.mean(boxed) > np.mean(alone) + 0.2
