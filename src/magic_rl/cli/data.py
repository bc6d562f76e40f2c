"""`magic-rl data`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Annotated

import typer

from magic_rl.cli.options import Overrides
from magic_rl.cli.shown import columns, shown
from magic_rl.config import load_config
from magic_rl.data.registry import GROUPS, NAMED
from magic_rl.data.seeds import check_classes
from magic_rl.errors import DataError
from magic_rl.types import Seed

if TYPE_CHECKING:
    from magic_rl.data.split import Split

data = typer.Typer(no_args_is_help=True, help="Seeds: public data sets by name, and whether seeds are fit to be used.")


@data.command("list")
def list_sets() -> None:
    """List the data sets that have a name: what they hold, their licence, and where they come from.

    Seeds can be played: `--set data.seeds=xstest`. A set with one class is joined to another by a comma:
    `--set data.seeds=harmbench,xstest`. Attacks are for evaluation. A gated set needs its terms accepted on the hub.
    """
    from magic_rl.report.tables import laid_out

    heads = ("name", "what for", "holds", "access", "licence", "hub (subset, split)", "file of its own, package")
    lines: list[Sequence[str]] = [heads]
    for named in NAMED.values():
        copies = named.file
        if named.package:
            copies += f"; {named.package.name} ({named.package.note})"
        row = (f"{named.kind}, {named.use}", named.holds, "gated" if named.gated else "open", named.licence)
        lines.append((named.name, *row, named.where, copies))
    lines += [(name, "", ",".join(members), *[""] * 4) for name, members in GROUPS.items()]
    typer.echo(laid_out(lines, columns(300)))  # one line per set where no terminal sets the width
    typer.echo(
        "\nNAME is read from the hub, NAME:FILE from a copy of its own file, NAME:PACKAGE from an installed package.\n"
        "Gated: accept the terms on the set's page of the hub, then set HF_TOKEN or run `hf auth login`."
    )


@data.command()
def check(
    source: Annotated[
        str, typer.Argument(metavar="NAME|FILE", help="What data.seeds takes; without it the config's own.")
    ] = "",
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="Config file; names seeds and columns.")] = None,
    overrides: Overrides = None,
    every: Annotated[bool, typer.Option("--all", help="List everything that is wrong, not the first three.")] = False,
) -> None:
    """Read seeds as training would, and print how many there are of which label and category, and which are held out.

    What is wrong with them is named by file and row, with exit status 2.

    Examples:

      magic-rl data check seeds.csv --set data.text_column=prompt --all

      magic-rl data check harmbench,xstest

      magic-rl data check wildjailbreak:train.tsv
    """
    from magic_rl.data.split import split_by_category
    from magic_rl.runs.seeds import BY_ROW, blaming_settings, read_sources

    named = [f"data.seeds={json.dumps(source, ensure_ascii=False)}"] if source else []
    settings = load_config(config, [*(overrides or ()), *named]).data
    try:
        found = read_sources(settings)
    except DataError as error:
        if not every or error.remedy:
            error.remedy = error.remedy or ("list all" if len(error.faults) > DataError.SHOWN else "")
            raise
        for fault in error.faults:
            typer.echo(f"error: {shown(fault)}", err=True)
        raise typer.Exit(2) from error
    typer.echo("\n".join(map(str, found.sources)))
    if found.repeated or found.contradicting:
        typer.echo(
            f"all: left out {found.repeated} given twice, {found.contradicting} labelled both harmful and benign"
        )
    if any(each.kind == "attacks" for each in found.sources):
        typer.echo("\n".join((*_counts(found.seeds), *_lengths(found.seeds))))
        typer.echo("attacks: for evaluation; the game starts from seeds")
        return
    split = None
    try:
        with blaming_settings():
            check_classes(found)
            split = split_by_category(found.seeds, settings.held_out_categories, settings.validation_categories)
    finally:  # what there is helps to fix what is missing
        typer.echo("\n".join((*_counts(found.seeds, split), *_lengths(found.seeds))))
    if split.by_row:
        typer.echo(f"note: {BY_ROW}", err=True)


def _counts(seeds: Sequence[Seed], split: Split | None = None) -> Iterator[str]:
    """Seeds of each category and label, and on which side of the split they are."""
    from magic_rl.report.tables import laid_out

    sides = {"training": split.train, "validation": split.validation, "held out": split.held_out} if split else {}
    sides = {name: side for name, side in sides.items() if side}
    counts = Counter((seed.category, seed.label) for seed in seeds)
    aside = {name: Counter(seed.category for seed in side) for name, side in sides.items() if name != "training"}
    categories = sorted({seed.category for seed in seeds})
    lines = [("category", "harmful", "benign", "split" if any(aside.values()) else "")]
    for category in categories:
        harmful, benign = counts[category, "harmful"], counts[category, "benign"]
        side = next((name for name, of_side in aside.items() if of_side[category] == harmful + benign), "")
        lines.append((shown(category) or "(none)", str(harmful), str(benign), side))
    for name, of_side in {"all": seeds, **sides}.items():
        labels = Counter(seed.label for seed in of_side)
        lines.append((name, str(labels["harmful"]), str(labels["benign"]), ""))
    yield laid_out(lines, columns(80))


def _lengths(seeds: Sequence[Seed]) -> Iterator[str]:
    """How long texts are, by label: a difference would let a player tell the labels apart by it."""
    for label in ("harmful", "benign"):
        lengths = [len(seed.text) for seed in seeds if seed.label == label]
        if lengths:
            long = quantiles(lengths, n=20, method="inclusive")[-1] if len(lengths) > 1 else lengths[0]
            yield (
                f"{label} texts, characters: {min(lengths)} to {max(lengths)}, half up to {median(lengths):.0f}, "
                f"95 % up to {long:.0f}"
            )
