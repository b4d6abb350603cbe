"""Classes, data sets and which classes each data set annotates: the one home of every label table.

Tables live in ``taxonomy.yaml`` beside this file; a user's file of the same form is merged over it.
Conventions: a class that a data set does not annotate is *unknown* there, never background; label
values a table does not list are errors; names are matched after :func:`normalise_name`.
Source: the five inconsistencies between data sets of [UM] section 3 (index, name, background,
organ overlap, data overlap); the first four are settled here, the last in samcancer.data.folds.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

from samcancer.config import WindowHu
from samcancer.config.yaml_text import read_yaml
from samcancer.errors import InputError
from samcancer.taxonomy_checks import check_rules, require_unique

Kind = Literal["organ", "lesion"]
Keep = Literal["all", "largest"]

MAX_CLASSES = 32
"""Bits in the label bit field of the case store, hence classes in one class set."""

PACKAGED_TAXONOMY = Path(__file__).with_name("taxonomy.yaml")
"""The tables that ship with the package."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_MEND = "see docs/data_sets.md"


@dataclass(frozen=True, kw_only=True)
class SnomedCode:
    """A SNOMED CT concept."""

    code: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """What is done to a predicted mask of a class."""

    keep: Keep = "all"
    """Keep all connected components or the largest only."""
    min_volume_ml: float = 0.0
    """Components smaller than this are removed."""
    inside_organ_mm: float | None = None
    """A lesion's components must come this close to its organ; None lets them lie anywhere."""


@dataclass(frozen=True, kw_only=True)
class ClassSpec:
    """One class: an organ or a kind of lesion."""

    name: str
    title: str
    kind: Kind
    organ: str | None = None
    """Class of the organ a lesion lies in; its voxels belong to that organ as well."""
    members: tuple[str, ...] = ()
    """Classes whose union this class is, such as both kidneys; empty for most classes."""
    left_counterpart: str | None = None
    """Of a class on the patient's right: the same on the left. The left one names none."""
    aliases: tuple[str, ...] = ()
    """Other names that data sets use for it."""
    prompt: str = ""
    """Text given to a language encoder."""
    snomed: SnomedCode | None = None
    """None where we are not sure of the code."""
    window_hu: WindowHu = (-200.0, 300.0)
    """Window that shows the class well."""
    postprocess: PostProcess = field(default_factory=PostProcess)


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """The meaning of one data set's label values."""

    name: str
    title: str
    labels: dict[int, tuple[str, ...]]
    """Label value -> classes its voxels belong to; an empty tuple is a value without a class."""
    annotates: tuple[str, ...]
    """Classes whose absence in a labelled case means absence in the patient."""
    aliases: tuple[str, ...] = ()
    structures: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a structure or segment in DICOM -> classes, in place of the classes' own names; an
    empty tuple is a structure to ignore."""
    annotates_per_case: bool = False
    """Whether cases differ in what they annotate, so that each case has to say so."""


@dataclass(frozen=True, kw_only=True)
class Taxonomy:
    """All classes, data sets and named class sets."""

    classes: dict[str, ClassSpec]
    datasets: dict[str, DatasetSpec]
    class_sets: dict[str, tuple[str, ...]]
    prompt_templates: dict[str, str] = field(default_factory=dict)
    """Named sentences with ``{}`` for the class, from the papers."""

    def dataset(self, name: str) -> DatasetSpec:
        """Return a data set by its name or an alias.

        Raises:
            InputError: When the name is unknown; the message lists the known ones.
        """
        found = self.find_dataset(name)
        if found is None:
            raise InputError(
                f"unknown data set {name!r}; known are {', '.join(self.datasets)}",
                mend="choose one of them or describe it in a --taxonomy file",
            )
        return found

    def find_dataset(self, name: str) -> DatasetSpec | None:
        """Return a data set by its name or an alias, or None."""
        wanted = normalise_name(name)
        for spec in self.datasets.values():
            if wanted in _keys(spec.name, *spec.aliases):
                return spec
        return None

    def find_class(self, name: str) -> ClassSpec | None:
        """Return a class by its name, title or an alias, or None."""
        wanted = normalise_name(name)
        for spec in self.classes.values():
            if wanted in _keys(spec.name, spec.title, *spec.aliases):
                return spec
        return None

    def class_names(self, class_set: str) -> tuple[str, ...]:
        """Return the classes of a named set, in bit order.

        Raises:
            InputError: When the set is unknown.
        """
        if class_set not in self.class_sets:
            raise InputError(
                f"unknown class set {class_set!r}; known are {', '.join(self.class_sets)}"
            )
        return self.class_sets[class_set]

    def prompt(self, name: str, template: str | None = None) -> str:
        """Return the text of a class: its own prompt, or its title in a named template.

        Raises:
            InputError: When the template is unknown.
        """
        spec = self.classes[name]
        if template is None:
            return spec.prompt
        if template not in self.prompt_templates:
            raise InputError(
                f"unknown prompt template {template!r}",
                mend=f"choose from {', '.join(self.prompt_templates)}",
            )
        return self.prompt_templates[template].format(spec.title)

    def implied(self, names: Iterable[str], *, annotated: Sequence[str]) -> tuple[str, ...]:
        """Return the classes a voxel belongs to, given those its label value names.

        A lesion lies in its organ and a member in its union class, as far as the data set
        annotates these.
        """
        found = list(dict.fromkeys(names))
        for name in found:
            spec = self.classes[name]
            parents = [spec.organ] if spec.kind == "lesion" and spec.organ else []
            parents += [c.name for c in self.classes.values() if name in c.members]
            found.extend(p for p in parents if p in annotated and p not in found)
        return tuple(found)

    def with_unions(self, annotated: Iterable[str]) -> tuple[str, ...]:
        """Return ``annotated`` plus the union classes all of whose members are in it."""
        names = list(dict.fromkeys(annotated))
        for spec in self.classes.values():
            if spec.members and set(spec.members) <= set(names) and spec.name not in names:
                names.append(spec.name)
        return tuple(names)

    def with_dataset(
        self, name: str, labels: Mapping[int, Iterable[str]], *, title: str
    ) -> tuple[Taxonomy, DatasetSpec]:
        """Return this taxonomy with one more data set, which annotates the classes it labels.

        Raises:
            ValueError: When a class or a label value is not allowed.
        """
        entry = {"title": title, "labels": {v: list(names) for v, names in labels.items()}}
        spec = _dataset_from_dict(name, entry, self)
        return replace(self, datasets={**self.datasets, name: spec}), spec

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that :func:`taxonomy_from_dict` reads back to an equal taxonomy."""
        return {
            "classes": {name: _class_to_dict(spec) for name, spec in self.classes.items()},
            "datasets": {
                name: {
                    "title": spec.title,
                    "labels": {value: list(names) for value, names in spec.labels.items()},
                    "annotates": list(spec.annotates),
                    "aliases": list(spec.aliases),
                    "structures": {name: list(names) for name, names in spec.structures.items()},
                    "annotates_per_case": spec.annotates_per_case,
                }
                for name, spec in self.datasets.items()
            },
            "class_sets": {name: list(names) for name, names in self.class_sets.items()},
            "prompt_templates": dict(self.prompt_templates),
        }


def normalise_name(name: str) -> str:
    """Return a name in lower case with single underscores between words."""
    # A name without a Latin letter or digit would leave nothing to compare.
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or name.strip().lower()


def _keys(*names: str) -> set[str]:
    return {normalise_name(name) for name in names}


def load_taxonomy(path: Path | None = None) -> Taxonomy:
    """Read the packaged tables, with the user's file, if any, merged over them entry by entry.

    Raises:
        InputError: When the file is missing, is not YAML, or contradicts itself.
    """
    content = dict(_packaged_tables())
    if path is None:
        return taxonomy_from_dict(content, path=PACKAGED_TAXONOMY)
    for section, entries in _read_yaml(path).items():
        if section not in content or not isinstance(entries, dict):
            raise InputError(
                f"unknown section {section!r}; allowed are {', '.join(content)}",
                path=path,
                mend=_MEND,
            )
        content[section] = {**content[section], **entries}
    return taxonomy_from_dict(content, path=path)


def taxonomy_from_yaml(path: Path) -> Taxonomy:
    """Read a whole taxonomy, such as a store's copy; the packaged tables are not merged in."""
    return taxonomy_from_dict(_read_yaml(path), path=path)


def taxonomy_from_dict(content: Mapping[str, Any], *, path: Path | None = None) -> Taxonomy:
    """Build and check a taxonomy from the form of the YAML file.

    Args:
        content: Sections classes, datasets, class_sets and, optionally, prompt_templates.
        path: The file it came from, for messages.

    Raises:
        InputError: When an entry is malformed or names an unknown class.
    """
    try:
        classes = {
            str(name): _class_from_dict(str(name), entry)
            for name, entry in (content.get("classes") or {}).items()
        }
        draft = Taxonomy(classes=classes, datasets={}, class_sets={})
        datasets = {
            str(name): _dataset_from_dict(str(name), entry, draft)
            for name, entry in (content.get("datasets") or {}).items()
        }
        taxonomy = Taxonomy(
            classes=classes,
            datasets=datasets,
            class_sets={k: tuple(v) for k, v in (content.get("class_sets") or {}).items()},
            prompt_templates=dict(content.get("prompt_templates") or {}),
        )
        _check(taxonomy)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"malformed taxonomy ({error})", path=path, mend=_MEND) from error
    except ValueError as error:
        raise InputError(str(error), path=path, mend=_MEND) from None
    return taxonomy


@functools.cache
def _packaged_tables() -> dict[str, Any]:
    """Read the packaged file once a process; the result is not to be changed."""
    return _read_yaml(PACKAGED_TAXONOMY)


def _read_yaml(path: Path) -> dict[str, Any]:
    content = read_yaml(path, missing="check --taxonomy", mend=_MEND)
    if not isinstance(content, dict):
        raise InputError(
            f"must be a mapping of sections, got {type(content).__name__}", path=path, mend=_MEND
        )
    return cast(dict[str, Any], content)


def _class_from_dict(name: str, entry: Mapping[str, Any]) -> ClassSpec:
    values = dict(entry)
    title = values.pop("title", name.replace("_", " "))
    snomed = values.pop("snomed", None)
    window_hu = values.pop("window_hu", None)
    return ClassSpec(
        name=name,
        title=title,
        prompt=values.pop("prompt", f"A computerized tomography of a {title}"),
        snomed=None if snomed is None else SnomedCode(**snomed),
        window_hu=ClassSpec.window_hu if window_hu is None else _window(name, window_hu),
        postprocess=PostProcess(**(values.pop("postprocess", None) or {})),
        members=tuple(values.pop("members", ())),
        aliases=tuple(values.pop("aliases", ())),
        **values,
    )


def _window(name: str, value: Any) -> WindowHu:
    lower, upper = (float(v) for v in value)
    if not lower < upper:
        raise ValueError(f"class {name!r} has window_hu {value!r}, which is not lower, upper")
    return lower, upper


def _class_to_dict(spec: ClassSpec) -> dict[str, Any]:
    return {
        "title": spec.title,
        "kind": spec.kind,
        "organ": spec.organ,
        "members": list(spec.members),
        "left_counterpart": spec.left_counterpart,
        "aliases": list(spec.aliases),
        "prompt": spec.prompt,
        "snomed": None if spec.snomed is None else asdict(spec.snomed),
        "window_hu": list(spec.window_hu),
        "postprocess": asdict(spec.postprocess),
    }


def _dataset_from_dict(name: str, entry: Mapping[str, Any], classes: Taxonomy) -> DatasetSpec:
    values = dict(entry)
    structures = {
        str(key): _classes_in(names)
        for key, names in (values.pop("structures", None) or {}).items()
    }
    if structures:
        values.setdefault("labels", {})
    labels = {
        _label_value(name, value): _classes_in(names)
        for value, names in values.pop("labels").items()
    }
    named = [c for names in (*labels.values(), *structures.values()) for c in names]
    annotates = values.pop("annotates", None)
    annotated = tuple(dict.fromkeys(named if annotates is None else annotates))
    for class_name in (*named, *annotated):
        if class_name not in classes.classes:
            raise ValueError(f"data set {name!r} names the unknown class {class_name!r}")
    stray = sorted(set(named) - set(annotated))
    if stray:
        raise ValueError(f"data set {name!r} labels {stray[0]!r} but does not annotate it")
    annotated = classes.with_unions(annotated)
    return DatasetSpec(
        name=name,
        title=values.pop("title", name),
        labels={v: classes.implied(names, annotated=annotated) for v, names in labels.items()},
        structures=structures,
        annotates=annotated,
        aliases=tuple(values.pop("aliases", ())),
        **values,
    )


def _classes_in(names: str | Iterable[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _label_value(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 0xFFFF:
        raise ValueError(f"data set {name!r} has label value {value!r}; 1 to 65535 are allowed")
    return value


def _check(taxonomy: Taxonomy) -> None:
    for spec in taxonomy.classes.values():
        if not _NAME.fullmatch(spec.name):
            raise ValueError(f"class name {spec.name!r} must be lower case with underscores")
        if spec.kind not in get_args(Kind) or spec.postprocess.keep not in get_args(Keep):
            raise ValueError(f"class {spec.name!r} has a bad kind or postprocess.keep")
        for other in (spec.organ, spec.left_counterpart, *spec.members):
            if other is not None and other not in taxonomy.classes:
                raise ValueError(f"class {spec.name!r} names the unknown class {other!r}")
    check_rules(taxonomy.classes)
    classes, datasets = taxonomy.classes.values(), taxonomy.datasets.values()
    require_unique("class", [(c.name, _keys(c.name, c.title, *c.aliases)) for c in classes])
    require_unique("data set", [(d.name, _keys(d.name, *d.aliases)) for d in datasets])
    for dataset in datasets:
        require_unique("structure", [(name, _keys(name)) for name in dataset.structures])
    for set_name, names in taxonomy.class_sets.items():
        unknown = [n for n in names if n not in taxonomy.classes]
        if unknown or len(set(names)) != len(names) or not 0 < len(names) <= MAX_CLASSES:
            raise ValueError(
                f"class set {set_name!r} must hold 1 to {MAX_CLASSES} different known classes,"
                f" got {unknown or list(names)!r}"
            )
