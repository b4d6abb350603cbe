"""Put a page together from folders: the one call behind ``samcancer report``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samcancer.files import write_text_atomic
from samcancer.report.curves import RunLog, curve_figures, read_run_logs
from samcancer.report.page import Figure, Page, Table, render
from samcancer.report.patients import ArmFolders, build_cards, choose_patients, class_spec
from samcancer.report.results import (
    Scores,
    patient_table,
    read_scores,
    score_figure,
    score_table,
)
from samcancer.taxonomy import Taxonomy

_FOLD_PREFIX = "fold_"
"""Start of the names of cross-validation runs, which are drawn in charts of their own."""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """What a page is made of."""

    title: str
    lead: str = ""
    arms: Mapping[str, ArmFolders]
    """Name -> masks and scores; the order is that of the tables."""
    images: Path
    reference: Path
    labels: str | None = None
    """Classes of the references as for ``samcancer evaluate --labels``; None reads dataset.json."""
    runs: Mapping[str, Path] = field(default_factory=dict)
    """Name -> run folder, or folder of runs."""
    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    patients: int = 6
    """Cards on the page."""


def write_report(output: Path, inputs: ReportInputs, *, taxonomy: Taxonomy) -> None:
    """Write the page to ``output`` atomically.

    Raises:
        InputError: When something that the page is made of is missing or damaged.
    """
    scores = {arm: read_scores(folders.evaluation) for arm, folders in inputs.arms.items()}
    last_arm = list(inputs.arms)[-1]
    shown = choose_patients(scores[last_arm], count=inputs.patients)
    cards = build_cards(
        shown,
        inputs.arms,
        scores,
        images=inputs.images,
        reference=inputs.reference,
        taxonomy=taxonomy,
        labels=inputs.labels,
    )
    names = [name for s in scores.values() for name in s.class_names]
    titles = {name: class_spec(name, taxonomy).title for name in names}
    logs = [log for name, folder in inputs.runs.items() for log in read_run_logs(name, folder)]
    page = Page(
        title=inputs.title,
        lead=inputs.lead,
        facts=inputs.facts,
        commands=inputs.commands,
        tables=_tables(scores, titles),
        score_figures=(score_figure(scores, titles),),
        training_figures=_training_figures(logs),
        cards=cards,
        cards_note=(
            f"{len(cards)} of {len(scores[last_arm].case_ids)} patients: evenly spaced ranks of "
            f"the DSC of “{last_arm}” from worst to best, then healthy patients, those with the "
            "most falsely predicted volume first. Missed and false lesions are judged over the "
            "whole scan by the rule of the table."
        ),
        notes=inputs.notes,
    )
    write_text_atomic(output, render(page))


def _tables(scores: Mapping[str, Scores], titles: Mapping[str, str]) -> tuple[Table, ...]:
    tables = [score_table(scores, titles)]
    if any(s.summary["healthy"]["scans"] for s in scores.values()):
        tables.append(patient_table(scores))
    return tuple(tables)


def _training_figures(logs: list[RunLog]) -> tuple[Figure, ...]:
    folds = [log for log in logs if log.folder_name.startswith(_FOLD_PREFIX)]
    others = [log for log in logs if log not in folds]
    figures: list[Figure] = []
    for group, members in (("Cross-validation", folds), ("Final training", others)):
        if members:
            figures += curve_figures(members, group=group)
    return tuple(figures)
