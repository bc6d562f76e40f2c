"""Which seeds are trained on, which are held out, and which are drawn for each step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from magic_rl.errors import DataError
from magic_rl.types import Label, Seed

T = TypeVar("T")
_LABELS: tuple[Label, Label] = ("harmful", "benign")


@dataclass(frozen=True, slots=True)
class Split:
    """Seeds for training, seeds that only evaluation sees, and seeds to choose settings on, if any."""

    train: tuple[Seed, ...]
    held_out: tuple[Seed, ...]
    validation: tuple[Seed, ...] = ()

    @property
    def by_row(self) -> bool:
        """Whether a category, or seeds without one, are both trained on and held out."""
        return not {seed.category for seed in self.train}.isdisjoint(seed.category for seed in self.held_out)


def split_by_category(seeds: Sequence[Seed], held_out: Sequence[str] = (), validation: Sequence[str] = ()) -> Split:
    """Hold out whole categories, so that an evaluation covers hazards never trained on.

    Args:
        seeds: Seeds with unique ids, as `load_seeds` returns them.
        held_out: Names of categories. If empty, a fifth of each label's categories (rounded up) is held out: the last
            in order of a hash of the name. If a label has fewer than two categories, a fifth of each label's seeds is
            held out instead: the first in order of a hash of the id. Neither depends on the order of the rows.
        validation: Names of categories that are set aside first: neither trained on nor held out.

    Raises:
        DataError: For an unknown category, a category on two sides, or a side that lacks a label.
    """
    categories = {seed.category for seed in seeds if seed.category}
    for about, names in (("held_out", held_out), ("validation", validation)):
        if unknown := [name for name in names if name not in categories]:
            known = ", ".join(sorted(categories)) or "none"
            raise DataError(f"no seed is of category {', '.join(map(repr, unknown))}; known: {known}", about=about)
    if both := set(held_out) & set(validation):
        raise DataError(f"{', '.join(sorted(both))} is held out too; name it on one side only", about="validation")
    aside = tuple(seed for seed in seeds if seed.category in set(validation))
    rest = [seed for seed in seeds if seed.category not in set(validation)]
    of_class = {label: [seed for seed in rest if seed.label == label] for label in _LABELS}
    ordered = [sorted({seed.category for seed in of if seed.category}, key=_hash) for of in of_class.values()]
    if held_out or min(map(len, ordered)) > 1:
        chosen = set(held_out) or {name for names in ordered for name in names[-_fifth(names) :]}
        out = {seed.id for seed in rest if seed.category in chosen}
        remedy = f"with {', '.join(sorted(chosen))} held out; name other categories"
    else:
        out = {i for of in of_class.values() for i in sorted((seed.id for seed in of), key=_hash)[: _fifth(of)]}
        remedy = "split by id as a class lacks two categories; give at least two seeds of each class"
    train = tuple(seed for seed in rest if seed.id not in out)
    split = Split(train, tuple(seed for seed in rest if seed.id in out), aside)
    for name, side in {"training": split.train, "held-out": split.held_out}.items():
        for label in _LABELS:
            if not any(seed.label == label for seed in side):
                raise DataError(f"the {name} side has no {label} seeds, {remedy}", about="held_out")
    for label in _LABELS:
        if validation and not any(seed.label == label for seed in aside):
            raise DataError(f"no {label} seeds among {', '.join(validation)}; name more", about="validation")
    return split


def draw_seeds(seeds: Sequence[Seed], count: int, rng: np.random.Generator) -> tuple[Seed, ...]:
    """Draw one step's seeds, half of them benign (METHOD §1); if `count` is odd, there is one more harmful seed.

    Seeds are drawn without replacement. If a label has too few, all are drawn again.

    Args:
        seeds: Seeds of both labels, as either side of a `Split` has them.
        count: P, how many to draw.
        rng: Decides the draw, and nothing else does.

    Returns:
        P seeds, the harmful ones first.
    """
    drawn: list[Seed] = []
    for label, share in (("harmful", count - count // 2), ("benign", count // 2)):
        of_class = [seed for seed in seeds if seed.label == label]
        for begin in range(0, share, len(of_class)):
            order = rng.permutation(len(of_class))[: share - begin]
            drawn += [of_class[i] for i in order]
    return tuple(drawn)


def evenly(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of the items (0: all), evenly spaced, so that sorted kinds keep their shares."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[place * len(items) // limit] for place in range(limit)]


def _fifth(items: Sequence[object]) -> int:
    return math.ceil(len(items) / 5)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
