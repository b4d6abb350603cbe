"""Scores, tables and pictures of the sarcoma benchmark.

Every figure is over the patients that all models have segmented; intervals are 95 % percentile
bootstraps over patients, those of differences over the patients' paired differences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results_page import interval, markdown_table

from samcancer.evaluation.cases import evaluate_cases, plan
from samcancer.evaluation.labels import Annotations
from samcancer.evaluation.protocols import TOLERANCE_MM
from samcancer.evaluation.statistics import bootstrap_mean, paired_difference
from samcancer.files import write_json_atomic
from samcancer.geometry import canonicalise
from samcancer.report.overlay import SlicePicture, body_box, write_picture
from samcancer.taxonomy import load_taxonomy
from samcancer.volume_io import read_ct, read_labels

CLASS_NAME = "soft_tissue_sarcoma"
LABELS = {CLASS_NAME: (1,)}
TITLES = {
    "ours": "SAMCancer",
    "unet": "2D U-Net",
    "universal": "Universal Model, U-Net",
    "medsam_lite": "SAMCancer, LiteMedSAM's encoder",
    "medsam_lite_random": "SAMCancer, the same at random",
}
PICTURE_RANKS = {"worst": 0.0, "median": 0.5, "best": 1.0}
"""Name of a picture -> rank of its patient by the first DSC, 0 worst and 1 best."""


def summarise(masks: Path, references: Path, *, models: Sequence[str]) -> dict[str, Any]:
    """Score every model, and the first one's paired differences from the others.

    Args:
        masks: Folder with one folder of masks per model; patients without a mask are left out.
        references: Folder of all reference label maps.
        models: Names of the models.
    """
    scores = {m: _score(masks / m, references) for m in models if (masks / m).is_dir()}
    every = {path.name.removesuffix(".nii.gz") for path in references.glob("*.nii.gz")}
    common = sorted(set.intersection(*(set(s) for s in scores.values())))
    metrics = ("dice", "nsd")
    means = {
        m: {key: bootstrap_mean(s[c][key] for c in common).to_dict() for key in metrics}
        for m, s in scores.items()
    }
    (first, first_scores), *others = scores.items()
    differences = {
        name: {
            key: _difference([first_scores[c][key] for c in common], [s[c][key] for c in common])
            for key in metrics
        }
        for name, s in others
    }
    return {
        "patients": len(common),
        "complete": len(scores) == len(models) and set(common) == every,
        "tolerance_mm": TOLERANCE_MM,
        "means": means,
        "first": first,
        "differences": differences,
        "per_patient": {m: {c: s[c] for c in common} for m, s in scores.items()},
    }


def write_results(
    summary: dict[str, Any],
    scans: Mapping[str, Path],
    references: Mapping[str, Path],
    *,
    name: str,
    masks: Path,
    docs: Path,
) -> str:
    """Write NAME.json and the pictures into ``docs``; return the tables as Markdown."""
    write_json_atomic(docs / f"{name}.json", summary)
    pictures = _write_pictures(summary, scans, references, masks=masks, stem=docs / "images" / name)
    rows = [
        [
            TITLES[model],
            f"{summary['trained_parameters'][model] / 1e6:.2f} M",
            interval(means["dice"]),
            interval(means["nsd"]),
        ]
        for model, means in summary["means"].items()
    ]
    for other, difference in summary["differences"].items():
        cells = [interval(difference[metric]) for metric in ("dice", "nsd")]
        rows.append([f"first less {TITLES[other]}, paired", "", *cells])
    header = ["model", "trained parameters", "DSC", f"NSD at {TOLERANCE_MM:g} mm"]
    parts = [
        f"`{summary['command']}` on {summary['device']}, {summary['seconds_per_fold']:g} s of "
        f"training per fold and model, {summary['patients']} patients.",
        markdown_table(header, rows),
    ]
    for other, difference in summary["differences"].items():
        parts.append(
            f"{TITLES[summary['first']]} has a higher DSC than {TITLES[other]} in "
            f"{difference['dice']['better_in']} of {summary['patients']} patients."
        )
    parts += [
        f"![{rank} patient: {case_id}](images/{path.name})\n\n"
        f"The {rank} patient by the first DSC ({case_id}): reference wide and blue, prediction "
        "narrow and orange."
        for rank, (case_id, path) in pictures.items()
    ]
    return "\n\n".join(parts)


def _difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    paired = paired_difference(first, second)
    return {**paired.difference.to_dict(), "better_in": paired.better}


def _score(masks: Path, references: Path) -> dict[str, dict[str, float]]:
    """Return case id -> DSC and NSD of the cases that have a mask."""
    tasks, _ = plan(
        references,
        masks,
        labels=LABELS,
        annotations=Annotations(),
        protocol="nnunet",
        tolerance_mm=TOLERANCE_MM,
    )
    kept = [task for task in tasks if task.prediction is not None]
    evaluated = evaluate_cases(kept)
    if evaluated.failures:
        raise ValueError(next(iter(evaluated.failures.values())))
    return {
        r.case_id: {
            "dice": r.score.dice,
            "nsd": r.score.nsd,
            "reference_ml": r.reference_ml,
            "prediction_ml": r.prediction_ml,
        }
        for r in evaluated.results
    }


def _write_pictures(
    summary: dict[str, Any],
    scans: Mapping[str, Path],
    references: Mapping[str, Path],
    *,
    masks: Path,
    stem: Path,
) -> dict[str, tuple[str, Path]]:
    """Draw the slice with the largest reference area of the worst, median and best patient."""
    per_patient = summary["per_patient"]
    first = next(iter(per_patient.values()))
    ranked = sorted(first, key=lambda case_id: first[case_id]["dice"])
    pictures = {}
    for name, rank in PICTURE_RANKS.items():
        case_id = ranked[round(rank * (len(ranked) - 1))]
        ct = read_ct(scans[case_id])
        hu, geometry, _ = canonicalise(ct.hu, ct.geometry)
        reference = canonicalise(read_labels(references[case_id]).values, ct.geometry)[0] > 0
        z = int(np.count_nonzero(reference, axis=(1, 2)).argmax())
        predictions = {}
        for model, scores in per_patient.items():
            mask = read_labels(masks / model / f"{case_id}.nii.gz")
            values = canonicalise(mask.values, mask.geometry)[0]
            title = f"{TITLES[model]}: DSC {scores[case_id]['dice']:.3f}"
            predictions[title] = values[z] > 0
        column_mm, row_mm, _ = geometry.spacing_mm
        picture = SlicePicture(
            hu=hu[z],
            row_spacing_mm=row_mm,
            column_spacing_mm=column_mm,
            window_hu=load_taxonomy().classes[CLASS_NAME].window_hu,
            crop=body_box(hu[z], (row_mm, column_mm)),
        )
        path = stem.with_name(f"{stem.name}_{name}.png")
        write_picture(path, picture, reference=reference[z], predictions=predictions)
        pictures[name] = (case_id, path)
    return pictures
