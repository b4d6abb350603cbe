"""``samcancer build-text-embeddings``: embed the prompts of classes, once."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samcancer.errors import InputError

if TYPE_CHECKING:
    from samcancer.pretrained.text_embeddings import TextEmbeddings
    from samcancer.taxonomy import Taxonomy

DESCRIPTION = """\
Embeds the prompt of every class with the text tower of a CLIP model and keeps the vectors in a
file; nothing that reads the file needs the tower. --tower is a name that `samcancer
fetch-checkpoints` lists, a model of open_clip with --weights, or local-dir:FOLDER with a folder
that holds open_clip_config.json, weights and tokenizer. Nothing is downloaded."""

EXAMPLE = "samcancer build-text-embeddings --tower clip_vit_b_32 --template cancers"

_FOLDER = Path("text_embeddings")

_log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument(
        "--tower", required=True, metavar="NAME", help="text tower: name, or local-dir:FOLDER"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="its weights, when the registry has none"
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="sentence that `samcancer classes` lists (default: the class's own prompt)",
    )
    parser.add_argument(
        "--classes", nargs="+", metavar="NAME", help="class sets or classes (default: every class)"
    )
    parser.add_argument("--taxonomy", type=Path, metavar="FILE", help="your classes and data sets")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"written there (default: {_FOLDER}/TOWER_TEMPLATE.safetensors)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a file of other embeddings"
    )


def run(args: argparse.Namespace) -> int:
    """Embed, write and show; do nothing when the file is there already."""
    from samcancer.pretrained.text_embeddings import (
        OWN_PROMPT,
        TextEmbeddings,
        write_text_embeddings,
    )
    from samcancer.pretrained.text_towers import embed_prompts, find_tower
    from samcancer.taxonomy import load_taxonomy

    taxonomy = load_taxonomy(args.taxonomy)
    names = _class_names(taxonomy, args.classes)
    template = args.template or OWN_PROMPT
    tower = find_tower(args.tower, args.weights)
    key: dict[str, Any] = {
        "tower": tower.name,
        "weights_sha256": tower.weights_sha256,
        "template": template,
        "class_names": names,
        "prompts": tuple(taxonomy.prompt(name, args.template) for name in names),
    }
    output: Path = args.output or _default_output(tower.name, template)
    if output.exists() and not args.overwrite and _is_there(output, key):
        _log.info("%s: is there and up to date", output)
        return 0
    embeddings = TextEmbeddings(**key, vectors=embed_prompts(key["prompts"], tower=tower))
    write_text_embeddings(output, embeddings)
    _log.info("%s: written", output)
    _print_summary(embeddings)
    return 0


def _class_names(taxonomy: Taxonomy, wanted: Sequence[str] | None) -> tuple[str, ...]:
    """Return the classes that names of sets and of classes stand for, each once."""
    if wanted is None:
        return tuple(taxonomy.classes)
    found: list[str] = []
    for name in wanted:
        if name in taxonomy.classes and name in taxonomy.class_sets:
            raise InputError(f"{name!r} is a class and a class set", mend="rename one of them")
        if name not in taxonomy.classes and name not in taxonomy.class_sets:
            raise InputError(
                f"no class or class set is named {name!r}", mend="see `samcancer classes`"
            )
        found += [name] if name in taxonomy.classes else taxonomy.class_names(name)
    return tuple(dict.fromkeys(found))


def _default_output(tower: str, template: str) -> Path:
    from samcancer.pretrained.text_embeddings import LOCAL_DIR

    short = tower.removeprefix(LOCAL_DIR).split("@")[0]
    return _FOLDER / f"{short}_{template}.safetensors"


def _is_there(path: Path, key: dict[str, Any]) -> bool:
    """Return True for a file of the wanted embeddings.

    Raises:
        InputError: When it is anything else.
    """
    from samcancer.pretrained.text_embeddings import read_text_embeddings

    there = read_text_embeddings(path).key
    other = [name.replace("_", " ") for name in key if there[name] != key[name]]
    if other:
        raise InputError(
            f"was built with other {', '.join(other)}",
            path=path,
            mend="choose another --output, or replace it with --overwrite",
        )
    return True


def _print_summary(embeddings: TextEmbeddings) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Text embeddings of {embeddings.tower}", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("classes", str(len(embeddings.class_names)))
    table.add_row("dimension", str(embeddings.vectors.shape[1]))
    table.add_row("template", embeddings.template)
    table.add_row("first prompt", embeddings.prompts[0])
    closest = embeddings.closest_pair()
    if closest is not None:
        table.add_row("most similar", f"{closest[0]} and {closest[1]} (cosine {closest[2]:.3f})")
    table.add_row("SHA-256", embeddings.sha256)
    Console().print(table)
