"""YAML as plain data: nothing in it is executed, and nothing in it can fill the memory.

``safe_load`` alone lets a few lines of aliases stand for more values than any memory holds, and
leaves nesting without end, dates that are none and endless numbers to whoever reads the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from samcancer.errors import InputError

MAX_TEXT_CHARACTERS = 1_000_000
"""Of a file; the packaged taxonomy has 20 thousand."""

MAX_VALUES = 200_000
"""Values that a text may stand for once its aliases are written out."""


def read_yaml(path: Path, *, missing: str, mend: str) -> Any:
    """Return the plain data of a YAML file; see :func:`parse_yaml`.

    Args:
        path: The file, in UTF-8.
        missing: Advice when there is no such file.
        mend: Advice when it is not YAML.

    Raises:
        InputError: When it is missing, cannot be read, or is not YAML.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", path=path, mend=missing) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path=path, mend=missing) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not valid YAML ({error})", path=path, mend=mend) from None
    except ValueError as error:
        raise InputError(str(error), path=path, mend=mend) from None


def parse_yaml(text: str) -> Any:
    """Return plain data: dicts, lists, texts, numbers, dates, None.

    Raises:
        ValueError: When the text is not YAML, holds a tag such as ``!!python/object``, or stands
            for more than MAX_VALUES values.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ValueError(f"not YAML of up to {MAX_TEXT_CHARACTERS} characters but of {len(text)}")
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _count_values(root, {}, set())
        return loader.construct_document(root)
    except RecursionError:
        raise ValueError("not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"not valid YAML ({error})") from None
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a node stands for; ``known`` are nodes counted before.

    Raises:
        ValueError: When they are too many, or the node holds itself.
    """
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise ValueError("a value holds itself")
    parts: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    above.add(id(node))
    count = 1
    for part in parts:
        count += _count_values(part, known, above)
        if count > MAX_VALUES:
            raise ValueError(f"its aliases stand for more than {MAX_VALUES} values")
    above.discard(id(node))
    known[id(node)] = count
    return count
