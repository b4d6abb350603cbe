"""What the packaged taxonomy says of classes; read once, for that takes longer than a score."""

from __future__ import annotations

import functools

from samcancer.taxonomy import Kind, Taxonomy, load_taxonomy


@functools.cache
def packaged_taxonomy() -> Taxonomy:
    """Return the packaged taxonomy; nobody changes it."""
    return load_taxonomy()


def class_kind(name: str) -> Kind:
    """Return a class's kind; a class that the taxonomy does not know counts as a lesion."""
    spec = packaged_taxonomy().find_class(name)
    return "lesion" if spec is None else spec.kind


def taxonomy_name(name: str) -> str:
    """Return the taxonomy's name of a class; one that it does not know keeps its own."""
    spec = packaged_taxonomy().find_class(name)
    return name if spec is None else spec.name
