"""Score the predictions of many cases, each class of each case apart.

References are matched to predictions by case id, in whatever formats; the grids must be the same,
nothing is ever resampled. A case whose files cannot be read, or whose grids differ, is a failure:
it is listed and left out of the means. A missing prediction scores 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samcancer.cohort.executor import IN_PROCESS, CaseWork, Executor, Tell, no_state
from samcancer.cohort.run import run_cases
from samcancer.errors import InputError
from samcancer.evaluation.classes import class_kind
from samcancer.evaluation.labels import (
    MERGED_CLASS,
    Annotations,
    LabelValues,
    prediction_labels,
)
from samcancer.evaluation.protocols import ClassRules, Protocol, class_rules
from samcancer.evaluation.scoring import CaseTask, ClassResult, ClassTask, score_case
from samcancer.volume_io import find_volumes, strip_volume_suffix


@dataclass(frozen=True)
class Evaluated:
    """Every result, and what could not be scored."""

    results: tuple[ClassResult, ...]
    missing: tuple[str, ...]
    failures: dict[str, str]
    extra: tuple[str, ...]
    """Predictions that have no reference."""


def plan(
    reference: Path,
    prediction: Path,
    *,
    labels: LabelValues,
    annotations: Annotations,
    protocol: Protocol,
    tolerance_mm: float | None = None,
    merge: bool = False,
) -> tuple[list[CaseTask], tuple[str, ...]]:
    """Match references to predictions; return the tasks and the predictions without a reference.

    Args:
        reference: Folder of label maps.
        prediction: Folder of label maps.
        labels: Classes of the references.
        annotations: What each case annotates.
        protocol: Which rules.
        tolerance_mm: Of the surface Dice; None takes the protocol's.
        merge: Score all lesion classes as one.

    Raises:
        InputError: When a folder is missing or holds no volume, two files are the same case, or the
            protocol has no rules for a class.
    """
    references, predictions = _by_case(reference), _by_case(prediction)
    if protocol == "flare24" and not merge and set(labels.values()) != {(1,)}:
        raise InputError(
            f"flare24 scores one lesion class of value 1, the references have {dict(labels)}",
            path=reference,
            mend="use --merge-lesions to score all lesions as one",
        )
    binary = protocol == "flare24" and not merge
    lesions = _lesions(labels)
    named = [*(n for n in labels if n not in lesions), MERGED_CLASS] if merge else labels
    rules = {n: class_rules(protocol, n, tolerance_mm=tolerance_mm) for n in named}
    tasks = []
    for case_id, path in references.items():
        found = predictions.get(case_id)
        own = labels if binary else _own_labels(found, case_id, labels, merge=merge)
        annotated = annotations.of(case_id, frozenset(labels))
        tasks.append(
            CaseTask(
                case_id=case_id,
                reference=path,
                prediction=found,
                classes=_classes(labels, own, annotated, rules, protocol=protocol, merge=merge),
                reference_values=_union(labels, labels),
                prediction_values=None if binary else _union(own, own),
                protocol=protocol,
            )
        )
    return tasks, tuple(sorted(set(predictions) - set(references)))


def evaluate_cases(
    tasks: Sequence[CaseTask],
    *,
    extra: tuple[str, ...] = (),
    executor: Executor = IN_PROCESS,
    on_case: Callable[[str], None] = lambda _: None,
    on_done: Callable[[str], None] = lambda _: None,
) -> Evaluated:
    """Score every case; the order of the results is that of the tasks, wherever they are done.

    Args:
        tasks: From :func:`plan`.
        extra: Predictions without a reference.
        executor: Where.
        on_case: Called with the case id when a case begins.
        on_done: Called with the case id when a case has ended.

    Raises:
        InputError: When a cluster cannot be reached or is lost.
    """
    scored: dict[str, list[ClassResult]] = {}
    failures: dict[str, str] = {}
    items = {task.case_id: task for task in tasks}
    for outcome in run_cases(_SCORING, items, executor=executor, on_case=on_case):
        if outcome.error is not None:
            failures[outcome.case_id] = str(outcome.error)
        else:
            scored[outcome.case_id] = outcome.value()
        on_done(outcome.case_id)
    return Evaluated(
        results=tuple(result for task in tasks for result in scored.get(task.case_id, ())),
        missing=tuple(task.case_id for task in tasks if task.prediction is None),
        failures={t.case_id: failures[t.case_id] for t in tasks if t.case_id in failures},
        extra=extra,
    )


def _score(_state: None, _case_id: str, task: CaseTask, _tell: Tell) -> list[ClassResult]:
    return score_case(task)


_SCORING = CaseWork(stage="evaluate", setup=no_state, do=_score, modules=(__name__,))


def _own_labels(
    prediction: Path | None, case_id: str, labels: LabelValues, *, merge: bool
) -> LabelValues:
    """Return the classes of a prediction; refuse a model that shares none with the references."""
    if prediction is None:
        return labels
    own = prediction_labels(prediction, case_id, default=labels)
    shared = set(own) & set(labels)
    if not shared and not (merge and MERGED_CLASS in labels and _lesions(own)):
        raise InputError(
            f"predicts {', '.join(own)}, the references name {', '.join(labels)}",
            path=prediction,
            mend="name the references' classes as the model does, with --labels",
        )
    return own


def _by_case(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError("no such folder", path=folder, mend="name a folder of masks")
    found: dict[str, Path] = {}
    for path in find_volumes(folder):
        case_id = strip_volume_suffix(path)
        if case_id in found:
            raise InputError(
                f"is the same case as {found[case_id].name}", path=path, mend="remove one of them"
            )
        found[case_id] = path
    return found


def _classes(
    labels: LabelValues,
    own: LabelValues,
    annotated: frozenset[str],
    rules: Mapping[str, ClassRules],
    *,
    protocol: Protocol,
    merge: bool,
) -> tuple[ClassTask, ...]:
    """Return the classes to score; merged, only ``flare23`` scores organs beside the lesions."""
    if not merge:
        return _separate(labels, own, annotated, rules)
    merged = _merged(labels, own, annotated, rules[MERGED_CLASS])
    if protocol != "flare23":
        return (merged,)
    organs, own_organs = (
        {name: values for name, values in found.items() if name not in _lesions(found)}
        for found in (labels, own)
    )
    return (*_separate(organs, own_organs, annotated, rules), merged)


def _separate(
    labels: LabelValues,
    own: LabelValues,
    annotated: frozenset[str],
    rules: Mapping[str, ClassRules],
) -> tuple[ClassTask, ...]:
    names = dict.fromkeys((*labels, *own))
    return tuple(
        ClassTask(
            name=name,
            kind=class_kind(name),
            annotated=name in annotated,
            reference=tuple(labels.get(name, ())),
            prediction=tuple(own.get(name, ())) if name in annotated else (),
            unverified=() if name in annotated else tuple(own.get(name, ())),
            rules=rules.get(name, ClassRules()),
            whole=name in annotated,
        )
        for name in names
    )


def _merged(
    labels: LabelValues, own: LabelValues, annotated: frozenset[str], rules: ClassRules
) -> ClassTask:
    """Return the union of all annotated lesion classes as one class.

    References of the class ``lesion`` hold lesions of any kind, so they judge every lesion class.
    """
    lesions, own_lesions = _lesions(labels), _lesions(own)
    judges_all = MERGED_CLASS in annotated
    judged = [n for n in own_lesions if judges_all or n in annotated]
    return ClassTask(
        name=MERGED_CLASS,
        kind="lesion",
        annotated=any(n in annotated for n in lesions),
        reference=tuple(_union(labels, [n for n in lesions if n in annotated])),
        prediction=tuple(_union(own, judged)),
        unverified=tuple(_union(own, [n for n in own_lesions if n not in judged])),
        rules=rules,
        whole=judges_all or all(n in annotated for n in lesions),
    )


def _lesions(labels: LabelValues) -> list[str]:
    return [name for name in labels if class_kind(name) == "lesion"]


def _union(labels: LabelValues, names: Iterable[str]) -> frozenset[int]:
    return frozenset(value for name in names for value in labels.get(name, ()))
