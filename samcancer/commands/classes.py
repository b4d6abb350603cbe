"""``samcancer classes``: print the classes, their prompts, codes and organs, and the data sets."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from samcancer.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from samcancer.taxonomy import Taxonomy

DESCRIPTION = """\
Prints every class with its kind, the organ it lies in, SNOMED CT code and prompt; or the classes of
one class set, in the order of a store's bits; or what each data set annotates."""

EXAMPLE = "samcancer classes --class-set universal_model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.add_argument("--class-set", metavar="NAME", help="only this set's classes, in its order")
    parser.add_argument("--datasets", action="store_true", help="list data sets instead")
    parser.add_argument(
        "--template", metavar="NAME", help="sentence for the prompts (default: the class's own)"
    )
    parser.add_argument("--taxonomy", type=Path, metavar="FILE", help="your classes and data sets")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console

    from samcancer.taxonomy import load_taxonomy

    taxonomy = load_taxonomy(args.taxonomy)
    console = Console()
    if args.datasets:
        console.print(_dataset_table(taxonomy))
        return 0
    console.print(_class_table(taxonomy, args.class_set, args.template))
    if args.class_set is None:
        console.print(f"class sets: {', '.join(taxonomy.class_sets)}")
    console.print(f"prompt templates: {', '.join(taxonomy.prompt_templates)}")
    return 0


def _class_table(taxonomy: Taxonomy, class_set: str | None, template: str | None) -> Table:
    from rich.table import Table

    names = list(taxonomy.classes) if class_set is None else taxonomy.class_names(class_set)
    table = Table(title=f"Classes of {class_set}" if class_set else "Classes")
    for column in ("bit" if class_set else "", "class", "kind", "lies in", "SNOMED CT", "prompt"):
        table.add_column(column, overflow="fold")
    for bit, name in enumerate(names):
        spec = taxonomy.classes[name]
        code = f"{spec.snomed.code} {spec.snomed.meaning}" if spec.snomed else ""
        inside = spec.organ or ("+".join(spec.members) if spec.members else "")
        prompt = taxonomy.prompt(name, template)
        table.add_row(str(bit) if class_set else "", name, spec.kind, inside, code, prompt)
    return table


def _dataset_table(taxonomy: Taxonomy) -> Table:
    from rich.table import Table

    if not taxonomy.datasets:
        raise InputError("the taxonomy has no data set", mend="see docs/data_sets.md")
    table = Table(title="Data sets and what they annotate; any other class is unknown there")
    for column in ("data set", "what it is", "annotates"):
        table.add_column(column, overflow="fold")
    for spec in taxonomy.datasets.values():
        what = "as each case says" if spec.annotates_per_case else ", ".join(spec.annotates)
        table.add_row(spec.name, spec.title, what)
    return table
