"""What a case store holds and what was refused, as a JSON file and as tables to print."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from samcancer.data.case_store import CaseInfo
from samcancer.errors import InputError

_MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A case that could not be prepared, and why."""

    case_id: str
    dataset: str
    fact: str
    mend: str | None
    file: str
    """Name of the file concerned, without its folder, which may hold a patient's name."""

    def message(self) -> str:
        """Return the one line to print."""
        return str(InputError(self.fact, path=self.file or self.case_id, mend=self.mend))


@dataclass(frozen=True, kw_only=True)
class ClassTotal:
    """One class in one data set."""

    dataset: str
    class_name: str
    annotated_cases: int
    positive_cases: int
    lesions: int
    """Connected components, for organs too."""
    volume_ml: float


@dataclass(frozen=True, kw_only=True)
class DatasetTotal:
    """One data set."""

    dataset: str
    cases: int
    patients: int
    slices: int
    unlabelled: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast this run's cases were prepared; of the workers' own time."""

    cases: int
    input_mb: float
    """Raw files as stored, compressed or not."""
    voxel_mb: float
    """The same scans as int16."""
    worker_seconds: float
    cpu_seconds: float

    @property
    def input_mb_per_cpu_s(self) -> float:
        """Raw MB a second of computing, waiting left out."""
        return self.input_mb / self.cpu_seconds if self.cpu_seconds else 0.0

    @property
    def input_mb_per_s(self) -> float:
        """Raw MB a second and core."""
        return self.input_mb / self.worker_seconds if self.worker_seconds else 0.0

    @property
    def voxel_mb_per_s(self) -> float:
        """Voxel MB a second and core."""
        return self.voxel_mb / self.worker_seconds if self.worker_seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the store holds after a run of prepare-slices."""

    class_names: tuple[str, ...]
    size: int
    prepared: int
    kept: int
    store_mb: float
    datasets: tuple[DatasetTotal, ...]
    classes: tuple[ClassTotal, ...]
    refused: tuple[Refusal, ...]
    shared_scans: tuple[tuple[str, ...], ...]
    """Groups of cases that are one and the same scan."""
    speed: Speed

    def to_dict(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        content = asdict(self)
        content["speed"]["input_mb_per_s_per_core"] = self.speed.input_mb_per_s
        content["speed"]["input_mb_per_cpu_s"] = self.speed.input_mb_per_cpu_s
        content["speed"]["voxel_mb_per_s_per_core"] = self.speed.voxel_mb_per_s
        return content


def dataset_totals(cases: Iterable[CaseInfo]) -> tuple[DatasetTotal, ...]:
    """Count each data set's cases, patients, slices and unlabelled cases."""
    groups = _by_dataset(cases)
    return tuple(
        DatasetTotal(
            dataset=name,
            cases=len(infos),
            patients=len({info.patient_id for info in infos}),
            slices=sum(info.slices for info in infos),
            unlabelled=sum(info.label_sha256 is None for info in infos),
        )
        for name, infos in sorted(groups.items())
    )


def class_totals(cases: Iterable[CaseInfo], class_names: Sequence[str]) -> tuple[ClassTotal, ...]:
    """Count each class in each data set that annotates it."""
    totals = []
    for dataset, infos in sorted(_by_dataset(cases).items()):
        for name in class_names:
            annotated = [info for info in infos if name in info.annotated]
            if annotated:
                totals.append(
                    ClassTotal(
                        dataset=dataset,
                        class_name=name,
                        annotated_cases=len(annotated),
                        positive_cases=sum(info.voxels[name] > 0 for info in annotated),
                        lesions=sum(info.lesions[name] for info in annotated),
                        volume_ml=round(sum(info.volume_ml[name] for info in annotated), 3),
                    )
                )
    return tuple(totals)


def shared_scans(cases: Iterable[CaseInfo]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of cases whose scans are the same voxel by voxel."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for info in cases:
        groups[info.content_sha256].append(info.case_id)
    return tuple(sorted(tuple(sorted(ids)) for ids in groups.values() if len(ids) > 1))


def summary_tables(summary: Summary) -> list[Table]:
    """Return the tables to print."""
    tables = [
        _table(
            f"Case store of {summary.size} pixels, {summary.store_mb:.1f} MB",
            ("data set", "cases", "patients", "slices", "unlabelled"),
            [(d.dataset, d.cases, d.patients, d.slices, d.unlabelled) for d in summary.datasets],
        ),
        _table(
            "What people annotated",
            ("data set", "class", "cases", "with it", "lesions", "ml"),
            [
                (
                    c.dataset,
                    c.class_name,
                    c.annotated_cases,
                    c.positive_cases,
                    c.lesions,
                    f"{c.volume_ml:.1f}",
                )
                for c in summary.classes
            ],
        ),
    ]
    if summary.refused:
        rows = [(r.case_id, r.dataset, f"{r.file}: {r.fact}") for r in summary.refused]
        tables.append(_table("Refused", ("case", "data set", "why"), rows, text_columns=3))
    return tables


def _table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    text_columns: int = 1,
) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        is_text = number < text_columns or column == "class"
        table.add_column(column, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # a name may look like markup
    return table


def _by_dataset(cases: Iterable[CaseInfo]) -> dict[str, list[CaseInfo]]:
    groups: defaultdict[str, list[CaseInfo]] = defaultdict(list)
    for info in cases:
        groups[info.dataset].append(info)
    return dict(groups)


def megabytes(count: float) -> float:
    """Bytes to MB (10^6)."""
    return count / _MEGABYTE
