"""Raw data sets to a case store: many cases, several processes, restartable at any point.

A case is in the index once its file is complete and verified; running again keeps what is there and
does the rest, and ends in the same bytes. One process at a time writes to a store, or the parts of
one partition, each with an index of its own; a run of all cases merges them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from data_prep.convert import CaseJob, CaseResult, convert_case
from data_prep.sources import SourceCase, find_cases
from data_prep.summary import (
    Refusal,
    Speed,
    Summary,
    class_totals,
    dataset_totals,
    megabytes,
    shared_scans,
)
from samcancer.cohort.executor import IN_PROCESS, CaseWork, Executor, Tell, no_state
from samcancer.cohort.part_lock import cohort_lock
from samcancer.cohort.partition import Part
from samcancer.cohort.progress import cohort_progress
from samcancer.cohort.run import run_cases
from samcancer.data.case_store import (
    CASES_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    STORE_NAME,
    TAXONOMY_NAME,
    CaseInfo,
    StoreInfo,
    read_store_info,
    write_index,
    write_store_info,
)
from samcancer.data.remote_store import require_plain_store
from samcancer.data.store_index import (
    append_to_index,
    part_index_name,
    part_indexes,
    read_index_file,
)
from samcancer.errors import InputError
from samcancer.files import (
    remove_stale_temporaries,
    require_own_folder,
    write_json_atomic,
    write_text_atomic,
)
from samcancer.taxonomy import (
    MAX_CLASSES,
    DatasetSpec,
    Taxonomy,
    load_taxonomy,
    taxonomy_from_yaml,
)
from samcancer.volume_io import ReadOptions

_log = logging.getLogger(__name__)

REFUSED_NAME = "refused.jsonl"

SUMMARY_NAME = "summary.json"

_VOXEL_BYTES = 2

_MIN_SIZE = 16
"""Smallest S; less holds no anatomy."""


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """The arguments of prepare-slices."""

    inputs: tuple[Path, ...]
    output: Path
    taxonomy: Path | None = None
    dataset: str | None = None
    class_set: str | None = None
    """None takes the classes that the inputs annotate, in taxonomy order."""
    size: int | None = None
    """None takes the store's, or DEFAULT_SIZE for a new one."""
    executor: Executor = IN_PROCESS
    part: Part | None = None
    """The part of the cases to prepare; None prepares all and merges what parts left."""
    include_test: bool = False
    verify: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        if self.size is not None and self.size < _MIN_SIZE:
            raise InputError(f"--size must be at least {_MIN_SIZE}, got {self.size}")


DEFAULT_SIZE = 256
"""S of [SC]."""


def prepare(options: PrepareOptions, *, show_progress: bool = True) -> Summary:
    """Prepare every case of the inputs that the store does not hold yet.

    Returns:
        What the store then holds; cases that were refused are in it and do not raise.

    Raises:
        InputError: When the inputs as a whole cannot be used, the store is of other classes or
            size, or another process is writing to it.
    """
    taxonomy = load_taxonomy(options.taxonomy)
    sources, taxonomy = find_cases(
        options.inputs, taxonomy, dataset=options.dataset, include_test=options.include_test
    )
    part = options.part
    with cohort_lock(options.output, purpose="prepare-slices", part=part):
        require_plain_store(options.output)
        require_own_folder(options.output / CASES_NAME)
        (options.output / CASES_NAME).mkdir(exist_ok=True)
        if part is None:
            _remove_leftovers(options.output)
        store = _start_store(options, sources, taxonomy)
        index = INDEX_NAME if part is None else part_index_name(part)
        known = _known_cases(options.output, part)
        _require_same_meaning(options.output, taxonomy, known)
        if part is not None:
            sources = [source for source in sources if part.holds(source.case_id)]
            known = part.of(known)
        write_index(options.output, known.values(), name=index)
        jobs = {
            source.case_id: _job(options, store, source, known.get(source.case_id), taxonomy)
            for source in sources
        }
        results = []
        for result in _run(jobs, options.executor, show_progress=show_progress):
            _log_result(result)
            results.append(result)
            if result.info is not None and not result.kept:
                append_to_index(options.output, result.info, name=index)
                known[result.case_id] = result.info
            if result.lost:
                known.pop(result.case_id)
        write_index(options.output, known.values(), name=index)
        summary = _summarise(options.output, store, sources, known, results)
        if part is None:
            _remove_leftovers(options.output)  # of a worker that died
            for merged in part_indexes(options.output):
                merged.unlink()
            _write_reports(options.output, summary)
    return summary


def _remove_leftovers(store: Path) -> None:
    remove_stale_temporaries(store)
    for folder, _, _ in os.walk(store / CASES_NAME):
        remove_stale_temporaries(Path(folder))


def _known_cases(store: Path, part: Part | None) -> dict[str, CaseInfo]:
    """Return what the store's index holds, and those of the parts: of all or of this one."""
    files = part_indexes(store) if part is None else [store / part_index_name(part)]
    found = [read_index_file(file, drop_damaged=True) for file in (store / INDEX_NAME, *files)]
    return {info.case_id: info for infos in found for info in infos}


def _write_reports(store: Path, summary: Summary) -> None:
    lines = [json.dumps(dataclasses.asdict(r), ensure_ascii=False) for r in summary.refused]
    write_text_atomic(store / REFUSED_NAME, "".join(f"{line}\n" for line in lines))
    write_json_atomic(store / SUMMARY_NAME, summary.to_dict())


def _start_store(
    options: PrepareOptions, sources: Sequence[SourceCase], taxonomy: Taxonomy
) -> StoreInfo:
    """Return the store's classes and size, written now if the store is new."""
    wanted = _class_names(options, sources, taxonomy)
    if not (options.output / STORE_NAME).exists():
        store = StoreInfo(wanted, options.size or DEFAULT_SIZE)
        write_store_info(options.output, store)
        return store
    found = read_store_info(options.output)
    store = dataclasses.replace(found, format_version=FORMAT_VERSION)
    if options.size not in (None, store.size):
        raise InputError(
            f"holds slices of {store.size} pixels, --size is {options.size}",
            path=options.output,
            mend="choose another folder",
        )
    fits = set(wanted) <= set(store.class_names)
    if wanted != store.class_names if options.class_set else not fits:
        raise InputError(
            f"holds the classes {', '.join(store.class_names)}; now asked for {', '.join(wanted)}",
            path=options.output,
            mend="choose another folder, or name its --class-set",
        )
    if store != found:  # one of an older version: its index is brought to the present form
        write_store_info(options.output, store)
    return store


def _class_names(
    options: PrepareOptions, sources: Sequence[SourceCase], taxonomy: Taxonomy
) -> tuple[str, ...]:
    if options.class_set is not None:
        return taxonomy.class_names(options.class_set)
    annotated = {name for source in sources for name in source.annotates}
    annotated = annotated or {name for source in sources for name in source.dataset.annotates}
    if not 0 < len(annotated) <= MAX_CLASSES:
        raise InputError(
            f"the inputs annotate {len(annotated)} classes; a store holds 1 to {MAX_CLASSES}",
            mend=f"choose a --class-set of {', '.join(taxonomy.class_sets)}",
        )
    return tuple(name for name in taxonomy.classes if name in annotated)


def _require_same_meaning(store: Path, taxonomy: Taxonomy, known: dict[str, CaseInfo]) -> None:
    """Keep the store's taxonomy up to date; what its cases were read with must not change."""
    path = store / TAXONOMY_NAME
    if path.exists() and known:
        before = taxonomy_from_yaml(path)
        for name in sorted({info.dataset for info in known.values()}):
            then = before.dataset(name)
            now = taxonomy.datasets.setdefault(name, then)
            if not _same_meaning(now, then, taxonomy):
                raise InputError(
                    f"its cases of {name} were read with another table of labels",
                    path=store,
                    mend="choose another folder",
                )
    text = yaml.safe_dump(taxonomy.to_dict(), sort_keys=False, allow_unicode=True)
    write_text_atomic(path, text)


def _same_meaning(now: DatasetSpec, then: DatasetSpec, taxonomy: Taxonomy) -> bool:
    """Whether a case reads the same under both tables.

    A structure may be added: a case that held one of an unknown name was refused. One that goes by
    the name of a class was known without the table.
    """
    if (now.labels, now.annotates) != (then.labels, then.annotates):
        return False
    added = {name for name in now.structures if name not in then.structures}
    kept = {name: names for name, names in now.structures.items() if name not in added}
    return kept == then.structures and not any(map(taxonomy.find_class, added))


def _job(
    options: PrepareOptions,
    store: StoreInfo,
    source: SourceCase,
    known: CaseInfo | None,
    taxonomy: Taxonomy,
) -> CaseJob:
    return CaseJob(
        source=source,
        store=options.output,
        class_names=store.class_names,
        size=store.size,
        options=dataclasses.replace(options.reading, series=source.series),
        taxonomy=taxonomy,
        known=known,
        verify=options.verify,
    )


def _run(
    jobs: dict[str, CaseJob], executor: Executor, *, show_progress: bool
) -> Iterator[CaseResult]:
    """Yield results as they come; a case whose workers died is one that is refused."""
    done_mb = 0.0
    with cohort_progress(len(jobs), show=show_progress) as progress:
        for outcome in run_cases(_CONVERTING, jobs, executor=executor, on_case=progress.on_case):
            if outcome.error is not None:
                job = jobs[outcome.case_id]
                error = InputError(
                    outcome.error.fact, path=job.source.image, mend=outcome.error.mend
                )
                result = CaseResult(case_id=outcome.case_id, info=None, error=error)
            else:
                result = outcome.value()
            done_mb += megabytes(result.input_bytes)
            progress.on_done(outcome.case_id, detail=f"{done_mb:.0f} MB")
            yield result


def _convert(_state: None, _case_id: str, job: CaseJob, _tell: Tell) -> CaseResult:
    return convert_case(job)


_CONVERTING = CaseWork(stage="prepare-slices", setup=no_state, do=_convert, modules=(__name__,))


def _log_result(result: CaseResult) -> None:
    if result.error is not None:
        _log.info("case %s refused", result.case_id)
    for warning in result.warnings:
        _log.warning("case %s: %s", result.case_id, warning)


def _summarise(
    folder: Path,
    store: StoreInfo,
    sources: Sequence[SourceCase],
    known: dict[str, CaseInfo],
    results: Sequence[CaseResult],
) -> Summary:
    dataset_of = {source.case_id: source.dataset.name for source in sources}
    errors = {r.case_id: r.error for r in results if r.error is not None}
    prepared = [r for r in results if r.info is not None and not r.kept]
    refused = tuple(
        Refusal(
            case_id=case_id,
            dataset=dataset_of[case_id],
            fact=error.fact,
            mend=error.mend,
            file=error.path.name if error.path else "",
        )
        for case_id, error in sorted(errors.items())
    )
    infos = [known[case_id] for case_id in sorted(known)]
    summary = Summary(
        class_names=store.class_names,
        size=store.size,
        prepared=len(prepared),
        kept=sum(r.kept for r in results),
        store_mb=megabytes(sum((folder / info.file).stat().st_size for info in infos)),
        datasets=dataset_totals(infos),
        classes=class_totals(infos, store.class_names),
        refused=refused,
        shared_scans=shared_scans(infos),
        speed=Speed(
            cases=len(prepared),
            input_mb=megabytes(sum(r.input_bytes for r in prepared)),
            voxel_mb=megabytes(sum(r.voxels for r in prepared) * _VOXEL_BYTES),
            worker_seconds=sum(r.seconds for r in prepared),
            cpu_seconds=sum(r.cpu_seconds for r in prepared),
        ),
    )
    for group in summary.shared_scans:
        _log.warning("cases %s are the same scan: kept in one fold", ", ".join(group))
    return summary
