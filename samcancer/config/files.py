"""Configurations as YAML files and as plain data: read, checked, changed, written."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from samcancer.config.recipe import Config
from samcancer.config.yaml_text import parse_yaml, read_yaml
from samcancer.errors import InputError

_T = TypeVar("_T")

_EXAMPLES = "see configs/ for examples"


def load_config(path: Path | None) -> Config:
    """Read a YAML configuration; None gives the defaults.

    Raises:
        InputError: When the file is missing, is not YAML, or names an unknown or bad field.
    """
    if path is None:
        return Config()
    content = read_yaml(path, missing=_EXAMPLES, mend=_EXAMPLES)
    try:
        return config_from_dict(content or {})
    except (TypeError, ValueError) as error:
        raise InputError(str(error), path=path, mend="see docs/configuration.md") from None


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as plain dicts, lists and scalars (JSON and YAML safe)."""
    return cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def config_from_dict(content: dict[str, Any]) -> Config:
    """Build a configuration from :func:`config_to_dict`'s form; missing fields take defaults.

    Raises:
        ValueError: When a section or field is unknown, or a value is out of range.
    """
    return _build(Config, content, "")


def with_overrides(config: Config, assignments: Sequence[str]) -> Config:
    """Return the configuration with ``section.field=value`` assignments applied, in order.

    Values are YAML: ``train.epochs=3``, ``train.time_budget_s=null``,
    ``data.train_windows_hu=[[-200, 300]]``.

    Raises:
        InputError: When an assignment is malformed, names an unknown field, or is out of range.
    """
    content = config_to_dict(config)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        *sections, last = name.strip().split(".")
        target: Any = content
        for section in sections:
            target = target.get(section) if isinstance(target, dict) else None
        if not equals or not isinstance(target, dict) or last not in target:
            raise InputError(
                f"--set takes section.field=value with a known field, got {assignment!r}",
                mend="see docs/configuration.md",
            )
        try:
            target[last] = parse_yaml(value)
        except ValueError as error:
            raise InputError(f"--set {name}: {error}", mend="see docs/configuration.md") from None
    try:
        return config_from_dict(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"--set: {error}", mend="see docs/configuration.md") from None


def _build(kind: type[_T], content: Any, where: str) -> _T:
    if not isinstance(content, dict):
        raise ValueError(f"{where or 'the configuration'} must be a mapping, got {content!r}")
    hints = get_type_hints(kind)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise ValueError(
            f"unknown field {where}{unknown[0]}; allowed are {', '.join(sorted(hints))}"
        )
    values = {
        name: _build(hints[name], value, f"{where}{name}.")
        if dataclasses.is_dataclass(hints[name])
        else _checked(hints[name], _tuples(value), f"{where}{name}")
        for name, value in content.items()
    }
    return kind(**values)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return the value when it is of the annotated type, whole numbers as float where asked for."""
    if _fits(hint, value):
        return _as_annotated(hint, value)
    if isinstance(value, str) and _fits(hint, 0.5):  # YAML reads 5e-4 as text
        with contextlib.suppress(ValueError):
            return float(value)
    expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise ValueError(f"{where} must be {expected}, got {value!r}")


def _as_annotated(hint: Any, value: Any) -> Any:
    """Turn whole numbers into floats where the annotation says float, inside tuples too."""
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(map(_as_annotated, kinds, value))
    if get_origin(hint) is not Literal and arguments:
        return _as_annotated(next(kind for kind in arguments if _fits(kind, value)), value)
    return float(value) if hint is float else value


def _fits(hint: Any, value: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(arguments[0], item) for item in value)
        return len(value) == len(arguments) and all(map(_fits, arguments, value))
    if arguments:
        return any(_fits(option, value) for option in arguments)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
