"""From folders of scans, references and predictions to the patients' cards of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samcancer.errors import InputError
from samcancer.evaluation.labels import LabelValues, choose_labels, prediction_labels
from samcancer.geometry import canonicalise, require_same_grid
from samcancer.report.cards import CaseVolumes, build_views
from samcancer.report.page import Card
from samcancer.report.results import Scores, case_table, mean_dice
from samcancer.taxonomy import ClassSpec, Taxonomy
from samcancer.volume_io import case_id_of, find_volumes, read_ct, read_labels

_HEALTHY_SHARE = 3
"""At most one card in this many is of a healthy patient, and one at least where there is any."""


@dataclass(frozen=True)
class ArmFolders:
    """Where one arm's masks and scores are."""

    prediction: Path
    evaluation: Path


def choose_patients(scores: Scores, *, count: int) -> list[str]:
    """Return cases at evenly spaced ranks of their mean DSC, worst to best, then healthy ones."""
    means = {case_id: mean_dice(case_id, scores) for case_id in scores.case_ids}
    healthy = [case_id for case_id, mean in means.items() if mean is None]
    held = {case_id: mean for case_id, mean in means.items() if mean is not None}
    ranked = sorted(held, key=lambda case_id: (held[case_id], case_id))
    wanted = min(len(healthy), max(count // _HEALTHY_SHARE, 1)) if count > 1 else 0
    places = np.linspace(0, len(ranked) - 1, min(count - wanted, len(ranked)))
    false_ml = {case_id: _predicted_ml(case_id, scores) for case_id in healthy}
    worst_first = sorted(healthy, key=lambda case_id: (-false_ml[case_id], case_id))
    return [ranked[round(float(place))] for place in places] + worst_first[:wanted]


def build_cards(
    case_ids: Sequence[str],
    arms: Mapping[str, ArmFolders],
    scores: Mapping[str, Scores],
    *,
    images: Path,
    reference: Path,
    taxonomy: Taxonomy,
    labels: str | None = None,
) -> tuple[Card, ...]:
    """Read the cases' volumes and draw their cards.

    Args:
        case_ids: In the order of the page.
        arms: Name -> folders.
        scores: Name -> evaluation.
        images: Folder of the scans.
        reference: Folder of the references.
        taxonomy: Gives titles and windows.
        labels: Of the references, as for ``samcancer evaluate --labels``; None reads dataset.json.

    Raises:
        InputError: When a scan, reference or prediction is missing or on another grid.
    """
    protocol = next(iter(scores.values())).summary["protocol"]
    values = choose_labels(labels, reference, protocol=protocol)
    names = list(dict.fromkeys([*values, *(n for s in scores.values() for n in s.class_names)]))
    classes = [class_spec(name, taxonomy) for name in names]
    titles = {spec.name: spec.title for spec in classes}
    scans = _by_case(images)
    references = _by_case(reference)
    predictions = {arm: _by_case(folders.prediction) for arm, folders in arms.items()}
    cards = []
    for number, case_id in enumerate(case_ids):
        volumes = _read_case(
            case_id,
            scan=_require(scans, case_id, images),
            reference=_require(references, case_id, reference),
            predictions={
                arm: _require(found, case_id, arms[arm].prediction)
                for arm, found in predictions.items()
            },
            labels=values,
            names=names,
        )
        views = build_views(
            volumes,
            classes=classes,
            captions={arm: _caption(case_id, s) for arm, s in scores.items()},
            prefix=f"ct-{number}",
        )
        table = case_table(case_id, scores, titles)
        cards.append(Card(case_id, _summary(case_id, scores, titles), views, table))
    return tuple(cards)


def class_spec(name: str, taxonomy: Taxonomy) -> ClassSpec:
    """Return a class of the taxonomy; one it does not know is shown under its own name."""
    found = taxonomy.find_class(name)
    return found or ClassSpec(name=name, title=name.replace("_", " "), kind="lesion")


def _read_case(
    case_id: str,
    *,
    scan: Path,
    reference: Path,
    predictions: Mapping[str, Path],
    labels: LabelValues,
    names: Sequence[str],
) -> CaseVolumes:
    ct = read_ct(scan)
    hu, geometry, _ = canonicalise(ct.hu, ct.geometry)

    def read(path: Path, values: LabelValues) -> npt.NDArray[np.uint8]:
        volume = read_labels(path)
        require_same_grid(ct.geometry, volume.geometry, image_path=scan, label_path=path)
        coded = np.zeros(volume.values.shape, dtype=np.uint8)
        for number, name in enumerate(names, start=1):
            coded[np.isin(volume.values, values.get(name, ()))] = number
        return canonicalise(coded, volume.geometry)[0]

    return CaseVolumes(
        case_id=case_id,
        hu=hu,
        geometry=geometry,
        reference=read(reference, labels),
        predictions={
            arm: read(path, prediction_labels(path, case_id, default=labels))
            for arm, path in predictions.items()
        },
    )


def _by_case(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError("no such folder", path=folder, mend="name a folder of volumes")
    return {case_id_of(p): p for p in find_volumes(folder)}


def _require(found: Mapping[str, Path], case_id: str, folder: Path) -> Path:
    if case_id not in found:
        raise InputError(
            f"holds no volume of the case {case_id!r}",
            path=folder,
            mend="name the folder that was evaluated",
        )
    return found[case_id]


def _predicted_ml(case_id: str, scores: Scores) -> float:
    return sum(s.prediction_ml for (case, _), s in scores.cases.items() if case == case_id)


def _caption(case_id: str, scores: Scores) -> str:
    mean = mean_dice(case_id, scores)
    if mean is None:
        return f"{_predicted_ml(case_id, scores):.1f} ml predicted on a healthy scan"
    return f"DSC {mean:.3f}"


def _summary(case_id: str, scores: Mapping[str, Scores], titles: Mapping[str, str]) -> str:
    first = next(iter(scores.values()))
    held = [
        f"{titles.get(name, name)} ({score.reference_lesions}, {score.reference_ml:.1f} ml)"
        for (case, name), score in first.cases.items()
        if case == case_id and score.reference_ml > 0
    ]
    return f"Reference: {', '.join(held)}." if held else "Healthy: the reference holds no lesion."
