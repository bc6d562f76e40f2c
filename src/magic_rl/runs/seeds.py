"""The seeds that a config names, and which settings are to blame when they cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from magic_rl.config import DataConfig
from magic_rl.data.registry import SeedSchema, own_schema
from magic_rl.data.seeds import SeedSet, load_seeds, read_seeds
from magic_rl.data.split import Split, split_by_category
from magic_rl.errors import DataError

# The setting behind each argument that an error may be about.
_KEYS = {
    "sources": "data.seeds",
    "columns": "data.text_column, data.label_column",
    "harmful": "data.harmful_values",
    "held_out": "data.held_out_categories",
    "validation": "data.validation_categories",
}
BY_ROW = "seeds lack categories, so they are split row by row: held-out seeds may resemble those trained on"


def read_sources(data: DataConfig) -> SeedSet:
    """What the sources hold, playable or not. Raises: DataError: As `read_seeds`; names the setting."""
    with blaming_settings():
        return read_seeds(data.seeds, _own(data), data.split)


def split_of(data: DataConfig) -> Split:
    """All seeds, split. Raises: DataError: As `load_seeds` and `split_by_category`; names the setting."""
    with blaming_settings():
        seeds = load_seeds(data.seeds, _own(data), data.split)
        return split_by_category(seeds, data.held_out_categories, data.validation_categories)


@contextmanager
def blaming_settings() -> Iterator[None]:
    """Begin an error about an argument with the setting that the argument comes from."""
    try:
        yield
    except DataError as error:
        if error.about not in _KEYS:
            raise
        faults = (f"{_KEYS[error.about]}: {error.faults[0]}", *error.faults[1:])
        raise DataError(*faults, remedy="name columns" if error.about == "columns" else "") from error


def _own(data: DataConfig) -> SeedSchema:
    harmful, benign = data.harmful_values, data.benign_values
    return own_schema(data.text_column, data.label_column, data.category_column, harmful=harmful, benign=benign)
